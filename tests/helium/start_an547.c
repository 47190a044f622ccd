/* From reset to main on qemu's mps3-an547 (Cortex-M55), for newlib with semihosting (rdimon.specs). What the tests are
 * linked with; an547.ld says where things lie.
 *
 * SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern unsigned char heap_begin[], heap_end[], stack_top[];
extern int main(int argc, char **argv);
extern void initialise_monitor_handles(void);
void *_sbrk(ptrdiff_t bytes);
void _init(void), _fini(void), reset(void), start(void);

static int call_host(int operation, const void *block) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void *_sbrk(ptrdiff_t bytes) {
    static unsigned char *end = heap_begin;
    unsigned char *const before = end;
    if (bytes > heap_end - end || bytes < heap_begin - end)
        return (void *)-1; /* NOLINT: what newlib expects */
    end += bytes;
    return before;
}

void _init(void) {
}
void _fini(void) {
}

/* The emulator ends with a status. */
static void fault(void) {
    enum { SYS_WRITE0 = 4, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };
    static const uint32_t status[2] = {APPLICATION_EXIT, 99};
    call_host(SYS_WRITE0, "a fault of the CPU\n");
    for (;;)
        call_host(SYS_EXIT_EXTENDED, status);
}

/* main, with the words of the emulator's command line. */
void start(void) {
    enum { SYS_GET_CMDLINE = 0x15, MOST_WORDS = 16 };
    static char line[1024];
    static char *argv[MOST_WORDS + 1];
    const struct {
        char *to;
        uint32_t size;
    } block = {line, sizeof line};
    initialise_monitor_handles();
    int argc = 0;
    if (call_host(SYS_GET_CMDLINE, &block) == 0) {
        for (char *word = strtok(line, " "); word && argc < MOST_WORDS; word = strtok(NULL, " "))
            argv[argc++] = word;
    }
    exit(main(argc, argv));
}

/* The FPU and MVE on; nothing before may use either. The loader has filled .data and .bss. */
__attribute__((naked)) void reset(void) {
    __asm__ volatile("ldr r0, =0xe000ed88\n\t"
                     "ldr r1, [r0]\n\t"
                     "orr r1, r1, #0xf00000\n\t"
                     "str r1, [r0]\n\t"
                     "dsb\n\t"
                     "isb\n\t"
                     "bl start\n\t"
                     ".ltorg");
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault, fault};
