/* Vectors without a fixed size for the scalable templates: RISC-V V 1.0, of any VLEN from 128 on. Groups of two
 * registers for rows, where functions hold their constants in others; groups of four for products, whose sums fill the
 * register file then whatever VLEN is. Lanes past those a function is told of hold anything, and memory is touched by
 * those told of only.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_RVV_H
#define QKV_SIMD_RVV_H

typedef vfloat32m2_t vec;   /* v_width() floats */
typedef vbool16_t vmask;    /* one truth value a lane */
typedef size_t vlanes;      /* so many first lanes take part */
typedef vuint32m2_t vwords; /* as many words of 32 bits */

typedef vfloat32m4_t vgroup;
typedef float vfactor; /* instructions multiply by a scalar */

#define TILE_ROWS 6
/* Groups in a tile of so many rows, at most. */
#define TILE_VECTORS_1 4
#define TILE_VECTORS_2 2
#define TILE_VECTORS_3 1
#define TILE_VECTORS_4 1
#define TILE_VECTORS_6 1
#define STORED_VECTORS_1 1 /* where elements are converted on the way */
#define STORED_VECTORS_2 1
#define STORED_VECTORS_3 1
#define STORED_VECTORS_4 1
#if defined(__clang__) /* which would set vl again after it */
#define TILE_FENCE
#else /* loads of a tile stay where they are */
#define TILE_FENCE __asm__("" ::: "memory");
#endif
#define EXP2_STREAMS 2 /* exponentials at once */
#define NT_ROWS 6      /* up to which loads of single floats cost less than packing */

V_INLINE size_t v_width(void) { return __riscv_vsetvlmax_e32m2(); }
/* Lanes for the `left` > 0 floats that are left: v_step of them, which may be fewer than fit. */
V_INLINE vlanes v_lanes(size_t left) { return __riscv_vsetvl_e32m2(left); }
V_INLINE size_t v_step(vlanes on) { return on; }
/* Those of floats first … first + v_width() that lie below end: maybe none. */
V_INLINE vlanes v_lanes_at(size_t first, size_t end) {
    const size_t width = v_width();
    return end <= first ? 0 : end - first < width ? end - first : width;
}
V_INLINE vlanes v_all(void) { return v_width(); }

/* x is in a register here, and is computed before what follows with one. */
#define V_ORDERED(x) __asm__ volatile("" : "+vr"(x))

V_INLINE vec v_set(vlanes on, float x) { return __riscv_vfmv_v_f_f32m2(x, on); }
V_INLINE vec v_load(vlanes on, const float *p) { return __riscv_vle32_v_f32m2(p, on); }
V_INLINE void v_store(vlanes on, float *p, vec x) { __riscv_vse32_v_f32m2(p, x, on); }

V_INLINE vec v_add(vlanes on, vec a, vec b) { return __riscv_vfadd_vv_f32m2(a, b, on); }
V_INLINE vec v_sub(vlanes on, vec a, vec b) { return __riscv_vfsub_vv_f32m2(a, b, on); }
V_INLINE vec v_mul(vlanes on, vec a, vec b) { return __riscv_vfmul_vv_f32m2(a, b, on); }
V_INLINE vec v_div(vlanes on, vec a, vec b) { return __riscv_vfdiv_vv_f32m2(a, b, on); }
V_INLINE vec v_sub_n(vlanes on, vec a, float b) { return __riscv_vfsub_vf_f32m2(a, b, on); }
V_INLINE vec v_mul_n(vlanes on, vec a, float b) { return __riscv_vfmul_vf_f32m2(a, b, on); }
V_INLINE vec v_fma(vlanes on, vec a, vec b, vec c) { return __riscv_vfmadd_vv_f32m2(a, b, c, on); } /* a·b + c */
V_INLINE vec v_fma_n(vlanes on, vec a, float b, vec c) { return __riscv_vfmadd_vf_f32m2(a, b, c, on); }
V_INLINE vec v_fnma(vlanes on, vec a, vec b, vec c) { return __riscv_vfnmsub_vv_f32m2(a, b, c, on); } /* c − a·b */
/* sum + x, sum + a·b, the larger of the two: where lanes are on. The others keep the sum. The larger one of a NaN and
 * a number is anything. */
V_INLINE vec v_add_to(vlanes on, vec sum, vec x) { return __riscv_vfadd_vv_f32m2_tu(sum, sum, x, on); }
V_INLINE vec v_fma_to(vlanes on, vec sum, vec a, vec b) { return __riscv_vfmacc_vv_f32m2_tu(sum, a, b, on); }
V_INLINE vec v_max_to(vlanes on, vec max, vec x) { return __riscv_vfmax_vv_f32m2_tu(max, max, x, on); }
V_INLINE float v_reduce_max(vec a) {
    vfloat32m1_t least = __riscv_vfmv_v_f_f32m1(-FLT_MAX, 1);
    return __riscv_vfmv_f_s_f32m1_f32(__riscv_vfredmax_vs_f32m2_f32m1(a, least, v_width()));
}

V_INLINE vec v_abs(vlanes on, vec a) { return __riscv_vfabs_v_f32m2(a, on); }
V_INLINE vec v_sign_of(vlanes on, vec magnitude, vec sign) { return __riscv_vfsgnj_vv_f32m2(magnitude, sign, on); }

V_INLINE vmask v_less(vlanes on, vec a, vec b) { return __riscv_vmflt_vv_f32m2_b16(a, b, on); }
V_INLINE vmask v_less_n(vlanes on, vec a, float b) { return __riscv_vmflt_vf_f32m2_b16(a, b, on); }
V_INLINE vmask v_equal_n(vlanes on, vec a, float b) { return __riscv_vmfeq_vf_f32m2_b16(a, b, on); }
V_INLINE vmask v_is_nan(vlanes on, vec a) { return __riscv_vmfne_vv_f32m2_b16(a, a, on); }
V_INLINE vmask v_zero_bytes(vlanes on, const uint8_t *p) {
    return __riscv_vmseq_vx_u8mf2_b16(__riscv_vle8_v_u8mf2(p, on), 0, on);
}
V_INLINE uint32_t m_any(vlanes on, vmask m) { return __riscv_vcpop_m_b16(m, on) != 0; }
V_INLINE vec v_select(vlanes on, vmask m, vec yes, vec no) { return __riscv_vmerge_vvm_f32m2(no, yes, m, on); }
V_INLINE vec v_select_n(vlanes on, vmask m, float yes, vec no) { return __riscv_vfmerge_vfm_f32m2(no, yes, m, on); }

/* The nearest integer, ties to even: the sum with 3·2²² has it in its last bits, where |a| < 2²², and is a NaN or
 * infinite where a is. Conversions would cost as much, and make a number of a NaN. */
V_INLINE vec v_nearest(vlanes on, vec a) { return __riscv_vfadd_vf_f32m2(a, 0x1.8p23f, on); }
V_INLINE vec v_whole(vlanes on, vec nearest) { return __riscv_vfsub_vf_f32m2(nearest, 0x1.8p23f, on); }
/* p·2ⁿ, or +0 where it is below what counts; n as v_nearest gives it, whose last bits go to the exponent: of a NaN
 * they are 0. */
V_INLINE vec v_exp2_scale(vlanes on, vec p, vec nearest, vmask below) {
    vwords shift = __riscv_vsll_vx_u32m2(__riscv_vreinterpret_v_f32m2_u32m2(nearest), 23, on);
    vwords scaled = __riscv_vadd_vv_u32m2(__riscv_vreinterpret_v_f32m2_u32m2(p), shift, on);
    return v_select_n(on, below, 0.0f, __riscv_vreinterpret_v_u32m2_f32m2(scaled));
}

/* x = m·2^k with m around 1, for positive normal numbers: k, and m. */
V_INLINE vint32m2_t log_exponent(vlanes on, vec x) {
    vint32m2_t bits = __riscv_vreinterpret_v_f32m2_i32m2(x);
    return __riscv_vsra_vx_i32m2(__riscv_vsub_vx_i32m2(bits, 0x3f3504f4, on), 23, on);
}
V_INLINE vec v_exponent(vlanes on, vec x) { return __riscv_vfcvt_f_x_v_f32m2(log_exponent(on, x), on); }
V_INLINE vec v_mantissa(vlanes on, vec x) {
    vint32m2_t shifted = __riscv_vsll_vx_i32m2(log_exponent(on, x), 23, on);
    vint32m2_t bits = __riscv_vreinterpret_v_f32m2_i32m2(x);
    return __riscv_vreinterpret_v_i32m2_f32m2(__riscv_vsub_vv_i32m2(bits, shifted, on));
}

/* Neighbours p[2i] and p[2i + 1] of the lanes. */
V_INLINE void v_load_pairs(vlanes on, const float *p, vec *a, vec *b) {
    vfloat32m2x2_t pairs = __riscv_vlseg2e32_v_f32m2x2(p, on);
    *a = __riscv_vget_v_f32m2x2_f32m2(pairs, 0);
    *b = __riscv_vget_v_f32m2x2_f32m2(pairs, 1);
}
V_INLINE void v_store_pairs(vlanes on, float *p, vec a, vec b) {
    __riscv_vsseg2e32_v_f32m2x2(p, __riscv_vcreate_v_f32m2x2(a, b), on);
}

/* Words. */
V_INLINE vwords w_set(vlanes on, uint32_t x) { return __riscv_vmv_v_x_u32m2(x, on); }
V_INLINE vwords w_count(vlanes on, uint32_t x) { /* x, x + 1, … */
    return __riscv_vadd_vx_u32m2(__riscv_vid_v_u32m2(on), x, on);
}
V_INLINE vwords w_low(vlanes on, vwords a, uint32_t by) { return __riscv_vmul_vx_u32m2(a, by, on); }
V_INLINE vwords w_high(vlanes on, vwords a, uint32_t by) { return __riscv_vmulhu_vx_u32m2(a, by, on); }
V_INLINE vwords w_xor(vlanes on, vwords a, vwords b, uint32_t c) {
    return __riscv_vxor_vv_u32m2(__riscv_vxor_vx_u32m2(b, c, on), a, on);
}
V_INLINE vmask w_below(vlanes on, vwords a, uint32_t threshold) {
    return __riscv_vmsltu_vx_u32m2_b16(a, threshold, on);
}

/* -------------------------------------------------------------------------------------------- for products */

V_INLINE size_t g_width(void) { return __riscv_vsetvlmax_e32m4(); }
V_INLINE vlanes g_lanes_at(size_t first, size_t end) {
    const size_t width = g_width();
    return end <= first ? 0 : end - first < width ? end - first : width;
}
V_INLINE vgroup g_zero(vlanes on) { return __riscv_vfmv_v_f_f32m4(0.0f, on); }
V_INLINE vgroup g_load(vlanes on, const float *p) { return __riscv_vle32_v_f32m4(p, on); }
V_INLINE void g_store(vlanes on, float *p, vgroup x) { __riscv_vse32_v_f32m4(p, x, on); }
V_INLINE vgroup g_add(vlanes on, vgroup a, vgroup b) { return __riscv_vfadd_vv_f32m4(a, b, on); }
V_INLINE vfactor g_factor(const float *p) { return *p; }
V_INLINE vgroup g_fma(vlanes on, vgroup sum, vfactor factor, vgroup b) { /* sum + factor·b */
    return __riscv_vfmacc_vf_f32m4(sum, factor, b, on);
}
V_INLINE vgroup g_mul_n(vlanes on, vgroup a, float b) { return __riscv_vfmul_vf_f32m4(a, b, on); }

/* Floats `stride` floats from each other. */
V_INLINE vgroup g_load_apart(vlanes on, const float *p, ptrdiff_t stride) {
    return __riscv_vlse32_v_f32m4(p, stride * (ptrdiff_t)sizeof *p, on);
}

/* Stored elements at p, of any alignment, as floats; loaded as bytes, since loads of wider elements may trap where they
 * are not aligned. V alone does not convert binary16: its bits, moved to their places in a float, are that by 2⁻¹¹²,
 * subnormal or not, but for infinities and NaNs, which come out as 65536 and more. */
V_INLINE vuint16m2_t g_load_halves(vlanes on, const unsigned char *p) {
    return __riscv_vreinterpret_v_u8m2_u16m2(__riscv_vle8_v_u8m2(p, 2 * on));
}
V_INLINE vgroup g_load_f16(vlanes on, const unsigned char *p) {
    vint32m4_t spread = __riscv_vsext_vf2_i32m4(__riscv_vreinterpret_v_u16m2_i16m2(g_load_halves(on, p)), on);
    vint32m4_t moved = __riscv_vand_vx_i32m4(__riscv_vsll_vx_i32m4(spread, 13, on), (int32_t)0x8fffe000u, on);
    vgroup x = __riscv_vfmul_vf_f32m4(__riscv_vreinterpret_v_i32m4_f32m4(moved), 0x1p112f, on);
    vbool8_t infinite = __riscv_vmfge_vf_f32m4_b8(__riscv_vfabs_v_f32m4(x, on), 0x1p16f, on);
    vuint32m4_t bits = __riscv_vreinterpret_v_f32m4_u32m4(x);
    return __riscv_vreinterpret_v_u32m4_f32m4(__riscv_vor_vx_u32m4_mu(infinite, bits, bits, 0x7f800000, on));
}
V_INLINE vgroup g_load_bf16(vlanes on, const unsigned char *p) {
    vuint32m4_t spread = __riscv_vzext_vf2_u32m4(g_load_halves(on, p), on);
    return __riscv_vreinterpret_v_u32m4_f32m4(__riscv_vsll_vx_u32m4(spread, 16, on));
}
V_INLINE vgroup g_load_i8(vlanes on, const unsigned char *p) {
    vint8m1_t bytes = __riscv_vle8_v_i8m1((const int8_t *)(const void *)p, on);
    return __riscv_vfcvt_f_x_v_f32m4(__riscv_vsext_vf4_i32m4(bytes, on), on);
}

#endif
