/* What the programs here need of a board: a line of text, an end, a count of instructions, the stack's high-water mark.
 * cortex_m.c and riscv.c have it for the machines that QEMU emulates, board_hosted.c for the computer that you sit at;
 * on a chip of yours it is your UART and your timer.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_EXAMPLES_BOARD_H
#define QKV_EXAMPLES_BOARD_H

#include <stdint.h>

/* Prints a line. */
void board_say(const char *line);

/* "text: number", a line. */
void board_say_number(const char *text, uint64_t number);

/* Instructions so far. QEMU counts them with -icount shift=0; a chip would count cycles. 0 where nothing counts. */
uint64_t board_instructions(void);

/* Bytes of the stack that have been in use since the start. Startup paints the stack; what has another colour was
 * written. 0 where nothing is painted. */
uint32_t board_stack_used(void);

/* What startup calls. Its result is the exit status of the emulator. */
int main(void);

#endif
