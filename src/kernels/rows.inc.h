/* Template: everything that works on rows of scores and outputs: logit steps, softmax, fold, and the functions they
 * need.
 *
 * Needs the vector header of an instruction set, inside its target region, and ../ref/scalar.h for the coefficients'
 * meaning and for log.
 *
 * SPDX-License-Identifier: MIT */

/* The polynomials of qkv_exp2_fraction and qkv_exp2_for_bf16, from their highest powers down. */
enum { EXP2_DEGREE = 6, BF16_EXP2_DEGREE = 4 };
static const float exp2_least = -126.0f, bf16_exp2_least = -56.0f;
static const float exp2_coefficients[EXP2_DEGREE + 1] = {
    0x1.41fbbcp-13f, 0x1.5f3e52p-10f, 0x1.3b2d4cp-7f, 0x1.c6aee8p-5f, 0x1.ebfbdcp-3f, 0x1.62e430p-1f, 1.0f};
static const float bf16_exp2_coefficients[BF16_EXP2_DEGREE + 1] = {0x1.3a02d2p-7f, 0x1.c9fc48p-5f, 0x1.ec0378p-3f,
                                                                   0x1.62e12cp-1f, 1.0f};

/* The most exponentials at once that registers have room for, and the vectors of 16 lanes. */
enum { EXP2_VECTORS = VLEN == 8 ? 2 : 4, LANE_VECTORS = QKV_LANES / VLEN };

/* 2^f, lane by lane, for `count` ≤ 4 vectors, a constant: step by step through all of them, since a CPU that waits for
 * one chain after the other runs out of places to keep what waits. */
#define FRACTION_FIRST(i, j)                                                                                           \
    if (i < count)                                                                                                     \
        p[i] = v_set(coefficients[0]);
#define FRACTION_FMA(i, j)                                                                                             \
    if (i < count)                                                                                                     \
        p[i] = v_fma(p[i], f[i], c);
#define FRACTION_POWER(i, power)                                                                                       \
    if (power < degree) {                                                                                              \
        vec c = v_set(coefficients[power + 1]);                                                                        \
        QKV_ROWS(4, FRACTION_FMA, 0)                                                                                   \
    }
QKV_INLINE void v_exp2_fractions(vec *p, const vec *f, int count, int degree) {
    const float *coefficients = degree == EXP2_DEGREE ? exp2_coefficients : bf16_exp2_coefficients;
    QKV_ROWS(4, FRACTION_FIRST, 0)
    QKV_COLS(6, FRACTION_POWER, 0)
}

QKV_INLINE vec v_exp2_fraction(vec f) {
    vec p;
    v_exp2_fractions(&p, &f, 1, EXP2_DEGREE);
    return p;
}

/* qkv_exp2, lane by lane. */
#define EXP2_ROUND(i, j)                                                                                               \
    if (i < count)                                                                                                     \
        n[i] = v_round(y[i]);
#define EXP2_REST(i, j)                                                                                                \
    if (i < count)                                                                                                     \
        f[i] = v_sub(y[i], n[i]);
#define EXP2_SCALE(i, j)                                                                                               \
    if (i < count)                                                                                                     \
        y[i] = v_exp2_scale(p[i], n[i], y[i], degree == EXP2_DEGREE ? exp2_least : bf16_exp2_least);
QKV_INLINE void v_exp2s(vec *y, int count, int degree) {
    vec n[4], f[4], p[4];
    QKV_ROWS(4, EXP2_ROUND, 0)
    QKV_ROWS(4, EXP2_REST, 0)
    v_exp2_fractions(p, f, count, degree);
    QKV_ROWS(4, EXP2_SCALE, 0)
}

QKV_INLINE vec v_exp2(vec y) {
    v_exp2s(&y, 1, EXP2_DEGREE);
    return y;
}

/* qkv_tanh, lane by lane: both branches, then a select, then the sign. */
QKV_INLINE vec v_tanh(vec x) {
    vec a = v_abs(x);
    vec z = v_mul(a, a);
    vec p = v_set(0x1.c76de8p-10f);
    p = v_fma(p, z, v_set(-0x1.f5dd60p-8f));
    p = v_fma(p, z, v_set(0x1.5f79c0p-6f));
    p = v_fma(p, z, v_set(-0x1.b97d6ap-5f));
    p = v_fma(p, z, v_set(0x1.110db8p-3f));
    p = v_fma(p, z, v_set(-0x1.55554ap-2f));
    vec small = v_fma(v_mul(a, z), p, a);

    vec one = v_set(1.0f), minus_2l = v_set(-2 * QKV_LOG2E);
    vec y = v_mul(a, minus_2l);
    vec n = v_round(y);
    vec f = v_fma(a, minus_2l, v_sub(v_zero(), n));
    f = v_fma(a, v_set(-2 * 0x1.4ae0cp-26f), f);
    vec e = v_exp2_scale(v_exp2_fraction(f), n, y, exp2_least);
    vec e2 = v_add(e, e);
    vec s = v_add(one, e);
    vec low = v_sub(e, v_sub(s, one));
    vec inverse = v_div(one, s);
    vec g = v_mul(e2, inverse);
    vec r = v_fnma(g, s, e2);
    r = v_fnma(g, low, r);
    vec h = v_sub(one, g);
    vec large = v_add(h, v_fnma(r, inverse, v_sub(v_sub(one, h), g)));
    return v_sign_of(v_select(v_less(a, v_set(0.75f)), small, large), x);
}

/* One vector of logits through the steps, of which bias and keep have been loaded. */
QKV_INLINE vec logit_vector(vec x, const qkv_logit_steps *steps, vec distance, vec bias, vmask hidden) {
    vec minus_infinity = v_set(QKV_MINUS_INFINITY);
    if (steps->cap != 0)
        x = v_mul(v_set(steps->cap), v_tanh(x));
    if (steps->distance)
        x = v_fma(v_set(steps->slope), distance, x);
    if (steps->bias) {
        vec scaled = v_max(v_set(-FLT_MAX), v_mul(bias, v_set(QKV_LOG2E))); /* a NaN bias stays: see v_max */
        x = v_select(v_equal(bias, minus_infinity), minus_infinity, v_add(x, scaled));
    }
    return steps->keep ? v_select(hidden, minus_infinity, x) : x;
}

static void logits(float *t, size_t n, const qkv_logit_steps *steps) {
    size_t j = 0;
    vec distance = v_zero(), bias = v_zero();
    vmask hidden = m_none();
    for (; j + VLEN <= n; j += VLEN) {
        if (steps->distance)
            distance = v_load(steps->distance + j);
        if (steps->bias)
            bias = v_load(steps->bias + j);
        if (steps->keep)
            hidden = m_zero_bytes(steps->keep + j);
        v_store(t + j, logit_vector(v_load(t + j), steps, distance, bias, hidden));
    }
    if (j < n) {
        vtail tail = v_tail(n - j);
        if (steps->distance)
            distance = v_load_tail(steps->distance + j, tail);
        if (steps->bias)
            bias = v_load_tail(steps->bias + j, tail);
        if (steps->keep) {
            uint8_t bytes[QKV_LANES] = {0};
            for (size_t i = 0; i < n - j; i++)
                bytes[i] = steps->keep[j + i];
            hidden = m_zero_bytes(bytes);
        }
        v_store_tail(t + j, logit_vector(v_load_tail(t + j, tail), steps, distance, bias, hidden), tail);
    }
    v_leave();
}

#define MAX_BEGIN(i, j)                                                                                                \
    if (i < LANE_VECTORS)                                                                                              \
        max[i] = v_set(-FLT_MAX);
#define MAX_STEP(i, j)                                                                                                 \
    if (i < LANE_VECTORS)                                                                                              \
        max[i] = v_max(max[i], v_load(row + x + i * VLEN));
#define MAX_END(i, j)                                                                                                  \
    if (i > 0 && i < LANE_VECTORS)                                                                                     \
        max[0] = v_max(max[0], max[i]);
QKV_INLINE void row_maxima(const float *t, ptrdiff_t ld, size_t first, size_t end, size_t rows, float *m) {
    for (size_t i = 0; i < rows; i++) {
        const float *row = t + (ptrdiff_t)i * ld;
        vec max[4];
        QKV_ROWS(4, MAX_BEGIN, 0)
        for (size_t x = first; x < end; x += QKV_LANES) {
            QKV_ROWS(4, MAX_STEP, 0)
        }
        QKV_ROWS(4, MAX_END, 0)
        m[i] = v_reduce_max(max[0]);
    }
}

#define SOFTMAX_OF_ROWS softmax_rows
#define WEIGHTS_OF_ROWS weights_of_rows
#define EXP2_DEGREE_OF_WEIGHTS EXP2_DEGREE
#define STORE_WEIGHTS(row, x, p) v_store((row) + (x), p)
#include "softmax.inc.h"

static void softmax(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    softmax_rows(t, ld, 0, cols, rows, m, l);
}

static uint32_t nan_rows(const float *o, ptrdiff_t ld, size_t rows, size_t cols) {
    uint32_t found = 0;
    for (size_t i = 0; i < rows; i++) {
        const float *row = o + (ptrdiff_t)i * ld;
        vmask any = m_none();
        size_t j = 0;
        for (; j + VLEN <= cols; j += VLEN)
            any = m_or(any, v_is_nan(v_load(row + j)));
        if (j < cols)
            any = m_or(any, v_is_nan(v_load_tail(row + j, v_tail(cols - j))));
        if (m_any(any))
            found |= 1u << i;
    }
    v_leave();
    return found;
}

static void exp2_array(float *y, size_t n) {
    size_t j = 0;
    for (; j + VLEN <= n; j += VLEN)
        v_store(y + j, v_exp2(v_load(y + j)));
    if (j < n)
        v_store_tail(y + j, v_exp2(v_load_tail(y + j, v_tail(n - j))), v_tail(n - j));
    v_leave();
}

static void tanh_array(float *x, size_t n) {
    size_t j = 0;
    for (; j + VLEN <= n; j += VLEN)
        v_store(x + j, v_tanh(v_load(x + j)));
    if (j < n)
        v_store_tail(x + j, v_tanh(v_load_tail(x + j, v_tail(n - j))), v_tail(n - j));
    v_leave();
}

static void log_array(float *x, size_t n) {
    for (size_t j = 0; j < n; j++)
        x[j] = qkv_log(x[j]);
}

static void fold(float *m, float *l, float *o, ptrdiff_t ldo, const float *mb, const float *lb, const float *ob,
                 ptrdiff_t ldob, size_t rows, size_t cols) {
    float factor_a[QKV_MAX_ROWS], factor_b[QKV_MAX_ROWS];
    uint32_t folded = 0; /* rows whose block has a visible key */
    for (size_t i = 0; i < rows; i++)
        folded |= (uint32_t)(lb[i] != 0) << i;
    for (size_t i = 0; i < rows; i += VLEN) {
        vtail tail = v_tail(rows - i < VLEN ? rows - i : VLEN);
        vec m0 = v_load_tail(m + i, tail), m1 = v_load_tail(mb + i, tail), l1 = v_load_tail(lb + i, tail);
        vec l0 = v_load_tail(l + i, tail);
        vmask empty = v_equal(l1, v_zero());
        vec max = v_select(v_less(m1, m0), m0, m1);
        vec a = v_exp2(v_sub(m0, max)), b = v_exp2(v_sub(m1, max));
        v_store(factor_a + i, a);
        v_store(factor_b + i, b);
        v_store_tail(m + i, v_select(empty, m0, max), tail);
        v_store_tail(l + i, v_select(empty, l0, v_fma(l1, b, v_mul(l0, a))), tail);
    }
    for (size_t i = 0; i < rows; i++) {
        if (!(folded >> i & 1))
            continue;
        vec a = v_set(factor_a[i]), b = v_set(factor_b[i]);
        float *row = o + (ptrdiff_t)i * ldo;
        const float *block = ob + (ptrdiff_t)i * ldob;
        for (size_t j = 0; j < cols; j += VLEN) /* scratch tiles are padded */
            v_store(row + j, v_fma(v_load(block + j), b, v_mul(v_load(row + j), a)));
    }
    v_leave();
}

/* x·y + 0, which is never −0. As a product and a sum it would be one fma for clang's -ffp-contract=fast, which heeds no
 * pragma, and that is −0 where the product underflows. */
QKV_INLINE vec v_product(vec x, vec y) {
    vec product = v_mul(x, y);
    return v_select(v_equal(product, v_zero()), v_zero(), product);
}

static void scale(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *factors, size_t rows,
                  size_t n) {
    vtail tail = v_tail(n % VLEN == 0 ? VLEN : n % VLEN);
    for (size_t i = 0; i < rows; i++, dst += ldd, src += lds) {
        vec by = v_set(factors[i]);
        size_t j = 0;
        for (; j + VLEN <= n; j += VLEN)
            v_store(dst + j, v_product(v_load(src + j), by));
        if (j < n)
            v_store_tail(dst + j, v_product(v_load_tail(src + j, tail), by), tail);
    }
    v_leave();
}

static void add_bias(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *bias, size_t rows,
                     size_t n) {
    vtail tail = v_tail(n % VLEN == 0 ? VLEN : n % VLEN);
    for (; rows > 0; rows--, dst += ldd, src += lds) {
        size_t j = 0;
        for (; j + VLEN <= n; j += VLEN)
            v_store(dst + j, bias ? v_add(v_load(src + j), v_load(bias + j)) : v_load(src + j));
        if (j < n) {
            vec x = v_load_tail(src + j, tail);
            v_store_tail(dst + j, bias ? v_add(x, v_load_tail(bias + j, tail)) : x, tail);
        }
    }
    v_leave();
}
