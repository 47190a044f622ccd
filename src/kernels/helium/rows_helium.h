/* Rows of scores and of outputs: softmax and what else takes exponentials, for which flushed subnormals make no
 * difference, and simple arithmetic, for which they do.
 *
 * Of 2^y, y = t − m: where one of the three is subnormal, or is flushed to 0, y is so near 0 or so near −m that the
 * result is the same. The polynomial adds what is left of a flushed term to a number from 2⁻¹³ on, and its value in
 * [0.70, 1.42] times 2ⁿ, by an add to the exponent, is a normal number or, below 2⁻¹²⁶, the 0 that is defined there.
 *
 * SPDX-License-Identifier: MIT */

/* qkv_exp2 and qkv_exp2_for_bf16, lane by lane, of y ≤ 0 or a NaN without sign. Whether y is below the least is asked
 * of its bits, as a comparison of floats takes a NaN for less. for_bf16 is a constant. */
QKV_INLINE vec v_exp2(vec y, int for_bf16) {
    const vec n = vrndnq_f32(y), f = vsubq_f32(y, n);
    vec p;
    if (for_bf16) {
        p = vfmaq_n_f32(vdupq_n_f32(0x1.c9fc48p-5f), f, 0x1.3a02d2p-7f);
        p = vfmasq_n_f32(p, f, 0x1.ec0378p-3f);
        p = vfmasq_n_f32(p, f, 0x1.62e12cp-1f);
    } else {
        p = vfmaq_n_f32(vdupq_n_f32(0x1.5f3e52p-10f), f, 0x1.41fbbcp-13f);
        p = vfmasq_n_f32(p, f, 0x1.3b2d4cp-7f);
        p = vfmasq_n_f32(p, f, 0x1.c6aee8p-5f);
        p = vfmasq_n_f32(p, f, 0x1.ebfbdcp-3f);
        p = vfmasq_n_f32(p, f, 0x1.62e430p-1f);
    }
    p = vfmasq_n_f32(p, f, 1.0f);
    const int32x4_t exponent = vshlq_n_s32(vcvtq_s32_f32(n), 23); /* of a NaN 0 */
    p = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent));
    const uint32_t least = for_bf16 ? 0xc2600000 : 0xc2fc0000; /* −56, −126 */
    return vdupq_m_n_f32(p, 0.0f, vcmphiq_n_u32(vreinterpretq_u32_f32(y), least));
}

/* The largest element, and −FLT_MAX. Where that is subnormal or 0, flushing may have hidden which one. */
QKV_INLINE float row_maximum(const float *t, size_t cols) {
    vec max = vdupq_n_f32(-FLT_MAX), other = max;
    for (size_t x = 0; x < cols; x += 2 * VLEN) {
        max = vmaxnmq_f32(max, vldrwq_f32(t + x));
        other = vmaxnmq_f32(other, vldrwq_f32(t + x + VLEN));
    }
    return vmaxnmvq_f32(-FLT_MAX, vmaxnmq_f32(max, other));
}
QKV_INLINE int is_tiny(float x) { return (qkv_float_bits(x) & 0x7f800000) == 0; }

/* The tree +8, +4, +2, +1. All are 0 or from 2⁻¹²⁶ on, or NaN. */
QKV_INLINE float sum_lanes(vec lanes_0, vec lanes_1, vec lanes_2, vec lanes_3) {
    float x[VLEN];
    vstrwq_f32(x, vaddq_f32(vaddq_f32(lanes_0, lanes_2), vaddq_f32(lanes_1, lanes_3)));
    return (x[0] + x[2]) + (x[1] + x[3]);
}

#define WEIGHTS(i)                                                                                                     \
    {                                                                                                                  \
        const vec p = v_exp2(vsubq_n_f32(vldrwq_f32(t + x + i * VLEN), max), for_bf16);                                \
        vstrwq_f32(t + x + i * VLEN, p);                                                                               \
        lanes_##i = vaddq_f32(lanes_##i, p);                                                                           \
    }
QKV_INLINE float row_weights(int for_bf16, float *t, size_t cols, float max) {
    vec lanes_0 = vdupq_n_f32(0), lanes_1 = lanes_0, lanes_2 = lanes_0, lanes_3 = lanes_0;
    for (size_t x = 0; x < cols; x += QKV_LANES) {
        WEIGHTS(0)
        WEIGHTS(1)
        WEIGHTS(2)
        WEIGHTS(3)
    }
    return sum_lanes(lanes_0, lanes_1, lanes_2, lanes_3);
}

static void softmax(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        m[i] = row_maximum(t, cols);
        if (is_tiny(m[i]))
            qkv_kernels_portable.softmax(t, ld, 1, cols, m + i, l + i);
        else
            l[i] = row_weights(0, t, cols, m[i]);
    }
}

static void recompute(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *lse) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        for (size_t j = 0; j < cols; j += VLEN) {
            const vec y = vsubq_n_f32(vldrwq_f32(t + j), lse[i]);
            vstrwq_f32(t + j, v_exp2(vdupq_m_n_f32(y, 0.0f, vcmpgtq_n_f32(y, 0.0f)), 0)); /* a NaN stays */
        }
    }
}

static void exp2_array(float *y, size_t n) {
    for (size_t j = 0; j < n; j += VLEN) {
        const mve_pred16_t lanes = lanes_of(n - j);
        /* Times 1 a NaN has no sign any more, as all have that come from a subtraction. */
        vstrwq_p_f32(y + j, v_exp2(vmulq_n_f32(vldrwq_z_f32(y + j, lanes), 1.0f), 0), lanes);
    }
}

static uint32_t nan_rows(const float *o, ptrdiff_t ld, size_t rows, size_t cols) {
    uint32_t found = 0;
    for (size_t i = 0; i < rows; i++) {
        uint32x4_t largest = vdupq_n_u32(0);
        for (size_t j = 0; j < cols; j += VLEN) {
            const uint32x4_t bits = vreinterpretq_u32_f32(vldrwq_z_f32(o + (ptrdiff_t)i * ld + j, lanes_of(cols - j)));
            largest = vmaxq_u32(largest, vshlq_n_u32(bits, 1));
        }
        found |= (uint32_t)(vmaxvq_u32(0, largest) > 0xff000000) << i;
    }
    return found;
}

/* ----------------------------------------------------------------------------------------------- simple arithmetic */

/* Sixteen elements x_0 … x_3 of a row at once, which are stored if nothing was flushed; else, and for what is left of
 * the row, the portable set. */
#define IN_SIXTEENS(vector, exactly)                                                                                   \
    for (size_t j = 0; j < n; j += QKV_LANES) {                                                                        \
        size_t count = n - j;                                                                                          \
        if (count >= QKV_LANES) {                                                                                      \
            count = QKV_LANES;                                                                                         \
            vec x_0 = vector(0), x_1 = vector(1), x_2 = vector(2), x_3 = vector(3);                                    \
            V_ORDERED(x_0);                                                                                            \
            V_ORDERED(x_1);                                                                                            \
            V_ORDERED(x_2);                                                                                            \
            V_ORDERED(x_3);                                                                                            \
            if (!was_flushed()) {                                                                                      \
                vstrwq_f32(dst + j, x_0);                                                                              \
                vstrwq_f32(dst + j + VLEN, x_1);                                                                       \
                vstrwq_f32(dst + j + 2 * VLEN, x_2);                                                                   \
                vstrwq_f32(dst + j + 3 * VLEN, x_3);                                                                   \
                continue;                                                                                              \
            }                                                                                                          \
        }                                                                                                              \
        exactly;                                                                                                       \
        FLUSHES_CLEAR();                                                                                               \
    }

/* x·y + 0, which is never −0. */
#define SCALED(i) vaddq_n_f32(vmulq_n_f32(vldrwq_f32(src + j + i * VLEN), factors[r]), 0.0f)
static void scale(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *factors, size_t rows,
                  size_t n) {
    const uint32_t flags = flushes_begin();
    for (size_t r = 0; r < rows; r++, dst += ldd, src += lds)
        IN_SIXTEENS(SCALED, qkv_kernels_portable.scale(dst + j, 0, src + j, 0, factors + r, 1, count))
    flushes_end(flags);
}

#define SUM_OF_BIAS(i) vaddq_f32(vldrwq_f32(src + j + i * VLEN), vldrwq_f32(bias + j + i * VLEN))
static void add_bias(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *bias, size_t rows,
                     size_t n) {
    for (size_t r = 0; !bias && r < rows; r++) {
        for (size_t j = 0; j < n; j += VLEN) {
            const mve_pred16_t lanes = lanes_of(n - j);
            vstrwq_p_f32(dst + (ptrdiff_t)r * ldd + j, vldrwq_z_f32(src + (ptrdiff_t)r * lds + j, lanes), lanes);
        }
    }
    if (!bias)
        return;
    const uint32_t flags = flushes_begin();
    for (; rows > 0; rows--, dst += ldd, src += lds)
        IN_SIXTEENS(SUM_OF_BIAS, qkv_kernels_portable.add_bias(dst + j, 0, src + j, 0, bias + j, 1, count))
    flushes_end(flags);
}

#define SUM_OF_BOTH(i) vaddq_f32(vldrwq_f32(dst + j + i * VLEN), vldrwq_f32(src + j + i * VLEN))
static void add(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n) {
    const uint32_t flags = flushes_begin();
    for (; rows > 0; rows--, dst += ldd, src += lds)
        IN_SIXTEENS(SUM_OF_BOTH, qkv_kernels_portable.add(dst + j, 0, src + j, 0, 1, count))
    flushes_end(flags);
}

#define SCALED_SCORE(i)                                                                                                \
    vfmaq_n_f32(vdupq_n_f32(offsets[r]),                                                                               \
                vmulq_f32(vldrwq_f32(dst + j + i * VLEN), vldrwq_f32(columns + j + i * VLEN)), factors[r])
static void scale_scores(float *dst, ptrdiff_t ld, size_t rows, size_t n, const float *columns, const float *factors,
                         const float *offsets) {
    const uint32_t flags = flushes_begin();
    for (size_t r = 0; r < rows; r++, dst += ld)
        IN_SIXTEENS(SCALED_SCORE,
                    qkv_kernels_portable.scale_scores(dst + j, 0, 1, count, columns + j, factors + r, offsets + r))
    flushes_end(flags);
}

#define SCALED_COLUMN(i) vmulq_f32(vldrwq_f32(dst + j + i * VLEN), vldrwq_f32(factors + j + i * VLEN))
static void scale_columns(float *dst, ptrdiff_t ld, size_t rows, size_t n, const float *factors) {
    const uint32_t flags = flushes_begin();
    for (; rows > 0; rows--, dst += ld)
        IN_SIXTEENS(SCALED_COLUMN, qkv_kernels_portable.scale_columns(dst + j, 0, 1, count, factors + j))
    flushes_end(flags);
}

/* -------------------------------------------------------------------------------------------------- stored elements */

static void widen(float *dst, ptrdiff_t ldd, const void *src, ptrdiff_t stride, int type, size_t rows, size_t n) {
    const unsigned char *from = (const unsigned char *)src;
    for (; rows > 0; rows--, dst += ldd, from += rows > 0 ? stride : 0) {
        for (size_t j = 0; j < n; j += VLEN) {
            const mve_pred16_t lanes = lanes_of(n - j);
            vec x;
            switch (type) {
            case QKV_F16: x = load_stored_lanes(QKV_F16, from + 2 * j, lanes); break;
            case QKV_BF16: x = load_stored_lanes(QKV_BF16, from + 2 * j, lanes); break;
            case QKV_INT8: x = load_stored_lanes(QKV_INT8, from + j, lanes); break;
            case QKV_Q8_0: {
                const unsigned char *block = from + j / QKV_Q8_0_CHANNELS * QKV_Q8_0_BYTES;
                x = load_stored_lanes(QKV_INT8, block + 2 + j % QKV_Q8_0_CHANNELS, lanes);
                x = vmulq_n_f32(x, set_f16(block)); /* exact, and no subnormal */
                break;
            }
            default: x = load_stored_lanes(QKV_F32, from + 4 * j, lanes);
            }
            vstrwq_p_f32(dst + j, x, lanes);
        }
    }
}

/* Lanes are rows, of any type but QKV_Q8_0. type is a constant. */
QKV_INLINE void pack_rows(int type, float *panel, ptrdiff_t ld, const unsigned char *src, ptrdiff_t stride, size_t rows,
                          size_t k) {
    const ptrdiff_t size = (ptrdiff_t)qkv_stored_bytes(type, 1);
    const uint32x4_t offsets = lane_offsets(rows > 1 ? stride : 0);
    for (size_t r = 0; r < (size_t)ld; r += VLEN, panel += VLEN) {
        const mve_pred16_t lanes = lanes_of(r < rows ? rows - r : 0);
        const unsigned char *from = r < rows ? src + (ptrdiff_t)r * stride : src;
        float *to = panel;
        for (size_t c = 0; c < k; c++, from += size, to += ld)
            vstrwq_f32(to, gather_stored_lanes(type, from, offsets, lanes));
    }
}

static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    pack_rows(QKV_F32, panel, QKV_PANEL, (const unsigned char *)src, ld * (ptrdiff_t)sizeof *src, rows, k);
}

static void pack_stored(float *panel, ptrdiff_t ld, const void *src, ptrdiff_t stride, int type, size_t rows,
                        size_t k) {
    const unsigned char *from = (const unsigned char *)src;
    switch (type) {
    case QKV_F16: pack_rows(QKV_F16, panel, ld, from, stride, rows, k); break;
    case QKV_BF16: pack_rows(QKV_BF16, panel, ld, from, stride, rows, k); break;
    case QKV_INT8: pack_rows(QKV_INT8, panel, ld, from, stride, rows, k); break;
    case QKV_Q8_0: qkv_kernels_portable.pack_stored(panel, ld, src, stride, type, rows, k); break;
    default: pack_rows(QKV_F32, panel, ld, from, stride, rows, k);
    }
}
