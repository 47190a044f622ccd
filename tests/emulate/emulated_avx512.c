/* The AVX-512 kernel set for CPUs without AVX-512: the templates and vector header of src/kernels, whose intrinsics
 * SIMDe (https://github.com/simd-everywhere/simde) spells out in AVX2. It shows that their bits are right; what a
 * compiler makes of them for AVX-512, and how fast, it can't show.
 *
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include "emulated_dpbusd.h"

#define V_PIN(x)
#define V_ORDERED(x)

/* What SIMDe 0.7.4 does not have. */
static inline simde__mmask16 first_lanes(unsigned bits) {
    return (simde__mmask16)bits;
}

static inline __m256i lanes_of_half(simde__mmask16 mask, int half) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask >> 8 * half), bits), bits);
}

static inline simde__m512 load_lanes(simde__mmask16 mask, const float *p) {
    simde__m512_private x;
    for (int half = 0; half < 2; half++)
        x.m256[half] = _mm256_maskload_ps(p + 8 * half, lanes_of_half(mask, half));
    return simde__m512_from_private(x);
}

static inline void store_lanes(float *p, simde__mmask16 mask, simde__m512 x) {
    for (int half = 0; half < 2; half++)
        _mm256_maskstore_ps(p + 8 * half, lanes_of_half(mask, half), simde__m512_to_private(x).m256[half]);
}

static inline simde__mmask16 zero_bytes(__m128i x) {
    return (simde__mmask16)_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128()));
}

/* SIMDe's own takes exp2f of libm, lane by lane. For a whole number b ≥ −126 and a normal result. */
static inline simde__m512 scale_lanes(simde__mmask16 mask, simde__m512 a, simde__m512 b) {
    simde__m512_private x = simde__m512_to_private(a), n = simde__m512_to_private(b);
    for (int half = 0; half < 2; half++) {
        __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n.m256[half]), 23);
        __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(x.m256[half]), shift);
        x.m256[half] = _mm256_castsi256_ps(_mm256_and_si256(scaled, lanes_of_half(mask, half)));
    }
    return simde__m512_from_private(x);
}

static inline simde__m512 from_halves(__m256i x) {
    simde__m512_private y;
    y.m256[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(x));
    y.m256[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1));
    return simde__m512_from_private(y);
}

static inline __m256i to_halves(simde__m512 x) {
    const simde__m512_private y = simde__m512_to_private(x);
    return _mm256_set_m128i(_mm256_cvtps_ph(y.m256[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(y.m256[0], _MM_FROUND_TO_NEAREST_INT));
}

static inline simde__m512i widen_words(__m256i x) {
    simde__m512i_private y;
    y.m256i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x));
    y.m256i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1));
    return simde__m512i_from_private(y);
}

static inline simde__m512i widen_bytes(__m128i x) {
    simde__m512i_private y;
    y.m256i[0] = _mm256_cvtepi8_epi32(x);
    y.m256i[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8));
    return simde__m512i_from_private(y);
}

static inline simde__m512i widen_unsigned_bytes(__m128i x) {
    simde__m512i_private y;
    y.m256i[0] = _mm256_cvtepu8_epi32(x);
    y.m256i[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8));
    return simde__m512i_from_private(y);
}

static inline simde__m512i to_integers(simde__m512 x) {
    const simde__m512_private y = simde__m512_to_private(x);
    simde__m512i_private z;
    z.m256i[0] = _mm256_cvtps_epi32(y.m256[0]);
    z.m256i[1] = _mm256_cvtps_epi32(y.m256[1]);
    return simde__m512i_from_private(z);
}

static inline __m128i narrow_to_bytes(simde__m512i x) { /* what fits */
    const simde__m512i_private y = simde__m512i_to_private(x);
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(y.m256i[0], y.m256i[1]), 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

static inline __m256i narrow_words(simde__m512i x) {
    const simde__m512i_private y = simde__m512i_to_private(x);
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(y.m256i[0], y.m256i[1]), 0xd8);
}

static inline simde__m512i shift_right(simde__m512i x, unsigned n) {
    simde__m512i_private y = simde__m512i_to_private(x);
    for (int half = 0; half < 2; half++)
        y.m256i[half] = _mm256_srai_epi32(y.m256i[half], (int)n);
    return simde__m512i_from_private(y);
}

static inline simde__m512 from_integers(simde__m512i x) {
    const simde__m512i_private y = simde__m512i_to_private(x);
    simde__m512_private z;
    z.m256[0] = _mm256_cvtepi32_ps(y.m256i[0]);
    z.m256[1] = _mm256_cvtepi32_ps(y.m256i[1]);
    return simde__m512_from_private(z);
}

static inline simde__m512 swap_pairs(simde__m512 x) {
    simde__m512_private y = simde__m512_to_private(x);
    for (int half = 0; half < 2; half++)
        y.m256[half] = _mm256_permute_ps(y.m256[half], 0xb1);
    return simde__m512_from_private(y);
}

#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_epi8
#undef _mm512_srai_epi32
#undef _mm512_madd_epi16
#undef _mm512_permute_ps
#define _mm512_cvtph_ps from_halves
#define _mm512_permute_ps(x, swapped) swap_pairs(x)
#define _mm512_cvtps_ph(x, rounding) to_halves(x)
#define _mm512_cvtepu16_epi32 widen_words
#define _mm512_cvtepi8_epi32 widen_bytes
#define _mm512_cvtepi32_epi16 narrow_words
#define _mm512_cvtepi32_ps from_integers
#define _mm512_cvtepu8_epi32 widen_unsigned_bytes
#define _mm512_cvtps_epi32 to_integers
#define _mm512_cvtepi32_epi8 narrow_to_bytes
#define _mm512_srai_epi32 shift_right
#define _mm512_madd_epi16 simde_mm512_madd_epi16
#undef _cvtu32_mask16
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_extractf32x8_ps
#undef _mm_testn_epi8_mask
#undef _mm512_maskz_scalef_ps
#undef _mm512_shuffle_f32x4
#define _cvtu32_mask16 first_lanes
#define _mm512_maskz_loadu_ps load_lanes
#define _mm512_mask_storeu_ps store_lanes
#define _mm512_extractf32x8_ps(x, half) (simde__m512_to_private(x).m256[half])
#define _mm_testn_epi8_mask(x, same) zero_bytes(x)
#define _mm512_maskz_scalef_ps scale_lanes
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4

#define QKV_HAVE_FMA 1

#include "ref/philox.h"
#include "ref/scalar.h"
#include "ref/storage.h"
#include "ref/weights.h"
#include "kernels/repeat.h"
#include "kernels/avx512/simd_avx512.h"

#include "kernels/gemm.inc.h"
#include "kernels/rows.inc.h"
#include "kernels/rotate.inc.h"
#include "kernels/backward.inc.h"
#include "kernels/dropout.inc.h"
#include "kernels/storage.inc.h"
#include "kernels/stored.inc.h"
#include "kernels/weights.inc.h"
#include "kernels/bf16.inc.h"
#include "kernels/int8.inc.h"
#include "kernels/float_products.inc.h"

#define KERNELS qkv_kernels_avx512
#define KERNELS_NAME "avx512"
#define KERNELS_NEEDS (QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_OS_YMM)
#include "kernels/table.inc.h"

static inline simde__m512i add_dots(simde__m512i sum, simde__m512i w, simde__m512i a) {
    simde__m512i_private x = simde__m512i_to_private(sum);
    const simde__m512i_private y = simde__m512i_to_private(w), z = simde__m512i_to_private(a);
    for (int half = 0; half < 2; half++)
        x.m256i[half] = emulated_dpbusd(x.m256i[half], y.m256i[half], z.m256i[half]);
    return simde__m512i_from_private(x);
}

#define DOT_VECTORS 4
#define SIGNED_DOTS 0
#define i_dots add_dots
#include "kernels/weights_dots.inc.h"
#include "kernels/int8_dots.inc.h"

#define KERNELS qkv_kernels_avx512vnni
#define KERNELS_NAME "avx512vnni"
#define KERNELS_NEEDS (QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_OS_YMM)
#define GEMM_WEIGHTS gemm_weights_dots
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define NATIVE (1 << QKV_ARITHMETIC_INT8)
#include "kernels/table.inc.h"

/* Two fma for each pair, its second term first: what VDPBF16PS does where nothing is subnormal. */
static inline simde__m512 add_pairs(simde__m512 sum, simde__m512i b, simde__m512i a) {
    simde__m512_private x = simde__m512_to_private(sum);
    const simde__m512i_private y = simde__m512i_to_private(b), z = simde__m512i_to_private(a);
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    for (int half = 0; half < 2; half++) {
        const __m256i second_b = _mm256_and_si256(y.m256i[half], upper), first_b = _mm256_slli_epi32(y.m256i[half], 16);
        const __m256i second_a = _mm256_and_si256(z.m256i[half], upper), first_a = _mm256_slli_epi32(z.m256i[half], 16);
        x.m256[half] = _mm256_fmadd_ps(_mm256_castsi256_ps(second_b), _mm256_castsi256_ps(second_a), x.m256[half]);
        x.m256[half] = _mm256_fmadd_ps(_mm256_castsi256_ps(first_b), _mm256_castsi256_ps(first_a), x.m256[half]);
    }
    return simde__m512_from_private(x);
}

QKV_INLINE vec p_dot(vec sum, vint b, vint a) {
    return add_pairs(sum, b, a);
}
QKV_INLINE vint p_pack(vec a, vec b) {
    simde__m512i_private words;
    float x[2 * VLEN];
    v_store(x, a);
    v_store(x + VLEN, b);
    for (int i = 0; i < 2 * VLEN; i++)
        words.u16[i] = qkv_to_bf16(x[i]);
    return simde__m512i_from_private(words);
}
QKV_INLINE vint p_zip(vec first, vec second) {
    const simde__m512i_private halves = simde__m512i_to_private(p_pack(first, second));
    simde__m512i_private words;
    for (int i = 0; i < VLEN; i++)
        words.u32[i] = halves.u16[i] | (uint32_t)halves.u16[VLEN + i] << 16;
    return simde__m512i_from_private(words);
}
QKV_INLINE vint p_zip_halves(vint first, vint second, int upper) {
    const simde__m512i_private a = simde__m512i_to_private(first), b = simde__m512i_to_private(second);
    simde__m512i_private words;
    for (int i = 0; i < VLEN; i++)
        words.u32[i] = a.u16[upper * VLEN + i] | (uint32_t)b.u16[upper * VLEN + i] << 16;
    return simde__m512i_from_private(words);
}
QKV_INLINE vint p_load(const unsigned char *at) {
    simde__m512i_private words;
    memcpy(&words, at, sizeof words);
    for (int i = 0; i < 2 * VLEN; i++)
        words.u16[i] = (words.u16[i] & 0x7fff) < 0x2380 ? 0 : words.u16[i];
    return simde__m512i_from_private(words);
}
#include "kernels/bf16_dots.inc.h"

#define KERNELS qkv_kernels_avx512bf16
#define KERNELS_NAME "avx512bf16"
#define KERNELS_NEEDS (QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_OS_YMM)
#define GEMM_WEIGHTS gemm_weights_dots
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define BF16(entry) entry##_dots
#define BF16_BYTES 2
#define NATIVE (1 << QKV_ARITHMETIC_INT8 | 1 << QKV_ARITHMETIC_BF16)
#include "kernels/table.inc.h"
