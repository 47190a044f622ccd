/* Products of attention in 8 bits: a row of operands is bytes, and a word of a packed key four of its terms. Sixteen
 * products at once are added to a core register.
 *
 * SPDX-License-Identifier: MIT */

/* ------------------------------------------------------------------------------------------------------- operands */

/* What a row is multiplied by to become integers, or 0 where they are all 0, and its scale. */
static float int8_factor(int finite, float largest, float *scale) {
    const float factor = finite && largest >= 0x1p-100f ? 127.0f / largest : 0.0f;
    *scale = !finite ? __builtin_nanf("") : factor > 0 ? largest / 127.0f : 0.0f;
    return factor;
}

/* Elements j … j + n of a stored row, in `to` or where they are. j is a multiple of PART. */
enum { PART = QKV_Q8_0_CHANNELS };
static const float *stored_part(float to[PART], const unsigned char *row, int type, size_t j, size_t n) {
    const unsigned char *from = row + qkv_stored_bytes(type, (int64_t)j);
    if (type == QKV_F32)
        return (const float *)(const void *)from;
    widen(to, 0, from, 0, type, 1, n);
    return to;
}

/* A row with means that flush: by the scalar FPU. */
static QKV_NOINLINE void row_to_bytes_exactly(int8_t *to, float *scale, const unsigned char *row, int type, size_t k,
                                              const float *means) {
    float part[PART], largest = 0, factor = 0;
    int finite = 1;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t j = 0; j < k; j++) {
            const float x = stored_part(part, row, type, j / PART * PART, PART < k ? PART : k)[j % PART] - means[j];
            const float a = x < 0 ? -x : x;
            if (pass == 1)
                to[j] = (int8_t)(factor > 0 ? qkv_int8_element(x, factor) : 0);
            finite = finite && a <= FLT_MAX;
            largest = a > largest ? a : largest;
        }
        if (pass == 0)
            factor = int8_factor(finite, largest, scale);
    }
    FLUSHES_CLEAR();
}

/* VLEN elements of a part, less means. */
QKV_INLINE vec less_means(const float *part, size_t j, size_t i, const float *means, mve_pred16_t lanes) {
    const vec x = vldrwq_z_f32(part + i, lanes);
    return means ? vsubq_f32(x, vldrwq_z_f32(means + j + i, lanes)) : x;
}

/* Without means nothing depends on a subnormal (quantize_terms); with them, the difference does. In place, too: no
 * element is read after bytes were written there. */
static void row_to_bytes(int8_t *to, float *scale, const unsigned char *row, int type, size_t k, const float *means) {
    float part[PART], largest = 0;
    vec rest = vdupq_n_f32(0); /* a NaN where an element is one, or infinite */
    for (size_t j = 0; j < k; j += PART) {
        const size_t n = k - j < PART ? k - j : PART;
        const float *x = stored_part(part, row, type, j, n);
        for (size_t i = 0; i < n; i += VLEN) {
            const vec y = less_means(x, j, i, means, lanes_of(n - i));
            largest = vmaxnmavq_f32(largest, y);
            rest = vfmaq_n_f32(rest, y, 0.0f);
        }
    }
    V_ORDERED(rest);
    if (means && was_flushed()) {
        FLUSHES_CLEAR();
        row_to_bytes_exactly(to, scale, row, type, k, means);
        return;
    }
    const float factor = int8_factor(vcmpneq_f32(rest, rest) == 0, largest, scale);
    for (size_t j = 0; j < k; j += PART) {
        const size_t n = k - j < PART ? k - j : PART;
        const float *x = stored_part(part, row, type, j, n);
        for (size_t i = 0; i < n; i += VLEN) {
            const mve_pred16_t lanes = lanes_of(n - i);
            const vec y = vmulq_n_f32(less_means(x, j, i, means, lanes), factor);
            vstrbq_p_s32(to + j + i, factor > 0 ? vcvtnq_s32_f32(y) : vdupq_n_s32(0), lanes);
        }
    }
}

/* Bytes up to a whole word of a key are 0. */
static void rows_int8_dots(void *dst, ptrdiff_t ldd, float *scales, const void *src, ptrdiff_t stride, int type,
                           size_t rows, size_t k, const float *means, int are_keys) {
    (void)are_keys;
    const uint32_t flags = flushes_begin();
    for (size_t i = 0; i < rows; i++) {
        const unsigned char *from = (const unsigned char *)src + (ptrdiff_t)i * stride;
        int8_t *to = (int8_t *)dst + (ptrdiff_t)i * ldd * (ptrdiff_t)sizeof(float);
        if (type == QKV_INT8)
            memmove(to, from, k);
        else
            row_to_bytes(to, scales + i, from, type, k, means);
        for (size_t x = k; x % 4 != 0; x++)
            to[x] = 0;
        FLUSHES_CLEAR();
    }
    flushes_end(flags);
}

/* Term c of VLEN keys, less its mean. */
QKV_INLINE vec term_of_keys(int type, const unsigned char *src, size_t c, const float *means) {
    const vec x = load_stored_lanes(type, src + qkv_stored_bytes(type, (int64_t)(c * QKV_PANEL)), lanes_of(VLEN));
    return means ? vsubq_n_f32(x, means[c]) : x;
}

/* The same element by element, by the scalar FPU. */
static QKV_NOINLINE void keys_to_words_exactly(int type, float *panel, float *scales, const unsigned char *src,
                                               size_t k, const float *means) {
    for (size_t r = 0; r < VLEN; r++, src += qkv_stored_bytes(type, 1)) {
        float largest = 0, factor = 0;
        int finite = 1;
        for (int pass = 0; pass < 2; pass++) {
            for (size_t c = 0; c < k; c++) {
                float x;
                widen(&x, 0, src + qkv_stored_bytes(type, (int64_t)(c * QKV_PANEL)), 0, type, 1, 1);
                x -= means[c];
                const float a = x < 0 ? -x : x;
                if (pass == 1)
                    ((int8_t *)(panel + c / 4 * QKV_PANEL + r))[c % 4] =
                        (int8_t)(factor > 0 ? qkv_int8_element(x, factor) : 0);
                finite = finite && a <= FLT_MAX;
                largest = a > largest ? a : largest;
            }
            if (pass == 0)
                factor = int8_factor(finite, largest, scales + r);
        }
        for (size_t c = k; c % 4 != 0; c++)
            ((int8_t *)(panel + c / 4 * QKV_PANEL + r))[c % 4] = 0;
    }
    FLUSHES_CLEAR();
}

#define INTEGER_OF_KEYS(n, j)                                                                                          \
    if (c + n < k) {                                                                                                   \
        const vec y = vmulq_f32(term_of_keys(type, src, c + n, means), by);                                            \
        word = vsliq_n_u32(word, vreinterpretq_u32_s32(vcvtnq_s32_f32(y)), 8 * n);                                     \
    } else {                                                                                                           \
        word = vsliq_n_u32(word, vdupq_n_u32(0), 8 * n);                                                               \
    }
/* Words of VLEN keys. type is a constant. */
QKV_INLINE void keys_to_words(int type, float *panel, float *scales, const unsigned char *src, size_t k,
                              const float *means) {
    vec largest = vdupq_n_f32(0), rest = largest;
    for (size_t c = 0; c < k; c++) {
        const vec x = term_of_keys(type, src, c, means);
        largest = vmaxnmaq_f32(largest, x);
        rest = vfmaq_n_f32(rest, x, 0.0f);
    }
    V_ORDERED(rest);
    if (means && was_flushed()) {
        FLUSHES_CLEAR();
        keys_to_words_exactly(type, panel, scales, src, k, means);
        return;
    }
    float factors[VLEN], rests[VLEN];
    vstrwq_f32(factors, largest);
    vstrwq_f32(rests, rest);
    for (size_t r = 0; r < VLEN; r++)
        factors[r] = int8_factor(rests[r] == rests[r], factors[r], scales + r);
    const vec by = vldrwq_f32(factors); /* of a NaN, and of 0 by infinity, the integer is 0 */
    for (size_t c = 0; c < k; c += 4) {
        uint32x4_t word = vdupq_n_u32(0);
        QKV_ROWS(4, INTEGER_OF_KEYS, 0)
        vstrwq_f32(panel + c / 4 * QKV_PANEL, vreinterpretq_f32_u32(word));
    }
    FLUSHES_CLEAR();
}

#define BYTE_OF_KEYS(n, j)                                                                                             \
    word = vsliq_n_u32(word, c + n < k ? vldrbq_u32(src + (c + n) * QKV_PANEL) : vdupq_n_u32(0), 8 * n);
QKV_INLINE void bytes_to_words(float *panel, const unsigned char *src, size_t k) {
    for (size_t c = 0; c < k; c += 4) {
        uint32x4_t word = vdupq_n_u32(0);
        QKV_ROWS(4, BYTE_OF_KEYS, 0)
        vstrwq_f32(panel + c / 4 * QKV_PANEL, vreinterpretq_f32_u32(word));
    }
}

static void panel_int8_dots(float *panel, float *scales, const void *src, int type, size_t k, const float *means) {
    const uint32_t flags = flushes_begin();
    for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
        const unsigned char *from = (const unsigned char *)src + qkv_stored_bytes(type, (int64_t)r);
        switch (type) {
        case QKV_F16: keys_to_words(QKV_F16, panel + r, scales + r, from, k, means); break;
        case QKV_BF16: keys_to_words(QKV_BF16, panel + r, scales + r, from, k, means); break;
        case QKV_INT8: bytes_to_words(panel + r, from, k); break;
        default: keys_to_words(QKV_F32, panel + r, scales + r, from, k, means);
        }
    }
    flushes_end(flags);
}

/* -------------------------------------------------------------------------------------------------------- products */

enum { INT8_ROWS = 4 };
typedef int32_t int8_sums[INT8_ROWS][QKV_PANEL];

#define INT8_TERMS(i, j) const int8x16_t a_##i = vldrbq_z_s8(a + i * row, bytes);
#define INT8_DOT(i, j) sums[i][j] = adds ? vmladavaq_s8(sums[i][j], a_##i, w) : vmladavq_s8(a_##i, w);
/* So many rows, `row` bytes apart, by cols keys: up to sixteen terms. Of words that are missing the first one takes the
 * place, as the terms of A are 0 there. adds is a constant. */
#define INT8_PRODUCT(rows)                                                                                             \
    QKV_INLINE void int8_product_##rows(int adds, int8_sums sums, const int8_t *a, ptrdiff_t row,                      \
                                        const unsigned char *b, size_t cols, size_t terms) {                           \
        const uint32x4_t offsets = vpselq_u32(lane_offsets(QKV_WORD_ROW), vdupq_n_u32(0), lanes_of((terms + 3) / 4));  \
        const mve_pred16_t bytes = vctp8q((uint32_t)terms);                                                            \
        QKV_ROWS(rows, INT8_TERMS, 0)                                                                                  \
        for (size_t j = 0; j < cols; j++, b += 4) {                                                                    \
            const int8x16_t w =                                                                                        \
                vreinterpretq_s8_s32(vldrwq_gather_offset_s32((const int32_t *)(const void *)b, offsets));             \
            QKV_ROWS(rows, INT8_DOT, j)                                                                                \
        }                                                                                                              \
    }
INT8_PRODUCT(1)
INT8_PRODUCT(4)
#define INT8_ROWS_OF(name, adds)                                                                                       \
    static QKV_NOINLINE void name(int8_sums sums, const int8_t *a, ptrdiff_t row, size_t rows, const unsigned char *b, \
                                  size_t cols, size_t terms) {                                                         \
        if (rows == INT8_ROWS)                                                                                         \
            int8_product_4(adds, sums, a, row, b, cols, terms);                                                        \
        else                                                                                                           \
            int8_product_1(adds, sums, a, row, b, cols, terms);                                                        \
    }
INT8_ROWS_OF(first_int8_terms, 0)
INT8_ROWS_OF(more_int8_terms, 1)

static void gemm_int8_dots(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                           size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    const int8_t *from = (const int8_t *)a + first;
    const ptrdiff_t row = lda * (ptrdiff_t)sizeof(float);
    const unsigned char *keys = (const unsigned char *)b;
    int8_sums sums;
    for (size_t n; rows > 0; rows -= n, from += (ptrdiff_t)n * row) {
        n = rows >= INT8_ROWS ? INT8_ROWS : 1;
        first_int8_terms(sums, from, row, n, keys, cols, k < 16 ? k : 16);
        for (size_t x = 16; x < k; x += 16)
            more_int8_terms(sums, from + x, row, n, keys + x / 4 * QKV_WORD_ROW, cols, k - x < 16 ? k - x : 16);
        for (size_t i = 0; i < n; i++, c += ldc) {
            for (size_t j = 0; !accumulate && j < cols; j += VLEN)
                vstrwq_f32(c + j, vcvtq_f32_s32(vldrwq_s32(sums[i] + j)));
            for (size_t j = 0; accumulate && j < cols; j++) /* chains of 1024 terms: rare */
                c[j] += (float)sums[i][j];
        }
    }
}
