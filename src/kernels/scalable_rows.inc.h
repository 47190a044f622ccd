/* Template: everything that works on rows of scores and outputs, for vectors without a fixed size: logit steps,
 * softmax, fold, gradients, and the functions they need.
 *
 * Lanes are columns, but where a sum has 16 lanes of its own: those are lanes of as many vectors as hold 16 floats, or
 * the first 16 of a longer one, 16 columns at a time.
 *
 * Needs the header of an instruction set (vec, vlanes, v_*, w_*), inside its target region, ../ref/scalar.h and
 * ../ref/philox.h.
 *
 * SPDX-License-Identifier: MIT */

/* Each step for the streams 0 … count − 1, count ≤ 4 a constant: step by step through all of them, since a CPU that
 * waits for one chain after the other runs out of places to keep what waits. */
#define STREAM_LOAD(i, j) const vec y_##i = v_sub_n(on, v_load(on, t + (i < count ? i * width : 0)), less);
#define STREAM_NEAREST(i, j) const vec n_##i = v_nearest(on, y_##i);
#define STREAM_BELOW(i, j) const vmask below_##i = v_less_n(on, y_##i, for_bf16 ? -56.0f : -126.0f);
#define STREAM_REST(i, j) const vec f_##i = v_sub(on, y_##i, v_whole(on, n_##i));
#define STREAM_FIRST(i, j) vec p_##i = v_set(on, for_bf16 ? 0x1.3a02d2p-7f : 0x1.41fbbcp-13f);
#define STREAM_FMA(i, j)                                                                                               \
    if (i < count)                                                                                                     \
        p_##i = v_fma(on, p_##i, f_##i, power);
#define STREAM_POWER(coefficient)                                                                                      \
    {                                                                                                                  \
        const vec power = v_set(on, coefficient);                                                                      \
        QKV_ROWS(4, STREAM_FMA, 0)                                                                                     \
    }
/* p = 2^f, the polynomials of qkv_exp2_fraction and qkv_exp2_for_bf16. */
#define STREAM_POWERS(for_bf16)                                                                                        \
    QKV_ROWS(4, STREAM_FIRST, 0)                                                                                       \
    if (!for_bf16) {                                                                                                   \
        STREAM_POWER(0x1.5f3e52p-10f)                                                                                  \
        STREAM_POWER(0x1.3b2d4cp-7f)                                                                                   \
    }                                                                                                                  \
    STREAM_POWER(for_bf16 ? 0x1.c9fc48p-5f : 0x1.c6aee8p-5f)                                                           \
    STREAM_POWER(for_bf16 ? 0x1.ec0378p-3f : 0x1.ebfbdcp-3f)                                                           \
    STREAM_POWER(for_bf16 ? 0x1.62e12cp-1f : 0x1.62e430p-1f)                                                           \
    STREAM_POWER(1.0f)
#define STREAM_SCALE(i, j)                                                                                             \
    if (i < count)                                                                                                     \
        v_store(on, t + i * width, v_exp2_scale(on, p_##i, n_##i, below_##i));

/* t[j] = qkv_exp2(t[j] − less), or qkv_exp2_for_bf16, for `count` vectors of width floats. */
V_INLINE void exp2_vectors(int count, int for_bf16, vlanes on, size_t width, float *t, float less){
    QKV_ROWS(4, STREAM_LOAD, 0) QKV_ROWS(4, STREAM_BELOW, 0) QKV_ROWS(4, STREAM_NEAREST, 0) QKV_ROWS(4, STREAM_REST, 0)
        STREAM_POWERS(for_bf16) QKV_ROWS(4, STREAM_SCALE, 0)}

V_INLINE void exp2_row(int for_bf16, float *t, size_t n, float less) {
    const size_t width = v_width(), together = EXP2_STREAMS * width;
    for (; n >= together; n -= together, t += together)
        exp2_vectors(EXP2_STREAMS, for_bf16, v_all(), width, t, less);
    for (size_t j = 0; j < n;) {
        const vlanes on = v_lanes(n - j);
        exp2_vectors(1, for_bf16, on, width, t + j, less);
        j += v_step(on);
    }
}

V_INLINE vec v_exp2_fraction(vlanes on, vec f_0) {
    enum { count = 1, for_bf16 = 0 };
    const vec f_1 = f_0, f_2 = f_0, f_3 = f_0;
    STREAM_POWERS(for_bf16)
    return p_0;
}

/* qkv_exp2, lane by lane. */
V_INLINE vec v_exp2(vlanes on, vec y) {
    const vec n = v_nearest(on, y);
    return v_exp2_scale(on, v_exp2_fraction(on, v_sub(on, y, v_whole(on, n))), n, v_less_n(on, y, -126.0f));
}

/* qkv_tanh, lane by lane: both branches, then a select, then the sign. */
V_INLINE vec v_tanh(vlanes on, vec x) {
    const vec a = v_abs(on, x), z = v_mul(on, a, a);
    vec p = v_set(on, 0x1.c76de8p-10f);
    p = v_fma(on, p, z, v_set(on, -0x1.f5dd60p-8f));
    p = v_fma(on, p, z, v_set(on, 0x1.5f79c0p-6f));
    p = v_fma(on, p, z, v_set(on, -0x1.b97d6ap-5f));
    p = v_fma(on, p, z, v_set(on, 0x1.110db8p-3f));
    p = v_fma(on, p, z, v_set(on, -0x1.55554ap-2f));
    const vec small = v_fma(on, v_mul(on, a, z), p, a);

    const vec one = v_set(on, 1.0f), y = v_mul_n(on, a, -2 * QKV_LOG2E), n = v_nearest(on, y);
    vec f = v_fma_n(on, a, -2 * QKV_LOG2E, v_sub(on, v_set(on, 0.0f), v_whole(on, n)));
    f = v_fma_n(on, a, -2 * 0x1.4ae0cp-26f, f);
    const vec e = v_exp2_scale(on, v_exp2_fraction(on, f), n, v_less_n(on, y, -126.0f)), e2 = v_add(on, e, e);
    const vec s = v_add(on, one, e), low = v_sub(on, e, v_sub(on, s, one));
    const vec inverse = v_div(on, one, s), g = v_mul(on, e2, inverse);
    vec r = v_fnma(on, g, s, e2);
    r = v_fnma(on, g, low, r);
    const vec h = v_sub(on, one, g);
    const vec large = v_add(on, h, v_fnma(on, r, inverse, v_sub(on, v_sub(on, one, h), g)));
    return v_sign_of(on, v_select(on, v_less_n(on, a, 0.75f), small, large), x);
}

/* qkv_log, lane by lane. */
V_INLINE vec v_log(vlanes on, vec x) {
    const vec f = v_sub_n(on, v_mantissa(on, x), 1.0f), k = v_exponent(on, x);
    vec q = v_set(on, -0x1.382564p-4f);
    q = v_fma(on, q, f, v_set(on, 0x1.083fa0p-3f));
    q = v_fma(on, q, f, v_set(on, -0x1.0f3528p-3f));
    q = v_fma(on, q, f, v_set(on, 0x1.2272bep-3f));
    q = v_fma(on, q, f, v_set(on, -0x1.5427d0p-3f));
    q = v_fma(on, q, f, v_set(on, 0x1.99a3e8p-3f));
    q = v_fma(on, q, f, v_set(on, -0x1.000424p-2f));
    q = v_fma(on, q, f, v_set(on, 0x1.555550p-2f));
    q = v_fma(on, q, f, v_set(on, -0x1.fffff8p-2f));
    const vec log = v_fma_n(on, k, QKV_LN2, v_fma(on, v_mul(on, f, f), q, f));
    return v_select(on, v_is_nan(on, x), x, log);
}

/* One vector of logits through the steps, from column j on. */
V_INLINE vec logit_vector(vlanes on, vec x, const qkv_logit_steps *steps, size_t j) {
    if (steps->cap != 0)
        x = v_mul_n(on, v_tanh(on, x), steps->cap);
    if (steps->distance)
        x = v_fma_n(on, v_load(on, steps->distance + j), steps->slope, x);
    if (steps->bias) {
        const vec bias = v_load(on, steps->bias + j), scaled = v_mul_n(on, bias, QKV_LOG2E);
        const vec added = v_select_n(on, v_less_n(on, scaled, -FLT_MAX), -FLT_MAX, scaled); /* a NaN stays */
        x = v_select_n(on, v_equal_n(on, bias, QKV_MINUS_INFINITY), QKV_MINUS_INFINITY, v_add(on, x, added));
    }
    return steps->keep ? v_select_n(on, v_zero_bytes(on, steps->keep + j), QKV_MINUS_INFINITY, x) : x;
}

static void logits(float *t, size_t n, const qkv_logit_steps *steps) {
    for (size_t j = 0; j < n;) {
        const vlanes on = v_lanes(n - j);
        v_store(on, t + j, logit_vector(on, v_load(on, t + j), steps, j));
        j += v_step(on);
    }
}

/* The maxima of some rows, at most 4, a constant, together. */
#define MAXIMUM_BEGIN(i, j) vec max_##i = v_set(v_all(), -FLT_MAX);
#define MAXIMUM_STEP(i, j)                                                                                             \
    if (i < rows)                                                                                                      \
        max_##i = v_max_to(on, max_##i, v_load(on, t + i * ld + x));
#define MAXIMUM_END(i, j)                                                                                              \
    if (i < rows)                                                                                                      \
        m[i] = v_reduce_max(max_##i);
V_INLINE void maxima_of_rows(int rows, const float *t, ptrdiff_t ld, size_t cols, float *m) {
    QKV_ROWS(4, MAXIMUM_BEGIN, 0)
    for (size_t x = 0; x < cols;) {
        const vlanes on = v_lanes(cols - x);
        QKV_ROWS(4, MAXIMUM_STEP, 0)
        x += v_step(on);
    }
    QKV_ROWS(4, MAXIMUM_END, 0)
}

/* The tree +8, +4, +2, +1. */
V_INLINE float sum_16(const float *lane) {
    const float a = (lane[0] + lane[8]) + (lane[4] + lane[12]), b = (lane[2] + lane[10]) + (lane[6] + lane[14]);
    const float c = (lane[1] + lane[9]) + (lane[5] + lane[13]), d = (lane[3] + lane[11]) + (lane[7] + lane[15]);
    return (a + b) + (c + d);
}

/* Sums in 16 lanes: the vectors 0 … count − 1 hold them, count ≤ 4 a constant. */
#define LANES_ON(i, j) const vlanes on_##j = v_lanes_at(j * width, QKV_LANES);
#define LANES_ZERO(i, j) vec lanes_##j = v_set(v_all(), 0.0f);
#define LANES_STORE(i, j)                                                                                              \
    if (j < count)                                                                                                     \
        v_store(on_##j, lane + j * width, lanes_##j);
#define LANES_ADD(i, j)                                                                                                \
    if (j < count)                                                                                                     \
        lanes_##j = v_add(on_##j, lanes_##j, v_load(on_##j, row + x + j * width));

V_INLINE float sum_of_row(int count, size_t width, const float *row, size_t cols) {
    float lane[QKV_LANES];
    QKV_COLS(4, LANES_ON, 0)
    QKV_COLS(4, LANES_ZERO, 0)
    for (size_t x = 0; x < cols; x += QKV_LANES) {
        QKV_COLS(4, LANES_ADD, 0)
    }
    QKV_COLS(4, LANES_STORE, 0)
    return sum_16(lane);
}

/* Three passes: no exponential waits for the maximum of its own row, which takes long to reduce, and vectors are as
 * long as they are, where lanes of sums are 16. */
V_INLINE void softmax_of_rows(int for_bf16, float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    const size_t width = v_width();
    size_t i = 0;
    for (; i + 4 <= rows; i += 4)
        maxima_of_rows(4, t + (ptrdiff_t)i * ld, ld, cols, m + i);
    for (; i < rows; i++)
        maxima_of_rows(1, t + (ptrdiff_t)i * ld, ld, cols, m + i);
    for (i = 0; i < rows; i++)
        exp2_row(for_bf16, t + (ptrdiff_t)i * ld, cols, m[i]);
    for (i = 0; i < rows; i++) {
        const float *row = t + (ptrdiff_t)i * ld;
        l[i] = width >= QKV_LANES       ? sum_of_row(1, width, row, cols)
               : 2 * width >= QKV_LANES ? sum_of_row(2, width, row, cols)
                                        : sum_of_row(4, width, row, cols);
    }
}

static void softmax(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    softmax_of_rows(0, t, ld, rows, cols, m, l);
}

static void softmax_bf16(float *t, ptrdiff_t ld, size_t first, size_t rows, size_t cols, float *m, float *l,
                         int rounds) {
    softmax_of_rows(1, t + first, ld, rows, cols, m, l);
    if (rounds)
        rows_bf16(t, ld, first, t + first, ld, rows, cols);
}

static uint32_t nan_rows(const float *o, ptrdiff_t ld, size_t rows, size_t cols) {
    uint32_t found = 0;
    for (size_t i = 0; i < rows; i++, o += ld) {
        uint32_t any = 0;
        for (size_t j = 0; j < cols;) {
            const vlanes on = v_lanes(cols - j);
            any |= m_any(on, v_is_nan(on, v_load(on, o + j)));
            j += v_step(on);
        }
        found |= any << i;
    }
    return found;
}

static void exp2_array(float *y, size_t n) { exp2_row(0, y, n, 0.0f); }

static void tanh_array(float *x, size_t n) {
    for (size_t j = 0; j < n;) {
        const vlanes on = v_lanes(n - j);
        v_store(on, x + j, v_tanh(on, v_load(on, x + j)));
        j += v_step(on);
    }
}

static void log_array(float *x, size_t n) {
    for (size_t j = 0; j < n;) {
        const vlanes on = v_lanes(n - j);
        v_store(on, x + j, v_log(on, v_load(on, x + j)));
        j += v_step(on);
    }
}

static void fold(float *m, float *l, float *o, ptrdiff_t ldo, const float *mb, const float *lb, const float *ob,
                 ptrdiff_t ldob, size_t rows, size_t cols) {
    float factor_a[QKV_MAX_ROWS], factor_b[QKV_MAX_ROWS];
    uint32_t folded = 0; /* rows whose block has a visible key */
    for (size_t i = 0; i < rows; i++)
        folded |= (uint32_t)(lb[i] != 0) << i;
    for (size_t i = 0; i < rows;) {
        const vlanes on = v_lanes(rows - i);
        const vec m0 = v_load(on, m + i), m1 = v_load(on, mb + i), l0 = v_load(on, l + i), l1 = v_load(on, lb + i);
        const vec max = v_select(on, v_less(on, m1, m0), m0, m1);
        const vec a = v_exp2(on, v_sub(on, m0, max)), b = v_exp2(on, v_sub(on, m1, max));
        v_store(on, factor_a + i, a);
        v_store(on, factor_b + i, b);
        const vmask empty = v_equal_n(on, l1, 0.0f);
        v_store(on, m + i, v_select(on, empty, m0, max));
        v_store(on, l + i, v_select(on, empty, l0, v_fma(on, l1, b, v_mul(on, l0, a))));
        i += v_step(on);
    }
    for (size_t i = 0; i < rows; i++, o += ldo, ob += ldob) {
        for (size_t j = 0; folded >> i & 1 && j < cols;) {
            const vlanes on = v_lanes(cols - j);
            const vec x = v_mul_n(on, v_load(on, o + j), factor_a[i]);
            v_store(on, o + j, v_fma_n(on, v_load(on, ob + j), factor_b[i], x));
            j += v_step(on);
        }
    }
}

/* x·y + 0, which is never −0: see rows.inc.h. */
static void scale(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *factors, size_t rows,
                  size_t n) {
    for (size_t i = 0; i < rows; i++) { /* no address behind the last row: strides may be huge */
        for (size_t j = 0; j < n;) {
            const vlanes on = v_lanes(n - j);
            const vec x = v_mul_n(on, v_load(on, src + (ptrdiff_t)i * lds + j), factors[i]);
            v_store(on, dst + (ptrdiff_t)i * ldd + j, v_select_n(on, v_equal_n(on, x, 0.0f), 0.0f, x));
            j += v_step(on);
        }
    }
}

static void add_bias(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *bias, size_t rows,
                     size_t n) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n;) {
            const vlanes on = v_lanes(n - j);
            const vec x = v_load(on, src + (ptrdiff_t)i * lds + j);
            v_store(on, dst + (ptrdiff_t)i * ldd + j, bias ? v_add(on, x, v_load(on, bias + j)) : x);
            j += v_step(on);
        }
    }
}

static void add(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        float *to = dst + (ptrdiff_t)i * ldd;
        const float *from = src + (ptrdiff_t)i * lds;
        for (size_t j = 0; j < n;) {
            const vlanes on = v_lanes(n - j);
            v_store(on, to + j, v_add(on, v_load(on, to + j), v_load(on, from + j)));
            j += v_step(on);
        }
    }
}

static void scale_columns(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *factors) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        for (size_t j = 0; j < cols;) {
            const vlanes on = v_lanes(cols - j);
            v_store(on, t + j, v_mul(on, v_load(on, t + j), v_load(on, factors + j)));
            j += v_step(on);
        }
    }
}

static void scale_scores(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *columns, const float *factors,
                         const float *offsets) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        for (size_t j = 0; j < cols;) {
            const vlanes on = v_lanes(cols - j);
            const vec x = v_mul(on, v_load(on, t + j), v_load(on, columns + j));
            v_store(on, t + j, v_fma_n(on, x, factors[i], v_set(on, offsets[i])));
            j += v_step(on);
        }
    }
}

/* Pairs of a row: side by side, or with their halves `pairs` floats apart. sign is 1 or −1. */
V_INLINE void rotate_row(float *row, const float *cos, const float *sin, float sign, size_t pairs, int interleaved) {
    for (size_t p = 0; p < pairs;) {
        const vlanes on = v_lanes(pairs - p);
        const vec c = v_load(on, cos + p), s = v_load(on, sin + p);
        vec a, b;
        if (interleaved) {
            v_load_pairs(on, row + 2 * p, &a, &b);
        } else {
            a = v_load(on, row + p);
            b = v_load(on, row + pairs + p);
        }
        const vec x = v_fma(on, a, c, v_mul(on, b, v_mul_n(on, s, -sign)));
        const vec y = v_fma(on, b, c, v_mul(on, a, v_mul_n(on, s, sign)));
        if (interleaved) {
            v_store_pairs(on, row + 2 * p, x, y);
        } else {
            v_store(on, row + p, x);
            v_store(on, row + pairs + p, y);
        }
        p += v_step(on);
    }
}

static void rotate(float *x, ptrdiff_t ld, const float *cos, const float *sin, const ptrdiff_t *at, size_t rows,
                   size_t pairs, int interleaved, int inverse) {
    const float sign = inverse ? -1.0f : 1.0f;
    for (size_t i = 0; i < rows; i++) {
        float *row = x + (ptrdiff_t)i * ld;
        if (interleaved)
            rotate_row(row, cos + at[i], sin + at[i], sign, pairs, 1);
        else
            rotate_row(row, cos + at[i], sin + at[i], sign, pairs, 0);
    }
}

/* Of 16 columns, those among the ones wanted. */
#define DROPOUT_KEEP(w)                                                                                                \
    if (j + w * QKV_LANES >= first && j + w * QKV_LANES < end) {                                                       \
        float *to = t + j + w * QKV_LANES + lane;                                                                      \
        const vec factor = v_select_n(on, w_below(on, state_##w, d->threshold), 0.0f, v_set(on, d->scale));            \
        v_store(on, to, v_mul(on, v_load(on, to), factor));                                                            \
    }
static void dropout(float *t, size_t first, size_t end, const qkv_dropout *d) {
    for (size_t group = first / QKV_PHILOX_KEYS; group * QKV_PHILOX_KEYS < end; group++) {
        const size_t j = group * QKV_PHILOX_KEYS;
        for (size_t lane = 0; lane < QKV_LANES;) {
            const vlanes on = v_lanes(QKV_LANES - lane);
            vwords state_0 = w_count(on, (d->first_group + (uint32_t)group) * QKV_LANES + (uint32_t)lane);
            vwords state_1 = w_set(on, d->counter[0]), state_2 = w_set(on, d->counter[1]);
            vwords state_3 = w_set(on, d->counter[2]);
            uint32_t k0 = d->key[0], k1 = d->key[1];
            for (int round = 0; round < QKV_PHILOX_ROUNDS; round++, k0 += QKV_PHILOX_W0, k1 += QKV_PHILOX_W1) {
                const vwords x = w_high(on, state_0, QKV_PHILOX_M0), y = w_high(on, state_2, QKV_PHILOX_M1);
                const vwords x_low = w_low(on, state_0, QKV_PHILOX_M0), y_low = w_low(on, state_2, QKV_PHILOX_M1);
                state_0 = w_xor(on, y, state_1, k0);
                state_2 = w_xor(on, x, state_3, k1);
                state_1 = y_low;
                state_3 = x_low;
                QKV_OPAQUE(round); /* unrolled, the keys of all rounds would be kept on the stack */
            }
            DROPOUT_KEEP(0)
            DROPOUT_KEEP(1)
            DROPOUT_KEEP(2)
            DROPOUT_KEEP(3)
            lane += v_step(on);
        }
    }
}

static void recompute(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *lse) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        for (size_t j = 0; j < cols;) {
            const vlanes on = v_lanes(cols - j);
            const vec zero = v_set(on, 0.0f), y = v_sub_n(on, v_load(on, t + j), lse[i]);
            v_store(on, t + j, v_exp2(on, v_select(on, v_less(on, zero, y), zero, y))); /* a NaN stays */
            j += v_step(on);
        }
    }
}

static void score_grad(float *d, const float *p, ptrdiff_t ld, size_t rows, size_t cols, const float *delta,
                       float scale, const float *cap_tanh) {
    for (size_t i = 0; i < rows; i++, d += ld, p += ld) {
        for (size_t j = 0; j < cols;) {
            const vlanes on = v_lanes(cols - j);
            vec x = v_mul(on, v_load(on, p + j), v_fma_n(on, v_load(on, d + j), scale, v_set(on, -delta[i])));
            if (cap_tanh) {
                const vec u = v_load(on, cap_tanh + (ptrdiff_t)i * ld + (ptrdiff_t)j);
                x = v_mul(on, x, v_fnma(on, u, u, v_set(on, 1.0f)));
            }
            v_store(on, d + j, x);
            j += v_step(on);
        }
    }
}

#define LANES_FMA(i, j)                                                                                                \
    if (j < count)                                                                                                     \
        lanes_##j = v_fma_to(on_##j, lanes_##j, v_load(on_##j, a + x + j * width), v_load(on_##j, b + x + j * width));
#define LANES_LAST(i, j)                                                                                               \
    if (j < count) {                                                                                                   \
        const vlanes on = v_lanes_at(x + j * width, n < x + QKV_LANES ? n : x + QKV_LANES);                            \
        lanes_##j = v_fma_to(on, lanes_##j, v_load(on, a + x + j * width), v_load(on, b + x + j * width));             \
    }
V_INLINE float dot_of_rows(int count, size_t width, const float *a, const float *b, size_t n) {
    float lane[QKV_LANES];
    QKV_COLS(4, LANES_ON, 0)
    QKV_COLS(4, LANES_ZERO, 0)
    size_t x = 0;
    for (; x + QKV_LANES <= n; x += QKV_LANES) {
        QKV_COLS(4, LANES_FMA, 0)
    }
    if (x < n) {
        QKV_COLS(4, LANES_LAST, 0)
    }
    QKV_COLS(4, LANES_STORE, 0)
    return sum_16(lane);
}

static void row_dots(float *d, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows, size_t n) {
    const size_t width = v_width();
    for (size_t i = 0; i < rows; i++) {
        const float *u = a + (ptrdiff_t)i * lda, *v = b + (ptrdiff_t)i * ldb;
        d[i] = width >= QKV_LANES       ? dot_of_rows(1, width, u, v, n)
               : 2 * width >= QKV_LANES ? dot_of_rows(2, width, u, v, n)
                                        : dot_of_rows(4, width, u, v, n);
    }
}
