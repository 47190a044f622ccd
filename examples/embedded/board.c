/* What every board does alike: memory as C wants it, a painted stack, numbers as text.  SPDX-License-Identifier: MIT */
#include "board.h"

#include "startup.h"

enum { PAINT = 0x5aa5c33c };

/* By the linker script. */
extern uint32_t image_data_load[], image_data[], image_data_end[], image_bss[], image_bss_end[];
extern uint32_t image_stack[], image_stack_top[];

/* Startup code calls this first, on a stack that is empty but for this function. Loops in place of memcpy and memset:
 * what these need may not be there yet. */
void board_start(void) {
    for (uint32_t *to = image_data, *from = image_data_load; to < image_data_end;)
        *to++ = *from++;
    for (uint32_t *to = image_bss; to < image_bss_end;)
        *to++ = 0;
    uint32_t *here = __builtin_frame_address(0);
    for (uint32_t *word = image_stack; word < here - 32; word++) /* not what this function itself uses */
        *(volatile uint32_t *)word = PAINT;
    board_exit(main());
}

uint32_t board_stack_used(void) {
    const uint32_t *word = image_stack;
    while (word < image_stack_top && *word == PAINT)
        word++;
    return (uint32_t)(image_stack_top - word) * (uint32_t)sizeof *word;
}

void board_say_number(const char *text, uint64_t number) {
    char line[64], digits[20];
    int length = 0, count = 0;
    while (*text && length < 40)
        line[length++] = *text++;
    line[length++] = ':';
    line[length++] = ' ';
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (count > 0)
        line[length++] = digits[--count];
    line[length] = 0;
    board_say(line);
}
