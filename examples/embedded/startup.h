/* What board.c and a target's startup code need of each other.  SPDX-License-Identifier: MIT */
#ifndef QKV_EXAMPLES_STARTUP_H
#define QKV_EXAMPLES_STARTUP_H

/* Fills memory, paints the stack and runs main. */
void board_start(void);

/* Ends the emulator with this status. */
_Noreturn void board_exit(int status);

#endif
