/* Vectors of 4 floats for the templates: AArch64 Advanced SIMD.  SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_NEON_H
#define QKV_SIMD_NEON_H

typedef float32x4_t vec;  /* VLEN floats */
typedef uint32x4_t vmask; /* one truth value a lane */
typedef size_t vtail;     /* the first lanes of a vector: how much of it is memory */

#define VLEN 4
#define STRIP_VECTORS 4 /* vectors of C in a tile: times VLEN it divides 64 */
#define TILE_ROWS 6
#define WIDEST_VECTORS 8 /* in a tile of one row */
#define WIDE_VECTORS 8   /* in one of two or three rows */
#define NT_ROWS 6        /* up to which broadcast loads cost less than packing */
#define MASKED_LOADS 0   /* v_load_tail is dear: a vector with a tail is a tile of its own */

QKV_INLINE vec v_zero(void) { return vdupq_n_f32(0.0f); }
QKV_INLINE vec v_set(float x) { return vdupq_n_f32(x); }
QKV_INLINE vec v_load(const float *p) { return vld1q_f32(p); }
/* x is in a register here. */
#define V_PIN(x) __asm__("" : "+w"(x))
/* … and is computed before what follows with one. */
#define V_ORDERED(x) __asm__ volatile("" : "+w"(x))
QKV_INLINE void v_store(float *p, vec x) { vst1q_f32(p, x); }

QKV_INLINE vtail v_tail(size_t n) { return n; } /* 1 ≤ n ≤ VLEN */
QKV_INLINE vec v_load_tail(const float *p, vtail t) {
    vec x = v_zero();
    x = vld1q_lane_f32(p, x, 0);
    if (t > 1)
        x = vld1q_lane_f32(p + 1, x, 1);
    if (t > 2)
        x = vld1q_lane_f32(p + 2, x, 2);
    if (t > 3)
        x = vld1q_lane_f32(p + 3, x, 3);
    return x;
}
QKV_INLINE void v_store_tail(float *p, vec x, vtail t) {
    vst1q_lane_f32(p, x, 0);
    if (t > 1)
        vst1q_lane_f32(p + 1, x, 1);
    if (t > 2)
        vst1q_lane_f32(p + 2, x, 2);
    if (t > 3)
        vst1q_lane_f32(p + 3, x, 3);
}

QKV_INLINE vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
QKV_INLINE vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
QKV_INLINE vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
QKV_INLINE vec v_div(vec a, vec b) { return vdivq_f32(a, b); }
QKV_INLINE vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }  /* a·b + c */
QKV_INLINE vec v_fnma(vec a, vec b, vec c) { return vfmsq_f32(c, a, b); } /* c − a·b */
QKV_INLINE vec v_max(vec a, vec b) { return vmaxq_f32(a, b); }            /* a NaN where either is one */
QKV_INLINE vec v_min(vec a, vec b) { return vminq_f32(a, b); }            /* a NaN where either is one */
QKV_INLINE vec v_abs(vec a) { return vabsq_f32(a); }
QKV_INLINE vec v_sign_of(vec magnitude, vec sign) { /* magnitude ≥ 0 */
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}
QKV_INLINE vec v_round(vec a) { return vrndnq_f32(a); }

QKV_INLINE vmask v_less(vec a, vec b) { return vcltq_f32(a, b); }
QKV_INLINE vmask v_equal(vec a, vec b) { return vceqq_f32(a, b); }
QKV_INLINE vmask v_is_nan(vec a) { return vmvnq_u32(vceqq_f32(a, a)); }
QKV_INLINE vec v_select(vmask m, vec yes, vec no) { return vbslq_f32(m, yes, no); }
QKV_INLINE vmask m_none(void) { return vdupq_n_u32(0); }
QKV_INLINE vmask m_or(vmask a, vmask b) { return vorrq_u32(a, b); }
QKV_INLINE int m_any(vmask m) { return vmaxvq_u32(m) != 0; }

/* Lanes whose byte is zero. */
QKV_INLINE vmask m_zero_bytes(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    uint16x8_t halves = vmovl_u8(vcreate_u8(word));
    return vceqq_u32(vmovl_u16(vget_low_u16(halves)), vdupq_n_u32(0));
}

/* p·2^n where y is not below `least`, else +0; p·2^n is a normal number there. A NaN n converts to a shift of
 * nothing. */
QKV_INLINE vec v_exp2_scale(vec p, vec n, vec y, float least) {
    int32x4_t shift = vshlq_n_s32(vcvtq_s32_f32(n), 23);
    int32x4_t scaled = vaddq_s32(vreinterpretq_s32_f32(p), shift);
    vmask below = vcltq_f32(y, vdupq_n_f32(least));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(scaled), below));
}

QKV_INLINE float v_reduce_max(vec a) { return vmaxvq_f32(a); }

/* The tree +8, +4, +2, +1 over 16 lanes. */
QKV_INLINE float v_sum_lanes(const vec lanes[4]) {
    vec b = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

/* x[i] becomes column i of the matrix whose rows were x. */
QKV_INLINE void v_transpose(vec x[4]) {
    float32x4x2_t a = vtrnq_f32(x[0], x[1]), b = vtrnq_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    x[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    x[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    x[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

/* *a, *b hold pairs one after the other; then *a the first ones of all pairs, *b the second ones. v_zip undoes it. */
QKV_INLINE void v_unzip(vec *a, vec *b) {
    vec even = vuzp1q_f32(*a, *b), odd = vuzp2q_f32(*a, *b);
    *a = even;
    *b = odd;
}
QKV_INLINE void v_zip(vec *a, vec *b) {
    vec low = vzip1q_f32(*a, *b), high = vzip2q_f32(*a, *b);
    *a = low;
    *b = high;
}

/* c + a[lane]·b. Spelt out, as GCC 12 copies the lane into a vector of its own first, which costs an issue slot of the
 * FMA pipes. lane is a constant. */
QKV_INLINE vec v_fma_lane(vec a, int lane, vec b, vec c) {
    switch (lane) {
    case 0: __asm__("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(b), "w"(a)); break;
    case 1: __asm__("fmla %0.4s, %1.4s, %2.s[1]" : "+w"(c) : "w"(b), "w"(a)); break;
    case 2: __asm__("fmla %0.4s, %1.4s, %2.s[2]" : "+w"(c) : "w"(b), "w"(a)); break;
    default: __asm__("fmla %0.4s, %1.4s, %2.s[3]" : "+w"(c) : "w"(b), "w"(a)); break;
    }
    return c;
}

/* LANE_STEPS columns of A, loaded as they lie in memory, against as many rows of B: part of gemm_tile.inc.h. Broadcast
 * loads would occupy an FMA pipe each. In a whole tile 24 sums and 6 rows of A leave two registers for B: compilers
 * must neither load it ahead nor keep a pointer to each row of A, lest they spill. */
#define LANE_STEPS 4
#define LANES_OF_A(i, j)                                                                                               \
    if (i % 2 == 0)                                                                                                    \
        QKV_OPAQUE(at);                                                                                                \
    vec columns_##i = v_load(at + i % 2 * row);                                                                        \
    if (i % 2 == 1)                                                                                                    \
        at += 2 * row;
#define LANE_FMA(i, j) SUM(i, j) = TILE_FMA_LANE(columns_##i, lane, of_b, SUM(i, j));
#define LANE_VECTOR(i, j)                                                                                              \
    {                                                                                                                  \
        vec of_b = v_load(b + j * VLEN);                                                                               \
        __asm__("" ::: "memory"); /* later loads stay below */                                                         \
        QKV_ROWS(ROWS, LANE_FMA, j)                                                                                    \
    }
#define LANE_STEP(x)                                                                                                   \
    {                                                                                                                  \
        const int lane = x;                                                                                            \
        QKV_COLS(VECTORS, LANE_VECTOR, 0)                                                                              \
        b += ldb;                                                                                                      \
    }

/* One row of a transposed A, TILE_ROWS factors side by side, against one row of B. */
#define LANE_FMA_T(i, j) SUM(i, j) = TILE_FMA_LANE(i < VLEN ? first : second, i % VLEN, of_b, SUM(i, j));
#define LANE_VECTOR_T(i, j)                                                                                            \
    {                                                                                                                  \
        vec of_b = v_load(b + j * VLEN);                                                                               \
        QKV_ROWS(ROWS, LANE_FMA_T, j)                                                                                  \
    }
#define LANE_STEP_T                                                                                                    \
    {                                                                                                                  \
        vec first = v_load(a), second = vcombine_f32(vld1_f32(a + VLEN), vdup_n_f32(0.0f));                            \
        QKV_COLS(VECTORS, LANE_VECTOR_T, 0)                                                                            \
        a += step, lower += step, b += ldb;                                                                            \
    }

/* VLEN stored elements at p, and the scale of a block in every lane. No conversion looks at FPCR's flushing. */
QKV_INLINE vec v_load_f16(const unsigned char *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
QKV_INLINE vec v_load_bf16(const unsigned char *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
QKV_INLINE vec v_load_i8(const unsigned char *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(word)))));
}
QKV_INLINE vec v_set_f16(const unsigned char *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x)));
}
QKV_INLINE void v_store_f16(unsigned char *p, vec x) { vst1_u8(p, vreinterpret_u8_f16(vcvt_f16_f32(x))); }
/* The upper half of each lane is the bfloat16. */
QKV_INLINE uint32x4_t to_bf16(vec x) {
    uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vbslq_u32(v_is_nan(x), quiet, rounded);
}
QKV_INLINE vec v_round_bf16(vec x) { return vreinterpretq_f32_u32(vandq_u32(to_bf16(x), vdupq_n_u32(0xffff0000))); }
QKV_INLINE vec v_swap(vec a) { return vrev64q_f32(a); } /* the two lanes of each pair */
QKV_INLINE void v_store_bf16(unsigned char *p, vec x) { vst1_u8(p, vreinterpret_u8_u16(vshrn_n_u32(to_bf16(x), 16))); }

/* Words of 32 bits in lanes, and their bytes. */
typedef uint32x4_t vint;
typedef struct vdots {
    int16x8_t low, high; /* sums of products of bytes, those of two words each */
} vdots;

QKV_INLINE vint i_load(const void *p) { return vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)p)); }
QKV_INLINE void i_store(void *p, vint a) { vst1q_u8((uint8_t *)p, vreinterpretq_u8_u32(a)); }
QKV_INLINE vint i_set(uint32_t x) { return vdupq_n_u32(x); }
QKV_INLINE vint i_and(vint a, vint b) { return vandq_u32(a, b); }
QKV_INLINE vint i_or(vint a, vint b) { return vorrq_u32(a, b); }
QKV_INLINE vint i_add(vint a, vint b) { return vaddq_u32(a, b); }
QKV_INLINE vint i_sub(vint a, vint b) { return vsubq_u32(a, b); }
QKV_INLINE vint i_sub_bytes(vint a, vint b) {
    return vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b)));
}
QKV_INLINE vint i_shift(vint a, int left) { /* below 0: to the right, filled up with zeros. left is a constant */
    switch (left) {
    case 24: return vshlq_n_u32(a, 24);
    case 16: return vshlq_n_u32(a, 16);
    case 8: return vshlq_n_u32(a, 8);
    case 5: return vshlq_n_u32(a, 5);
    case 4: return vshlq_n_u32(a, 4);
    case 3: return vshlq_n_u32(a, 3);
    case 2: return vshlq_n_u32(a, 2);
    case 1: return vshlq_n_u32(a, 1);
    case -1: return vshrq_n_u32(a, 1);
    case -2: return vshrq_n_u32(a, 2);
    case -3: return vshrq_n_u32(a, 3);
    case -4: return vshrq_n_u32(a, 4);
    default: return a;
    }
}
QKV_INLINE vec v_from_i(vint a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }
QKV_INLINE vint i_whole(vec a) { return vreinterpretq_u32_s32(vcvtq_s32_f32(a)); } /* of whole numbers */
QKV_INLINE vint i_load_u8(const unsigned char *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word))));
}
QKV_INLINE vint i_bits(vec a) { return vreinterpretq_u32_f32(a); }
QKV_INLINE vec v_bits(vint a) { return vreinterpretq_f32_u32(a); }

/* Byte n of each word, signed. n is a constant. */
QKV_INLINE vec v_byte(vint a, int n) {
    vint top = n == 0 ? vshlq_n_u32(a, 24) : n == 1 ? vshlq_n_u32(a, 16) : n == 2 ? vshlq_n_u32(a, 8) : a;
    return vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(top), 24));
}
QKV_INLINE vec v_load_u8(const unsigned char *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word)))));
}
QKV_INLINE void v_store_i8(int8_t *p, vec x) { /* whole numbers within ±127 */
    int16x4_t halves = vmovn_s32(vcvtq_s32_f32(x));
    uint32_t word = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(halves, halves))), 0);
    memcpy(p, &word, sizeof word);
}

/* Sums of products of bytes, four side by side in a word: w from −32 to 63, a within ±127. Of each two they must fit
 * 16 bits. */
QKV_INLINE vdots d_zero(void) { return (vdots){vdupq_n_s16(0), vdupq_n_s16(0)}; }
QKV_INLINE vdots d_add(vdots dots, vint w, vint a) {
    int8x16_t x = vreinterpretq_s8_u32(w), y = vreinterpretq_s8_u32(a);
    dots.low = vmlal_s8(dots.low, vget_low_s8(x), vget_low_s8(y));
    dots.high = vmlal_high_s8(dots.high, x, y);
    return dots;
}
QKV_INLINE vint i_sum_dots(vdots dots) {
    return vreinterpretq_u32_s32(vpaddq_s32(vpaddlq_s16(dots.low), vpaddlq_s16(dots.high)));
}

#include "../signed_dots.inc.h"

/* VLEN words of 32 bits, or their products with another. */
typedef struct vwords {
    uint32x4_t low, high;
} vwords;
typedef uint32x4_t vword; /* one word in every lane */

QKV_INLINE vword k_set(uint32_t x) { return vdupq_n_u32(x); }
QKV_INLINE vword k_add(vword a, vword b) { return vaddq_u32(a, b); }
QKV_INLINE vwords w_set(uint32_t x) { return (vwords){k_set(x), k_set(0)}; }
QKV_INLINE vwords w_count(uint32_t x) { /* x, x + 1, … */
    static const uint32_t count[4] = {0, 1, 2, 3};
    return (vwords){k_add(k_set(x), vld1q_u32(count)), k_set(0)};
}
QKV_INLINE vwords w_multiply(vwords a, vword by) { /* the low words of the products; w_high has the high ones */
    uint32x4_t x = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a.low), vget_low_u32(by)));
    uint32x4_t y = vreinterpretq_u32_u64(vmull_high_u32(a.low, by));
    return (vwords){vuzp1q_u32(x, y), vuzp2q_u32(x, y)};
}
QKV_INLINE vwords w_high(vwords product) { return (vwords){product.high, product.high}; }
QKV_INLINE vwords w_xor(vwords a, vwords b, vword c) { return (vwords){veorq_u32(veorq_u32(b.low, c), a.low), a.high}; }
/* x where the word is not below the threshold, else +0. */
QKV_INLINE vec v_keep(vwords a, uint32_t threshold, vec x) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vcgeq_u32(a.low, vdupq_n_u32(threshold))));
}

/* Ends every entry; there is nothing to leave behind here. */
QKV_INLINE void v_leave(void) {}

#endif
