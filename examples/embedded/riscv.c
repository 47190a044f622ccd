/* Startup code for RISC-V, 32 or 64 bits, with or without F and D, in machine mode: the stack, the FPU, a UART, and the
 * counter of instructions. Tried on QEMU's virt.
 *
 * SPDX-License-Identifier: MIT */
#include "board.h"
#include "startup.h"

#define UART (*(volatile uint8_t *)0x10000000)
#define TEST (*(volatile uint32_t *)0x100000)

enum { TEST_PASS = 0x5555, TEST_FAIL = 0x3333 };

static void put(const char *text) {
    while (*text)
        UART = (uint8_t)*text++;
}

void board_say(const char *line) {
    put(line);
    put("\n");
}

_Noreturn void board_exit(int status) {
    TEST = status == 0 ? TEST_PASS : (uint32_t)status << 16 | TEST_FAIL;
    for (;;)
        __asm__ volatile("wfi");
}

#if __riscv_xlen == 64
uint64_t board_instructions(void) {
    uint64_t count;
    __asm__ volatile("csrr %0, minstret" : "=r"(count));
    return count;
}
#else
uint64_t board_instructions(void) {
    uint32_t low, high, again;
    do
        __asm__ volatile("csrr %0, minstreth\n\tcsrr %1, minstret\n\tcsrr %2, minstreth"
                         : "=r"(high), "=r"(low), "=r"(again));
    while (high != again);
    return (uint64_t)high << 32 | low;
}
#endif

__attribute__((used, aligned(4))) static void trap(void) {
    board_say("trap");
    board_exit(1);
}

void start(void);

/* The FPU is on in state 1 of mstatus.FS; fcsr = 0 rounds to nearest. RISC-V has no flush-to-zero. */
__attribute__((naked, used, section(".vectors"))) void start(void) {
    __asm__ volatile(".option push\n\t"
                     ".option norelax\n\t"
                     "la gp, __global_pointer$\n\t"
                     ".option pop\n\t"
                     "la sp, image_stack_top\n\t"
                     "la t0, trap\n\t"
                     "csrw mtvec, t0\n\t"
#if defined(__riscv_flen)
                     "li t0, 1 << 13\n\t"
                     "csrs mstatus, t0\n\t"
                     "csrw fcsr, zero\n\t"
#endif
                     "j board_start");
}
