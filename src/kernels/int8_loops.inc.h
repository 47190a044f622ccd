/* Template: products of attention in 8 bits in plain C. Operands are floats, whose sums of up to QKV_INT8_CHAIN
 * products are exact.
 *
 * Needs ../ref/scalar.h and storage_loops.inc.h.
 *
 * SPDX-License-Identifier: MIT */

static float int8_factor(int finite, float largest, float *scale) {
    const float factor = finite && largest >= 0x1p-100f ? 127.0f / largest : 0.0f;
    *scale = !finite ? __builtin_nanf("") : factor > 0 ? largest / 127.0f : 0.0f;
    return factor;
}

static void rows_int8(void *dst, ptrdiff_t ldd, float *scales, const void *src, ptrdiff_t stride, int type, size_t rows,
                      size_t k, const float *means, int are_keys) {
    (void)are_keys;
    for (size_t i = 0; i < rows; i++) {
        const unsigned char *from = (const unsigned char *)src + (ptrdiff_t)i * stride;
        float *to = (float *)dst + (ptrdiff_t)i * ldd, largest = 0;
        int finite = 1;
        for (size_t j = 0; j < k; j++) {
            const float x = load_stored(from, type, j) - (means ? means[j] : 0.0f), a = x < 0 ? -x : x;
            to[j] = x;
            finite = finite && a <= FLT_MAX;
            largest = a > largest ? a : largest;
        }
        if (type == QKV_INT8)
            continue;
        const float factor = int8_factor(finite, largest, scales + i);
        for (size_t j = 0; j < k; j++)
            to[j] = factor > 0 ? (float)qkv_int8_element(to[j], factor) : 0.0f;
    }
}

static void panel_int8(float *panel, float *scales, const void *src, int type, size_t k, const float *means) {
    for (size_t r = 0; r < QKV_PANEL; r++) {
        float largest = 0;
        int finite = 1;
        for (size_t c = 0; c < k; c++) {
            const float stored = load_stored((const unsigned char *)src, type, c * QKV_PANEL + r);
            const float x = stored - (means ? means[c] : 0.0f);
            const float a = x < 0 ? -x : x;
            panel[c * QKV_PANEL + r] = x;
            finite = finite && a <= FLT_MAX;
            largest = a > largest ? a : largest;
        }
        if (type == QKV_INT8)
            continue;
        const float factor = int8_factor(finite, largest, scales + r);
        for (size_t c = 0; c < k; c++) {
            float *to = &panel[c * QKV_PANEL + r];
            *to = factor > 0 ? (float)qkv_int8_element(*to, factor) : 0.0f;
        }
    }
}
