/* Vectors without a fixed size for the scalable templates: AArch64 SVE, of any length the architecture allows.
 * Lanes past those a function is told of hold anything between two of them; memory is touched by those told of only.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_SVE_H
#define QKV_SIMD_SVE_H

typedef svfloat32_t vec;   /* v_width() floats */
typedef svbool_t vmask;    /* one truth value a lane */
typedef svbool_t vlanes;   /* the lanes that take part */
typedef svuint32_t vwords; /* as many words of 32 bits */

/* Products take the same vectors, and multiply by one of these: a number in every lane, which is loaded as such. */
typedef svfloat32_t vgroup;
typedef svfloat32_t vfactor;

#define V_INLINE QKV_INLINE
#define TILE_ROWS 6
/* Vectors in a tile of so many rows, at most: sums of 6 × 4, a row of B and four factors of A. */
#define TILE_VECTORS_1 4
#define TILE_VECTORS_2 4
#define TILE_VECTORS_3 4
#define TILE_VECTORS_4 4
#define TILE_VECTORS_6 4
#define STORED_VECTORS_1 4 /* where elements are converted on the way */
#define STORED_VECTORS_2 4
#define STORED_VECTORS_3 4
#define STORED_VECTORS_4 4
/* Loads of a tile stay where they are: GCC else has so many of them early that sums go to the stack. */
#define TILE_FENCE __asm__("" ::: "memory");
#define EXP2_STREAMS 4 /* exponentials at once, so that none waits for another's chain */
#define NT_ROWS 6      /* up to which loads of single floats cost less than packing */

V_INLINE size_t v_width(void) { return svcntw(); }
/* Lanes for the `left` > 0 floats that are left: as many as there are, v_step of them. */
V_INLINE vlanes v_lanes(size_t left) { return svwhilelt_b32_u64(0, left); }
V_INLINE size_t v_step(vlanes on) {
    (void)on;
    return svcntw();
}
/* Those of floats first … first + v_width() that lie below end: maybe none. */
V_INLINE vlanes v_lanes_at(size_t first, size_t end) { return svwhilelt_b32_u64(first, end); }
V_INLINE vlanes v_all(void) { return svptrue_b32(); }

/* x is in a register here, and is computed before what follows with one. */
#define V_ORDERED(x) __asm__ volatile("" : "+w"(x))

V_INLINE vec v_set(vlanes on, float x) {
    (void)on;
    return svdup_n_f32(x);
}
V_INLINE vec v_load(vlanes on, const float *p) { return svld1_f32(on, p); }
V_INLINE void v_store(vlanes on, float *p, vec x) { svst1_f32(on, p, x); }

#define V_BINARY(name, instruction)                                                                                    \
    V_INLINE vec name(vlanes on, vec a, vec b) {                                                                       \
        (void)on;                                                                                                      \
        return instruction(svptrue_b32(), a, b);                                                                       \
    }
V_BINARY(v_add, svadd_f32_x)
V_BINARY(v_sub, svsub_f32_x)
V_BINARY(v_mul, svmul_f32_x)
V_BINARY(v_div, svdiv_f32_x)
#undef V_BINARY
V_INLINE vec v_sub_n(vlanes on, vec a, float b) { return v_sub(on, a, svdup_n_f32(b)); }
V_INLINE vec v_mul_n(vlanes on, vec a, float b) { return v_mul(on, a, svdup_n_f32(b)); }
V_INLINE vec v_fma(vlanes on, vec a, vec b, vec c) { /* a·b + c */
    (void)on;
    return svmad_f32_x(svptrue_b32(), a, b, c);
}
V_INLINE vec v_fma_n(vlanes on, vec a, float b, vec c) { return v_fma(on, a, svdup_n_f32(b), c); }
V_INLINE vec v_fnma(vlanes on, vec a, vec b, vec c) { /* c − a·b */
    (void)on;
    return svmsb_f32_x(svptrue_b32(), a, b, c);
}
/* sum + x, sum + a·b, the larger of the two: where lanes are on. The others keep the sum. The larger one of a NaN and
 * a number is anything. */
V_INLINE vec v_add_to(vlanes on, vec sum, vec x) { return svadd_f32_m(on, sum, x); }
V_INLINE vec v_fma_to(vlanes on, vec sum, vec a, vec b) { return svmla_f32_m(on, sum, a, b); }
V_INLINE vec v_max_to(vlanes on, vec max, vec x) { return svmaxnm_f32_m(on, max, x); }
V_INLINE float v_reduce_max(vec a) { return svmaxnmv_f32(svptrue_b32(), a); }

V_INLINE vec v_abs(vlanes on, vec a) {
    (void)on;
    return svabs_f32_x(svptrue_b32(), a);
}
V_INLINE vec v_sign_of(vlanes on, vec magnitude, vec sign) { /* magnitude ≥ 0 */
    (void)on;
    svuint32_t bit = svand_n_u32_x(svptrue_b32(), svreinterpret_u32_f32(sign), 0x80000000u);
    return svreinterpret_f32_u32(svorr_u32_x(svptrue_b32(), svreinterpret_u32_f32(magnitude), bit));
}

V_INLINE vmask v_less(vlanes on, vec a, vec b) { return svcmplt_f32(on, a, b); }
V_INLINE vmask v_less_n(vlanes on, vec a, float b) { return svcmplt_n_f32(on, a, b); }
V_INLINE vmask v_equal_n(vlanes on, vec a, float b) { return svcmpeq_n_f32(on, a, b); }
V_INLINE vmask v_is_nan(vlanes on, vec a) { return svcmpuo_f32(on, a, a); }
V_INLINE vmask v_zero_bytes(vlanes on, const uint8_t *p) { return svcmpeq_n_u32(on, svld1ub_u32(on, p), 0); }
V_INLINE uint32_t m_any(vlanes on, vmask m) { return svptest_any(on, m); }
V_INLINE vec v_select(vlanes on, vmask m, vec yes, vec no) {
    (void)on;
    return svsel_f32(m, yes, no);
}
V_INLINE vec v_select_n(vlanes on, vmask m, float yes, vec no) {
    (void)on;
    return svsel_f32(m, svdup_n_f32(yes), no);
}

/* The nearest integer, ties to even, in a form of the set's own, and as a float. */
V_INLINE vec v_nearest(vlanes on, vec a) {
    (void)on;
    return svrintn_f32_x(svptrue_b32(), a);
}
V_INLINE vec v_whole(vlanes on, vec nearest) {
    (void)on;
    return nearest;
}
/* p·2ⁿ, or +0 where it is below what counts; n as v_nearest gives it. A NaN stays, as FSCALE is arithmetic. */
V_INLINE vec v_exp2_scale(vlanes on, vec p, vec nearest, vmask below) {
    (void)on;
    vec scaled = svscale_f32_x(svptrue_b32(), p, svcvt_s32_f32_x(svptrue_b32(), nearest));
    return svsel_f32(below, svdup_n_f32(0.0f), scaled);
}

/* x = m·2^k with m around 1, for positive normal numbers: k, and m. */
V_INLINE svint32_t log_exponent(vec x) {
    svint32_t bits = svreinterpret_s32_f32(x);
    return svasr_n_s32_x(svptrue_b32(), svsub_n_s32_x(svptrue_b32(), bits, 0x3f3504f4), 23);
}
V_INLINE vec v_exponent(vlanes on, vec x) {
    (void)on;
    return svcvt_f32_s32_x(svptrue_b32(), log_exponent(x));
}
V_INLINE vec v_mantissa(vlanes on, vec x) {
    (void)on;
    svint32_t shifted = svlsl_n_s32_x(svptrue_b32(), log_exponent(x), 23);
    return svreinterpret_f32_s32(svsub_s32_x(svptrue_b32(), svreinterpret_s32_f32(x), shifted));
}

/* Neighbours p[2i] and p[2i + 1] of the lanes. */
V_INLINE void v_load_pairs(vlanes on, const float *p, vec *a, vec *b) {
    svfloat32x2_t pairs = svld2_f32(on, p);
    *a = svget2_f32(pairs, 0);
    *b = svget2_f32(pairs, 1);
}
V_INLINE void v_store_pairs(vlanes on, float *p, vec a, vec b) { svst2_f32(on, p, svcreate2_f32(a, b)); }

/* Words. */
V_INLINE vwords w_set(vlanes on, uint32_t x) {
    (void)on;
    return svdup_n_u32(x);
}
V_INLINE vwords w_count(vlanes on, uint32_t x) { /* x, x + 1, … */
    (void)on;
    return svindex_u32(x, 1);
}
V_INLINE vwords w_low(vlanes on, vwords a, uint32_t by) { /* of the products */
    (void)on;
    return svmul_n_u32_x(svptrue_b32(), a, by);
}
V_INLINE vwords w_high(vlanes on, vwords a, uint32_t by) {
    (void)on;
    return svmulh_n_u32_x(svptrue_b32(), a, by);
}
V_INLINE vwords w_xor(vlanes on, vwords a, vwords b, uint32_t c) {
    (void)on;
    return sveor_u32_x(svptrue_b32(), sveor_n_u32_x(svptrue_b32(), b, c), a);
}
V_INLINE vmask w_below(vlanes on, vwords a, uint32_t threshold) { return svcmplt_n_u32(on, a, threshold); }

/* -------------------------------------------------------------------------------------------- for products */

V_INLINE size_t g_width(void) { return v_width(); }
V_INLINE vlanes g_lanes_at(size_t first, size_t end) { return v_lanes_at(first, end); }
V_INLINE vgroup g_zero(vlanes on) { return v_set(on, 0.0f); }
V_INLINE vgroup g_load(vlanes on, const float *p) { return v_load(on, p); }
V_INLINE void g_store(vlanes on, float *p, vgroup x) { v_store(on, p, x); }
V_INLINE vgroup g_add(vlanes on, vgroup a, vgroup b) { return v_add(on, a, b); }
V_INLINE vfactor g_factor(const float *p) { return svdup_n_f32(*p); }
/* As text, or GCC writes some sums to the place of a factor, and copies them back; volatile, or clang puts them off
 * until loads have taken the registers. */
V_INLINE vgroup g_fma(vlanes on, vgroup sum, vfactor factor, vgroup b) { /* sum + factor·b */
    (void)on;
    __asm__ volatile("fmla %0.s, %1/m, %2.s, %3.s" : "+w"(sum) : "Upl"(svptrue_b32()), "w"(b), "w"(factor));
    return sum;
}
V_INLINE vgroup g_mul_n(vlanes on, vgroup a, float b) { return v_mul_n(on, a, b); }

/* Floats `stride` floats from each other. Addresses of 64 bits, as strides may be huge. */
V_INLINE vgroup g_load_apart(vlanes on, const float *p, ptrdiff_t stride) {
    const uint32_t *words = (const uint32_t *)(const void *)p;
    svint64_t low = svindex_s64(0, stride), high = svindex_s64((int64_t)svcntd() * stride, stride);
    svuint64_t a = svld1uw_gather_s64index_u64(svunpklo_b(on), words, low);
    svuint64_t b = svld1uw_gather_s64index_u64(svunpkhi_b(on), words, high);
    return svreinterpret_f32_u32(svuzp1_u32(svreinterpret_u32_u64(a), svreinterpret_u32_u64(b)));
}

/* Stored elements at p, of any alignment, as floats. No conversion looks at FPCR's flushing. */
V_INLINE vgroup g_load_f16(vlanes on, const unsigned char *p) {
    svuint32_t halves = svld1uh_u32(on, (const uint16_t *)(const void *)p);
    return svcvt_f32_f16_x(svptrue_b32(), svreinterpret_f16_u32(halves));
}
V_INLINE vgroup g_load_bf16(vlanes on, const unsigned char *p) {
    svuint32_t halves = svld1uh_u32(on, (const uint16_t *)(const void *)p);
    return svreinterpret_f32_u32(svlsl_n_u32_x(svptrue_b32(), halves, 16));
}
V_INLINE vgroup g_load_i8(vlanes on, const unsigned char *p) {
    return svcvt_f32_s32_x(svptrue_b32(), svld1sb_s32(on, (const int8_t *)(const void *)p));
}

#endif
