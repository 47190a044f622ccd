/* The AVX-512 kernel set.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(AVX512)

#include <immintrin.h>
#include <string.h>
#if defined(_MSC_VER) /* clang's header brings there what the command line asks for, and nothing else */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#include <avx512fintrin.h>
#include <avx512vlintrin.h>
#include <avx512bwintrin.h>
#include <avx512dqintrin.h>
#include <avx512vlbwintrin.h>
#include <avx512vldqintrin.h>
#if QKV_WITH(AVX512VNNI)
#include <avx512vnniintrin.h>
#include <avx512vlvnniintrin.h>
#include <avx512bf16intrin.h>
#include <avx512vlbf16intrin.h>
#endif
#endif

/* clang 18 to 21 count 512-bit registers as a feature of its own, which a command line may have left out (zig cc does);
 * older and newer ones do not know it. Apple's clang has other numbers, and leaves none out. */
#if defined(__clang__) && !defined(__apple_build_version__) && __clang_major__ >= 18 && __clang_major__ <= 21
#define TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,evex512"
#else
#define TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl") /* no macro can stand here */
#endif
#define QKV_HAVE_FMA 1

#include "../win64.inc.h"

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"
/* Without optimisation GCC has macros for intrinsics, and they convert the sign of masks. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include "simd_avx512.h"
#pragma GCC diagnostic pop

#include "../gemm.inc.h"
#include "../rows.inc.h"
#include "../rotate.inc.h"
#include "../backward.inc.h"
#include "../dropout.inc.h"
#include "../storage.inc.h"
#include "../stored.inc.h"
#include "../weights.inc.h"
#include "../bf16.inc.h"
#include "../int8.inc.h"
#include "../float_products.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define NEEDS                                                                                                          \
    (QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_AVX512F | QKV_CPU_AVX512BW | QKV_CPU_AVX512DQ |               \
     QKV_CPU_AVX512VL | QKV_CPU_OS_YMM | QKV_CPU_OS_ZMM)
#define KERNELS qkv_kernels_avx512
#define KERNELS_NAME "avx512"
#define KERNELS_NEEDS NEEDS
#include "../table.inc.h"

/* "avx512vnni": the same, but for products in 8 bits. */
#if QKV_WITH(AVX512VNNI)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(TARGET ",avx512vnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

#ifdef __OPTIMIZE__
#define DOT_VECTORS 4
#else /* every temporary of a tile has a place of its own on the stack */
#define DOT_VECTORS 1
#endif
#define SIGNED_DOTS 0
QKV_INLINE vint i_dots(vint sum, vint w, vint a) { return _mm512_dpbusd_epi32(sum, w, a); }
#include "../weights_dots.inc.h"
#include "../int8_dots.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_avx512vnni
#define KERNELS_NAME "avx512vnni"
#define KERNELS_NEEDS (NEEDS | QKV_CPU_AVX512VNNI)
#define GEMM_WEIGHTS gemm_weights_dots
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define NATIVE (1 << QKV_ARITHMETIC_INT8)
#include "../table.inc.h"

/* "avx512bf16": the same, and products in bfloat16. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(TARGET ",avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

QKV_INLINE vec p_dot(vec sum, vint b, vint a) { return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)a); }
QKV_INLINE vint p_pack(vec a, vec b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
/* Words of the terms of two vectors of them, the lower or upper ones of both. */
#define WORDS_FROM(a, b)                                                                                               \
    _mm512_setr_epi32((b) << 16 | (a), ((b) + 1) << 16 | ((a) + 1), ((b) + 2) << 16 | ((a) + 2),                       \
                      ((b) + 3) << 16 | ((a) + 3), ((b) + 4) << 16 | ((a) + 4), ((b) + 5) << 16 | ((a) + 5),           \
                      ((b) + 6) << 16 | ((a) + 6), ((b) + 7) << 16 | ((a) + 7), ((b) + 8) << 16 | ((a) + 8),           \
                      ((b) + 9) << 16 | ((a) + 9), ((b) + 10) << 16 | ((a) + 10), ((b) + 11) << 16 | ((a) + 11),       \
                      ((b) + 12) << 16 | ((a) + 12), ((b) + 13) << 16 | ((a) + 13), ((b) + 14) << 16 | ((a) + 14),     \
                      ((b) + 15) << 16 | ((a) + 15))
QKV_INLINE vint p_zip(vec first, vec second) {
    return _mm512_permutexvar_epi16(WORDS_FROM(0, 16), p_pack(first, second));
}
/* Words of two vectors of terms, of the lower or the upper ones of both. */
QKV_INLINE vint p_zip_halves(vint first, vint second, int upper) {
    return _mm512_permutex2var_epi16(first, upper ? WORDS_FROM(16, 48) : WORDS_FROM(0, 32), second);
}
QKV_INLINE vint p_load(const unsigned char *at) {
    const __m512i x = i_load(at), magnitude = i_and(x, i_set(0x7fff7fff));
    return _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(magnitude, _mm512_set1_epi16(0x2380)), x); /* 2⁻⁵⁶ */
}
#include "../bf16_dots.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_avx512bf16
#define KERNELS_NAME "avx512bf16"
#define KERNELS_NEEDS (NEEDS | QKV_CPU_AVX512VNNI | QKV_CPU_AVX512BF16)
#define GEMM_WEIGHTS gemm_weights_dots
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define BF16(entry) entry##_dots
#define BF16_BYTES 2
#define NATIVE (1 << QKV_ARITHMETIC_INT8 | 1 << QKV_ARITHMETIC_BF16)
#include "../table.inc.h"

#endif

#endif
