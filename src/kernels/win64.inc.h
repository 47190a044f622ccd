/* For the vector kernel sets of x86-64: on Windows the stack is aligned to 16 bytes only, and GCC spills vectors of 32
 * and 64 bytes there as if it were aligned to more (its bug 54412, which some distributions have patched). So the
 * assembler takes the unaligned forms of the moves, which cost the same.
 *
 * SPDX-License-Identifier: MIT */
#if defined(_WIN64) && !defined(__clang__)
#define UNALIGNED_MOVE(aligned, unaligned)                                                                             \
    __asm__(".macro " aligned " operands:vararg\n\t" unaligned " \\operands\n\t.endm")
UNALIGNED_MOVE("vmovaps", "vmovups");
UNALIGNED_MOVE("vmovapd", "vmovupd");
UNALIGNED_MOVE("vmovdqa", "vmovdqu");
UNALIGNED_MOVE("vmovdqa32", "vmovdqu32");
UNALIGNED_MOVE("vmovdqa64", "vmovdqu64");
#undef UNALIGNED_MOVE
#endif
