/* Packed weights: activations in 8 bits, and the product of both by the instruction that adds sixteen products of bytes
 * to a core register.
 *
 * A block of 32 terms of a column is two vectors, gathered from its words in the panel or, of types whose integers
 * have to be spread to bytes, from scratch memory where they are side by side. They meet three rows at a time, whose
 * terms stay in six registers. The sums of a block go to memory and come back as vectors of columns.
 *
 * SPDX-License-Identifier: MIT */

/* rows × 64 sums of a block, or of the half of it that begins at term 16·half. */
enum { WEIGHT_ROWS = 3 };
typedef int32_t block_sums[WEIGHT_ROWS][QKV_PANEL];

/* From word to word of a column, and from column to column, it is so many bytes. */
typedef struct block_bytes {
    const unsigned char *at;
    ptrdiff_t word, column;
} block_bytes;

#define TERMS(i, j) const int8x16_t lower_##i = vldrbq_s8(a[i].q), upper_##i = vldrbq_s8(a[i].q + 16);
#define DOTS(i, j)                                                                                                     \
    sums[i][j] = halves == 0   ? vmladavaq_s8(vmladavq_s8(w, lower_##i), v, upper_##i)                                 \
                 : halves == 1 ? vmladavq_s8(w, lower_##i)                                                             \
                               : vmladavq_s8(v, upper_##i);
/* halves: 0 for all terms, 1 or 2 for one half of them. */
#define DOTS_OF_ROWS(rows)                                                                                             \
    QKV_INLINE void dots_of_##rows(int halves, block_sums sums, const qkv_terms *a, block_bytes b, size_t cols) {      \
        const uint32x4_t offsets = lane_offsets(b.word);                                                               \
        const unsigned char *at = b.at, *after = at + 4 * b.word;                                                      \
        QKV_ROWS(rows, TERMS, 0)                                                                                       \
        for (size_t j = 0; j < cols; j++, at += b.column, after += b.column) {                                         \
            int8x16_t w = vdupq_n_s8(0), v = w;                                                                        \
            if (halves != 2)                                                                                           \
                w = vreinterpretq_s8_s32(vldrwq_gather_offset_s32((const int32_t *)(const void *)at, offsets));        \
            if (halves != 1)                                                                                           \
                v = vreinterpretq_s8_s32(vldrwq_gather_offset_s32((const int32_t *)(const void *)after, offsets));     \
            QKV_ROWS(rows, DOTS, j)                                                                                    \
        }                                                                                                              \
    }
DOTS_OF_ROWS(1)
DOTS_OF_ROWS(3)

#define DOTS_BY_HALVES(name, halves)                                                                                   \
    static QKV_NOINLINE void name(block_sums sums, const qkv_terms *a, size_t rows, block_bytes b, size_t cols) {      \
        if (rows == WEIGHT_ROWS)                                                                                       \
            dots_of_3(halves, sums, a, b, cols);                                                                       \
        else                                                                                                           \
            for (size_t i = 0; i < rows; i++)                                                                          \
                dots_of_1(halves, sums + i, a + i, b, cols);                                                           \
    }
DOTS_BY_HALVES(dots_of_block, 0)
DOTS_BY_HALVES(dots_of_lower, 1)
DOTS_BY_HALVES(dots_of_upper, 2)

/* c[j] = fma(sum, fl(scale·factor), c[j]), and then with a minimum fma(scaled_sum, minimum, c[j]). */
static void add_block(float *c, const int32_t *sums, const qkv_terms *a, const float *factors, const float *minima,
                      size_t cols) {
    for (size_t j = 0; j < cols; j += VLEN) {
        const vec by = vmulq_n_f32(vldrwq_f32(factors + j), a->scale);
        vec y = vfmaq_f32(vldrwq_f32(c + j), vcvtq_f32_s32(vldrwq_s32(sums + j)), by);
        if (minima)
            y = vfmaq_n_f32(y, vldrwq_f32(minima + j), a->scaled_sum);
        V_ORDERED(y);
        vstrwq_f32(c + j, y);
    }
}

/* VLEN columns' word g of a block: the bytes of terms 4g … 4g + 3, as they are stored. 4, 5 or 6 bits. */
static uint32x4_t spread_word(int bits, const unsigned char *integers, int g) {
    const unsigned char *nibbles = integers + (bits - 4 + g / 2) * QKV_WORD_ROW;
    uint32x4_t x = vldrwq_u32((const uint32_t *)(const void *)nibbles);
    x = vandq_u32(g % 2 ? vshrq_n_u32(x, 4) : x, vdupq_n_u32(0x0f0f0f0f));
    if (bits == 4)
        return x;
    const unsigned char *high = integers + (bits == 6 ? g / 4 * QKV_WORD_ROW : 0);
    const int left = bits == 6 ? 4 - g % 4 * 2 : 4 - g;
    const uint32x4_t h = vshlq_r_u32(vldrwq_u32((const uint32_t *)(const void *)high), left);
    return vorrq_u32(x, vandq_u32(h, vdupq_n_u32(bits == 6 ? 0x30303030 : 0x10101010)));
}

/* A block's integers as signed bytes, [column][term]. */
static void spread_block(unsigned char to[QKV_PANEL * QKV_BLOCK_TERMS], int type, const unsigned char *integers,
                         size_t cols) {
    const int bits = qkv_weight_bits(type);
    const uint8x16_t zero = vdupq_n_u8((uint8_t)qkv_weight_zero(type));
    const uint32x4_t offsets = lane_offsets(QKV_BLOCK_TERMS);
    for (size_t j = 0; j < cols; j += VLEN, to += VLEN * QKV_BLOCK_TERMS, integers += VLEN * 4) {
        for (int g = 0; g < 8; g++) {
            const uint8x16_t w = vsubq_u8(vreinterpretq_u8_u32(spread_word(bits, integers, g)), zero);
            vstrwq_scatter_offset_u32((uint32_t *)(void *)(to + 4 * g), offsets, vreinterpretq_u32_u8(w));
        }
    }
}

/* What integers are multiplied by: for terms 0–15, and for terms 16–31 or, with a minimum, that. Products of a binary16
 * and a byte are exact, and no subnormals. */
static void factors_of_block(float factors[2][QKV_PANEL], int type, const unsigned char *panel, size_t block,
                             size_t cols) {
    const unsigned char *heads = qkv_weight_group(type, panel, block), *own = qkv_weight_block(type, panel, block);
    const int minimum = qkv_weight_has_minimum(type), is_k = qkv_weight_scale_bytes(type) > 0;
    for (size_t j = 0; j < cols; j += VLEN) {
        const mve_pred16_t all = lanes_of(VLEN);
        const vec d = load_stored_lanes(QKV_F16, heads + 2 * j, all);
        vec second = minimum ? load_stored_lanes(QKV_F16, heads + QKV_HALF_ROW + 2 * j, all) : d, first = d;
        if (type == QKV_Q6_K) {
            first = vmulq_f32(d, load_stored_lanes(QKV_INT8, own + j, all));
            second = vmulq_f32(d, load_stored_lanes(QKV_INT8, own + QKV_PANEL + j, all));
        } else if (is_k) {
            first = vmulq_f32(d, vcvtq_f32_u32(vldrbq_u32(own + j)));
            second = vnegq_f32(vmulq_f32(second, vcvtq_f32_u32(vldrbq_u32(own + QKV_PANEL + j))));
        }
        vstrwq_f32(factors[0] + j, first);
        vstrwq_f32(factors[1] + j, second);
    }
}

static void multiply_block(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows, int type, block_bytes b,
                           const float factors[2][QKV_PANEL], size_t cols) {
    const float *minima = qkv_weight_has_minimum(type) ? factors[1] : NULL;
    block_sums sums;
    for (size_t n; rows > 0; rows -= n, c += (ptrdiff_t)n * ldc, a += n) {
        n = rows < WEIGHT_ROWS ? rows : WEIGHT_ROWS;
        if (type == QKV_Q6_K) {
            dots_of_lower(sums, a, n, b, cols);
            for (size_t i = 0; i < n; i++)
                add_block(c + (ptrdiff_t)i * ldc, sums[i], a + i, factors[0], NULL, cols);
            dots_of_upper(sums, a, n, b, cols);
            for (size_t i = 0; i < n; i++)
                add_block(c + (ptrdiff_t)i * ldc, sums[i], a + i, factors[1], NULL, cols);
            continue;
        }
        dots_of_block(sums, a, n, b, cols);
        for (size_t i = 0; i < n; i++)
            add_block(c + (ptrdiff_t)i * ldc, sums[i], a + i, factors[0], minima, cols);
    }
}

static void gemm_weights(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *data, int type,
                         size_t rows, size_t cols, size_t k) {
    const unsigned char *panel = (const unsigned char *)data;
    const int in_words = qkv_weight_bits(type) == 8;
    const size_t width = (cols + VLEN - 1) / VLEN * VLEN;
    unsigned char spread[QKV_PANEL * QKV_BLOCK_TERMS];
    float factors[2][QKV_PANEL];
    const uint32_t flags = flushes_begin();
    const vec zero = vdupq_n_f32(0);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < width; j += VLEN)
            vstrwq_f32(c + (ptrdiff_t)i * ldc + j, zero);
    }
    for (size_t j = 0; j < width; j += VLEN)
        vstrwq_f32(factors[0] + j, vdupq_n_f32(1));
    const qkv_terms *terms = a;
    for (size_t block = 0; block * QKV_BLOCK_TERMS < k; block++, terms += lda) {
        const unsigned char *integers = qkv_weight_block(type, panel, block) + qkv_weight_scale_bytes(type);
        block_bytes b = {integers, QKV_WORD_ROW, 4};
        if (!in_words) {
            spread_block(spread, type, integers, width);
            b = (block_bytes){spread, 4, QKV_BLOCK_TERMS};
        }
        if (type != QKV_INT8)
            factors_of_block(factors, type, panel, block, width);
        multiply_block(c, ldc, terms, rows, type, b, factors, width);
    }
    for (size_t i = 0; type == QKV_INT8 && i < rows; i++) {
        for (size_t j = 0; j < width; j += VLEN) {
            float *at = c + (ptrdiff_t)i * ldc + j;
            vec y = vmulq_f32(vldrwq_f32(at), vldrwq_f32((const float *)data + j));
            V_ORDERED(y);
            vstrwq_f32(at, y);
        }
    }
    if (was_flushed())
        qkv_kernels_portable.gemm_weights(c, ldc, a, lda, data, type, rows, cols, k);
    flushes_end(flags);
}

/* ---------------------------------------------------------------------------------------------------- activations */

/* 32 terms. Nothing here depends on a subnormal: with a largest magnitude of 2⁻¹⁰⁰ or more they become 0, below that
 * everything does. */
static void quantize_terms(qkv_terms *to, const float *x) {
    float a = 0;
    vec rest = vdupq_n_f32(0); /* a NaN where a term is one, or infinite */
    for (size_t j = 0; j < QKV_BLOCK_TERMS; j += VLEN) {
        const vec y = vldrwq_f32(x + j);
        a = vmaxnmavq_f32(a, y);
        rest = vfmaq_n_f32(rest, y, 0.0f);
    }
    const int finite = (vcmpneq_f32(rest, rest)) == 0;
    if (!finite || a < 0x1p-100f) {
        memset(to, 0, sizeof *to);
        to->scale = to->scaled_sum = finite ? 0 : __builtin_nanf("");
        return;
    }
    const float factor = 127.0f / a;
    int32_t sums[2] = {0, 0};
    for (size_t j = 0; j < QKV_BLOCK_TERMS; j += VLEN) {
        const int32x4_t q = vcvtnq_s32_f32(vmulq_n_f32(vldrwq_f32(x + j), factor));
        vstrbq_s32(to->q + j, q);
        sums[j / 16] = vaddvaq_s32(sums[j / 16], q);
    }
    to->scale = a / 127.0f;
    to->sum = sums[0] + sums[1];
    to->upper_sum = sums[1];
    to->scaled_sum = to->scale * (float)to->sum;
}

#include "../quantize_rows.inc.h"

static void quantize_rows(qkv_terms *dst, ptrdiff_t ldd, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    quantize_rows_by_terms(dst, ldd, x, ldx, rows, k);
}
