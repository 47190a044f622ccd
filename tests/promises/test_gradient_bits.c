/* The rules of docs/numerics.md for gradients once more, one pair after the other, with fmaf: what no comparison
 * between kernel sets can see, because all of them run the same algorithm.
 *
 * SPDX-License-Identifier: MIT */
#include "rules.h"

#include "oracle_gradient_cases.h"

#include <string.h>

/* What a query and a key have of each other, of one head: rules 2, 4 and 5. */
typedef struct pairs {
    bool *sees;                         /* [seq_q][seq_k] */
    float *p, *dropped, *ds, *for_bias; /* … p, p·f, dS, and p·(dP − δ) */
} pairs;

static pairs allocate_pairs(qt_rng *rng, const qkv_attention_desc *d) {
    const int64_t n = d->seq_q * d->seq_k;
    return (pairs){qt_alloc((size_t)n * sizeof(bool), sizeof(bool), QT_TAIL), case_floats(rng, n), case_floats(rng, n),
                   case_floats(rng, n), case_floats(rng, n)};
}

/* δ of a row, in bfloat16 of dO that is rounded, but not cut. */
static float delta_of(const gradient_case *c, int64_t b, int64_t h, int64_t i, float lse) {
    const qkv_attention_desc *d = &c->desc.forward;
    const float *grad = row_of(&c->desc.grad_out, b, h, i);
    const float *out = (const float *)d->out.data + b * d->out.batch + h * d->out.head + i * d->out.token;
    float lane[16] = {0};
    for (int64_t x = 0; x < c->attention.dv; x++) {
        float g = grad[x];
        if (d->arithmetic == QKV_ARITHMETIC_BF16) /* exact at any power of two that is no cut */
            g = fabsf(g) < 0x1p-40f ? oracle_to_bf16(g * 0x1p80f) * 0x1p-80f : oracle_to_bf16(g);
        lane[x % 16] = fmaf(g, out[x], lane[x % 16]);
    }
    const float delta = sum_of_lanes(lane);
    if (lse == -INFINITY)
        return 0;
    return c->desc.grad_lse.data ? delta - *row_of(&c->desc.grad_lse, b, h, i) : delta;
}

static float operand(const qkv_attention_desc *d, float x) {
    return d->arithmetic == QKV_ARITHMETIC_BF16 ? oracle_to_bf16(x) : x;
}

static float lse_of(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i) {
    return ((const float *)d->lse.data)[b * d->lse.batch + h * d->lse.head + i * d->lse.token];
}

static void compute_row(const gradient_case *c, int64_t b, int64_t h, int64_t i, float *scratch, pairs *all) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t kv = h / (d->num_heads / c->attention.kv_heads), dv = c->attention.dv;
    const float scale = d->scale == 0 ? 1 / sqrtf((float)d->head_dim) : d->scale, lse = lse_of(d, b, h, i);
    const float delta = delta_of(c, b, h, i, lse);
    float *q = scratch, *grad = scratch + d->head_dim;
    scaled_query(d, b, h, i, q);
    for (int64_t x = 0; x < dv; x++)
        grad[x] = operand(d, row_of(&c->desc.grad_out, b, h, i)[x]);
    for (int64_t j = 0; j < d->seq_k; j++) {
        const int64_t at = i * d->seq_k + j;
        all->sees[at] = oracle_sees(d, b, h, i, j);
        if (!all->sees[at])
            continue;
        float u = 0, t = logit(d, q, b, h, kv, i, j, &u), factor = (float)oracle_dropout_factor(d, b, h, i, j);
        float p = lse == -INFINITY ? 0 : exp2_or_zero(fminf(t - lse * log2e, 0));
        float dp = dot(d->arithmetic == QKV_ARITHMETIC_BF16, grad, row_of(&d->v, b, kv, j), 1, dv);
        if (d->dropout != 0)
            dp *= factor;
        all->for_bias[at] = p * (dp - delta);
        all->ds[at] = p * fmaf(dp, scale, -(delta * scale));
        if (d->softcap != 0)
            all->ds[at] *= fmaf(-u, u, 1);
        all->p[at] = p;
        all->dropped[at] = d->dropout != 0 ? p * factor : p;
    }
}

/* One chain of factors and what they multiply, over so many pairs that see each other, a step apart. */
static float chain(const qkv_attention_desc *d, const bool *sees, const float *factors, int64_t step, int64_t n,
                   const float *x, int64_t stride) {
    float sum = 0;
    for (int64_t at = 0; at < n; at++) {
        const int64_t i = nth_term(d->arithmetic == QKV_ARITHMETIC_BF16, at, n);
        if (sees[i * step])
            sum = fmaf(operand(d, factors[i * step]), operand(d, x[i * stride]), sum);
    }
    return sum;
}

static int64_t at_most(int64_t x, int64_t most) {
    return x < most ? x : most;
}

static void add_queries(const gradient_case *c, int64_t b, int64_t h, const pairs *all, gradient_results *sum) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t kv = h / (d->num_heads / c->attention.kv_heads), n = d->seq_k, dim = d->head_dim;
    for (int64_t i = 0; i < d->seq_q; i++)
        for (int64_t x = 0; x < dim; x++)
            for (int64_t j = 0; j < n; j += QKV_KEY_BLOCK)
                sum->q[((b * d->num_heads + h) * d->seq_q + i) * dim + x] +=
                    chain(d, all->sees + i * n + j, all->ds + i * n + j, 1, at_most(n - j, QKV_KEY_BLOCK),
                          row_of(&d->k, b, kv, j) + x, d->k.token);
}

static void add_keys(const gradient_case *c, int64_t b, int64_t h, const pairs *all, gradient_results *sum) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t kv = h / (d->num_heads / c->attention.kv_heads), n = d->seq_k, dv = c->attention.dv;
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < d->seq_q; i += 64) {
            const int64_t rows = at_most(d->seq_q - i, 64), at = i * n + j;
            const int64_t to = (b * c->attention.kv_heads + kv) * n + j;
            for (int64_t x = 0; x < d->head_dim; x++)
                sum->k[to * d->head_dim + x] +=
                    chain(d, all->sees + at, all->ds + at, n, rows, row_of(&d->q, b, h, i) + x, d->q.token);
            for (int64_t x = 0; x < dv; x++)
                sum->v[to * dv + x] += chain(d, all->sees + at, all->dropped + at, n, rows,
                                             row_of(&c->desc.grad_out, b, h, i) + x, c->desc.grad_out.token);
        }
}

static void add_bias(const gradient_case *c, int64_t b, int64_t h, const pairs *all, float *sum) {
    const qkv_attention_desc *d = &c->desc.forward;
    const qkv_matrix_output *to = &c->desc.grad_bias;
    int64_t size[4];
    gradient_bias_sizes(&c->desc, size);
    for (int64_t block = 0; block < d->seq_k; block += QKV_KEY_BLOCK)
        for (int64_t i = 0; i < d->seq_q; i++)
            for (int64_t j = block; j < at_most(d->seq_k, block + QKV_KEY_BLOCK); j++) {
                const int64_t plane = (to->batch ? b : 0) * size[1] + (to->head ? h : 0);
                if (all->sees[i * d->seq_k + j])
                    sum[(plane * size[2] + (to->query ? i : 0)) * size[3] + (to->key ? j : 0)] +=
                        all->for_bias[i * d->seq_k + j];
            }
}

static void add_sink(const gradient_case *c, int64_t b, int64_t h, float *sum) {
    const qkv_attention_desc *d = &c->desc.forward;
    for (int64_t first = 0; first < d->seq_q && d->sinks[h] != -INFINITY; first += 64) {
        float chain_of_rows = 0;
        for (int64_t i = first; i < at_most(d->seq_q, first + 64); i++) {
            const float lse = lse_of(d, b, h, i), sink = fmaxf(d->sinks[h] * log2e, -FLT_MAX);
            const float p = lse == -INFINITY ? 0 : exp2_or_zero(fminf(sink - lse * log2e, 0));
            chain_of_rows = fmaf(-p, delta_of(c, b, h, i, lse), chain_of_rows);
        }
        sum[h] += chain_of_rows;
    }
}

static void finish(const char *what, float *want, const float *got, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        want[i] += 0.0f;
    qt_expect_words(what, want, got, (size_t)n, 0);
}

static void expect_gradients(const gradient_case *c, gradient_results *want, const gradient_results *got) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t keys = d->batch * c->attention.kv_heads * d->seq_k;
    int64_t size[4];
    gradient_bias_sizes(&c->desc, size);
    finish("dq", want->q, got->q, d->batch * d->num_heads * d->seq_q * d->head_dim);
    finish("dk", want->k, got->k, keys * d->head_dim);
    finish("dv", want->v, got->v, keys * c->attention.dv);
    if (want->bias)
        finish("dbias", want->bias, got->bias, size[0] * size[1] * size[2] * size[3]);
    if (want->sinks && d->sinks)
        finish("dsink", want->sinks, got->sinks, d->num_heads);
}

/* What the sums start from: what is there, or zeros. */
static void start(const gradient_case *c, gradient_results *sum) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t keys = d->batch * c->attention.kv_heads * d->seq_k;
    int64_t size[4];
    *sum = gradient_before(c);
    if (c->desc.flags & QKV_ACCUMULATE)
        return;
    gradient_bias_sizes(&c->desc, size);
    memset(sum->q, 0, (size_t)(d->batch * d->num_heads * d->seq_q * d->head_dim) * sizeof(float));
    memset(sum->k, 0, (size_t)(keys * d->head_dim) * sizeof(float));
    memset(sum->v, 0, (size_t)(keys * c->attention.dv) * sizeof(float));
    if (sum->bias)
        memset(sum->bias, 0, (size_t)(size[0] * size[1] * size[2] * size[3]) * sizeof(float));
    if (sum->sinks)
        memset(sum->sinks, 0, (size_t)d->num_heads * sizeof(float));
}

static void test_gradients_follow_the_rules_to_the_bit(const qt_set *set) {
    kernels = set->kernels;
    uint64_t in_bf16 = 0;
    for (uint64_t i = 0; i < case_count(qt_quick() ? 150 : 400); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, 100000, &c);
        const qkv_attention_desc *d = &c.desc.forward;
        if (!c.attention.ordinary || d->batch * d->num_heads * d->seq_q * d->seq_k * d->head_dim == 0)
            continue;
        gradient_want_all(&rng, &c);
        c.desc.forward.arithmetic = i % 2 ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_F32;
        in_bf16 += i % 2;
        gradient_run_forward(&c);
        gradient_results want, got = gradient_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 3), 0);
        start(&c, &want);
        pairs all = allocate_pairs(&rng, d);
        float *scratch = case_floats(&rng, d->head_dim + c.attention.dv);
        for (int64_t row = 0; row < d->batch * d->num_heads; row++) {
            const int64_t b = row / d->num_heads, h = row % d->num_heads;
            for (int64_t query = 0; query < d->seq_q; query++)
                compute_row(&c, b, h, query, scratch, &all);
            add_queries(&c, b, h, &all, &want);
            add_keys(&c, b, h, &all, &want);
            if (c.desc.grad_bias.data)
                add_bias(&c, b, h, &all, want.bias);
            if (c.desc.grad_sinks && d->sinks)
                add_sink(&c, b, h, want.sinks);
        }
        expect_gradients(&c, &want, &got);
    }
    QT_EXPECT(qt_quick() || in_bf16 > 50, "only %llu cases in bfloat16", (unsigned long long)in_bf16);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("gradients_follow_the_rules_to_the_bit", test_gradients_follow_the_rules_to_the_bit);
    return qt_run();
}
