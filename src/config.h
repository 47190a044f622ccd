/* What the build is for, and what it must not be.  SPDX-License-Identifier: MIT */
#ifndef QKV_CONFIG_H
#define QKV_CONFIG_H

#include <float.h>

/* GCC says with __GCC_IEC_559 = 0 that some option breaks IEEE arithmetic: -funsafe-math-optimizations and its parts,
 * -fno-signed-zeros, -fsingle-precision-constant. It says so of every Arm without double in hardware too, as software
 * raises no exceptions; there the parts have macros of their own. clang has no word for those; there pragmas below undo
 * them. */
#if defined(__arm__) && !defined(__clang__) && !(defined(__ARM_FP) && (__ARM_FP & 8))
#if defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#define QKV_UNSAFE_MATH 1
#endif
_Static_assert(sizeof 1.0 == sizeof(double), "qkv can't be built with -fsingle-precision-constant");
#elif defined(__GCC_IEC_559) && __GCC_IEC_559 == 0
#define QKV_UNSAFE_MATH 1
#endif
#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ || defined(QKV_UNSAFE_MATH)
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

/* Whether the compiler knows AVX-VNNI, AVX-512 VNNI and BF16, or dotprod and i8mm. 0 on the command line is for an
 * assembler that does not. */
#if defined(QKV_DOTS)
#elif defined(__apple_build_version__)
#define QKV_DOTS (__clang_major__ >= 13)
#elif defined(__clang__)
#define QKV_DOTS (__clang_major__ >= 12)
#else
#define QKV_DOTS (__GNUC__ >= 11)
#endif
#define QKV_X86_DOTS (QKV_X86_64 && QKV_DOTS)
#define QKV_ARM_DOTS (QKV_AARCH64 && QKV_DOTS)

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

/* A shared library, which is compiled with QKV_SHARED, exports the functions of qkv.h and nothing else. Linked
 * statically the library is private to the program or shared object that holds it: several of them, each with a version
 * of its own, may live in one process. To be included before qkv.h; internal declarations stand between
 * QKV_INTERNAL_BEGIN and _END. */
#if defined(_WIN32) || defined(__CYGWIN__)
#define QKV_INTERNAL_BEGIN
#define QKV_INTERNAL_END
#define QKV_EXPORT __declspec(dllexport)
#define QKV_HIDDEN
#else
#define QKV_INTERNAL_BEGIN _Pragma("GCC visibility push(hidden)")
#define QKV_INTERNAL_END _Pragma("GCC visibility pop")
#define QKV_EXPORT __attribute__((visibility("default")))
#define QKV_HIDDEN __attribute__((visibility("hidden")))
#endif
#if defined(QKV_API) /* a test or benchmark looks inside */
#elif defined(QKV_SHARED)
#define QKV_API QKV_EXPORT
#else
#define QKV_API QKV_HIDDEN
#endif

#define QKV_INLINE static inline __attribute__((always_inline))
#define QKV_NOINLINE __attribute__((noinline))

/* The compiler no longer knows how x was computed. */
#define QKV_OPAQUE(x) __asm__("" : "+r"(x))

#endif
