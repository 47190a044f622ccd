/* Template: stored elements to floats and back in plain C, and panels of them.
 *
 * Needs ../ref/scalar.h and ../ref/storage.h.
 *
 * SPDX-License-Identifier: MIT */

static float load_stored(const unsigned char *p, int type, size_t j) {
    uint16_t half;
    float x;
    if ((!QKV_WITH(STORED) && !QKV_WITH(BF16)) || type == QKV_F32) {
        memcpy(&x, p + j * sizeof x, sizeof x);
        return x;
    }
    if (type == QKV_INT8)
        return (float)(int8_t)p[j];
    if (type == QKV_Q8_0) {
        p += j / QKV_Q8_0_CHANNELS * QKV_Q8_0_BYTES;
        memcpy(&half, p, sizeof half);
        return qkv_from_f16(half) * (float)(int8_t)p[2 + j % QKV_Q8_0_CHANNELS];
    }
    memcpy(&half, p + j * sizeof half, sizeof half);
    return type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
}

static void widen(float *dst, ptrdiff_t ldd, const void *src, ptrdiff_t stride, int type, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        const unsigned char *from = (const unsigned char *)src + (ptrdiff_t)i * stride;
        for (size_t j = 0; j < n; j++)
            dst[(ptrdiff_t)i * ldd + (ptrdiff_t)j] = load_stored(from, type, j);
    }
}

static void narrow(void *dst, ptrdiff_t stride, const float *src, ptrdiff_t lds, int type, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        unsigned char *to = (unsigned char *)dst + (ptrdiff_t)i * stride;
        for (size_t j = 0; j < n; j++) {
            float x = src[(ptrdiff_t)i * lds + (ptrdiff_t)j];
            uint16_t half = type == QKV_F16 ? qkv_to_f16(x) : qkv_to_bf16(x);
            if (type == QKV_F32)
                memcpy(to + j * sizeof x, &x, sizeof x);
            else
                memcpy(to + j * sizeof half, &half, sizeof half);
        }
    }
}

static void pack_stored(float *panel, ptrdiff_t ld, const void *src, ptrdiff_t stride, int type, size_t rows,
                        size_t k) {
    for (size_t r = 0; r < (size_t)ld; r++) {
        const unsigned char *from = (const unsigned char *)src + (r < rows ? (ptrdiff_t)r * stride : 0);
        for (size_t c = 0; c < k; c++)
            panel[(ptrdiff_t)c * ld + (ptrdiff_t)r] = r < rows ? load_stored(from, type, c) : 0.0f;
    }
}
