/* What the build is for, and what it must not be.  SPDX-License-Identifier: MIT */
#ifndef QKV_CONFIG_H
#define QKV_CONFIG_H

#include <float.h>

/* GCC says with __GCC_IEC_559 = 0 that some option breaks IEEE arithmetic: -funsafe-math-optimizations and its parts,
 * -fno-signed-zeros, -fsingle-precision-constant. It says so of every Arm and RISC-V without double in hardware too, as
 * software raises no exceptions; there the parts have macros of their own. clang has no word for those; there pragmas
 * below undo them. */
#if defined(__arm__) && !(defined(__ARM_FP) && (__ARM_FP & 8))
#define QKV_SOFT_DOUBLE 1
#elif defined(__riscv) && !(defined(__riscv_flen) && __riscv_flen >= 64)
#define QKV_SOFT_DOUBLE 1
#endif
#if defined(QKV_SOFT_DOUBLE) && !defined(__clang__)
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
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 /* float in float, and _Float16 as itself: Arm, with GNU's C */
#error "qkv needs float arithmetic in float: -msse2 -mfpmath=sse on x86, -fexcess-precision=fast for GCC on s390x"
#endif
#if DBL_MANT_DIG != 53 || FLT_MANT_DIG != 24
#error "qkv needs IEEE-754 float and double"
#endif
#if !defined(__GNUC__) && !defined(__clang__)
#error "qkv needs GCC or clang"
#endif

#define QKV_BIG_ENDIAN (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)

#if defined(__x86_64__)
#define QKV_X86_64 1
#elif defined(__aarch64__) && !QKV_BIG_ENDIAN /* vectors are numbered backwards otherwise */
#define QKV_AARCH64 1
#elif defined(__riscv) && __riscv_xlen == 64
#define QKV_RISCV64 1
#endif
/* Armv8.1-M's vectors with floats: the command line says whether the CPU has them. */
#if defined(__ARM_FEATURE_MVE) && !QKV_BIG_ENDIAN
#define QKV_HELIUM (__ARM_FEATURE_MVE >> 1 & 1)
#else
#define QKV_HELIUM 0
#endif
#ifndef QKV_X86_64
#define QKV_X86_64 0
#endif
#ifndef QKV_AARCH64
#define QKV_AARCH64 0
#endif
#ifndef QKV_RISCV64
#define QKV_RISCV64 0
#endif

/* A module of WebAssembly is refused whole by an engine that does not know one of its instructions: SIMD is in it only
 * where the command line asks for it, -msimd128 or -mrelaxed-simd. */
#if defined(__wasm__)
#define QKV_WASM 1
#else
#define QKV_WASM 0
#endif
#if defined(__wasm_simd128__)
#define QKV_WASM_SIMD 1
#else
#define QKV_WASM_SIMD 0
#endif
#if defined(__wasm_simd128__) && defined(__wasm_relaxed_simd__)
#define QKV_WASM_RELAXED 1
#else
#define QKV_WASM_RELAXED 0
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

/* Whether it knows SVE in single functions, or the whole build may use that, and RISC-V's V with its intrinsics of
 * version 1.0. Apple's CPUs have no SVE. 0 on the command line leaves the set out. */
#if !QKV_AARCH64 || defined(__apple_build_version__)
#undef QKV_SVE
#define QKV_SVE 0
#elif defined(QKV_SVE)
#elif defined(__ARM_FEATURE_SVE)
#define QKV_SVE 1
#elif defined(__clang__)
#define QKV_SVE (__clang_major__ >= 16)
#else
#define QKV_SVE (__GNUC__ >= 10)
#endif
#if !QKV_RISCV64
#undef QKV_RVV
#define QKV_RVV 0
#elif defined(QKV_RVV)
#elif defined(__clang__)
#define QKV_RVV (__clang_major__ >= 19)
#else
#define QKV_RVV (__GNUC__ >= 14)
#endif

/* What a build may leave out, each by a macro on the command line, the same for all files. Functions of what is left
 * out are not there, and calls that ask for it are refused (QKV_ERROR_LEFT_OUT); what is there keeps its bits.
 * docs/profiles.md has the sizes.
 *
 *   -DQKV_NO_BACKWARD   gradients
 *   -DQKV_NO_DROPOUT
 *   -DQKV_NO_LAYER      qkv_layer_*
 *   -DQKV_NO_MERGE      qkv_merge_*, and states of key blocks as an output
 *   -DQKV_NO_CACHE      qkv_cache_*, and projections that store into it
 *   -DQKV_NO_PAGES      page tables, packed sequences (q_start, k_start), keys in panels; with them QKV_NO_CACHE
 *   -DQKV_NO_STORED     q, k, v and out of attention other than QKV_F32, weights in 16 bits; with them QKV_NO_CACHE
 *   -DQKV_NO_MASKS      keep, bias, key_ranges, first_tokens, ALiBi, softcap; windows, causal ones too, remain
 *   -DQKV_NO_SCORES     scores and probabilities as outputs
 *   -DQKV_NO_ROPE       RoPE and QK-norm
 *   -DQKV_NO_BF16       products in bfloat16, and attention's with scores in 8 bits, whose values are in bfloat16
 *   -DQKV_NO_BLOCKS     weights in blocks: QKV_Q8_0, Q4_0 … Q6_K
 *   -DQKV_NO_QUANTIZED  those, weights in QKV_INT8, and products in 8 bits
 *   -DQKV_NO_WORKERS    plans for more than one worker
 *   -DQKV_NO_PREFETCH   hints to the memory of what comes next
 *   -DQKV_NO_CHECKS     what plans and runs refuse of tensors: that they are there, aligned, reach no farther than
 *                       memory, don't overlap, and that a run's descriptor is the planned one. For firmware whose calls
 *                       a build with checks has seen
 *   -DQKV_NO_EXPLAIN    qkv_*_explain_*, and the text of every refusal
 *   -DQKV_NO_AVX512, _AVX2, _NEON, _PORTABLE, …   a kernel set, with those that build on it
 *
 *   -DQKV_FORWARD_ONLY  QKV_NO_BACKWARD, QKV_NO_DROPOUT
 *   -DQKV_MINIMAL       attention and projections in f32, and with weights in 8 bits: all of them but QKV_NO_QUANTIZED
 *                       and QKV_NO_CHECKS, and of kernel sets QKV_NO_PORTABLE */
#if defined(QKV_MINIMAL)
#define QKV_FORWARD_ONLY 1
#define QKV_NO_LAYER 1
#define QKV_NO_MERGE 1
#define QKV_NO_PAGES 1
#define QKV_NO_STORED 1
#define QKV_NO_MASKS 1
#define QKV_NO_SCORES 1
#define QKV_NO_ROPE 1
#define QKV_NO_BF16 1
#define QKV_NO_BLOCKS 1
#define QKV_NO_WORKERS 1
#define QKV_NO_PREFETCH 1
#define QKV_NO_EXPLAIN 1
#define QKV_NO_PORTABLE 1
#endif
#if defined(QKV_FORWARD_ONLY)
#define QKV_NO_BACKWARD 1
#define QKV_NO_DROPOUT 1
#endif
#if defined(QKV_NO_PAGES) || defined(QKV_NO_STORED)
#define QKV_NO_CACHE 1
#endif
#if defined(QKV_NO_QUANTIZED)
#define QKV_NO_BLOCKS 1
#endif
#if !QKV_X86_64 || defined(QKV_NO_AVX2)
#define QKV_NO_AVX2 1
#endif
#if defined(QKV_NO_AVX2) || !QKV_DOTS
#define QKV_NO_AVXVNNI 1
#endif
#if !QKV_X86_64 || defined(QKV_NO_AVX512)
#define QKV_NO_AVX512 1
#endif
#if defined(QKV_NO_AVX512) || !QKV_DOTS
#define QKV_NO_AVX512VNNI 1
#endif
#if !QKV_AARCH64 || defined(QKV_NO_NEON)
#define QKV_NO_NEON 1
#endif
#if defined(QKV_NO_NEON) || !QKV_DOTS
#define QKV_NO_DOTPROD 1
#endif
#if !QKV_SVE || defined(QKV_NO_SVE)
#define QKV_NO_SVE 1
#endif
#if !QKV_RVV || defined(QKV_NO_RVV)
#define QKV_NO_RVV 1
#endif
#if !QKV_HELIUM || defined(QKV_NO_HELIUM) || defined(QKV_NO_PORTABLE) /* with which it computes what it flushes */
#define QKV_NO_HELIUM 1
#endif
#if !QKV_WASM_SIMD || defined(QKV_NO_SIMD128)
#define QKV_NO_SIMD128 1
#endif
#if !QKV_WASM_RELAXED || defined(QKV_NO_RELAXED)
#define QKV_NO_RELAXED 1
#endif

/* QKV_WITH(BACKWARD) is 0 where QKV_NO_BACKWARD is defined, as 1, and else 1: in #if and in C. */
#define QKV_WITH(feature) QKV_WITH_(QKV_NO_##feature)
#define QKV_WITH_(no) QKV_WITH_UNLESS_(no)
#define QKV_WITH_UNLESS_(no) QKV_WITH_PICK_(QKV_LEFT_OUT_##no)
#define QKV_WITH_PICK_(first) QKV_SECOND_(first 0, 1, 0)
#define QKV_LEFT_OUT_1 0, /* makes the 0 behind it the second one */
#define QKV_SECOND_(a, b, ...) b

/* In place of a function that is left out: never reached, but named where nothing is optimised. */
static inline __attribute__((unused)) int qkv_absent(int unused, ...) {
    return unused;
}

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
/* GCC 12 makes vectors of two int64_t for MVE and fills their upper halves from other registers than it means. */
#if defined(__ARM_FEATURE_MVE)
#pragma GCC optimize("no-tree-slp-vectorize")
#endif
#endif

/* Vectors of floats in MVE flush subnormals, and compilers make them of plain C without being asked: GCC from -O2 on,
 * clang too. GCC can be told here; those of src/kernels/helium are checked. docs/helium.md. */
#if QKV_HELIUM && !defined(__clang__)
#pragma GCC optimize("no-tree-vectorize")
#elif QKV_HELIUM
#error "clang's own vectors of floats flush subnormals on this CPU: -mcpu=cortex-m55+nomve -fno-math-errno, or GCC"
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

#define QKV_INLINE static inline __attribute__((always_inline, unused))
#define QKV_NOINLINE __attribute__((noinline))

/* The compiler no longer knows how x was computed. */
#define QKV_OPAQUE(x) __asm__("" : "+r"(x))

#endif
