/* Vectors of 8 floats for the templates: AVX2 and FMA.  SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_AVX2_H
#define QKV_SIMD_AVX2_H

typedef __m256 vec;    /* VLEN floats */
typedef __m256 vmask;  /* one truth value a lane */
typedef __m256i vtail; /* the first lanes of a vector: how much of it is memory */

#define VLEN 8
#define STRIP_VECTORS 2 /* vectors of C in a tile: times VLEN it divides 64 */
#define TILE_ROWS 6
#define WIDEST_VECTORS 8 /* in a tile of one row */
#define WIDE_VECTORS 4   /* in one of two or three rows */
#define NT_ROWS 6        /* of sums that fit the registers beside a square of VLEN vectors */
#define MASKED_LOADS 1   /* v_load_tail costs no more than v_load */

QKV_INLINE vec v_zero(void) { return _mm256_setzero_ps(); }
QKV_INLINE vec v_set(float x) { return _mm256_set1_ps(x); }
QKV_INLINE vec v_load(const float *p) { return _mm256_loadu_ps(p); }
/* x is in a register here. */
#define V_PIN(x) __asm__("" : "+x"(x))
/* … and is computed before what follows with one. */
#define V_ORDERED(x) __asm__ volatile("" : "+x"(x))
QKV_INLINE void v_store(float *p, vec x) { _mm256_storeu_ps(p, x); }

QKV_INLINE vtail v_tail(size_t n) { /* 1 ≤ n ≤ VLEN */
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
QKV_INLINE vec v_load_tail(const float *p, vtail t) { return _mm256_maskload_ps(p, t); }
QKV_INLINE void v_store_tail(float *p, vec x, vtail t) { _mm256_maskstore_ps(p, t, x); }

QKV_INLINE vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
QKV_INLINE vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
QKV_INLINE vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
QKV_INLINE vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }
QKV_INLINE vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }   /* a·b + c */
QKV_INLINE vec v_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); } /* c − a·b */
QKV_INLINE vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }               /* b where either is a NaN */
QKV_INLINE vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }               /* b where either is a NaN */
QKV_INLINE vec v_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
QKV_INLINE vec v_sign_of(vec magnitude, vec sign) { /* magnitude ≥ 0 */
    return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
QKV_INLINE vec v_round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

QKV_INLINE vmask v_less(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
QKV_INLINE vmask v_equal(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
#if defined(__clang__) /* which with -fno-honor-nans takes the comparison for false */
QKV_INLINE vmask v_is_nan(vec a) {
    __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff));
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000)));
}
#else
QKV_INLINE vmask v_is_nan(vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
#endif
QKV_INLINE vec v_select(vmask m, vec yes, vec no) { return _mm256_blendv_ps(no, yes, m); }
QKV_INLINE vmask m_none(void) { return _mm256_setzero_ps(); }
QKV_INLINE vmask m_or(vmask a, vmask b) { return _mm256_or_ps(a, b); }
QKV_INLINE int m_any(vmask m) { return _mm256_movemask_ps(m) != 0; }

/* Lanes whose byte is zero. */
QKV_INLINE vmask m_zero_bytes(const uint8_t *p) {
    __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(lanes, _mm256_setzero_si256()));
}

/* p·2^n where y is not below `least`, else +0; p·2^n is a normal number there. A NaN n converts to a shift of
 * nothing. */
QKV_INLINE vec v_exp2_scale(vec p, vec n, vec y, float least) {
    __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    vec scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shift));
    return _mm256_andnot_ps(_mm256_cmp_ps(y, _mm256_set1_ps(least), _CMP_LT_OQ), scaled);
}

QKV_INLINE float v_reduce_max(vec a) {
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    c = _mm_max_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

/* The tree +8, +4, +2, +1 over 16 lanes. */
QKV_INLINE float v_sum_lanes(const vec lanes[2]) {
    vec b = _mm256_add_ps(lanes[0], lanes[1]);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    c = _mm_add_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

/* 4×4 within each 128-bit lane. */
QKV_INLINE void v_transpose_lanes(const vec x[4], vec y[4]) {
    vec a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]);
    vec c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
    y[0] = _mm256_shuffle_ps(a, c, 0x44);
    y[1] = _mm256_shuffle_ps(a, c, 0xee);
    y[2] = _mm256_shuffle_ps(b, d, 0x44);
    y[3] = _mm256_shuffle_ps(b, d, 0xee);
}

/* x[i] becomes column i of the matrix whose rows were x. */
QKV_INLINE void v_transpose(vec x[8]) {
    vec y[8];
    v_transpose_lanes(x, y);
    v_transpose_lanes(x + 4, y + 4);
#define SWAP_HALVES(i, j)                                                                                              \
    x[i] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x20);                                                               \
    x[i + 4] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x31);
    QKV_ROWS(4, SWAP_HALVES, 0)
#undef SWAP_HALVES
}

/* *a, *b hold pairs one after the other; then *a the first ones of all pairs, *b the second ones. v_zip undoes it. */
QKV_INLINE void v_unzip(vec *a, vec *b) {
    vec low = _mm256_permute2f128_ps(*a, *b, 0x20), high = _mm256_permute2f128_ps(*a, *b, 0x31);
    *a = _mm256_shuffle_ps(low, high, 0x88);
    *b = _mm256_shuffle_ps(low, high, 0xdd);
}
QKV_INLINE void v_zip(vec *a, vec *b) {
    vec low = _mm256_unpacklo_ps(*a, *b), high = _mm256_unpackhi_ps(*a, *b);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}

/* VLEN stored elements at p, and the scale of a block in every lane. No conversion looks at MXCSR. */
QKV_INLINE vec v_load_f16(const unsigned char *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
QKV_INLINE vec v_load_bf16(const unsigned char *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
QKV_INLINE vec v_load_i8(const unsigned char *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
QKV_INLINE vec v_set_f16(const unsigned char *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_cvtph_ps(_mm_set1_epi16((short)x));
}
QKV_INLINE void v_store_f16(unsigned char *p, vec x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
/* The upper half of each lane is the bfloat16. */
QKV_INLINE __m256i to_bf16(vec x) {
    __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(v_is_nan(x)));
}
QKV_INLINE vec v_round_bf16(vec x) {
    return _mm256_castsi256_ps(_mm256_and_si256(to_bf16(x), _mm256_set1_epi32((int)0xffff0000)));
}
QKV_INLINE vec v_swap(vec a) { return _mm256_permute_ps(a, 0xb1); } /* the two lanes of each pair */
QKV_INLINE void v_store_bf16(unsigned char *p, vec x) {
    __m256i rounded = _mm256_srli_epi32(to_bf16(x), 16);
    _mm_storeu_si128((__m128i *)p,
                     _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
}

/* Words of 32 bits in lanes, and their bytes. */
typedef __m256i vint;
typedef __m256i vdots; /* sums of products of bytes, not yet added up for each word */

QKV_INLINE vint i_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
QKV_INLINE void i_store(void *p, vint a) { _mm256_storeu_si256((__m256i *)p, a); }
QKV_INLINE vint i_set(uint32_t x) { return _mm256_set1_epi32((int)x); }
QKV_INLINE vint i_and(vint a, vint b) { return _mm256_and_si256(a, b); }
QKV_INLINE vint i_or(vint a, vint b) { return _mm256_or_si256(a, b); }
QKV_INLINE vint i_add(vint a, vint b) { return _mm256_add_epi32(a, b); }
QKV_INLINE vint i_sub(vint a, vint b) { return _mm256_sub_epi32(a, b); }
QKV_INLINE vint i_sub_bytes(vint a, vint b) { return _mm256_sub_epi8(a, b); }
QKV_INLINE vint i_shift(vint a, int left) { /* below 0: to the right, filled up with zeros */
    return left > 0 ? _mm256_slli_epi32(a, left) : left < 0 ? _mm256_srli_epi32(a, -left) : a;
}
QKV_INLINE vec v_from_i(vint a) { return _mm256_cvtepi32_ps(a); }
QKV_INLINE vint i_whole(vec a) { return _mm256_cvtps_epi32(a); } /* of whole numbers */
QKV_INLINE vint i_load_u8(const unsigned char *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
QKV_INLINE vint i_bits(vec a) { return _mm256_castps_si256(a); }
QKV_INLINE vec v_bits(vint a) { return _mm256_castsi256_ps(a); }

/* Byte n of each word, signed. */
QKV_INLINE vec v_byte(vint a, int n) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(n < 3 ? _mm256_slli_epi32(a, 24 - 8 * n) : a, 24));
}
QKV_INLINE vec v_load_u8(const unsigned char *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
QKV_INLINE void v_store_i8(int8_t *p, vec x) { /* whole numbers within ±127 */
    __m256i words = _mm256_cvtps_epi32(x);
    __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(halves, halves));
}

/* Sums of products of bytes, four side by side in a word: w from 0 to 63, a within ±127. They must fit 16 bits. */
QKV_INLINE vdots d_zero(void) { return _mm256_setzero_si256(); }
QKV_INLINE vdots d_add(vdots dots, vint w, vint a) {
    dots = _mm256_add_epi16(dots, _mm256_maddubs_epi16(w, a));
    V_PIN(dots); /* GCC would rather add in pairs, for which it has too few registers */
    return dots;
}
QKV_INLINE vint i_sum_dots(vdots dots) { return _mm256_madd_epi16(dots, _mm256_set1_epi16(1)); }

/* The same with w from −32 to 31. The multiplier wants a factor without a sign: a + 128, and d_bias of all w, which
 * takes 128·w off again, to start with. */
QKV_INLINE vint i_biased(vint a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
QKV_INLINE vdots d_bias(vdots dots, vint w) {
    return _mm256_sub_epi16(dots, _mm256_maddubs_epi16(_mm256_set1_epi8(-128), w));
}
QKV_INLINE void d_store(void *p, vdots dots) { _mm256_storeu_si256((__m256i *)p, dots); }
QKV_INLINE vdots d_load(const void *p) { return i_load(p); }
QKV_INLINE vdots d_add_biased(vdots dots, vint w, vint a) {
    dots = _mm256_add_epi16(dots, _mm256_maddubs_epi16(a, w));
    V_PIN(dots);
    return dots;
}

/* Adds the four products of each word: any w, a within ±127. */
QKV_INLINE vint i_add_signed_dots(vint sum, vint w, vint a) {
    sum = i_add(sum, i_sum_dots(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))));
    V_PIN(sum);
    return sum;
}

/* VLEN words of 32 bits as the low halves of 64-bit lanes, as the multiplier takes them; high halves are anything. */
typedef struct vwords {
    __m256i even, odd;
} vwords;
typedef __m256i vword; /* one word in every lane */

QKV_INLINE vword k_set(uint32_t x) { return _mm256_set1_epi64x(x); }
QKV_INLINE vword k_add(vword a, vword b) { return _mm256_add_epi32(a, b); }
QKV_INLINE vwords w_set(uint32_t x) { return (vwords){k_set(x), k_set(x)}; }
QKV_INLINE vwords w_count(uint32_t x) { /* x, x + 1, … */
    return (vwords){k_add(k_set(x), _mm256_setr_epi64x(0, 2, 4, 6)), k_add(k_set(x), _mm256_setr_epi64x(1, 3, 5, 7))};
}
QKV_INLINE vwords w_multiply(vwords a, vword by) { /* the low words of the products; w_high has the high ones */
    return (vwords){_mm256_mul_epu32(a.even, by), _mm256_mul_epu32(a.odd, by)};
}
QKV_INLINE vwords w_high(vwords product) {
    return (vwords){_mm256_srli_epi64(product.even, 32), _mm256_srli_epi64(product.odd, 32)};
}
QKV_INLINE vwords w_xor(vwords a, vwords b, vword c) {
    return (vwords){_mm256_xor_si256(_mm256_xor_si256(b.even, c), a.even),
                    _mm256_xor_si256(_mm256_xor_si256(b.odd, c), a.odd)};
}
/* x where the word is not below the threshold, else +0. */
QKV_INLINE vec v_keep(vwords a, uint32_t threshold, vec x) {
    __m256i words = _mm256_blend_epi32(a.even, _mm256_slli_epi64(a.odd, 32), 0xaa);
    __m256i least = _mm256_set1_epi32((int)threshold);
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(words, least), words)));
}

/* Ends every entry: SSE code after it must not find the upper halves in use. Compilers see to it only at -O2. */
QKV_INLINE void v_leave(void) { _mm256_zeroupper(); }

#endif
