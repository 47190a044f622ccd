/* The rules of docs/numerics.md once more, one after the other for a single row, with fmaf: what no comparison between
 * kernel sets can see, because all of them run the same algorithm. Only exp2, tanh and log come from the kernels; they
 * have tests of their own.
 *
 * SPDX-License-Identifier: MIT */
#include "rules.h"

#include <inttypes.h>
#include <string.h>

static const float ln2 = 0x1.62e430p-1f;

/* q·k in 8 bits: q's integers, its scale, and what is added. */
enum { MAX_DIM = 2048 };
typedef struct int8_row {
    int q[MAX_DIM];
    float scale, offset;
} int8_row;

static float lane_dot(const float *x, const float *y, int64_t n) {
    float lane[16] = {0};
    for (int64_t j = 0; j < n; j++)
        lane[j % 16] = fmaf(x[j], y[j], lane[j % 16]);
    return sum_of_lanes(lane);
}

static void to_int8(const qkv_attention_desc *d, const float *q, const float *means, int8_row *row) {
    QT_EXPECT(d->head_dim <= MAX_DIM, "head_dim is %" PRId64, d->head_dim);
    row->scale = oracle_to_int8(q, NULL, d->head_dim, row->q);
    row->offset = means ? lane_dot(q, means, d->head_dim) : 0;
}

static float int8_dot(const int8_row *q, const float *k, const float *means, int64_t n) {
    int of_k[MAX_DIM];
    const float scale = oracle_to_int8(k, means, n, of_k);
    float total = 0;
    for (int64_t first = 0; first < n; first += 1024) {
        long long sum = 0;
        for (int64_t x = first; x < n && x < first + 1024; x++)
            sum += q->q[x] * of_k[x];
        total = first == 0 ? (float)sum : total + (float)sum;
    }
    return fmaf(total * scale, q->scale, q->offset);
}

typedef struct state {
    float m, l, *o;
} state;

static void fold(state *s, const state *block, int64_t n) {
    if (block->l == 0)
        return;
    const float m = fmaxf(s->m, block->m), a = exp2_or_zero(s->m - m), b = exp2_or_zero(block->m - m);
    s->l = fmaf(block->l, b, s->l * a);
    for (int64_t x = 0; x < n; x++)
        s->o[x] = fmaf(block->o[x], b, s->o[x] * a);
    s->m = m;
}

static const float *means_of(const qkv_attention_desc *d, int64_t b, int64_t kv) {
    return d->k_means.data ? row_of(&d->k_means, b, kv, 0) : NULL;
}

/* The base-2 logit of a key that the row sees. q is multiplied by c already. */
static float logit_of(const qkv_attention_desc *d, const float *q, const int8_row *in_int8, int64_t b, int64_t h,
                      int64_t kv, int64_t i, int64_t j) {
    if (!in_int8)
        return logit(d, q, b, h, kv, i, j, NULL);
    const float dot_of_8_bits = int8_dot(in_int8, row_of(&d->k, b, kv, j), means_of(d, b, kv), d->head_dim);
    return finished_logit(d, dot_of_8_bits, b, h, i, j, NULL);
}

/* m, ℓ and O of the keys [first, end) of one row. */
static void one_block(const qkv_attention_desc *d, int64_t dv, const float *q, const int8_row *in_int8, int64_t b,
                      int64_t h, int64_t kv, int64_t i, int64_t first, int64_t end, state *block) {
    const bool in_bf16 = d->arithmetic != QKV_ARITHMETIC_F32; /* P·V */
    float t[QKV_KEY_BLOCK], lane[16] = {0};
    block->m = -FLT_MAX;
    for (int64_t j = first; j < end; j++) {
        t[j - first] = oracle_sees(d, b, h, i, j) ? logit_of(d, q, in_int8, b, h, kv, i, j) : -INFINITY;
        block->m = fmaxf(block->m, t[j - first]);
    }
    memset(block->o, 0, (size_t)dv * sizeof(float));
    for (int64_t j = first; j < end; j++) {
        float *p = &t[j - first];
        if (*p == -INFINITY)
            continue;
        *p = in_bf16 ? oracle_exp2_for_bf16(*p - block->m) : exp2_or_zero(*p - block->m);
        lane[j % 16] += *p;
        if (d->dropout != 0)
            *p *= (float)oracle_dropout_factor(d, b, h, i, j);
    }
    for (int64_t n = 0; n < end - first; n++) {
        const int64_t j = nth_term(in_bf16, n, end - first);
        const float *v = row_of(&d->v, b, kv, first + j), p = in_bf16 ? oracle_to_bf16(t[j]) : t[j];
        for (int64_t x = 0; x < dv && t[j] != -INFINITY; x++)
            block->o[x] = fmaf(p, in_bf16 ? oracle_to_bf16(v[x]) : v[x], block->o[x]);
    }
    block->l = sum_of_lanes(lane);
}

static float one_row(const attention_case *c, int64_t b, int64_t h, int64_t i, float *out, float *scratch) {
    const qkv_attention_desc *d = &c->desc;
    const int64_t kv = h / (d->num_heads / c->kv_heads), dv = c->dv;
    float *q = scratch + dv;
    scaled_query(d, b, h, i, q);
    int8_row row, *in_int8 = d->arithmetic == QKV_ARITHMETIC_INT8 ? &row : NULL;
    if (in_int8)
        to_int8(d, q, means_of(d, b, kv), in_int8);
    state s = {-FLT_MAX, 0, out}, block = {0, 0, scratch};
    memset(out, 0, (size_t)dv * sizeof(float));
    for (int64_t first = 0; first < d->seq_k; first += QKV_KEY_BLOCK) {
        const int64_t end = first + QKV_KEY_BLOCK < d->seq_k ? first + QKV_KEY_BLOCK : d->seq_k;
        one_block(d, dv, q, in_int8, b, h, kv, i, first, end, &block);
        fold(&s, &block, dv);
    }
    if (d->sinks && d->sinks[h] != -INFINITY) {
        memset(scratch, 0, (size_t)dv * sizeof(float));
        block.m = fmaxf(d->sinks[h] * log2e, -FLT_MAX);
        block.l = 1;
        fold(&s, &block, dv);
    }
    const float inverse = s.l == 0 ? 0 : 1 / s.l;
    for (int64_t x = 0; x < dv; x++)
        out[x] = out[x] * inverse + 0.0f;
    if (s.l == 0)
        return -INFINITY;
    kernels->log(&s.l, 1);
    return fmaf(s.m, ln2, s.l);
}

static void test_attention_follows_the_rules_to_the_bit(const qt_set *set) {
    kernels = set->kernels;
    for (uint64_t i = 0; i < case_count(400); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 200000, &c);
        const qkv_attention_desc *d = &c.desc;
        if (!c.ordinary)
            continue;
        const case_results got = case_run(&set->ctx, &c, 0, 0);
        float *out = case_floats(&rng, c.dv), *scratch = case_floats(&rng, c.dv + d->head_dim);
        for (int64_t row = 0; row < d->batch * d->num_heads * d->seq_q; row++) {
            const int64_t b = row / d->seq_q / d->num_heads, h = row / d->seq_q % d->num_heads;
            const float lse = one_row(&c, b, h, row % d->seq_q, out, scratch);
            qt_expect_words("out", out, got.out + row * c.dv, (size_t)c.dv, 0);
            if (got.lse)
                qt_expect_words("lse", &lse, got.lse + row, 1, 0);
        }
    }
}

static void test_projections_follow_the_rules_to_the_bit(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t m = qt_range(&rng, 1, 20), k = qt_range(&rng, 1, 600), n = qt_range(&rng, 1, 100);
        float *x = case_floats(&rng, m * k), *w = case_floats(&rng, k * n), *y = case_floats(&rng, m * n);
        float *bias = case_floats(&rng, n);
        qt_fill(&rng, x, (size_t)(m * k), QT_NORMAL);
        qt_fill(&rng, w, (size_t)(k * n), QT_NORMAL);
        qt_fill(&rng, bias, (size_t)n, QT_NORMAL);
        const qkv_pack_desc pack = {
            .size = sizeof pack, .in_features = k, .num_parts = 1, .part = {{.data = w, .out_features = n}}};
        const qkv_projection_desc d = {.size = sizeof d,
                                       .batch = 1,
                                       .tokens = m,
                                       .in_features = k,
                                       .num_parts = 1,
                                       .x = {x, 0, 0, k},
                                       .packed = case_pack(&set->ctx, &pack),
                                       .part = {{.out_features = n, .bias = bias, .out = {y, 0, 0, n}}}};
        case_run_projection(&set->ctx, &d, 0, 0);
        for (int64_t t = 0; t < m; t++)
            for (int64_t c = 0; c < n; c++) {
                const float want = dot(false, x + t * k, w + c, n, k) + bias[c];
                qt_expect_words("y", &want, y + t * n + c, 1, 0);
            }
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("attention_follows_the_rules_to_the_bit", test_attention_follows_the_rules_to_the_bit);
    qt_each_set("projections_follow_the_rules_to_the_bit", test_projections_follow_the_rules_to_the_bit);
    return qt_run();
}
