/* What the build is for, and what it must not be.  SPDX-License-Identifier: MIT */
#ifndef QKV_CONFIG_H
#define QKV_CONFIG_H

#include <float.h>

/* GCC says with __GCC_IEC_559 = 0 that some option breaks IEEE arithmetic: -funsafe-math-optimizations and its parts,
 * -fno-signed-zeros, -fsingle-precision-constant. clang has no word for those; there pragmas below undo them. */
#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ || (defined(__GCC_IEC_559) && __GCC_IEC_559 == 0)
#error "qkv promises the same bits everywhere: build it without -ffast-math, -Ofast and what they are made of"
#endif
#if FLT_EVAL_METHOD != 0
#error "qkv needs float arithmetic in float: build it with -msse2 -mfpmath=sse, not for the x87"
#endif
#if DBL_MANT_DIG != 53 || FLT_MANT_DIG != 24
#error "qkv needs IEEE-754 float and double"
#endif
#if !defined(__GNUC__)
#error "qkv needs GCC or clang"
#endif

#if defined(__x86_64__)
#define QKV_X86_64 1
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ /* vectors are numbered backwards otherwise */
#define QKV_AARCH64 1
#endif
#ifndef QKV_X86_64
#define QKV_X86_64 0
#endif
#ifndef QKV_AARCH64
#define QKV_AARCH64 0
#endif

/* a·b + c is two roundings wherever the source does not say fma. GCC takes this per function, clang per file.
 * float_control undoes what -funsafe-math-optimizations, -fno-honor-nans and their like allow; clang has it for most
 * architectures, and warns on the others. */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wignored-pragmas"
#pragma float_control(precise, on)
#pragma clang diagnostic pop
#pragma clang fp reassociate(off)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

/* Before a loop whose trip count is a small constant: unrolled whole, so that arrays of vectors live in registers. */
#if defined(__clang__)
#define QKV_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QKV_UNROLL _Pragma("GCC unroll 16")
#endif

#define QKV_INLINE static inline __attribute__((always_inline))
#define QKV_NOINLINE __attribute__((noinline))

/* The compiler no longer knows how x was computed. */
#define QKV_OPAQUE(x) __asm__("" : "+r"(x))

#endif
