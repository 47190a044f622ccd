/* Template: rotary embeddings, pairs of channels turned by an angle.
 *
 * Needs the vector header of an instruction set, inside its target region.
 *
 * SPDX-License-Identifier: MIT */

/* minus: −s. Negation is exact, so that it makes no difference where it is done. */
QKV_INLINE void rotate_pairs(vec *x0, vec *x1, vec c, vec s, vec minus) {
    vec a = *x0, b = *x1;
    *x0 = v_fma(a, c, v_mul(b, minus));
    *x1 = v_fma(b, c, v_mul(a, s));
}

/* Channels p and pairs + p of a row. Not inlined, so that the loop over rows keeps nothing that this one needs. */
static QKV_NOINLINE void rotate_halves(float *x, const float *cos, const float *sin, float signum, size_t pairs) {
    const vec sign = v_set(signum), minus_sign = v_set(-signum);
    float *y = x + pairs;
    size_t p = 0;
    for (; p + VLEN <= pairs; p += VLEN) {
        vec x0 = v_load(x + p), x1 = v_load(y + p), s = v_load(sin + p);
        rotate_pairs(&x0, &x1, v_load(cos + p), v_mul(s, sign), v_mul(s, minus_sign));
        v_store(x + p, x0);
        v_store(y + p, x1);
    }
    if (p < pairs) {
        vtail tail = v_tail(pairs - p);
        vec x0 = v_load_tail(x + p, tail), x1 = v_load_tail(y + p, tail), s = v_load_tail(sin + p, tail);
        rotate_pairs(&x0, &x1, v_load_tail(cos + p, tail), v_mul(s, sign), v_mul(s, minus_sign));
        v_store_tail(x + p, x0, tail);
        v_store_tail(y + p, x1, tail);
    }
}

/* Channels 2p and 2p + 1. */
static QKV_NOINLINE void rotate_neighbours(float *x, const float *cos, const float *sin, float signum, size_t pairs) {
    const vec sign = v_set(signum), minus_sign = v_set(-signum);
    size_t p = 0;
    for (; p + VLEN <= pairs; p += VLEN) {
        vec x0 = v_load(x + 2 * p), x1 = v_load(x + 2 * p + VLEN), s = v_load(sin + p);
        v_unzip(&x0, &x1);
        rotate_pairs(&x0, &x1, v_load(cos + p), v_mul(s, sign), v_mul(s, minus_sign));
        v_zip(&x0, &x1);
        v_store(x + 2 * p, x0);
        v_store(x + 2 * p + VLEN, x1);
    }
    if (p < pairs) {
        size_t rest = 2 * (pairs - p), low = rest < VLEN ? rest : VLEN;
        vtail tail = v_tail(pairs - p), tail0 = v_tail(low), tail1 = v_tail(rest > low ? rest - low : 1);
        vec x0 = v_load_tail(x + 2 * p, tail0), x1 = v_zero(), s = v_load_tail(sin + p, tail);
        if (rest > low)
            x1 = v_load_tail(x + 2 * p + VLEN, tail1);
        v_unzip(&x0, &x1);
        rotate_pairs(&x0, &x1, v_load_tail(cos + p, tail), v_mul(s, sign), v_mul(s, minus_sign));
        v_zip(&x0, &x1);
        v_store_tail(x + 2 * p, x0, tail0);
        if (rest > low)
            v_store_tail(x + 2 * p + VLEN, x1, tail1);
    }
}

static void rotate(float *x, ptrdiff_t ld, const float *cos, const float *sin, const ptrdiff_t *at, size_t rows,
                   size_t pairs, int interleaved, int inverse) {
    float sign = inverse ? -1.0f : 1.0f;
    for (size_t i = 0; i < rows; i++) {
        float *row = x + (ptrdiff_t)i * ld;
        if (interleaved)
            rotate_neighbours(row, cos + at[i], sin + at[i], sign, pairs);
        else
            rotate_halves(row, cos + at[i], sin + at[i], sign, pairs);
    }
    v_leave();
}
