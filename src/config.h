/* What the build is for, and what it must not be.  SPDX-License-Identifier: MIT */
#ifndef QKV_CONFIG_H
#define QKV_CONFIG_H

#include <float.h>

#if defined(__FAST_MATH__)
#error "qkv promises the same bits everywhere: build it without -ffast-math or -Ofast"
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
#elif defined(__aarch64__)
#define QKV_AARCH64 1
#endif
#ifndef QKV_X86_64
#define QKV_X86_64 0
#endif
#ifndef QKV_AARCH64
#define QKV_AARCH64 0
#endif

/* a·b + c is two roundings wherever the source does not say fma. GCC takes this per function, clang per file. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define QKV_INLINE static inline __attribute__((always_inline))
#define QKV_NOINLINE __attribute__((noinline))

/* The compiler no longer knows how x was computed. */
#define QKV_OPAQUE(x) __asm__("" : "+r"(x))

#endif
