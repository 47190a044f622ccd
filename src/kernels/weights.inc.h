/* Template: packed weights: widening, activations in 8 bits, and the product of both in integers.
 *
 * Needs the vector header of an instruction set, inside its target region, storage.inc.h, repeat.h and
 * ../ref/weights.h.
 *
 * A step of the product takes a block of 32 terms and a vector of columns: its integers are spread to eight vectors of
 * bytes, four terms of a column side by side, which stay in registers while all rows pass over them, four terms at a
 * time in every column. That multiplies 32 terms by 8 products of bytes, and is the same for one row and for many. The
 * sums lie in the L1 cache: WEIGHT_ROWS at a time.
 *
 * SPDX-License-Identifier: MIT */

enum { WEIGHT_ROWS = 32 };

#define EACH_WORD(f) QKV_ROWS(8, f, 0)

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

/* What the integers of a block are multiplied by: for terms 0–15, and for terms 16–31 or, with a minimum, that. Of
 * QKV_INT8: 1. */
static QKV_NOINLINE void block_factors(float factors[2 * QKV_PANEL], int type, const unsigned char *group,
                                       const unsigned char *block) {
    for (size_t j = 0; j < QKV_PANEL; j += VLEN) {
        vec first = type == QKV_INT8 ? v_set(1.0f) : v_load_f16(group + 2 * j), second = first;
        if (type == QKV_Q6_K) {
            second = v_mul(first, v_load_i8(block + QKV_PANEL + j));
            first = v_mul(first, v_load_i8(block + j));
        } else if (qkv_weight_has_minimum(type)) {
            second = v_load_f16(group + QKV_HALF_ROW + 2 * j);
            if (qkv_weight_scale_bytes(type) > 0) {
                first = v_mul(first, v_load_u8(block + j));
                second = v_mul(v_mul(second, v_load_u8(block + QKV_PANEL + j)), v_set(-1.0f)); /* -0 of 0, too */
            }
        }
        v_store(factors + j, first);
        v_store(factors + QKV_PANEL + j, second);
    }
}

/* ------------------------------------------------------------------------------------------------------ widening */

#define WIDEN_BYTE(i, g)                                                                                             \
    {                                                                                                                \
        vec x = v_byte(bytes, i), scale = bits == 6 && g >= 4 ? second : first;                                      \
        v_store(dst + (4 * g + i) * QKV_PANEL, minimum ? v_fma(scale, x, second) : v_mul(scale, x));                 \
    }
#define WIDEN_WORD(g, j)                                                                                             \
    {                                                                                                                \
        vint bytes = w_spread(bits, integers, g);                                                                    \
        if (zero > 0)                                                                                                \
            bytes = i_sub_bytes(bytes, i_set(0x01010101u * zero));                                                   \
        QKV_COLS(4, WIDEN_BYTE_OF, g)                                                                                \
    }
#define WIDEN_BYTE_OF(g, i) WIDEN_BYTE(i, g)
QKV_INLINE void widen_block(int bits, unsigned zero, int minimum, float *dst, const unsigned char *integers,
                            const float *factors) {
    for (size_t j = 0; j < QKV_PANEL; j += VLEN, dst += VLEN, integers += 4 * VLEN, factors += VLEN) {
        vec first = v_load(factors), second = v_load(factors + QKV_PANEL);
        EACH_WORD(WIDEN_WORD)
    }
}

/* ------------------------------------------------------------------------------------------------------- product */

#define SPREAD_WORD(g, j) vint w_##g = bits == 8 ? i_magnitude(w_spread(8, integers, g)) : w_spread(bits, integers, g);
#define TERMS_OF_A(g) i_words(a->q + 4 * g)
#define ADD_DOTS(g) dots = d_add(dots, w_##g, TERMS_OF_A(g));
#define SIGNED_DOTS(g, next)                                                                                         \
    i_dots_signed(w_##g, i_load(stored + g * QKV_WORD_ROW), TERMS_OF_A(g), w_##next,                                 \
                  i_load(stored + next * QKV_WORD_ROW), TERMS_OF_A(next))

/* Sums of so many products fit 16 bits: 8 words of 4 bits, 4 of 5, 2 of 6. */
#define DOTS_8(sum)                                                                                                  \
    {                                                                                                                \
        vdots dots = d_zero();                                                                                       \
        ADD_DOTS(0) ADD_DOTS(1) ADD_DOTS(2) ADD_DOTS(3) ADD_DOTS(4) ADD_DOTS(5) ADD_DOTS(6) ADD_DOTS(7)              \
        sum = i_sum_dots(dots);                                                                                      \
    }
#define DOTS_4(sum, g, h, i, j)                                                                                      \
    {                                                                                                                \
        vdots dots = d_zero();                                                                                       \
        ADD_DOTS(g) ADD_DOTS(h) ADD_DOTS(i) ADD_DOTS(j)                                                              \
        sum = i_sum_dots(dots);                                                                                      \
    }
#define DOTS_2(sum, g, h)                                                                                            \
    {                                                                                                                \
        vdots dots = d_zero();                                                                                       \
        ADD_DOTS(g) ADD_DOTS(h)                                                                                      \
        sum = i_sum_dots(dots);                                                                                      \
    }

QKV_INLINE void multiply_block(int bits, int zero, int minimum, float *c, ptrdiff_t ldc, const qkv_terms *terms,
                               size_t rows, size_t cols, const unsigned char *integers, const float *factors) {
    for (size_t j = 0; j < cols; j += VLEN, integers += 4 * VLEN, factors += VLEN) {
        const vec first = v_load(factors), second = v_load(factors + QKV_PANEL);
        const qkv_terms *a = terms;
        float *row = c + j;
        EACH_WORD(SPREAD_WORD)
        for (size_t i = rows; i > 0; i--, a++, row += ldc) {
            const unsigned char *stored = integers;
            vec y = v_load(row), s = v_set(a->scale);
            vint sum, more;
            if (bits == 4) {
                DOTS_8(sum)
            } else if (bits == 5) {
                DOTS_4(sum, 0, 1, 2, 3)
                DOTS_4(more, 4, 5, 6, 7)
                sum = i_add(sum, more);
            } else if (bits == 6) {
                vint lower, upper = i_words(&a->upper_sum);
                DOTS_2(sum, 0, 1)
                DOTS_2(more, 2, 3)
                lower = i_add(sum, more);
                lower = i_sub(lower, i_shift(i_sub(i_words(&a->sum), upper), 5));
                y = v_fma(v_from_i(lower), v_mul(s, first), y);
                DOTS_2(sum, 4, 5)
                DOTS_2(more, 6, 7)
                sum = i_sub(i_add(sum, more), i_shift(upper, 5));
            } else {
                QKV_OPAQUE(stored); /* or compilers load all of it before the loop, into more registers than there are */
                sum = i_add(SIGNED_DOTS(0, 1), SIGNED_DOTS(2, 3));
                more = i_add(SIGNED_DOTS(4, 5), SIGNED_DOTS(6, 7));
                sum = i_add(sum, more);
            }
            if (bits < 6 && zero > 0)
                sum = i_sub(sum, i_shift(i_words(&a->sum), zero == 8 ? 3 : 4));
            y = v_fma(v_from_i(sum), v_mul(s, bits == 6 ? second : first), y);
            if (minimum)
                y = v_fma(v_set(a->scaled_sum), second, y);
            v_store(row, y);
        }
    }
}

/* ------------------------------------------------------------------------------------------- by kinds of integers */

typedef void widen_function(float *dst, const unsigned char *integers, const float *factors);
typedef void product_function(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows, size_t cols,
                              const unsigned char *integers, const float *factors);

#define WEIGHT_FUNCTIONS(bits, zero, minimum)                                                                        \
    static QKV_NOINLINE void widen_weights_##bits##_##zero(float *dst, const unsigned char *integers,                \
                                                           const float *factors) {                                   \
        widen_block(bits, zero, minimum, dst, integers, factors);                                                    \
    }                                                                                                                \
    static QKV_NOINLINE void gemm_weights_##bits##_##zero(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows,  \
                                                          size_t cols, const unsigned char *integers,                \
                                                          const float *factors) {                                    \
        multiply_block(bits, zero, minimum, c, ldc, a, rows, cols, integers, factors);                               \
    }
WEIGHT_FUNCTIONS(4, 8, 0)
WEIGHT_FUNCTIONS(4, 0, 1)
WEIGHT_FUNCTIONS(5, 16, 0)
WEIGHT_FUNCTIONS(5, 0, 1)
WEIGHT_FUNCTIONS(6, 32, 0)
WEIGHT_FUNCTIONS(8, 0, 0)

typedef struct weight_functions {
    widen_function *widen;
    product_function *product;
} weight_functions;

#define WEIGHT_KIND(bits, zero) {widen_weights_##bits##_##zero, gemm_weights_##bits##_##zero}
static const weight_functions weight_kinds[] = {
    [QKV_Q8_0] = WEIGHT_KIND(8, 0),  [QKV_INT8] = WEIGHT_KIND(8, 0), [QKV_Q4_0] = WEIGHT_KIND(4, 8),
    [QKV_Q4_1] = WEIGHT_KIND(4, 0),  [QKV_Q5_0] = WEIGHT_KIND(5, 16), [QKV_Q5_1] = WEIGHT_KIND(5, 0),
    [QKV_Q4_K] = WEIGHT_KIND(4, 0),  [QKV_Q5_K] = WEIGHT_KIND(5, 0), [QKV_Q6_K] = WEIGHT_KIND(6, 32),
};

/* The blocks of a panel one after the other. */
typedef struct weight_blocks {
    const unsigned char *group, *block, *integers;
    size_t left; /* in the group, this one counted */
} weight_blocks;

QKV_INLINE void weight_blocks_place(weight_blocks *at, int type, const unsigned char *block) {
    at->block = block;
    at->integers = block + qkv_weight_scale_bytes(type);
}
QKV_INLINE weight_blocks weight_blocks_from(int type, const void *panel, size_t number) {
    weight_blocks at = {.group = qkv_weight_group(type, (const unsigned char *)panel, number)};
    at.left = qkv_weight_group_blocks(type) - number % qkv_weight_group_blocks(type);
    weight_blocks_place(&at, type, qkv_weight_block(type, (const unsigned char *)panel, number));
    return at;
}
QKV_INLINE void weight_blocks_next(weight_blocks *at, int type) {
    const unsigned char *end = at->block + qkv_weight_block_bytes(type);
    if (--at->left == 0) {
        at->group = end;
        at->left = qkv_weight_group_blocks(type);
        end += qkv_weight_head_bytes(type);
    }
    weight_blocks_place(at, type, end);
}

static void widen_weights(float *dst, const void *panel, int type, size_t first, size_t k) {
    float factors[2 * QKV_PANEL];
    if (qkv_weight_bits(type) == 0) {
        const int64_t row = QKV_PANEL * qkv_stored_bytes(type, 1);
        widen(dst, QKV_PANEL, (const unsigned char *)panel + (int64_t)first * row, (ptrdiff_t)row, type, k, QKV_PANEL);
        return;
    }
    weight_blocks at = weight_blocks_from(type, panel, first / QKV_BLOCK_TERMS);
    for (size_t x = 0; x < k; x += QKV_BLOCK_TERMS, dst += QKV_BLOCK_TERMS * QKV_PANEL) {
        if (type == QKV_INT8)
            memcpy(factors, panel, QKV_WORD_ROW);
        else
            block_factors(factors, type, at.group, at.block);
        weight_kinds[type].widen(dst, at.integers, factors);
        weight_blocks_next(&at, type);
    }
    v_leave();
}

static void gemm_weights(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *panel, int type,
                         size_t rows, size_t cols, size_t k) {
    product_function *const product = weight_kinds[type].product;
    float factors[2 * QKV_PANEL];
    for (size_t n; rows > 0; rows -= n, c += (ptrdiff_t)n * ldc, a += n) {
        n = rows < WEIGHT_ROWS ? rows : WEIGHT_ROWS;
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < cols; j += VLEN)
                v_store(c + (ptrdiff_t)i * ldc + j, v_zero());
        }
        const qkv_terms *terms = a;
        weight_blocks at = weight_blocks_from(type, panel, 0);
        for (size_t x = 0; x < k; x += QKV_BLOCK_TERMS, terms += lda) {
            block_factors(factors, type, at.group, at.block);
            product(c, ldc, terms, n, cols, at.integers, factors);
            weight_blocks_next(&at, type);
        }
        if (type == QKV_INT8) {
            memcpy(factors, panel, QKV_WORD_ROW);
            scale_columns(c, ldc, n, cols, factors);
        }
    }
    v_leave();
}

/* ---------------------------------------------------------------------------------------------------- activations */

#define EACH_TERM_VECTOR(f) QKV_ROWS(8, IF_TERM_VECTOR, f)
#define IF_TERM_VECTOR(i, f) if (i * VLEN < QKV_BLOCK_TERMS) { f(i) }
#define LOOK_AT_TERMS(i)                                                                                             \
    y[i] = v_load(x + i * VLEN);                                                                                     \
    largest = v_max(largest, v_abs(y[i]));                                                                           \
    rest = v_fma(y[i], v_zero(), rest);
#define QUANTIZE_TERMS(i)                                                                                            \
    y[i] = v_round(v_mul(y[i], factor));                                                                             \
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

static void quantize_rows(qkv_terms *dst, ptrdiff_t ldd, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *row = x + (ptrdiff_t)i * ldx;
        qkv_terms *to = dst + i;
        size_t left = k;
        for (; left >= QKV_BLOCK_TERMS; left -= QKV_BLOCK_TERMS, row += QKV_BLOCK_TERMS, to += ldd)
            quantize_terms(to, row);
        if (left > 0) {
            float last[QKV_BLOCK_TERMS] = {0};
            memcpy(last, row, left * sizeof *last);
            quantize_terms(to, last);
        }
    }
    v_leave();
}
