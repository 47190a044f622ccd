/* Startup code for Cortex-M3, M4F, M7, M33 and M55: the vector table, the FPU, semihosting in place of a UART, and
 * SysTick as a counter of instructions. Tried on QEMU's mps2-an386 and mps3-an547.
 *
 * SPDX-License-Identifier: MIT */
#include "board.h"
#include "startup.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL REGISTER(0xe000e010)
#define SYSTICK_RELOAD REGISTER(0xe000e014)
#define SYSTICK_VALUE REGISTER(0xe000e018)
#define COPROCESSORS REGISTER(0xe000ed88)

/* The processor clock of the emulated board. */
#if defined(__ARM_FEATURE_MVE)
enum { CLOCK = 32000000 }; /* mps3-an547 */
#else
enum { CLOCK = 25000000 }; /* mps2-an386 */
#endif

enum { ROUNDING = 3 << 22, FLUSH_TO_ZERO = 1 << 24, DEFAULT_NAN = 1 << 25 }; /* of FPSCR */
enum { SEMIHOSTING_WRITE = 0x04, SEMIHOSTING_EXIT = 0x20, APPLICATION_EXIT = 0x20026 };

extern uint32_t image_stack_top[];
static volatile uint32_t turns; /* of SysTick, which has 24 bits */

/* Without a debugger or emulator a chip faults here: use a UART there. */
static void semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void board_say(const char *line) {
    semihosting(SEMIHOSTING_WRITE, line);
    semihosting(SEMIHOSTING_WRITE, "\n");
}

_Noreturn void board_exit(int status) {
    const uint32_t reason[2] = {APPLICATION_EXIT, (uint32_t)status};
    semihosting(SEMIHOSTING_EXIT, reason);
    for (;;)
        __asm__ volatile("wfi");
}

/* QEMU with -icount shift=0 lets an instruction take a nanosecond; SysTick counts clocks of the board, down. */
uint64_t board_instructions(void) {
    uint32_t before, value;
    do {
        before = turns;
        value = SYSTICK_VALUE;
    } while (before != turns);
    const uint64_t ticks = (uint64_t)before * 0x1000000 + (0xffffff - value);
    return ticks * 1000 / (CLOCK / 1000000);
}

static void count_turn(void) {
    turns++;
}

static void fault(void) {
    board_say("fault");
    board_exit(1);
}

void reset(void);

__attribute__((used, section(".vectors"))) void *const image_vectors[16] = {
    image_stack_top, reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, count_turn};

static void enable_fpu(void) {
#if defined(__ARM_FP)
    COPROCESSORS |= 0xfu << 20; /* CP10 and CP11, the FPU, which is off after a reset */
    /* Subnormals stay, round to nearest. No other bit is changed: on v8.1-M loops need LTPSIZE as it was. */
    uint32_t fpscr;
    __asm__ volatile("dsb\n\tisb\n\tvmrs %0, fpscr" : "=r"(fpscr) : : "memory");
    fpscr &= ~(FLUSH_TO_ZERO | DEFAULT_NAN | ROUNDING);
    __asm__ volatile("vmsr fpscr, %0" : : "r"(fpscr) : "memory");
#endif
}

void reset(void) {
    enable_fpu();
    SYSTICK_RELOAD = 0xffffff;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7; /* the processor's clock, interrupt, on */
    board_start();
}
