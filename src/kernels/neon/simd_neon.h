/* Vectors of 4 floats for the templates: AArch64 Advanced SIMD.  SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_NEON_H
#define QKV_SIMD_NEON_H

typedef float32x4_t V; /* VL floats */
typedef uint32x4_t M;  /* one truth value a lane */
typedef size_t T;      /* the first lanes of a vector: how much of it is memory */

#define VL 4
#define STRIP_VECTORS 4 /* vectors of C in a tile: times VL it divides 64 */
#define TILE_ROWS 6

QKV_INLINE V v_zero(void) { return vdupq_n_f32(0.0f); }
QKV_INLINE V v_set(float x) { return vdupq_n_f32(x); }
QKV_INLINE V v_load(const float *p) { return vld1q_f32(p); }
QKV_INLINE void v_store(float *p, V x) { vst1q_f32(p, x); }

QKV_INLINE T v_tail(size_t n) { return n; } /* 1 ≤ n ≤ VL */
QKV_INLINE V v_load_tail(const float *p, T t) {
    V x = v_zero();
    x = vld1q_lane_f32(p, x, 0);
    if (t > 1)
        x = vld1q_lane_f32(p + 1, x, 1);
    if (t > 2)
        x = vld1q_lane_f32(p + 2, x, 2);
    if (t > 3)
        x = vld1q_lane_f32(p + 3, x, 3);
    return x;
}
QKV_INLINE void v_store_tail(float *p, V x, T t) {
    vst1q_lane_f32(p, x, 0);
    if (t > 1)
        vst1q_lane_f32(p + 1, x, 1);
    if (t > 2)
        vst1q_lane_f32(p + 2, x, 2);
    if (t > 3)
        vst1q_lane_f32(p + 3, x, 3);
}

QKV_INLINE V v_add(V a, V b) { return vaddq_f32(a, b); }
QKV_INLINE V v_sub(V a, V b) { return vsubq_f32(a, b); }
QKV_INLINE V v_mul(V a, V b) { return vmulq_f32(a, b); }
QKV_INLINE V v_div(V a, V b) { return vdivq_f32(a, b); }
QKV_INLINE V v_fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }  /* a·b + c */
QKV_INLINE V v_fnma(V a, V b, V c) { return vfmsq_f32(c, a, b); } /* c − a·b */
QKV_INLINE V v_max(V a, V b) { return vmaxq_f32(a, b); } /* a NaN where either is one */
QKV_INLINE V v_min(V a, V b) { return vminq_f32(a, b); } /* a NaN where either is one */
QKV_INLINE V v_abs(V a) { return vabsq_f32(a); }
QKV_INLINE V v_sign_of(V magnitude, V sign) { /* magnitude ≥ 0 */
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}
QKV_INLINE V v_round(V a) { return vrndnq_f32(a); }

QKV_INLINE M v_less(V a, V b) { return vcltq_f32(a, b); }
QKV_INLINE M v_equal(V a, V b) { return vceqq_f32(a, b); }
QKV_INLINE M v_is_nan(V a) { return vmvnq_u32(vceqq_f32(a, a)); }
QKV_INLINE V v_select(M m, V yes, V no) { return vbslq_f32(m, yes, no); }
QKV_INLINE M m_none(void) { return vdupq_n_u32(0); }
QKV_INLINE M m_or(M a, M b) { return vorrq_u32(a, b); }
QKV_INLINE int m_any(M m) { return vmaxvq_u32(m) != 0; }

/* Lanes whose byte is zero. */
QKV_INLINE M m_zero_bytes(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    uint16x8_t halves = vmovl_u8(vcreate_u8(word));
    return vceqq_u32(vmovl_u16(vget_low_u16(halves)), vdupq_n_u32(0));
}

/* p·2^n where y is not below −126, else +0; p·2^n is a normal number there. A NaN n converts to a shift of nothing. */
QKV_INLINE V v_exp2_scale(V p, V n, V y) {
    int32x4_t shift = vshlq_n_s32(vcvtq_s32_f32(n), 23);
    int32x4_t scaled = vaddq_s32(vreinterpretq_s32_f32(p), shift);
    M below = vcltq_f32(y, vdupq_n_f32(-126.0f));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(scaled), below));
}

QKV_INLINE float v_reduce_max(V a) { return vmaxvq_f32(a); }

/* The tree +8, +4, +2, +1 over 16 lanes. */
QKV_INLINE float v_sum_lanes(const V lanes[4]) {
    V b = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

/* x[i] becomes column i of the matrix whose rows were x. */
QKV_INLINE void v_transpose(V x[4]) {
    float32x4x2_t a = vtrnq_f32(x[0], x[1]), b = vtrnq_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    x[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    x[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    x[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

/* c + a[lane]·b. Spelt out, as GCC 12 copies the lane into a vector of its own first, which costs an issue slot of the
 * FMA pipes. lane is a constant. */
QKV_INLINE V v_fma_lane(V a, int lane, V b, V c) {
    switch (lane) {
    case 0: __asm__("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(b), "w"(a)); break;
    case 1: __asm__("fmla %0.4s, %1.4s, %2.s[1]" : "+w"(c) : "w"(b), "w"(a)); break;
    case 2: __asm__("fmla %0.4s, %1.4s, %2.s[2]" : "+w"(c) : "w"(b), "w"(a)); break;
    default: __asm__("fmla %0.4s, %1.4s, %2.s[3]" : "+w"(c) : "w"(b), "w"(a)); break;
    }
    return c;
}

/* LANE_STEPS columns of A, loaded as they lie in memory, against as many rows of B, rows × vectors at a time, which are
 * constants. Broadcast loads would occupy an FMA pipe each. In a whole tile 24 sums and 6 rows of A leave two registers
 * for B: compilers must neither load it ahead nor keep a pointer to each row of A, lest they spill. */
#define LANE_STEPS 4
QKV_INLINE void gemm_lanes(int rows, int vectors, V sum[][STRIP_VECTORS], const float *a, ptrdiff_t lda, const float *b,
                           ptrdiff_t ldb) {
    V columns[TILE_ROWS];
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        if (i % 2 == 0)
            QKV_OPAQUE(a);
        columns[i] = v_load(a + i % 2 * lda);
        if (i % 2 == 1)
            a += 2 * lda;
    }
    QKV_UNROLL
    for (int lane = 0; lane < LANE_STEPS; lane++, b += ldb) {
        QKV_UNROLL
        for (int j = 0; j < vectors; j++) {
            V row = v_load(b + j * VL);
            __asm__("" ::: "memory"); /* later loads stay below */
            QKV_UNROLL
            for (int i = 0; i < rows; i++)
                sum[i][j] = v_fma_lane(columns[i], lane, row, sum[i][j]);
        }
    }
}

/* One row of a transposed A, TILE_ROWS factors side by side, against one row of B. */
QKV_INLINE void gemm_lanes_t(int vectors, V sum[][STRIP_VECTORS], const float *a, const float *b) {
    V factors[2] = {v_load(a), vcombine_f32(vld1_f32(a + VL), vdup_n_f32(0.0f))};
    QKV_UNROLL
    for (int j = 0; j < vectors; j++) {
        V row = v_load(b + j * VL);
        QKV_UNROLL
        for (int i = 0; i < TILE_ROWS; i++)
            sum[i][j] = v_fma_lane(factors[i / VL], i % VL, row, sum[i][j]);
    }
}

/* VL words of 32 bits, or their products with another. */
typedef struct W {
    uint32x4_t low, high;
} W;
typedef uint32x4_t K; /* one word in every lane */

QKV_INLINE K k_set(uint32_t x) { return vdupq_n_u32(x); }
QKV_INLINE K k_add(K a, K b) { return vaddq_u32(a, b); }
QKV_INLINE W w_set(uint32_t x) { return (W){k_set(x), k_set(0)}; }
QKV_INLINE W w_count(uint32_t x) { /* x, x + 1, … */
    static const uint32_t count[4] = {0, 1, 2, 3};
    return (W){k_add(k_set(x), vld1q_u32(count)), k_set(0)};
}
QKV_INLINE W w_multiply(W a, K by) { /* the low words of the products; w_high has the high ones */
    uint32x4_t x = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a.low), vget_low_u32(by)));
    uint32x4_t y = vreinterpretq_u32_u64(vmull_high_u32(a.low, by));
    return (W){vuzp1q_u32(x, y), vuzp2q_u32(x, y)};
}
QKV_INLINE W w_high(W product) { return (W){product.high, product.high}; }
QKV_INLINE W w_xor(W a, W b, K c) { return (W){veorq_u32(veorq_u32(b.low, c), a.low), a.high}; }
/* x where the word is not below the threshold, else +0. */
QKV_INLINE V v_keep(W a, uint32_t threshold, V x) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vcgeq_u32(a.low, vdupq_n_u32(threshold))));
}

/* Ends every entry; there is nothing to leave behind here. */
QKV_INLINE void v_leave(void) {}

#endif
