/* Vectors of 4 floats for the templates: WebAssembly's 128-bit SIMD. Its fma is emulated, unless WASM_RELAXED_FMA says
 * that relaxed SIMD's multiply-add is one.  SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_WASM_H
#define QKV_SIMD_WASM_H

typedef v128_t vec;   /* VLEN floats */
typedef v128_t vmask; /* one truth value a lane */
typedef size_t vtail; /* the first lanes of a vector: how much of it is memory */

#define VLEN 4
#define STRIP_VECTORS 2 /* vectors of C in a tile: times VLEN it divides 64; engines on x86-64 have 15 registers */
#define TILE_ROWS 6
#ifdef WASM_RELAXED_FMA  /* an emulated fma has no need of more of them under way */
#define WIDEST_VECTORS 8 /* in a tile of one row */
#define WIDE_VECTORS 4   /* in one of two or three rows */
#endif
#define NT_ROWS 6      /* of sums that fit the registers beside a square of VLEN vectors */
#define MASKED_LOADS 0 /* v_load_tail is dear: a vector with a tail is a tile of its own */
#define NO_PREFETCH    /* there is no such instruction */

QKV_INLINE vec v_zero(void) { return wasm_f32x4_const_splat(0.0f); }
QKV_INLINE vec v_set(float x) { return wasm_f32x4_splat(x); }
QKV_INLINE vec v_load(const float *p) { return wasm_v128_load(p); }
/* Which register a value has is up to the engine that compiles the module. */
#define V_PIN(x)
#define V_ORDERED(x)
QKV_INLINE void v_store(float *p, vec x) { wasm_v128_store(p, x); }

QKV_INLINE vtail v_tail(size_t n) { return n; } /* 1 ≤ n ≤ VLEN */
QKV_INLINE vec v_load_tail(const float *p, vtail t) {
    if (t == 4)
        return v_load(p);
    if (t == 1)
        return wasm_v128_load32_zero(p);
    vec x = wasm_v128_load64_zero(p);
    return t == 2 ? x : wasm_v128_load32_lane(p + 2, x, 2);
}
QKV_INLINE void v_store_tail(float *p, vec x, vtail t) {
    if (t == 4) {
        v_store(p, x);
    } else if (t == 1) {
        wasm_v128_store32_lane(p, x, 0);
    } else {
        wasm_v128_store64_lane(p, x, 0);
        if (t == 3)
            wasm_v128_store32_lane(p + 2, x, 2);
    }
}

QKV_INLINE vec v_add(vec a, vec b) { return wasm_f32x4_add(a, b); }
QKV_INLINE vec v_sub(vec a, vec b) { return wasm_f32x4_sub(a, b); }
QKV_INLINE vec v_mul(vec a, vec b) { return wasm_f32x4_mul(a, b); }
QKV_INLINE vec v_div(vec a, vec b) { return wasm_f32x4_div(a, b); }

/* a·b + c and c − a·b, rounded once. */
#ifdef WASM_RELAXED_FMA
QKV_INLINE vec v_fma(vec a, vec b, vec c) { return wasm_f32x4_relaxed_madd(a, b, c); }
QKV_INLINE vec v_fnma(vec a, vec b, vec c) { return wasm_f32x4_relaxed_nmadd(a, b, c); }
#else
QKV_INLINE vec low_half(vec a) { return wasm_f64x2_promote_low_f32x4(a); }
QKV_INLINE vec high_half(vec a) { return wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(a, a, 2, 3, 2, 3)); }
QKV_INLINE vec of_halves(vec low, vec high) {
    return wasm_i32x4_shuffle(wasm_f32x4_demote_f64x2_zero(low), wasm_f32x4_demote_f64x2_zero(high), 0, 1, 4, 5);
}

/* Two lanes of qkv_fma_soft, in double: product + c, rounded to odd. */
QKV_INLINE vec sum_to_odd(vec product, vec c) {
    const vec sum = wasm_f64x2_add(product, c), virtual_c = wasm_f64x2_sub(sum, product);
    const vec error =
        wasm_f64x2_add(wasm_f64x2_sub(product, wasm_f64x2_sub(sum, virtual_c)), wasm_f64x2_sub(c, virtual_c));
    /* 1 where there is one; there is none in a NaN or beside an infinity, where error is a NaN. */
    const vec inexact = wasm_u64x2_shr(wasm_f64x2_gt(wasm_f64x2_abs(error), wasm_f64x2_const_splat(0.0)), 63);
    const vec past = wasm_v128_and(wasm_u64x2_shr(wasm_v128_xor(sum, error), 63), inexact);
    return wasm_v128_or(wasm_i64x2_sub(sum, past), inexact);
}
static QKV_NOINLINE vec fma_to_odd(vec a, vec b, vec c) {
    return of_halves(sum_to_odd(wasm_f64x2_mul(low_half(a), low_half(b)), low_half(c)),
                     sum_to_odd(wasm_f64x2_mul(high_half(a), high_half(b)), high_half(c)));
}

/* Rounding to double and then to float is rounding once, unless the double lies halfway between two floats, where its
 * last 29 bits are 100…0, or is below the least normal float, where halfway is elsewhere. The product is exact. */
QKV_INLINE vec v_fma(vec a, vec b, vec c) {
    const vec low = wasm_f64x2_add(wasm_f64x2_mul(low_half(a), low_half(b)), low_half(c));
    const vec high = wasm_f64x2_add(wasm_f64x2_mul(high_half(a), high_half(b)), high_half(c));
    const v128_t lower = wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), upper = wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
    const v128_t halfway =
        wasm_i32x4_eq(wasm_v128_and(lower, wasm_i32x4_const_splat(0x1fffffff)), wasm_i32x4_const_splat(0x10000000));
    /* Not zero and below 2^-126: from 1 to 2·0x38100000 − 1 without the sign; moved to the least signed numbers. */
    const v128_t small = wasm_i32x4_lt(wasm_i32x4_add(wasm_i32x4_shl(upper, 1), wasm_i32x4_const_splat(INT32_MAX)),
                                       wasm_i32x4_const_splat(INT32_MIN + 0x701fffff));
    if (wasm_v128_any_true(wasm_v128_or(halfway, small)))
        return fma_to_odd(a, b, c); /* no inline code, of which there is much, and it is rarely run */
    return of_halves(low, high);
}
QKV_INLINE vec v_fnma(vec a, vec b, vec c) { return v_fma(wasm_f32x4_neg(a), b, c); }
#endif

QKV_INLINE vec v_max(vec a, vec b) { return wasm_f32x4_pmax(b, a); } /* b < a ? a : b, so b where either is a NaN */
QKV_INLINE vec v_min(vec a, vec b) { return wasm_f32x4_pmin(b, a); } /* a < b ? a : b */
QKV_INLINE vec v_abs(vec a) { return wasm_f32x4_abs(a); }
QKV_INLINE vec v_sign_of(vec magnitude, vec sign) { /* magnitude ≥ 0 */
    return wasm_v128_or(magnitude, wasm_v128_and(sign, wasm_u32x4_const_splat(0x80000000u)));
}
QKV_INLINE vec v_round(vec a) { return wasm_f32x4_nearest(a); }

QKV_INLINE vmask v_less(vec a, vec b) { return wasm_f32x4_lt(a, b); }
QKV_INLINE vmask v_equal(vec a, vec b) { return wasm_f32x4_eq(a, b); }
QKV_INLINE vmask v_is_nan(vec a) { return wasm_f32x4_ne(a, a); }
QKV_INLINE vec v_select(vmask m, vec yes, vec no) { return wasm_v128_bitselect(yes, no, m); }
QKV_INLINE vmask m_none(void) { return wasm_i32x4_const_splat(0); }
QKV_INLINE vmask m_or(vmask a, vmask b) { return wasm_v128_or(a, b); }
QKV_INLINE int m_any(vmask m) { return wasm_v128_any_true(m); }

/* Four bytes as words. */
QKV_INLINE v128_t from_u8(const unsigned char *p) {
    return wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p)));
}
QKV_INLINE v128_t from_i8(const unsigned char *p) {
    return wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(p)));
}

/* Lanes whose byte is zero. */
QKV_INLINE vmask m_zero_bytes(const uint8_t *p) { return wasm_i32x4_eq(from_u8(p), m_none()); }

/* p·2^n where y is not below `least`, else +0; p·2^n is a normal number there. A NaN n converts to 0, or to a shift of
 * nothing. */
QKV_INLINE vec v_exp2_scale(vec p, vec n, vec y, float least) {
#ifdef WASM_RELAXED_FMA
    const v128_t whole = wasm_i32x4_relaxed_trunc_f32x4(n);
#else
    const v128_t whole = wasm_i32x4_trunc_sat_f32x4(n);
#endif
    const v128_t scaled = wasm_i32x4_add(p, wasm_i32x4_shl(whole, 23));
    return wasm_v128_andnot(scaled, wasm_f32x4_lt(y, wasm_f32x4_splat(least)));
}

QKV_INLINE float v_reduce_max(vec a) {
    const vec b = v_max(a, wasm_i32x4_shuffle(a, a, 2, 3, 2, 3));
    return wasm_f32x4_extract_lane(v_max(b, wasm_i32x4_shuffle(b, b, 1, 1, 1, 1)), 0);
}

/* The tree +8, +4, +2, +1 over 16 lanes. */
QKV_INLINE float v_sum_lanes(const vec lanes[4]) {
    const vec b = v_add(v_add(lanes[0], lanes[2]), v_add(lanes[1], lanes[3]));
    const vec c = v_add(b, wasm_i32x4_shuffle(b, b, 2, 3, 2, 3));
    return wasm_f32x4_extract_lane(c, 0) + wasm_f32x4_extract_lane(c, 1);
}

/* x[i] becomes column i of the matrix whose rows were x. */
QKV_INLINE void v_transpose(vec x[4]) {
    const vec a = wasm_i32x4_shuffle(x[0], x[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(x[2], x[3], 0, 4, 1, 5);
    const vec c = wasm_i32x4_shuffle(x[0], x[1], 2, 6, 3, 7), d = wasm_i32x4_shuffle(x[2], x[3], 2, 6, 3, 7);
    x[0] = wasm_i32x4_shuffle(a, b, 0, 1, 4, 5);
    x[1] = wasm_i32x4_shuffle(a, b, 2, 3, 6, 7);
    x[2] = wasm_i32x4_shuffle(c, d, 0, 1, 4, 5);
    x[3] = wasm_i32x4_shuffle(c, d, 2, 3, 6, 7);
}

/* *a, *b hold pairs one after the other; then *a the first ones of all pairs, *b the second ones. v_zip undoes it. */
QKV_INLINE void v_unzip(vec *a, vec *b) {
    const vec even = wasm_i32x4_shuffle(*a, *b, 0, 2, 4, 6), odd = wasm_i32x4_shuffle(*a, *b, 1, 3, 5, 7);
    *a = even;
    *b = odd;
}
QKV_INLINE void v_zip(vec *a, vec *b) {
    const vec low = wasm_i32x4_shuffle(*a, *b, 0, 4, 1, 5), high = wasm_i32x4_shuffle(*a, *b, 2, 6, 3, 7);
    *a = low;
    *b = high;
}

/* A tile's loop, in gemm_tile.inc.h, with one column of A a step, or one row of a transposed one: V8 orders the loads
 * of a loop before its fmas, so with more of them it spills more. */
#define LANE_STEPS 1
#define LANES_OF_A(i, j) (void)at;
#define LANE_STEP(x)                                                                                                   \
    if (x == 0) {                                                                                                      \
        QKV_COLS(VECTORS, LOAD_B, 0)                                                                                   \
        QKV_ROWS(ROWS, STEP_ROW, 0)                                                                                    \
        b += ldb;                                                                                                      \
    }
#define LANE_STEP_T                                                                                                    \
    LANE_STEP(0)                                                                                                       \
    a += step, lower += step;

/* VLEN stored elements at p, and the scale of a block in every lane. A binary16's bits, shifted, are a float 2^112 too
 * small, a subnormal one if it is one; infinities and NaNs want an exponent of their own. */
QKV_INLINE vec from_f16(v128_t x) {
    const v128_t magnitude = wasm_v128_and(x, wasm_i32x4_const_splat(0x7fff));
    const v128_t sign = wasm_i32x4_shl(wasm_v128_xor(x, magnitude), 16);
    const v128_t special = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7bff));
    const vec finite = v_mul(wasm_i32x4_shl(magnitude, 13), v_set(0x1p112f));
    return wasm_v128_or(wasm_v128_or(finite, sign), wasm_v128_and(special, wasm_i32x4_const_splat(0x7f800000)));
}
QKV_INLINE vec v_load_f16(const unsigned char *p) { return from_f16(wasm_u32x4_load16x4(p)); }
QKV_INLINE vec v_set_f16(const unsigned char *p) {
    return from_f16(wasm_u32x4_extend_low_u16x8(wasm_v128_load16_splat(p)));
}
QKV_INLINE vec v_load_bf16(const unsigned char *p) { return wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16); }
QKV_INLINE vec v_load_i8(const unsigned char *p) { return wasm_f32x4_convert_i32x4(from_i8(p)); }
QKV_INLINE vec v_load_u8(const unsigned char *p) { return wasm_f32x4_convert_i32x4(from_u8(p)); }

/* Below 2^-14 the unit is 2^-24, that of floats from ½ on: adding ½ rounds to it. */
QKV_INLINE void v_store_f16(unsigned char *p, vec x) {
    const v128_t magnitude = wasm_v128_and(x, wasm_i32x4_const_splat(0x7fffffff));
    const v128_t sign = wasm_u32x4_shr(wasm_v128_xor(x, magnitude), 16);
    const v128_t odd = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), wasm_i32x4_const_splat(1));
    const v128_t normal =
        wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(magnitude, odd), wasm_i32x4_const_splat(0xfff - 0x38000000)), 13);
    const v128_t small = wasm_i32x4_sub(v_add(magnitude, v_set(0.5f)), wasm_i32x4_const_splat(0x3f000000));
    const v128_t is_nan = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7f800000));
    const v128_t special = v_select(is_nan, wasm_i32x4_const_splat(0x7e00), wasm_i32x4_const_splat(0x7c00));
    v128_t half = v_select(wasm_i32x4_lt(magnitude, wasm_i32x4_const_splat(0x38800000)), small, normal);
    half = v_select(wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x477fefff)), special, half); /* from 65520 on */
    half = wasm_v128_or(half, sign);
    wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(half, half), 0);
}
/* The upper half of each lane is the bfloat16. */
QKV_INLINE v128_t to_bf16(vec x) {
    const v128_t odd = wasm_v128_and(wasm_u32x4_shr(x, 16), wasm_i32x4_const_splat(1));
    const v128_t rounded = wasm_i32x4_add(wasm_i32x4_add(x, wasm_i32x4_const_splat(0x7fff)), odd);
    return v_select(v_is_nan(x), wasm_v128_or(x, wasm_i32x4_const_splat(0x400000)), rounded);
}
QKV_INLINE vec v_round_bf16(vec x) { return wasm_v128_and(to_bf16(x), wasm_u32x4_const_splat(0xffff0000u)); }
QKV_INLINE vec v_swap(vec a) { return wasm_i32x4_shuffle(a, a, 1, 0, 3, 2); } /* the two lanes of each pair */
QKV_INLINE void v_store_bf16(unsigned char *p, vec x) {
    const v128_t half = wasm_u32x4_shr(to_bf16(x), 16);
    wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(half, half), 0);
}

/* Words of 32 bits in lanes, and their bytes. */
typedef v128_t vint;
typedef struct vdots {
    v128_t low, high; /* sums in 16 bits of products of bytes, those of two words each */
} vdots;

QKV_INLINE vint i_load(const void *p) { return wasm_v128_load(p); }
QKV_INLINE void i_store(void *p, vint a) { wasm_v128_store(p, a); }
QKV_INLINE vint i_set(uint32_t x) { return wasm_u32x4_splat(x); }
QKV_INLINE vint i_and(vint a, vint b) { return wasm_v128_and(a, b); }
QKV_INLINE vint i_or(vint a, vint b) { return wasm_v128_or(a, b); }
QKV_INLINE vint i_add(vint a, vint b) { return wasm_i32x4_add(a, b); }
QKV_INLINE vint i_sub(vint a, vint b) { return wasm_i32x4_sub(a, b); }
QKV_INLINE vint i_sub_bytes(vint a, vint b) { return wasm_i8x16_sub(a, b); }
QKV_INLINE vint i_shift(vint a, int left) { /* below 0: to the right, filled up with zeros */
    return left < 0 ? wasm_u32x4_shr(a, (uint32_t)-left) : wasm_i32x4_shl(a, (uint32_t)left);
}
QKV_INLINE vec v_from_i(vint a) { return wasm_f32x4_convert_i32x4(a); }

/* Byte n of each word, signed. n is a constant. */
QKV_INLINE vec v_byte(vint a, int n) {
    return wasm_f32x4_convert_i32x4(wasm_i32x4_shr(n == 3 ? a : wasm_i32x4_shl(a, (uint32_t)(24 - 8 * n)), 24));
}
QKV_INLINE void v_store_i8(int8_t *p, vec x) { /* whole numbers within ±127 */
    const v128_t halves = wasm_i16x8_narrow_i32x4(wasm_i32x4_trunc_sat_f32x4(x), m_none());
    wasm_v128_store32_lane(p, wasm_i8x16_narrow_i16x8(halves, halves), 0);
}

/* Sums of products of bytes, four side by side in a word: w from −32 to 63, a within ±127. Of each two they must fit
 * 16 bits. */
QKV_INLINE vdots d_zero(void) { return (vdots){m_none(), m_none()}; }
QKV_INLINE vdots d_add(vdots dots, vint w, vint a) {
    dots.low = wasm_i16x8_add(dots.low, wasm_i16x8_extmul_low_i8x16(w, a));
    dots.high = wasm_i16x8_add(dots.high, wasm_i16x8_extmul_high_i8x16(w, a));
    return dots;
}
QKV_INLINE vint i_sum_dots(vdots dots) {
    vec low = wasm_i32x4_extadd_pairwise_i16x8(dots.low), high = wasm_i32x4_extadd_pairwise_i16x8(dots.high);
    v_unzip(&low, &high);
    return i_add(low, high);
}

#include "../signed_dots.inc.h"

/* VLEN words of 32 bits, or their products with another. */
typedef struct vwords {
    v128_t low, high;
} vwords;
typedef v128_t vword; /* one word in every lane */

QKV_INLINE vword k_set(uint32_t x) { return wasm_u32x4_splat(x); }
QKV_INLINE vword k_add(vword a, vword b) { return wasm_i32x4_add(a, b); }
QKV_INLINE vwords w_set(uint32_t x) { return (vwords){k_set(x), k_set(0)}; }
QKV_INLINE vwords w_count(uint32_t x) { /* x, x + 1, … */
    return (vwords){k_add(k_set(x), wasm_u32x4_const(0, 1, 2, 3)), k_set(0)};
}
QKV_INLINE vwords w_multiply(vwords a, vword by) { /* the low words of the products; w_high has the high ones */
    vec low = wasm_u64x2_extmul_low_u32x4(a.low, by), high = wasm_u64x2_extmul_high_u32x4(a.low, by);
    v_unzip(&low, &high);
    return (vwords){low, high};
}
QKV_INLINE vwords w_high(vwords product) { return (vwords){product.high, product.high}; }
QKV_INLINE vwords w_xor(vwords a, vwords b, vword c) {
    return (vwords){wasm_v128_xor(wasm_v128_xor(b.low, c), a.low), a.high};
}
/* x where the word is not below the threshold, else +0. */
QKV_INLINE vec v_keep(vwords a, uint32_t threshold, vec x) {
    return wasm_v128_and(x, wasm_u32x4_ge(a.low, wasm_u32x4_splat(threshold)));
}

/* Ends every entry; there is nothing to leave behind here. */
QKV_INLINE void v_leave(void) {}

#endif
