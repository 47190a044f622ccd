/* Template: products of attention in 8 bits. Without an instruction for them, operands are floats, whose sums of up to
 * QKV_INT8_CHAIN products are exact, and gemm multiplies them.
 *
 * Needs stored.inc.h, weights.inc.h and gemm.inc.h, inside the target region of an instruction set.
 *
 * SPDX-License-Identifier: MIT */

/* Elements j … of a stored row, less means. */
QKV_INLINE vec v_less_means(int type, const unsigned char *row, size_t j, const float *means) {
    const vec x = v_load_at(type, row, j);
    return means ? v_sub(x, v_load(means + j)) : x;
}

/* The last n < VLEN of them, and zeros. By itself, as it calls memcpy: nothing of a loop has to survive that. */
static QKV_NOINLINE void last_less_means(float to[VLEN], int type, const unsigned char *row, size_t j, size_t n,
                                         const float *means) {
    const vec x = v_load_at_tail(type, row, j, n);
    v_store(to, means ? v_sub(x, v_load_tail(means + j, v_tail(n))) : x);
}

/* What a row is multiplied by to become integers, or 0 where they are all 0; its scale; and its last few, as above. */
#define LOOK_AT_ELEMENTS(elements)                                                                                     \
    {                                                                                                                  \
        const vec x = elements;                                                                                        \
        largest = v_max(largest, v_abs(x));                                                                            \
        rest = v_fma(x, v_zero(), rest);                                                                               \
    }
QKV_INLINE float row_factor(int type, const unsigned char *row, size_t k, const float *means, float last[VLEN],
                            float *scale) {
    vec largest = v_zero(), rest = v_zero(); /* rest: a NaN where an element is one, or infinite */
    size_t j = k / VLEN * VLEN;
    if (j < k)
        last_less_means(last, type, row, j, k - j, means);
    for (j = 0; j + VLEN <= k; j += VLEN)
        LOOK_AT_ELEMENTS(v_less_means(type, row, j, means))
    if (j < k)
        LOOK_AT_ELEMENTS(v_load(last))
    const float a = v_reduce_max(largest);
    if (m_any(v_is_nan(rest)) || a < 0x1p-100f) {
        *scale = m_any(v_is_nan(rest)) ? __builtin_nanf("") : 0;
        return 0;
    }
    *scale = a / 127.0f;
    return 127.0f / a;
}

QKV_INLINE vec v_integers(vec x, float factor) { return v_round(v_mul(x, v_set(factor))); }

/* A row of operands; in place, too. */
typedef void row_function(float *to, float *scale, const unsigned char *row, size_t k, const float *means,
                          int are_keys);

QKV_INLINE void row_to_floats(int type, float *to, float *scale, const unsigned char *row, size_t k,
                              const float *means) {
    float last[VLEN];
    const float factor = row_factor(type, row, k, means, last, scale);
    size_t j = 0;
    if (factor == 0) {
        memset(to, 0, k * sizeof *to);
        return;
    }
    for (; j + VLEN <= k; j += VLEN)
        v_store(to + j, v_integers(v_less_means(type, row, j, means), factor));
    if (j < k)
        v_store_tail(to + j, v_integers(v_load(last), factor), v_tail(k - j));
}

/* Functions of one row, and a table of them by type; the entry rows_int8 by such a table. */
#define ROW_INT8(name, ...)                                                                                            \
    static QKV_NOINLINE void name(float *to, float *scale, const unsigned char *row, size_t k, const float *means,     \
                                  int are_keys) {                                                                      \
        (void)are_keys;                                                                                                \
        __VA_ARGS__;                                                                                                   \
    }
ROW_INT8(f32_to_floats, row_to_floats(QKV_F32, to, scale, row, k, means))
ROW_INT8(f16_to_floats, row_to_floats(QKV_F16, to, scale, row, k, means))
ROW_INT8(bf16_to_floats, row_to_floats(QKV_BF16, to, scale, row, k, means))
ROW_INT8(q8_0_to_floats, row_to_floats(QKV_Q8_0, to, scale, row, k, means))
ROW_INT8(int8_to_floats, (void)scale; (void)means; widen(to, 0, row, 0, QKV_INT8, 1, k))

#define ROWS_INT8(name, f32, f16, bf16, q8_0, int8)                                                                    \
    static void name(void *dst, ptrdiff_t ldd, float *scales, const void *src, ptrdiff_t stride, int type,             \
                     size_t rows, size_t k, const float *means, int are_keys) {                                        \
        row_function *const row = type == QKV_F16    ? f16                                                             \
                                  : type == QKV_BF16 ? bf16                                                            \
                                  : type == QKV_Q8_0 ? q8_0                                                            \
                                  : type == QKV_INT8 ? int8                                                            \
                                                     : f32;                                                            \
        for (size_t i = 0; i < rows; i++)                                                                              \
            row((float *)dst + (ptrdiff_t)i * ldd, scales + i, (const unsigned char *)src + (ptrdiff_t)i * stride, k,  \
                means, are_keys);                                                                                      \
        v_leave();                                                                                                     \
    }
ROWS_INT8(rows_int8, f32_to_floats, f16_to_floats, bf16_to_floats, q8_0_to_floats, int8_to_floats)

/* VLEN keys of a stored panel, from the r-th on: what they are multiplied by to become integers, 0 where these are all
 * 0, and their scales. */
QKV_INLINE vec keys_factors(int type, const unsigned char *src, size_t r, size_t k, const float *means, float *scales) {
    const size_t row = QKV_PANEL * (size_t)qkv_stored_bytes(type, 1);
    vec largest = v_zero(), rest = v_zero();
    for (size_t c = 0; c < k; c++) {
        const vec stored = v_load_at(type, src + c * row, r), x = means ? v_sub(stored, v_set(means[c])) : stored;
        largest = v_max(largest, v_abs(x));
        rest = v_fma(x, v_zero(), rest);
    }
    const vmask none = m_or(v_less(largest, v_set(0x1p-100f)), v_is_nan(rest));
    const vec scale = v_select(none, rest, v_div(largest, v_set(127.0f)));
    v_store(scales + r, scale);
    return v_select(none, v_zero(), v_div(v_set(127.0f), largest));
}

/* Term c of them. Where the factor is 0 they may be NaN. */
QKV_INLINE vec keys_integers(int type, const unsigned char *src, size_t r, size_t c, const float *means, vec factors) {
    const vec stored = v_load_at(type, src + c * QKV_PANEL * (size_t)qkv_stored_bytes(type, 1), r);
    const vec x = v_round(v_mul(means ? v_sub(stored, v_set(means[c])) : stored, factors));
    return v_select(v_is_nan(x), v_zero(), x);
}

QKV_INLINE void panel_to_floats(int type, float *panel, float *scales, const unsigned char *src, size_t k,
                                const float *means) {
    for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
        const vec factors = keys_factors(type, src, r, k, means, scales);
        for (size_t c = 0; c < k; c++)
            v_store(panel + c * QKV_PANEL + r, keys_integers(type, src, r, c, means, factors));
    }
}

/* Of types that panels may have. */
#define PANEL_INT8(name, panel_function, integers)                                                                     \
    static void name(float *panel, float *scales, const void *src, int type, size_t k, const float *means) {           \
        const unsigned char *from = (const unsigned char *)src;                                                        \
        switch (type) {                                                                                                \
        case QKV_F16: panel_function(QKV_F16, panel, scales, from, k, means); break;                                   \
        case QKV_BF16: panel_function(QKV_BF16, panel, scales, from, k, means); break;                                 \
        case QKV_INT8: integers; break;                                                                                \
        default: panel_function(QKV_F32, panel, scales, from, k, means);                                               \
        }                                                                                                              \
        v_leave();                                                                                                     \
    }
PANEL_INT8(panel_int8, panel_to_floats, widen(panel, QKV_PANEL, src, QKV_PANEL, QKV_INT8, k, QKV_PANEL))

static void scale_scores(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *columns, const float *factors,
                         const float *offsets) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        const vec factor = v_set(factors[i]), offset = v_set(offsets[i]);
        for (size_t j = 0; j < cols; j += VLEN)
            v_store(t + j, v_fma(v_mul(v_load(t + j), v_load(columns + j)), factor, offset));
    }
    v_leave();
}
