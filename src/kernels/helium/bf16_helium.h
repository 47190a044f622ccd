/* Products in bfloat16, whose operands are floats: what prepares those, and softmax for them. Rounding is done in
 * integers; a magnitude below 2⁻⁵⁶ is 0, so that no product or sum of these can be subnormal.
 *
 * SPDX-License-Identifier: MIT */

/* qkv_bf16_operand, lane by lane. */
QKV_INLINE vec v_bf16_operand(vec x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x), magnitude = vshlq_n_u32(bits, 1);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_n_u32(bits, 0x7fff), odd);
    rounded = vdupq_m_n_u32(rounded, 0x7fc00000, vcmphiq_n_u32(magnitude, 0xff000000));   /* NaN */
    rounded = vdupq_m_n_u32(rounded, 0, vcmphiq_u32(vdupq_n_u32(0x47000000), magnitude)); /* 2·(bits of 2⁻⁵⁶) */
    return vreinterpretq_f32_u32(vandq_u32(rounded, vdupq_n_u32(0xffff0000)));
}

/* Of each pair of terms the second comes first. */
static void rows_bf16(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *from = x + (ptrdiff_t)i * ldx;
        float *to = (float *)dst + (ptrdiff_t)i * ldd + (ptrdiff_t)first;
        for (size_t j = 0; j < k; j += VLEN) {
            const vec operands = v_bf16_operand(vldrwq_z_f32(from + j, lanes_of(k - j)));
            vstrwq_p_f32(to + j, vrev64q_f32(operands), lanes_of((k - j + 1) / 2 * 2));
        }
    }
}

/* Rows of a panel, their neighbours in a pair swapped. Where the other one is missing it is 0. */
QKV_INLINE void values_to_bf16(int type, float *panel, const unsigned char *src, ptrdiff_t stride, size_t first,
                               size_t rows, size_t cols) {
    const size_t end = first + rows;
    for (size_t x = first - first % 2; x < end + end % 2; x++) {
        const int there = x >= first && x < end;
        const unsigned char *from = there ? src + (ptrdiff_t)(x - first) * stride : src;
        float *to = panel + (x ^ 1) * QKV_PANEL;
        for (size_t j = 0; j < cols; j += VLEN) {
            const mve_pred16_t lanes = lanes_of(there ? cols - j : 0);
            const vec value = load_stored_lanes(type, from + qkv_stored_bytes(type, (int64_t)j), lanes);
            vstrwq_f32(to + j, v_bf16_operand(value));
        }
    }
}

static void values_bf16(void *dst, const void *src, ptrdiff_t stride, int type, size_t first, size_t rows,
                        size_t cols) {
    const unsigned char *from = (const unsigned char *)src;
    switch (type) {
    case QKV_F32: values_to_bf16(QKV_F32, (float *)dst, from, stride, first, rows, cols); break;
    case QKV_F16: values_to_bf16(QKV_F16, (float *)dst, from, stride, first, rows, cols); break;
    case QKV_BF16: values_to_bf16(QKV_BF16, (float *)dst, from, stride, first, rows, cols); break;
    default: qkv_kernels_portable.values_bf16(dst, src, stride, type, first, rows, cols);
    }
}

static void softmax_bf16(float *t, ptrdiff_t ld, size_t first, size_t rows, size_t cols, float *m, float *l,
                         int rounds) {
    float *row = t + first;
    for (size_t i = 0; i < rows; i++, row += ld) {
        m[i] = row_maximum(row, cols);
        if (is_tiny(m[i]))
            qkv_kernels_portable.softmax_bf16(row, ld, 0, 1, cols, m + i, l + i, 0);
        else
            l[i] = row_weights(1, row, cols, m[i]);
    }
    if (rounds)
        rows_bf16(t, ld, first, t + first, ld, rows, cols);
}
