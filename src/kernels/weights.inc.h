/* Template: packed weights: widening, activations in 8 bits, and the product of both in integers.
 *
 * Needs the vector header of an instruction set, inside its target region, storage.inc.h, repeat.h and
 * ../ref/weights.h.
 *
 * The product goes through a panel a block of 32 terms at a time. Eight words hold a row's 32 activations, four in
 * each, and stay in registers while the block's columns pass: in every lane of a vector, four terms of a column are
 * multiplied at once. With few rows the integers of a block are spread to bytes on the way. With more this is done
 * once, in scratch memory, from where an instruction takes each vector. Sums lie in the L1 cache, of WEIGHT_ROWS rows
 * at a time. Meanwhile the panel is fetched WEIGHTS_AHEAD, past its end too: the next one follows it in memory.
 *
 * SPDX-License-Identifier: MIT */

enum {
    WEIGHT_ROWS = 32,
    SPREAD_FROM = 4,                      /* rows */
    WEIGHTS_AHEAD = 4608,                 /* bytes: a page and more, as the CPU's own prefetching ends with one */
    SPREAD_BYTES = (8 + 2) * QKV_WORD_ROW /* words of a block, and what d_bias has of their halves */
};

#define EACH_WORD(f) QKV_ROWS(8, f, 0)

/* The word at p in every lane. */
QKV_INLINE vint i_words(const void *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return i_set(x);
}

/* Word g of a block: the bytes of terms 4g … 4g + 3, as they are stored. bits and g are constants. */
QKV_INLINE vint w_spread(int bits, const unsigned char *integers, int g) {
    if (bits == 8)
        return i_load(integers + g * QKV_WORD_ROW);
    vint x = i_load(integers + (bits - 4 + g / 2) * QKV_WORD_ROW);
    x = i_and(g % 2 ? i_shift(x, -4) : x, i_set(0x0f0f0f0f));
    if (bits == 5)
        x = i_or(x, i_and(i_shift(i_load(integers), 4 - g), i_set(0x10101010)));
    if (bits == 6)
        x = i_or(x, i_and(i_shift(i_load(integers + g / 4 * QKV_WORD_ROW), 4 - g % 4 * 2), i_set(0x30303030)));
    return x;
}

/* What the integers of a block are multiplied by: for terms 0–15, and for terms 16–31 or, with a minimum, that. What a
 * type has one of is written once. */
typedef void factors_function(float factors[2 * QKV_PANEL], const unsigned char *group, const unsigned char *block);

static QKV_NOINLINE void block_scales(float factors[2 * QKV_PANEL], const unsigned char *group,
                                      const unsigned char *block) {
    (void)block;
    for (size_t j = 0; j < QKV_PANEL; j += VLEN)
        v_store(factors + j, v_load_f16(group + 2 * j));
}

static QKV_NOINLINE void block_scales_and_minima(float factors[2 * QKV_PANEL], const unsigned char *group,
                                                 const unsigned char *block) {
    (void)block;
    for (size_t j = 0; j < 2 * QKV_PANEL; j += VLEN)
        v_store(factors + j, v_load_f16(group + 2 * j));
}

static QKV_NOINLINE void block_products(float factors[2 * QKV_PANEL], const unsigned char *group,
                                        const unsigned char *block) {
    for (size_t j = 0; j < QKV_PANEL; j += VLEN) {
        vec minima = v_mul(v_load_f16(group + QKV_HALF_ROW + 2 * j), v_load_u8(block + QKV_PANEL + j));
        v_store(factors + j, v_mul(v_load_f16(group + 2 * j), v_load_u8(block + j)));
        v_store(factors + QKV_PANEL + j, v_mul(minima, v_set(-1.0f))); /* of 0, too */
    }
}

static QKV_NOINLINE void block_half_scales(float factors[2 * QKV_PANEL], const unsigned char *group,
                                           const unsigned char *block) {
    for (size_t j = 0; j < QKV_PANEL; j += VLEN) {
        vec d = v_load_f16(group + 2 * j);
        v_store(factors + j, v_mul(d, v_load_i8(block + j)));
        v_store(factors + QKV_PANEL + j, v_mul(d, v_load_i8(block + QKV_PANEL + j)));
    }
}

/* ------------------------------------------------------------------------------------------------------ widening */

#define WIDEN_BYTE(i, g)                                                                                               \
    {                                                                                                                  \
        vec x = v_byte(bytes, i), scale = bits == 6 && g >= 4 ? second : first;                                        \
        v_store(dst + (4 * g + i) * QKV_PANEL, minimum ? v_fma(scale, x, second) : v_mul(scale, x));                   \
    }
#define WIDEN_WORD(g, j)                                                                                               \
    {                                                                                                                  \
        vint bytes = w_spread(bits, integers, g);                                                                      \
        if (zero > 0)                                                                                                  \
            bytes = i_sub_bytes(bytes, i_set(0x01010101u * zero));                                                     \
        QKV_COLS(4, WIDEN_BYTE_OF, g)                                                                                  \
    }
#define WIDEN_BYTE_OF(g, i) WIDEN_BYTE(i, g)
QKV_INLINE void widen_block(int bits, unsigned zero, int minimum, float *dst, const unsigned char *integers,
                            const float *factors) {
    for (size_t j = 0; j < QKV_PANEL; j += VLEN, dst += VLEN, integers += 4 * VLEN, factors += VLEN) {
        const vec first = v_load(factors), second = bits == 6 || minimum ? v_load(factors + QKV_PANEL) : first;
        EACH_WORD(WIDEN_WORD)
    }
}

/* ------------------------------------------------------------------------------------------------------- product */

#define TERMS_OF_A(g, j) const vint a_##g = i_words(a->q + 4 * g);
#define ADD_DOTS(g) dots = d_add(dots, w_spread(bits, integers, g), a_##g);
#define ADD_SIGNED_DOTS(g, j) sum = i_add_signed_dots(sum, i_load(integers + g * QKV_WORD_ROW), a_##g);

/* A row, the integers as they are stored. */
QKV_INLINE void multiply_row(int bits, int zero, int minimum, float *c, const qkv_terms *a, size_t cols,
                             const unsigned char *integers, const float *factors) {
    const vec s = v_set(a->scale), scaled_sum = v_set(a->scaled_sum);
    EACH_WORD(TERMS_OF_A)
    /* What the integers say too much, of all terms, or of either half. */
    const vint upper_surplus = i_shift(i_words(&a->upper_sum), 5);
    const vint surplus =
        bits == 6 ? i_sub(i_shift(i_words(&a->sum), 5), upper_surplus) : i_shift(i_words(&a->sum), zero == 8 ? 3 : 4);
    for (size_t j = 0; j < cols; j += VLEN, c += VLEN, integers += 4 * VLEN, factors += VLEN) {
        vint sum, more;
        vdots dots = d_zero();
        vec y = v_load(c);
        if (bits == 8) {
            sum = i_set(0);
            EACH_WORD(ADD_SIGNED_DOTS)
        } else { /* sums of two products fit 16 bits, so many of them: 8 of 4 bits, 4 of 5, 2 of 6 */
            ADD_DOTS(0) ADD_DOTS(1) if (bits == 6) {
                more = i_sum_dots(dots);
                dots = d_zero();
            }
            ADD_DOTS(2) ADD_DOTS(3) if (bits == 6) {
                more = i_sub(i_add(more, i_sum_dots(dots)), surplus);
                y = v_fma(v_from_i(more), v_mul(s, v_load(factors)), y);
                dots = d_zero();
            }
            else if (bits == 5) {
                more = i_sum_dots(dots);
                dots = d_zero();
            }
            ADD_DOTS(4) ADD_DOTS(5) if (bits == 6) {
                more = i_sum_dots(dots);
                dots = d_zero();
            }
            ADD_DOTS(6) ADD_DOTS(7) sum = i_sum_dots(dots);
            sum = bits > 4 ? i_add(sum, more) : sum;
            sum = zero == 0 ? sum : i_sub(sum, bits == 6 ? upper_surplus : surplus);
        }
        y = v_fma(v_from_i(sum), v_mul(s, v_load(factors + (bits == 6 ? QKV_PANEL : 0))), y);
        v_store(c, minimum ? v_fma(scaled_sum, v_load(factors + QKV_PANEL), y) : y);
    }
}

/* The integers of a block less `zero`, spread to [word][column] bytes. */
#define SPREAD_WORD(g, j)                                                                                              \
    {                                                                                                                  \
        vint w = w_spread(bits, integers, g);                                                                          \
        w = zero > 0 ? i_sub_bytes(w, i_set(0x01010101u * zero)) : w;                                                  \
        i_store(spread + g * QKV_WORD_ROW, w);                                                                         \
        bias = d_bias(bits == 6 && g == 4 ? d_zero() : bias, w);                                                       \
        if (bits == 6 && g == 3)                                                                                       \
            d_store(spread + 9 * QKV_WORD_ROW, bias);                                                                  \
    }
QKV_INLINE void spread_block(int bits, unsigned zero, unsigned char *spread, const unsigned char *integers,
                             size_t cols) {
    for (size_t j = 0; j < cols; j += VLEN, spread += 4 * VLEN, integers += 4 * VLEN) {
        vdots bias = d_zero();
        EACH_WORD(SPREAD_WORD)
        d_store(spread + 8 * QKV_WORD_ROW, bias);
    }
}

/* A row, the integers spread. What they were less than stored is in `surplus`. Sums of products may leave 16 bits
 * meanwhile, but they come back. */
#define BIASED_TERMS_OF_A(g, j) const vint a_##g = i_biased(i_words(a->q + 4 * g));
#define ADD_SPREAD(g) dots = d_add_biased(dots, i_load(spread + g * QKV_WORD_ROW), a_##g);
QKV_INLINE void multiply_spread_row(int bits, int surplus, int minimum, float *c, const qkv_terms *a, size_t cols,
                                    const unsigned char *spread, const float *factors) {
    const vec s = v_set(a->scale), scaled_sum = v_set(a->scaled_sum);
    const vint missing = i_shift(i_words(&a->sum), 4); /* where surplus is 16 */
    EACH_WORD(BIASED_TERMS_OF_A)
    for (size_t j = 0; j < cols; j += VLEN, c += VLEN, spread += 4 * VLEN, factors += VLEN) {
        vec y = v_load(c);
        vdots dots = d_load(spread + (bits == 6 ? 9 : 8) * QKV_WORD_ROW);
        ADD_SPREAD(0) ADD_SPREAD(1) ADD_SPREAD(2) ADD_SPREAD(3) if (bits == 6) {
            y = v_fma(v_from_i(i_sum_dots(dots)), v_mul(s, v_load(factors)), y);
            dots = d_load(spread + 8 * QKV_WORD_ROW);
        }
        ADD_SPREAD(4) ADD_SPREAD(5) ADD_SPREAD(6) ADD_SPREAD(7) vint sum = i_sum_dots(dots);
        sum = surplus > 0 ? i_add(sum, missing) : sum;
        y = v_fma(v_from_i(sum), v_mul(s, v_load(factors + (bits == 6 ? QKV_PANEL : 0))), y);
        v_store(c, minimum ? v_fma(scaled_sum, v_load(factors + QKV_PANEL), y) : y);
    }
}

QKV_INLINE void multiply_block(int bits, int zero, int minimum, float *c, ptrdiff_t ldc, const qkv_terms *a,
                               size_t rows, size_t cols, const unsigned char *integers, const float *factors) {
    /* 5 bits have to be signed to fit. */
    const int less = bits == 5 ? 16 : zero;
    if (bits == 8 || rows < SPREAD_FROM) {
        for (; rows > 0; rows--, a++, c += ldc)
            multiply_row(bits, zero, minimum, c, a, cols, integers, factors);
        return;
    }
    _Alignas(64) unsigned char memory[SPREAD_BYTES];
    unsigned char *spread = memory;
    QKV_OPAQUE(spread); /* a register of its own: what is left on the stack pointer is what compilers spill */
    spread_block(bits, (unsigned)less, spread, integers, cols);
    for (; rows > 0; rows--, a++, c += ldc)
        multiply_spread_row(bits, less - zero, minimum, c, a, cols, spread, factors);
}

/* ------------------------------------------------------------------------------------------- by kinds of integers */

typedef void widen_function(float *dst, const unsigned char *integers, const float *factors);
typedef void product_function(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows, size_t cols,
                              const unsigned char *integers, const float *factors);

/* f(bits, zero, minimum) for every kind of integers, and functions of these kinds by type. */
#define EACH_WEIGHT_KIND(f) f(4, 8, 0) f(4, 0, 1) f(5, 16, 0) f(5, 0, 1) f(6, 32, 0) f(8, 0, 0)
#define BY_WEIGHT_TYPE(name)                                                                                           \
    {                                                                                                                  \
        [QKV_Q8_0] = name##_8_0, [QKV_INT8] = name##_8_0, [QKV_Q4_0] = name##_4_8, [QKV_Q4_1] = name##_4_0,            \
        [QKV_Q5_0] = name##_5_16, [QKV_Q5_1] = name##_5_0, [QKV_Q4_K] = name##_4_0, [QKV_Q5_K] = name##_5_0,           \
        [QKV_Q6_K] = name##_6_32                                                                                       \
    }

#define WIDEN_KIND(bits, zero, minimum)                                                                                \
    static QKV_NOINLINE void widen_weights_##bits##_##zero(float *dst, const unsigned char *integers,                  \
                                                           const float *factors) {                                     \
        widen_block(bits, zero, minimum, dst, integers, factors);                                                      \
    }
#define PRODUCT_KIND(name, block, bits, zero, minimum)                                                                 \
    static QKV_NOINLINE void name##_##bits##_##zero(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows,          \
                                                    size_t cols, const unsigned char *integers,                        \
                                                    const float *factors) {                                            \
        block(bits, zero, minimum, c, ldc, a, rows, cols, integers, factors);                                          \
    }
#define GEMM_KIND(bits, zero, minimum) PRODUCT_KIND(gemm_weights, multiply_block, bits, zero, minimum)
EACH_WEIGHT_KIND(WIDEN_KIND)
EACH_WEIGHT_KIND(GEMM_KIND)

static widen_function *const widen_kinds[] = BY_WEIGHT_TYPE(widen_weights);
static product_function *const gemm_kinds[] = BY_WEIGHT_TYPE(gemm_weights);
/* NULL: of QKV_INT8, whose factors are those of the panel, or 1. */
static factors_function *const factors_of_type[] = {
    [QKV_Q8_0] = block_scales,      [QKV_INT8] = NULL,
    [QKV_Q4_0] = block_scales,      [QKV_Q4_1] = block_scales_and_minima,
    [QKV_Q5_0] = block_scales,      [QKV_Q5_1] = block_scales_and_minima,
    [QKV_Q4_K] = block_products,    [QKV_Q5_K] = block_products,
    [QKV_Q6_K] = block_half_scales,
};

/* The blocks of a panel one after the other. */
typedef struct weight_blocks {
    const unsigned char *group, *block, *integers;
    size_t left; /* in the group, this one counted */
    size_t group_blocks, head_bytes, scale_bytes, block_bytes;
} weight_blocks;

QKV_INLINE weight_blocks weight_blocks_from(int type, const unsigned char *panel, size_t number) {
    weight_blocks at = {qkv_weight_group(type, panel, number),
                        qkv_weight_block(type, panel, number),
                        qkv_weight_block(type, panel, number) + qkv_weight_scale_bytes(type),
                        qkv_weight_group_blocks(type) - number % qkv_weight_group_blocks(type),
                        qkv_weight_group_blocks(type),
                        qkv_weight_head_bytes(type),
                        qkv_weight_scale_bytes(type),
                        qkv_weight_block_bytes(type)};
    return at;
}
QKV_INLINE void weight_blocks_next(weight_blocks *at) {
    at->block += at->block_bytes;
    if (--at->left == 0) {
        at->group = at->block;
        at->block += at->head_bytes;
        at->left = at->group_blocks;
    }
    at->integers = at->block + at->scale_bytes;
}

static void widen_weights(float *dst, const void *panel, int type, size_t first, size_t k) {
    if (qkv_weight_bits(type) == 0) {
        const int64_t row = QKV_PANEL * qkv_stored_bytes(type, 1);
        widen(dst, QKV_PANEL, (const unsigned char *)panel + (int64_t)first * row, (ptrdiff_t)row, type, k, QKV_PANEL);
        return;
    }
    factors_function *const make_factors = factors_of_type[type];
    weight_blocks at = weight_blocks_from(type, (const unsigned char *)panel, first / QKV_BLOCK_TERMS);
    _Alignas(64) float factors[2 * QKV_PANEL];
    if (type == QKV_INT8)
        memcpy(factors, panel, QKV_WORD_ROW);
    for (size_t x = 0; x < k; x += QKV_BLOCK_TERMS, dst += QKV_BLOCK_TERMS * QKV_PANEL) {
        if (make_factors)
            make_factors(factors, at.group, at.block);
        widen_kinds[type](dst, at.integers, factors);
        weight_blocks_next(&at);
    }
    v_leave();
}

/* Lines from `at` on, as many as there are in multiples of 128 bytes, which all parts of panels are. */
QKV_INLINE void fetch_weights(const unsigned char *at, const unsigned char *end) {
    for (; at < end; at += 2 * CACHE_LINE) {
        __builtin_prefetch(at, 0, 3);
        __builtin_prefetch(at + CACHE_LINE, 0, 3);
    }
}

/* The entry gemm_weights, a block by `product`. */
static void gemm_by_blocks(product_function *product, float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda,
                           const void *panel, int type, size_t rows, size_t cols, size_t k) {
    factors_function *const make_factors = factors_of_type[type];
    const size_t width = (cols + QKV_LANES - 1) / QKV_LANES * QKV_LANES; /* products may read what they write */
    _Alignas(64) float factors[2 * QKV_PANEL];
    for (size_t n; rows > 0; rows -= n, c += (ptrdiff_t)n * ldc, a += n) {
        n = rows < WEIGHT_ROWS ? rows : WEIGHT_ROWS;
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < width; j += VLEN)
                v_store(c + (ptrdiff_t)i * ldc + j, v_zero());
        }
        for (size_t j = 0; j < QKV_PANEL; j += VLEN)
            v_store(factors + j, v_set(1.0f));
        const qkv_terms *terms = a;
        weight_blocks at = weight_blocks_from(type, (const unsigned char *)panel, 0);
        for (size_t x = 0; x < k; x += QKV_BLOCK_TERMS, terms += lda) {
            if (make_factors)
                make_factors(factors, at.group, at.block);
            const unsigned char *block = at.block;
            product(c, ldc, terms, n, cols, at.integers, factors);
            weight_blocks_next(&at);
            fetch_weights(block + WEIGHTS_AHEAD, at.block + WEIGHTS_AHEAD);
        }
        if (type == QKV_INT8) {
            memcpy(factors, panel, QKV_WORD_ROW);
            scale_columns(c, ldc, n, cols, factors);
        }
    }
    v_leave();
}

static void gemm_weights(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *panel, int type,
                         size_t rows, size_t cols, size_t k) {
    gemm_by_blocks(gemm_kinds[type], c, ldc, a, lda, panel, type, rows, cols, k);
}

/* ---------------------------------------------------------------------------------------------------- activations */

#define EACH_TERM_VECTOR(f) QKV_ROWS(8, IF_TERM_VECTOR, f)
#define IF_TERM_VECTOR(i, f)                                                                                           \
    if (i * VLEN < QKV_BLOCK_TERMS) {                                                                                  \
        f(i)                                                                                                           \
    }
#define LOOK_AT_TERMS(i)                                                                                               \
    y[i] = v_load(x + i * VLEN);                                                                                       \
    largest = v_max(largest, v_abs(y[i]));                                                                             \
    rest = v_fma(y[i], v_zero(), rest);
#define QUANTIZE_TERMS(i)                                                                                              \
    y[i] = v_round(v_mul(y[i], factor));                                                                               \
    v_store_i8(to->q + i * VLEN, y[i]);

QKV_INLINE void quantize_terms(qkv_terms *to, const float *x) {
    vec y[8], largest = v_zero(), rest = v_zero(); /* rest: a NaN where a term is one, or infinite */
    EACH_TERM_VECTOR(LOOK_AT_TERMS)
    const float a = v_reduce_max(largest);
    if (m_any(v_is_nan(rest)) || a < 0x1p-100f) {
        memset(to, 0, sizeof *to);
        to->scale = to->scaled_sum = m_any(v_is_nan(rest)) ? __builtin_nanf("") : 0;
        return;
    }
    const vec factor = v_set(127.0f / a);
    to->scale = a / 127.0f;
    EACH_TERM_VECTOR(QUANTIZE_TERMS)
    const float lower = v_sum_lanes(y), upper = v_sum_lanes(y + LANE_VECTORS); /* exact */
    to->sum = (int32_t)(lower + upper);
    to->upper_sum = (int32_t)upper;
    to->scaled_sum = to->scale * (float)to->sum;
}

#include "quantize_rows.inc.h"

static void quantize_rows(qkv_terms *dst, ptrdiff_t ldd, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    quantize_rows_by_terms(dst, ldd, x, ldx, rows, k);
    v_leave();
}
