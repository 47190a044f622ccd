/* VPDPBUSD in AVX2: adds to each word of `sum` its four products of bytes, those of w without a sign.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_EMULATED_DPBUSD_H
#define QKV_TESTS_EMULATED_DPBUSD_H

static inline __attribute__((always_inline)) __m256i emulated_dpbusd(__m256i sum, __m256i w, __m256i a) {
    const __m256i low_bytes = _mm256_set1_epi16(0xff);
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, low_bytes), _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(a, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

#endif
