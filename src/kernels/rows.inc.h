/* Template: everything that works on rows of scores and outputs: logit steps, softmax, fold, and the functions they
 * need.
 *
 * Needs the vector header of an instruction set, inside its target region, and ../ref/scalar.h for the coefficients'
 * meaning and for log.
 *
 * SPDX-License-Identifier: MIT */

/* The polynomial of qkv_exp2_fraction, from its highest power down. */
static const float exp2_coefficients[7] = {0x1.41fbbcp-13f, 0x1.5f3e52p-10f, 0x1.3b2d4cp-7f, 0x1.c6aee8p-5f,
                                           0x1.ebfbdcp-3f,  0x1.62e430p-1f,  1.0f};

/* The most exponentials at once that registers have room for. */
enum { EXP2_VECTORS = VL == 8 ? 2 : 4 };

/* 2^f, lane by lane, for `count` vectors: step by step through all of them, since a CPU that waits for one chain after
 * the other runs out of places to keep what waits. */
QKV_INLINE void v_exp2_fractions(V *p, const V *f, int count) {
    QKV_UNROLL
    for (int i = 0; i < count; i++)
        p[i] = v_set(exp2_coefficients[0]);
    QKV_UNROLL
    for (int power = 1; power < 7; power++) {
        V c = v_set(exp2_coefficients[power]);
        QKV_UNROLL
        for (int i = 0; i < count; i++)
            p[i] = v_fma(p[i], f[i], c);
    }
}

QKV_INLINE V v_exp2_fraction(V f) {
    V p;
    v_exp2_fractions(&p, &f, 1);
    return p;
}

/* qkv_exp2, lane by lane. */
QKV_INLINE void v_exp2s(V *y, int count) {
    V n[EXP2_VECTORS], f[EXP2_VECTORS], p[EXP2_VECTORS];
    QKV_UNROLL
    for (int i = 0; i < count; i++)
        n[i] = v_round(y[i]);
    QKV_UNROLL
    for (int i = 0; i < count; i++)
        f[i] = v_sub(y[i], n[i]);
    v_exp2_fractions(p, f, count);
    QKV_UNROLL
    for (int i = 0; i < count; i++)
        y[i] = v_exp2_scale(p[i], n[i], y[i]);
}

QKV_INLINE V v_exp2(V y) {
    v_exp2s(&y, 1);
    return y;
}

/* qkv_tanh, lane by lane: both branches, then a select, then the sign. */
QKV_INLINE V v_tanh(V x) {
    V a = v_abs(x);
    V z = v_mul(a, a);
    V p = v_set(0x1.c76de8p-10f);
    p = v_fma(p, z, v_set(-0x1.f5dd60p-8f));
    p = v_fma(p, z, v_set(0x1.5f79c0p-6f));
    p = v_fma(p, z, v_set(-0x1.b97d6ap-5f));
    p = v_fma(p, z, v_set(0x1.110db8p-3f));
    p = v_fma(p, z, v_set(-0x1.55554ap-2f));
    V small = v_fma(v_mul(a, z), p, a);

    V one = v_set(1.0f), minus_2l = v_set(-2 * QKV_LOG2E);
    V y = v_mul(a, minus_2l);
    V n = v_round(y);
    V f = v_fma(a, minus_2l, v_sub(v_zero(), n));
    f = v_fma(a, v_set(-2 * 0x1.4ae0cp-26f), f);
    V e = v_exp2_scale(v_exp2_fraction(f), n, y);
    V e2 = v_add(e, e);
    V s = v_add(one, e);
    V low = v_sub(e, v_sub(s, one));
    V inverse = v_div(one, s);
    V g = v_mul(e2, inverse);
    V r = v_fnma(g, s, e2);
    r = v_fnma(g, low, r);
    V h = v_sub(one, g);
    V large = v_add(h, v_fnma(r, inverse, v_sub(v_sub(one, h), g)));
    return v_sign_of(v_select(v_less(a, v_set(0.75f)), small, large), x);
}

/* One vector of logits through the steps, of which bias and keep have been loaded. */
QKV_INLINE V logit_vector(V x, const qkv_logit_steps *steps, V distance, V bias, M hidden) {
    V minus_infinity = v_set(QKV_MINUS_INFINITY);
    if (steps->cap != 0)
        x = v_mul(v_set(steps->cap), v_tanh(x));
    if (steps->distance)
        x = v_fma(v_set(steps->slope), distance, x);
    if (steps->bias) {
        V scaled = v_max(v_set(-FLT_MAX), v_mul(bias, v_set(QKV_LOG2E))); /* a NaN bias stays: see v_max */
        x = v_select(v_equal(bias, minus_infinity), minus_infinity, v_add(x, scaled));
    }
    return steps->keep ? v_select(hidden, minus_infinity, x) : x;
}

static void logits(float *t, size_t n, const qkv_logit_steps *steps) {
    size_t j = 0;
    V distance = v_zero(), bias = v_zero();
    M hidden = m_none();
    for (; j + VL <= n; j += VL) {
        if (steps->distance)
            distance = v_load(steps->distance + j);
        if (steps->bias)
            bias = v_load(steps->bias + j);
        if (steps->keep)
            hidden = m_zero_bytes(steps->keep + j);
        v_store(t + j, logit_vector(v_load(t + j), steps, distance, bias, hidden));
    }
    if (j < n) {
        T tail = v_tail(n - j);
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

/* Weights and sums of n rows of scores, a constant, step by step together. */
QKV_INLINE void softmax_rows(int n, float *t, ptrdiff_t ld, size_t cols, const float *m, float *l) {
    enum { N = QKV_LANES / VL };
    V top[EXP2_VECTORS / N], lanes[EXP2_VECTORS / N][N];
    QKV_UNROLL
    for (int i = 0; i < n; i++) {
        top[i] = v_set(m[i]);
        QKV_UNROLL
        for (int x = 0; x < N; x++)
            lanes[i][x] = v_zero();
    }
    for (size_t j = 0; j < cols; j += QKV_LANES, t += QKV_LANES) {
        V p[EXP2_VECTORS];
        QKV_UNROLL
        for (int i = 0; i < n * N; i++)
            p[i] = v_sub(v_load(t + i / N * ld + i % N * VL), top[i / N]);
        v_exp2s(p, n * N);
        QKV_UNROLL
        for (int i = 0; i < n * N; i++) {
            v_store(t + i / N * ld + i % N * VL, p[i]);
            lanes[i / N][i % N] = v_add(lanes[i / N][i % N], p[i]);
        }
    }
    QKV_UNROLL
    for (int i = 0; i < n; i++)
        l[i] = v_sum_lanes(lanes[i]);
}

/* Two passes over all rows: no exponential waits for the maximum of its own row, which takes long to reduce. */
static void softmax(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    enum { N = QKV_LANES / VL, TOGETHER = EXP2_VECTORS / N };
    for (size_t i = 0; i < rows; i++) {
        const float *row = t + (ptrdiff_t)i * ld;
        V max[N];
        QKV_UNROLL
        for (int x = 0; x < N; x++)
            max[x] = v_set(-FLT_MAX);
        for (size_t j = 0; j < cols; j += QKV_LANES) {
            QKV_UNROLL
            for (int x = 0; x < N; x++)
                max[x] = v_max(max[x], v_load(row + j + x * VL));
        }
        QKV_UNROLL
        for (int x = 1; x < N; x++)
            max[0] = v_max(max[0], max[x]);
        m[i] = v_reduce_max(max[0]);
    }
    for (; rows >= TOGETHER; rows -= TOGETHER, t += TOGETHER * ld, m += TOGETHER, l += TOGETHER)
        softmax_rows(TOGETHER, t, ld, cols, m, l);
    for (; rows > 0; rows--, t += ld, m++, l++)
        softmax_rows(1, t, ld, cols, m, l);
    v_leave();
}

static uint32_t nan_rows(const float *o, ptrdiff_t ld, size_t rows, size_t cols) {
    uint32_t found = 0;
    for (size_t i = 0; i < rows; i++) {
        const float *row = o + (ptrdiff_t)i * ld;
        M any = m_none();
        size_t j = 0;
        for (; j + VL <= cols; j += VL)
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
    for (; j + VL <= n; j += VL)
        v_store(y + j, v_exp2(v_load(y + j)));
    if (j < n)
        v_store_tail(y + j, v_exp2(v_load_tail(y + j, v_tail(n - j))), v_tail(n - j));
    v_leave();
}

static void tanh_array(float *x, size_t n) {
    size_t j = 0;
    for (; j + VL <= n; j += VL)
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
    for (size_t i = 0; i < rows; i += VL) {
        T tail = v_tail(rows - i < VL ? rows - i : VL);
        V m0 = v_load_tail(m + i, tail), m1 = v_load_tail(mb + i, tail), l1 = v_load_tail(lb + i, tail);
        V l0 = v_load_tail(l + i, tail);
        M empty = v_equal(l1, v_zero());
        V max = v_select(v_less(m1, m0), m0, m1);
        V a = v_exp2(v_sub(m0, max)), b = v_exp2(v_sub(m1, max));
        v_store(factor_a + i, a);
        v_store(factor_b + i, b);
        v_store_tail(m + i, v_select(empty, m0, max), tail);
        v_store_tail(l + i, v_select(empty, l0, v_fma(l1, b, v_mul(l0, a))), tail);
    }
    for (size_t i = 0; i < rows; i++) {
        if (!(folded >> i & 1))
            continue;
        V a = v_set(factor_a[i]), b = v_set(factor_b[i]);
        float *row = o + (ptrdiff_t)i * ldo;
        const float *block = ob + (ptrdiff_t)i * ldob;
        for (size_t j = 0; j < cols; j += VL) /* scratch tiles are padded */
            v_store(row + j, v_fma(v_load(block + j), b, v_mul(v_load(row + j), a)));
    }
    v_leave();
}

/* x·y + 0, which is never −0. As a product and a sum it would be one fma for clang's -ffp-contract=fast, which heeds no
 * pragma, and that is −0 where the product underflows. */
QKV_INLINE V v_product(V x, V y) {
    V product = v_mul(x, y);
    return v_select(v_equal(product, v_zero()), v_zero(), product);
}

static void scale(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *factors, size_t rows,
                  size_t n) {
    T tail = v_tail(n % VL == 0 ? VL : n % VL);
    for (size_t i = 0; i < rows; i++, dst += ldd, src += lds) {
        V by = v_set(factors[i]);
        size_t j = 0;
        for (; j + VL <= n; j += VL)
            v_store(dst + j, v_product(v_load(src + j), by));
        if (j < n)
            v_store_tail(dst + j, v_product(v_load_tail(src + j, tail), by), tail);
    }
    v_leave();
}

static void add_bias(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *bias, size_t rows,
                     size_t n) {
    T tail = v_tail(n % VL == 0 ? VL : n % VL);
    for (; rows > 0; rows--, dst += ldd, src += lds) {
        size_t j = 0;
        for (; j + VL <= n; j += VL)
            v_store(dst + j, bias ? v_add(v_load(src + j), v_load(bias + j)) : v_load(src + j));
        if (j < n) {
            V x = v_load_tail(src + j, tail);
            v_store_tail(dst + j, bias ? v_add(x, v_load_tail(bias + j, tail)) : x, tail);
        }
    }
    v_leave();
}
