/* The calling convention of 64-bit Windows, which is not that of other systems: a function keeps xmm6 to xmm15, and
 * finds its stack aligned to 16 bytes only. In programs that this file is linked into, every call of a public function
 * and of a kernel goes through code that fills these registers with known values, aligns the stack to 0, 16, 32 or 48
 * bytes beyond a multiple of 64, calls, and looks at the registers. At the end it is said how often each was called.
 *
 * tests/windows/run.sh links it into the tests, with "--wrap=" for each function of qkv.h, and lists those in
 * public_functions.inc, as PUBLIC(qkv_init) and so on: calls of qkv_init go to __wrap_qkv_init, and the function itself
 * is __real_qkv_init.
 *
 * SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"

/* Slots: public functions first, then 64 for each kernel set. */
enum { MOST_PUBLIC = 256, ENTRIES = 64, MOST_SETS = 16, SLOTS = MOST_PUBLIC + ENTRIES * MOST_SETS };

void *abi_targets[SLOTS];
uint32_t abi_calls[SLOTS], abi_broken[SLOTS];
const uint64_t abi_known[20] = {
    0x0606060606060606, 1, 0x0707070707070707, 2, 0x0808080808080808, 3, 0x0909090909090909, 4, 0x0a0a0a0a0a0a0a0a, 5,
    0x0b0b0b0b0b0b0b0b, 6, 0x0c0c0c0c0c0c0c0c, 7, 0x0d0d0d0d0d0d0d0d, 8, 0x0e0e0e0e0e0e0e0e, 9, 0x0f0f0f0f0f0f0f0f, 10};

/* abi_call: eax is the slot, all else as the caller left it. At rbp: its rbp, the return address, 32 bytes that are the
 * callee's, and from 48 on what arguments are on the stack: 16 of them are copied. The frame holds rbx, rsi and rdi,
 * from −192 on the caller's xmm6 to 15, and from −352 on what the call left in them. rax and xmm0 are its result. */
#define EACH_XMM(line) line(6) line(7) line(8) line(9) line(10) line(11) line(12) line(13) line(14) line(15)
#define OF_XMM(n, base) base " + 16 * (" #n " - 6)"
#define SAVE(n) "movups %xmm" #n ", " OF_XMM(n, "-192") "(%rbp)\n"
#define FILL(n) "movups " OF_XMM(n, "0") "(%r10), %xmm" #n "\n"
#define FOUND(n) "movups %xmm" #n ", " OF_XMM(n, "-352") "(%rbp)\n"
#define RESTORE(n) "movups " OF_XMM(n, "-192") "(%rbp), %xmm" #n "\n"
#define FOUR(line, n) line(n) line(n + 8) line(n + 16) line(n + 24)
#define COPY(at) "movq 48 + " #at "(%rbp), %r11\nmovq %r11, 32 + " #at "(%rsp)\n"
__asm__(".text\n"
        "abi_call:\n"
        "pushq %rbp\n"
        "movq %rsp, %rbp\n"
        "pushq %rbx\n"
        "pushq %rsi\n"
        "pushq %rdi\n"
        "subq $328, %rsp\n" EACH_XMM(SAVE) "movl %eax, %ebx\n"
                                           "leaq abi_known(%rip), %r10\n" EACH_XMM(
                                               FILL) "leaq abi_calls(%rip), %r10\n"
                                                     "incl (%r10,%rbx,4)\n"
                                                     "movl (%r10,%rbx,4), %r10d\n"
                                                     "andl $3, %r10d\n"
                                                     "shll $4, %r10d\n"
                                                     "subq $256, %rsp\n"
                                                     "andq $-64, %rsp\n"
                                                     "subq %r10, %rsp\n" FOUR(COPY, 0) FOUR(COPY, 32) FOUR(COPY, 64)
                                                         FOUR(COPY, 96) "leaq abi_targets(%rip), %r10\n"
                                                                        "callq *(%r10,%rbx,8)\n" EACH_XMM(
                                                                            FOUND) "leaq abi_known(%rip), %r10\n"
                                                                                   "xorl %ecx, %ecx\n"
                                                                                   "1: movq (%r10,%rcx,8), %r11\n"
                                                                                   "cmpq -352(%rbp,%rcx,8), %r11\n"
                                                                                   "je 2f\n"
                                                                                   "leaq abi_broken(%rip), %r11\n"
                                                                                   "incl (%r11,%rbx,4)\n"
                                                                                   "jmp 3f\n"
                                                                                   "2: incl %ecx\n"
                                                                                   "cmpl $20, %ecx\n"
                                                                                   "jb 1b\n"
                                                                                   "3:\n" EACH_XMM(
                                                                                       RESTORE) "leaq -24(%rbp), %rsp\n"
                                                                                                "popq %rdi\n"
                                                                                                "popq %rsi\n"
                                                                                                "popq %rbx\n"
                                                                                                "popq %rbp\n"
                                                                                                "ret\n");

/* One stub of 16 bytes for each slot of a kernel. */
enum { STUB_BYTES = 16 };
extern unsigned char abi_stubs[];
__asm__(".balign 16\n"
        "abi_stubs:\n"
        "slot = 256\n" /* MOST_PUBLIC */
        ".rept 64 * 16\n"
        ".balign 16\n"
        "movl $slot, %eax\n"
        "jmp abi_call\n"
        "slot = slot + 1\n"
        ".endr\n");

/* And one for each public function. qkv_init has its own: contexts get tables of stubs. */
enum {
#define PUBLIC(name) SLOT_##name,
#include "public_functions.inc"
#undef PUBLIC
    NUM_PUBLIC
};
_Static_assert((int)NUM_PUBLIC <= (int)MOST_PUBLIC, "each function has a slot");
static const char *const public_names[] = {
#define PUBLIC(name) #name,
#include "public_functions.inc"
#undef PUBLIC
};

__asm__("slot = 0\n"
        ".macro public_stub name\n"
        ".ifc \\name, qkv_init\n"
        "checked_init:\n"
        ".else\n"
        ".globl __wrap_\\name\n"
        "__wrap_\\name:\n"
        ".endif\n"
        "movl $slot, %eax\n"
        "jmp abi_call\n"
        "slot = slot + 1\n"
        ".endm\n");
#define PUBLIC(name) __asm__("public_stub " #name);
#include "public_functions.inc"
#undef PUBLIC

#define PUBLIC(name) void __real_##name(void);
#include "public_functions.inc"
#undef PUBLIC

/* -------------------------------------------------------------------------------------------------- kernel tables */

enum { FIRST = offsetof(qkv_kernels, widen), COUNT = (sizeof(qkv_kernels) - FIRST) / sizeof(void *) };
_Static_assert((int)COUNT <= (int)ENTRIES, "each kernel has a slot");

static struct {
    const qkv_kernels *original;
    qkv_kernels stubs;
} tables[MOST_SETS];
static int num_tables;

static const qkv_kernels *table_of_stubs(const qkv_kernels *original) {
    int t = 0;
    while (t < num_tables && tables[t].original != original)
        t++;
    if (t == num_tables) {
        if (num_tables++ == MOST_SETS)
            abort();
        tables[t].original = original;
        tables[t].stubs = *original;
        void **entries = (void **)(void *)((char *)&tables[t].stubs + FIRST);
        for (int e = 0; e < COUNT; e++) {
            const int slot = ENTRIES * t + e;
            abi_targets[MOST_PUBLIC + slot] = entries[e];
            entries[e] = abi_stubs + STUB_BYTES * slot;
        }
    }
    return &tables[t].stubs;
}

qkv_status checked_init(qkv_ctx *ctx, const qkv_config *config);
qkv_status __wrap_qkv_init(qkv_ctx *ctx, const qkv_config *config);
qkv_status __wrap_qkv_init(qkv_ctx *ctx, const qkv_config *config) {
    const qkv_status status = checked_init(ctx, config);
    if (status == QKV_OK)
        ctx->kernels = table_of_stubs(ctx->kernels);
    return status;
}

static const char *const entry_names[] = {
#define ENTRY(name) [(offsetof(qkv_kernels, name) - FIRST) / sizeof(void *)] = #name
    ENTRY(widen),
    ENTRY(narrow),
    ENTRY(pack),
    ENTRY(pack_stored),
    ENTRY(gemm),
    ENTRY(gemm_nt),
    ENTRY(gemm_stored),
    ENTRY(widen_weights),
    ENTRY(quantize_rows),
    ENTRY(gemm_weights),
    ENTRY(rows_bf16),
    ENTRY(keys_bf16),
    ENTRY(values_bf16),
    ENTRY(weights_bf16),
    ENTRY(gemm_bf16),
    ENTRY(gemm_stored_bf16),
    ENTRY(gemm_t_bf16),
    ENTRY(rows_int8),
    ENTRY(panel_int8),
    ENTRY(gemm_int8),
    ENTRY(scale_scores),
    ENTRY(scale_columns),
    ENTRY(sum_visible),
    ENTRY(logits),
    ENTRY(softmax),
    ENTRY(softmax_bf16),
    ENTRY(nan_rows),
    ENTRY(fold),
    ENTRY(scale),
    ENTRY(rotate),
    ENTRY(add_bias),
    ENTRY(exp2),
    ENTRY(tanh),
    ENTRY(log),
    ENTRY(dropout),
    ENTRY(gemm_t),
    ENTRY(recompute),
    ENTRY(score_grad),
    ENTRY(row_dots),
    ENTRY(add)
#undef ENTRY
};
_Static_assert(sizeof entry_names == COUNT * sizeof(char *), "every kernel has its name here");

/* ---------------------------------------------------------------------------------------------------- the program */

static int say(const char *set, const char *name, int slot) {
    printf("abi: %s %s %u %u\n", set, name, (unsigned)abi_calls[slot], (unsigned)abi_broken[slot]);
    return abi_broken[slot] > 0;
}

/* For each function: how often it was called, and how often registers had changed then. Where any had, the program
 * fails. */
static void report(void) {
    int failed = 0;
    for (int i = 0; i < NUM_PUBLIC; i++)
        failed += say("public", public_names[i], i);
    for (int t = 0; t < num_tables; t++) {
        for (int e = 0; e < COUNT; e++)
            failed += say(tables[t].original->name, entry_names[e], MOST_PUBLIC + ENTRIES * t + e);
    }
    fflush(stdout);
    if (failed > 0)
        _Exit(1);
}

__attribute__((constructor)) static void begin(void) {
#define PUBLIC(name) abi_targets[SLOT_##name] = (void *)(uintptr_t)__real_##name;
#include "public_functions.inc"
#undef PUBLIC
    if (atexit(report) != 0)
        abort();
}
