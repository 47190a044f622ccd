/* Vectors of 16 floats for the templates: AVX-512 F, BW, DQ, VL.  SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_AVX512_H
#define QKV_SIMD_AVX512_H

typedef __m512 vec;      /* VLEN floats */
typedef __mmask16 vmask; /* one truth value a lane */
typedef __mmask16 vtail; /* the first lanes of a vector: how much of it is memory */

#define VLEN 16
#define STRIP_VECTORS 4 /* vectors of C in a tile: times VLEN it divides 64 */
#define TILE_ROWS 6
#define NT_ROWS 12     /* of sums that fit the registers beside a square of VLEN vectors */
#define MASKED_LOADS 1 /* v_load_tail costs no more than v_load */

QKV_INLINE vec v_zero(void) { return _mm512_setzero_ps(); }
QKV_INLINE vec v_set(float x) { return _mm512_set1_ps(x); }
QKV_INLINE vec v_load(const float *p) { return _mm512_loadu_ps(p); }
#ifndef V_PIN /* emulated vectors are no registers */
/* x is in a register here. */
#define V_PIN(x) __asm__("" : "+v"(x))
/* … and is computed before what follows with one. */
#define V_ORDERED(x) __asm__ volatile("" : "+v"(x))
#if defined(__clang__)
#define COMPARES_BY_INSTRUCTION
#endif
#endif
QKV_INLINE void v_store(float *p, vec x) { _mm512_storeu_ps(p, x); }

QKV_INLINE vtail v_tail(size_t n) { return (vtail)_cvtu32_mask16((1u << n) - 1); } /* 1 ≤ n ≤ VLEN */
QKV_INLINE vec v_load_tail(const float *p, vtail t) { return _mm512_maskz_loadu_ps(t, p); }
QKV_INLINE void v_store_tail(float *p, vec x, vtail t) { _mm512_mask_storeu_ps(p, t, x); }

QKV_INLINE vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
QKV_INLINE vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
QKV_INLINE vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
QKV_INLINE vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
QKV_INLINE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }   /* a·b + c */
QKV_INLINE vec v_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); } /* c − a·b */
QKV_INLINE vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }               /* b where either is a NaN */
QKV_INLINE vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }               /* b where either is a NaN */
QKV_INLINE vec v_abs(vec a) { return _mm512_abs_ps(a); }
QKV_INLINE vec v_sign_of(vec magnitude, vec sign) { /* magnitude ≥ 0 */
    return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
QKV_INLINE vec v_round(vec a) { return _mm512_roundscale_ps(a, 0); }

/* clang makes a comparison of its own of the intrinsic, in which -fno-honor-nans lets a NaN be anything. */
#ifdef COMPARES_BY_INSTRUCTION
#define COMPARE(name, predicate, number)                                                                               \
    QKV_INLINE vmask name(vec a, vec b) {                                                                              \
        vmask k;                                                                                                       \
        __asm__("vcmpps {$" number ", %2, %1, %0|%0, %1, %2, " number "}" : "=k"(k) : "v"(a), "v"(b));                 \
        return k;                                                                                                      \
    }
#else
#define COMPARE(name, predicate, number)                                                                               \
    QKV_INLINE vmask name(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, predicate); }
#endif
COMPARE(v_less, _CMP_LT_OQ, "17")
COMPARE(v_not_less, _CMP_NLT_UQ, "21")
COMPARE(v_equal, _CMP_EQ_OQ, "0")
COMPARE(v_unordered, _CMP_UNORD_Q, "3")
QKV_INLINE vmask v_is_nan(vec a) { return v_unordered(a, a); }
QKV_INLINE vec v_select(vmask m, vec yes, vec no) { return _mm512_mask_blend_ps(m, no, yes); }
QKV_INLINE vmask m_none(void) { return 0; }
QKV_INLINE vmask m_or(vmask a, vmask b) { return (vmask)(a | b); }
QKV_INLINE int m_any(vmask m) { return m != 0; }

/* Lanes whose byte is zero. */
QKV_INLINE vmask m_zero_bytes(const uint8_t *p) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    return _mm_testn_epi8_mask(bytes, bytes);
}

/* p·2^n where y is not below `least`, else +0; p·2^n is a normal number there. */
QKV_INLINE vec v_exp2_scale(vec p, vec n, vec y, float least) {
    return _mm512_maskz_scalef_ps(v_not_less(y, _mm512_set1_ps(least)), p, n);
}

QKV_INLINE float v_reduce_max(vec a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    c = _mm_max_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

/* The tree +8, +4, +2, +1 over 16 lanes. */
QKV_INLINE float v_sum_lanes(const vec lanes[1]) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(lanes[0]), _mm512_extractf32x8_ps(lanes[0], 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    c = _mm_add_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

/* 4×4 within each 128-bit lane. */
QKV_INLINE void v_transpose_lanes(const vec x[4], vec y[4]) {
    vec a = _mm512_unpacklo_ps(x[0], x[1]), b = _mm512_unpackhi_ps(x[0], x[1]);
    vec c = _mm512_unpacklo_ps(x[2], x[3]), d = _mm512_unpackhi_ps(x[2], x[3]);
    y[0] = _mm512_shuffle_ps(a, c, 0x44);
    y[1] = _mm512_shuffle_ps(a, c, 0xee);
    y[2] = _mm512_shuffle_ps(b, d, 0x44);
    y[3] = _mm512_shuffle_ps(b, d, 0xee);
}

/* x[i] becomes column i of the matrix whose rows were x. */
QKV_INLINE void v_transpose(vec x[16]) {
    vec y[16];
    v_transpose_lanes(x, y);
    v_transpose_lanes(x + 4, y + 4);
    v_transpose_lanes(x + 8, y + 8);
    v_transpose_lanes(x + 12, y + 12);
#define TRANSPOSE_OF_LANES(i, j) /* 4×4 of the 128-bit lanes */                                                       \
    {                                                                                                                  \
        vec a = _mm512_shuffle_f32x4(y[i], y[i + 4], 0x88), b = _mm512_shuffle_f32x4(y[i], y[i + 4], 0xdd);            \
        vec c = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0x88), d = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0xdd);  \
        x[i] = _mm512_shuffle_f32x4(a, c, 0x88);                                                                       \
        x[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);                                                                   \
        x[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);                                                                   \
        x[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);                                                                  \
    }
    QKV_ROWS(4, TRANSPOSE_OF_LANES, 0)
#undef TRANSPOSE_OF_LANES
}

/* *a, *b hold pairs one after the other; then *a the first ones of all pairs, *b the second ones. v_zip undoes it. */
QKV_INLINE void v_unzip(vec *a, vec *b) {
    vec even = _mm512_shuffle_ps(*a, *b, 0x88), odd = _mm512_shuffle_ps(*a, *b, 0xdd);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    *a = _mm512_castsi512_ps(_mm512_permutexvar_epi64(order, _mm512_castps_si512(even)));
    *b = _mm512_castsi512_ps(_mm512_permutexvar_epi64(order, _mm512_castps_si512(odd)));
}
QKV_INLINE void v_zip(vec *a, vec *b) {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    vec even = _mm512_castsi512_ps(_mm512_permutexvar_epi64(order, _mm512_castps_si512(*a)));
    vec odd = _mm512_castsi512_ps(_mm512_permutexvar_epi64(order, _mm512_castps_si512(*b)));
    *a = _mm512_unpacklo_ps(even, odd);
    *b = _mm512_unpackhi_ps(even, odd);
}

/* VLEN stored elements at p, and the scale of a block in every lane. No conversion looks at MXCSR. */
QKV_INLINE vec v_load_f16(const unsigned char *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
QKV_INLINE vec v_load_bf16(const unsigned char *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
QKV_INLINE vec v_load_i8(const unsigned char *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
QKV_INLINE vec v_set_f16(const unsigned char *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)x));
}
QKV_INLINE void v_store_f16(unsigned char *p, vec x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
/* The upper half of each lane is the bfloat16. */
QKV_INLINE __m512i to_bf16(vec x) {
    __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __m512i quiet = _mm512_or_epi32(bits, _mm512_set1_epi32(0x400000));
    return _mm512_mask_blend_epi32(v_is_nan(x), rounded, quiet);
}
QKV_INLINE vec v_round_bf16(vec x) {
    return _mm512_castsi512_ps(_mm512_and_epi32(to_bf16(x), _mm512_set1_epi32((int)0xffff0000)));
}
QKV_INLINE vec v_swap(vec a) { return _mm512_permute_ps(a, 0xb1); } /* the two lanes of each pair */
QKV_INLINE void v_store_bf16(unsigned char *p, vec x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(to_bf16(x), 16)));
}

/* Words of 32 bits in lanes, and their bytes. */
typedef __m512i vint;
typedef __m512i vdots; /* sums of products of bytes, not yet added up for each word */

QKV_INLINE vint i_load(const void *p) { return _mm512_loadu_si512(p); }
QKV_INLINE void i_store(void *p, vint a) { _mm512_storeu_si512(p, a); }
QKV_INLINE vint i_set(uint32_t x) { return _mm512_set1_epi32((int)x); }
QKV_INLINE vint i_and(vint a, vint b) { return _mm512_and_si512(a, b); }
QKV_INLINE vint i_or(vint a, vint b) { return _mm512_or_si512(a, b); }
QKV_INLINE vint i_add(vint a, vint b) { return _mm512_add_epi32(a, b); }
QKV_INLINE vint i_sub(vint a, vint b) { return _mm512_sub_epi32(a, b); }
QKV_INLINE vint i_sub_bytes(vint a, vint b) { return _mm512_sub_epi8(a, b); }
QKV_INLINE vint i_shift(vint a, int left) { /* below 0: to the right, filled up with zeros */
    return left > 0 ? _mm512_slli_epi32(a, (unsigned)left) : left < 0 ? _mm512_srli_epi32(a, (unsigned)-left) : a;
}
QKV_INLINE vec v_from_i(vint a) { return _mm512_cvtepi32_ps(a); }
QKV_INLINE vint i_whole(vec a) { return _mm512_cvtps_epi32(a); } /* of whole numbers */
QKV_INLINE vint i_load_u8(const unsigned char *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
QKV_INLINE vint i_bits(vec a) { return _mm512_castps_si512(a); }
QKV_INLINE vec v_bits(vint a) { return _mm512_castsi512_ps(a); }

/* Byte n of each word, signed. */
QKV_INLINE vec v_byte(vint a, int n) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(n < 3 ? _mm512_slli_epi32(a, (unsigned)(24 - 8 * n)) : a, 24));
}
QKV_INLINE vec v_load_u8(const unsigned char *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
QKV_INLINE void v_store_i8(int8_t *p, vec x) { /* whole numbers within ±127 */
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

/* Sums of products of bytes, four side by side in a word: w from 0 to 63, a within ±127. They must fit 16 bits. */
QKV_INLINE vdots d_zero(void) { return _mm512_setzero_si512(); }
QKV_INLINE vdots d_add(vdots dots, vint w, vint a) { return _mm512_add_epi16(dots, _mm512_maddubs_epi16(w, a)); }
QKV_INLINE vint i_sum_dots(vdots dots) { return _mm512_madd_epi16(dots, _mm512_set1_epi16(1)); }

/* The same with w from −32 to 31. The multiplier wants a factor without a sign: a + 128, and d_bias of all w, which
 * takes 128·w off again, to start with. */
QKV_INLINE vint i_biased(vint a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
QKV_INLINE vdots d_bias(vdots dots, vint w) {
    return _mm512_sub_epi16(dots, _mm512_maddubs_epi16(_mm512_set1_epi8(-128), w));
}
QKV_INLINE void d_store(void *p, vdots dots) { i_store(p, dots); }
QKV_INLINE vdots d_load(const void *p) { return i_load(p); }
QKV_INLINE vdots d_add_biased(vdots dots, vint w, vint a) { return _mm512_add_epi16(dots, _mm512_maddubs_epi16(a, w)); }

/* Adds the four products of each word: any w, a within ±127. */
QKV_INLINE vint i_add_signed_dots(vint sum, vint w, vint a) {
    vint signed_a = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
    return i_add(sum, i_sum_dots(_mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_a)));
}

/* VLEN words of 32 bits as the low halves of 64-bit lanes, as the multiplier takes them; high halves are anything. */
typedef struct vwords {
    __m512i even, odd;
} vwords;
typedef __m512i vword; /* one word in every lane */

QKV_INLINE vword k_set(uint32_t x) { return _mm512_set1_epi64(x); }
QKV_INLINE vword k_add(vword a, vword b) { return _mm512_add_epi32(a, b); }
QKV_INLINE vwords w_set(uint32_t x) { return (vwords){k_set(x), k_set(x)}; }
QKV_INLINE vwords w_count(uint32_t x) { /* x, x + 1, … */
    return (vwords){k_add(k_set(x), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14)),
                    k_add(k_set(x), _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15))};
}
QKV_INLINE vwords w_multiply(vwords a, vword by) { /* the low words of the products; w_high has the high ones */
    return (vwords){_mm512_mul_epu32(a.even, by), _mm512_mul_epu32(a.odd, by)};
}
QKV_INLINE vwords w_high(vwords product) {
    return (vwords){_mm512_srli_epi64(product.even, 32), _mm512_srli_epi64(product.odd, 32)};
}
QKV_INLINE vwords w_xor(vwords a, vwords b, vword c) {
    return (vwords){_mm512_ternarylogic_epi64(a.even, b.even, c, 0x96),
                    _mm512_ternarylogic_epi64(a.odd, b.odd, c, 0x96)};
}
/* x where the word is not below the threshold, else +0. */
QKV_INLINE vec v_keep(vwords a, uint32_t threshold, vec x) {
    __m512i words = _mm512_mask_blend_epi32(0xaaaa, a.even, _mm512_slli_epi64(a.odd, 32));
    return _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(words, _mm512_set1_epi32((int)threshold)), x);
}

/* Ends every entry: SSE code after it must not find the upper halves in use. Compilers see to it only at -O2. */
QKV_INLINE void v_leave(void) { _mm256_zeroupper(); }

#endif
