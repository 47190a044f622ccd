/* The rules of docs/numerics.md once more, one after the other for a single row, with fmaf: what no comparison between
 * kernel sets can see, because all of them run the same algorithm. Only exp2, tanh and log come from the kernels; they
 * have tests of their own.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

static const float log2e = 0x1.715476p+0f, ln2 = 0x1.62e430p-1f;
static const qkv_kernels *kernels;

static float exp2_or_zero(float y) {
    if (y < -126)
        return 0;
    kernels->exp2(&y, 1);
    return y;
}

/* Term number n of a sum of so many is this one: in bfloat16 the second of each pair comes first. */
static int64_t nth_term(bool in_bf16, int64_t n, int64_t terms) {
    return !in_bf16 || (terms % 2 == 1 && n == terms - 1) ? n : n ^ 1;
}

/* Chains of 128 terms, added in order. In bfloat16 x is rounded already. */
static float dot(bool in_bf16, const float *x, const float *y, int64_t stride_y, int64_t n) {
    float total = 0;
    for (int64_t first = 0; first < n; first += 128) {
        float chain = 0;
        for (int64_t at = first; at < n && at < first + 128; at++) {
            const int64_t i = nth_term(in_bf16, at, n);
            chain = fmaf(x[i], in_bf16 ? oracle_to_bf16(y[i * stride_y]) : y[i * stride_y], chain);
        }
        total = first == 0 ? chain : total + chain;
    }
    return total;
}

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
    for (int step = 8; step > 0; step /= 2)
        for (int x16 = 0; x16 < step; x16++)
            lane[x16] += lane[x16 + step];
    return lane[0];
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

static const float *row_of(const qkv_input *in, int64_t b, int64_t h, int64_t t) {
    return (const float *)in->data + b * in->batch + h * in->head + t * in->token;
}

static const float *means_of(const qkv_attention_desc *d, int64_t b, int64_t kv) {
    return d->k_means.data ? row_of(&d->k_means, b, kv, 0) : NULL;
}

/* The base-2 logit of a key that the row sees. q is multiplied by c already. */
static float logit(const qkv_attention_desc *d, const float *q, const int8_row *in_int8, int64_t b, int64_t h,
                   int64_t kv, int64_t i, int64_t j) {
    const float *k = row_of(&d->k, b, kv, j);
    float t = in_int8 ? int8_dot(in_int8, k, means_of(d, b, kv), d->head_dim)
                      : dot(d->arithmetic == QKV_ARITHMETIC_BF16, q, k, 1, d->head_dim);
    if (d->softcap != 0) {
        kernels->tanh(&t, 1);
        t = d->softcap * log2e * t;
    }
    if (d->alibi_slopes) {
        const int64_t p = i + (d->q_offsets ? d->q_offsets[b] : d->q_offset);
        t = fmaf(d->alibi_slopes[h] * log2e, (float)(j - p), t);
    }
    const qkv_matrix_input *bias = &d->bias;
    if (bias->data) {
        const float x = ((const float *)bias->data)[b * bias->batch + h * bias->head + i * bias->query + j * bias->key];
        t += fmaxf(x * log2e, -FLT_MAX);
    }
    return t;
}

/* m, ℓ and O of the keys [first, end) of one row. */
static void one_block(const qkv_attention_desc *d, int64_t dv, const float *q, const int8_row *in_int8, int64_t b,
                      int64_t h, int64_t kv, int64_t i, int64_t first, int64_t end, state *block) {
    const bool in_bf16 = d->arithmetic != QKV_ARITHMETIC_F32; /* P·V */
    float t[QKV_KEY_BLOCK], lane[16] = {0};
    block->m = -FLT_MAX;
    for (int64_t j = first; j < end; j++) {
        t[j - first] = oracle_sees(d, b, h, i, j) ? logit(d, q, in_int8, b, h, kv, i, j) : -INFINITY;
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
    for (int step = 8; step > 0; step /= 2)
        for (int x = 0; x < step; x++)
            lane[x] += lane[x + step];
    block->l = lane[0];
}

static float one_row(const attention_case *c, int64_t b, int64_t h, int64_t i, float *out, float *scratch) {
    const qkv_attention_desc *d = &c->desc;
    const int64_t kv = h / (d->num_heads / c->kv_heads), dv = c->dv;
    const float scale = d->scale == 0 ? 1 / sqrtf((float)d->head_dim) : d->scale;
    const float factor = d->softcap == 0 ? scale * log2e : scale / d->softcap;
    float *q = scratch + dv;
    for (int64_t x = 0; x < d->head_dim; x++)
        q[x] = row_of(&d->q, b, h, i)[x] * factor;
    for (int64_t x = 0; x < d->head_dim && d->arithmetic == QKV_ARITHMETIC_BF16; x++)
        q[x] = oracle_to_bf16(q[x]);
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
        const qkv_pack_desc pack = {.size = sizeof pack, .in_features = k, .num_parts = 1,
                                    .part = {{.data = w, .out_features = n}}};
        const qkv_projection_desc d = {.size = sizeof d, .batch = 1, .tokens = m, .in_features = k, .num_parts = 1,
                                       .x = {x, 0, 0, k}, .packed = case_pack(&set->ctx, &pack),
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
