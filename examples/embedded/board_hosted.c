/* The computer that you sit at as a board: to see what an image will print, and how much workspace it takes.
 * SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "board.h"

void board_say(const char *line) {
    puts(line);
}

void board_say_number(const char *text, uint64_t number) {
    printf("%s: %llu\n", text, (unsigned long long)number);
}

uint64_t board_instructions(void) {
    return 0;
}

uint32_t board_stack_used(void) {
    return 0;
}
