/* What a token gets depends on no layout: sequences packed without padding, keys in pages, masks as ranges give the
 * bits of plain calls, one sequence each.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include <stdio.h>
#include <string.h>

/* A batch of sequences as an engine has them: packed queries, and keys packed, padded or in pages. */
typedef struct batch {
    qkv_attention_desc d;
    int64_t starts_q[10], starts_k[10], offsets[9], lengths[9], pages;
    float *out, *lse;
} batch;

static int64_t draw_length(qt_rng *rng, int64_t most) {
    return qt_chance(rng, 30) ? 1 : qt_chance(rng, 10) ? 0 : qt_range(rng, 1, most);
}

static void draw_options(qt_rng *rng, qkv_attention_desc *d) {
    const int64_t rows = d->num_heads * d->seq_q * d->seq_k;
    if (qt_chance(rng, 60)) {
        d->flags |= QKV_RIGHT | (qt_chance(rng, 40) ? QKV_LEFT : 0);
        d->left = qt_range(rng, 0, 300);
        d->right = qt_chance(rng, 70) ? 0 : qt_range(rng, 0, 40);
    }
    d->softcap = qt_chance(rng, 20) ? 5.0f : 0;
    d->dropout = qt_chance(rng, 20) ? 0.3f : 0;
    if (qt_chance(rng, 20))
        d->alibi_slopes = case_normal(rng, d->num_heads);
    if (qt_chance(rng, 20))
        d->sinks = case_normal(rng, d->num_heads);
    if (qt_chance(rng, 20) && rows < 400000)
        d->bias = (qkv_matrix_input){case_normal(rng, rows), 77, d->seq_q * d->seq_k, d->seq_k, 1};
    if (qt_chance(rng, 30) && rows < 400000) {
        uint8_t *keep = qt_alloc((size_t)rows, 1, QT_TAIL);
        for (int64_t i = 0; i < rows; i++)
            keep[i] = qt_chance(rng, 80);
        d->keep = (qkv_matrix_input){keep, 77, d->seq_q * d->seq_k, d->seq_k, 1};
    }
    case_draw_arithmetic(rng, d);
}

/* Queries packed; keys packed too, or each sequence in a batch of its own of seq_k places. */
static void draw_batch(qt_rng *rng, batch *x, bool packs_keys) {
    memset(x, 0, sizeof *x);
    qkv_attention_desc *d = &x->d;
    const int64_t kv = qt_range(rng, 1, 3), group = qt_range(rng, 1, 7), dim = qt_range(rng, 1, 70);
    const int64_t dv = qt_chance(rng, 70) ? dim : qt_range(rng, 1, 40);
    *d = (qkv_attention_desc){.size = sizeof *d,
                              .batch = qt_range(rng, 1, 8),
                              .num_heads = kv * group,
                              .num_kv_heads = kv,
                              .head_dim = dim,
                              .head_dim_v = dv};
    const int64_t before = qt_range(rng, 0, 5);
    x->starts_q[0] = before;
    x->starts_k[0] = qt_range(rng, 0, 5);
    for (int64_t b = 0; b < d->batch; b++) {
        x->lengths[b] = draw_length(rng, qt_chance(rng, 30) ? 700 : 60);
        const int64_t queries = draw_length(rng, qt_chance(rng, 20) ? 120 : 9);
        x->starts_q[b + 1] = x->starts_q[b] + queries;
        x->starts_k[b + 1] = x->starts_k[b] + x->lengths[b];
        x->offsets[b] = x->lengths[b] - queries;
        d->seq_k = x->lengths[b] > d->seq_k ? x->lengths[b] : d->seq_k;
    }
    d->seq_q = x->starts_q[d->batch] + qt_range(rng, 0, 4);
    d->seq_k += qt_range(rng, 0, 20);
    if (packs_keys)
        d->seq_k = x->starts_k[d->batch] + qt_range(rng, 0, 4);
    const int64_t key_b = packs_keys ? 1 : d->batch;
    d->q_start = x->starts_q;
    d->k_start = packs_keys ? x->starts_k : NULL;
    d->q_offsets = x->offsets;
    d->kv_len = packs_keys && qt_chance(rng, 60) ? NULL : x->lengths;
    d->q = (qkv_input){case_normal(rng, d->seq_q * d->num_heads * dim), 12345, dim, d->num_heads * dim};
    d->k = (qkv_input){case_normal(rng, key_b * d->seq_k * kv * dim), d->seq_k * kv * dim, dim, kv * dim};
    d->v = (qkv_input){case_normal(rng, key_b * d->seq_k * kv * dv), d->seq_k * kv * dv, dv, kv * dv};
    x->out = qt_floats((size_t)(d->seq_q * d->num_heads * dv), QT_TAIL);
    x->lse = qt_floats((size_t)(d->seq_q * d->num_heads), QT_TAIL);
    d->out = (qkv_output){x->out, 0, dv, d->num_heads * dv};
    d->lse = (qkv_output){x->lse, -3, 1, d->num_heads};
    draw_options(rng, d);
    qt_describe("batch=%d heads=%d:%d seq_q=%d seq_k=%d dim=%d,%d flags=%u keys %s", (int)d->batch, (int)d->num_heads,
                (int)kv, (int)d->seq_q, (int)d->seq_k, (int)dim, (int)dv, d->flags, packs_keys ? "packed" : "padded");
}

/* The rows of sequence b by a call of their own: plain tensors, no arrays but what one batch has. */
static qkv_attention_desc alone(const batch *x, int64_t b, float *out, float *lse) {
    qkv_attention_desc d = x->d;
    const int64_t q0 = x->starts_q[b], k0 = d.k_start ? x->starts_k[b] : 0;
    const int64_t key_b = d.k_start ? 0 : b;
    d.batch = 1;
    d.seq_q = x->starts_q[b + 1] - q0;
    d.seq_k = x->lengths[b];
    d.q_start = d.k_start = NULL;
    d.kv_len = d.q_offsets = NULL;
    d.q_offset = x->offsets[b];
    d.q.data = (const float *)d.q.data + q0 * d.q.token;
    d.k.data = (const float *)d.k.data + key_b * d.k.batch + k0 * d.k.token;
    d.v.data = (const float *)d.v.data + key_b * d.v.batch + k0 * d.v.token;
    d.out = (qkv_output){out, 0, d.head_dim_v, d.num_heads * d.head_dim_v};
    d.lse = (qkv_output){lse, 0, 1, d.num_heads};
    if (d.k_means.data)
        d.k_means.data = (const float *)d.k_means.data + b * d.k_means.batch;
    if (d.bias.data)
        d.bias.data = (const float *)d.bias.data + q0 * d.bias.query;
    if (d.keep.data)
        d.keep.data = (const uint8_t *)d.keep.data + q0 * d.keep.query;
    if (d.key_ranges.data)
        d.key_ranges.data += q0 * d.key_ranges.query;
    d.dropout_offset += (uint64_t)(b * d.num_heads);
    return d;
}

static void expect_sequences(const qt_set *set, const batch *x) {
    const qkv_ctx reference = case_reference();
    const qkv_attention_desc *d = &x->d;
    for (int64_t b = 0; b < d->batch; b++) {
        const size_t rows = (size_t)((x->starts_q[b + 1] - x->starts_q[b]) * d->num_heads);
        if (rows == 0)
            continue;
        float *out = qt_floats(rows * (size_t)d->head_dim_v, QT_TAIL), *lse = qt_floats(rows, QT_TAIL);
        const qkv_attention_desc one = alone(x, b, out, lse);
        case_run_attention(&reference, &one, 0, 0);
        const size_t means = (size_t)(d->num_kv_heads * d->head_dim);
        float *of_all = qt_floats((size_t)d->batch * means, QT_TAIL), *of_one = qt_floats(means, QT_TAIL);
        assert_int_equal(qkv_attention_key_means(&set->ctx, d, of_all), QKV_OK);
        assert_int_equal(qkv_attention_key_means(&reference, &one, of_one), QKV_OK);
        qt_expect_words("means", of_one, of_all + (size_t)b * means, means, 0);
        const int64_t first = x->starts_q[b] * d->num_heads;
        qt_expect_words(set->name, out, x->out + first * d->head_dim_v, rows * (size_t)d->head_dim_v, 0);
        qt_expect_words("lse", lse, x->lse + first, rows, 0);
    }
    const int64_t last = x->starts_q[d->batch];
    const qt_view written = {x->out + x->starts_q[0] * d->num_heads * d->head_dim_v,
                             4,
                             1,
                             {(last - x->starts_q[0]) * d->num_heads * d->head_dim_v},
                             {1}};
    if (last > x->starts_q[0])
        qt_expect_gaps("tokens of no sequence", &written);
}

static void run_batch(const qt_set *set, qt_rng *rng, const batch *x) {
    case_run_attention(&set->ctx, &x->d, qt_chance(rng, 40) ? 0 : (int32_t)qt_range(rng, 1, 8),
                       qt_chance(rng, 50) ? qt_u64(rng) : 0);
    expect_sequences(set, x);
}

static void test_packed_sequences_are_single_calls(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        batch x;
        if (!qt_case(i, &rng))
            continue;
        draw_batch(&rng, &x, i % 2);
        run_batch(set, &rng, &x);
    }
}

/* Ranges of every kind, beside what the flags say; and the mask they describe. */
static void draw_ranges(qt_rng *rng, const qkv_attention_desc *d, qkv_ranges *x, qkv_matrix_input *mask) {
    const int64_t rows = d->batch * d->seq_q;
    int64_t *ranges = qt_alloc((size_t)rows * 16, 8, QT_TAIL);
    uint8_t *keep = qt_alloc((size_t)(rows * d->seq_k), 1, QT_TAIL);
    const bool documents = qt_chance(rng, 50);
    for (int64_t r = 0; r < rows; r++) {
        int64_t first = documents ? r % (d->seq_q + 1) / 20 * 20 : qt_range(rng, -5, d->seq_k + 3);
        int64_t end = documents ? first + 20 : first + qt_range(rng, -3, d->seq_k + 5);
        if (qt_chance(rng, 3))
            first = qt_chance(rng, 50) ? INT64_MIN : INT64_MAX;
        if (qt_chance(rng, 3))
            end = qt_chance(rng, 50) ? INT64_MIN : INT64_MAX;
        ranges[2 * r] = first;
        ranges[2 * r + 1] = end;
        for (int64_t j = 0; j < d->seq_k; j++)
            keep[r * d->seq_k + j] = j >= first && j < end;
    }
    *x = (qkv_ranges){ranges, 2 * d->seq_q, 2};
    *mask = (qkv_matrix_input){keep, d->seq_q * d->seq_k, 0, d->seq_k, 1};
}

static void test_ranges_are_the_mask_they_describe(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(250); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 200000, &c);
        attention_case masked = c;
        c.desc.keep.data = NULL;
        draw_ranges(&rng, &c.desc, &c.desc.key_ranges, &masked.desc.keep);
        const qkv_ctx reference = case_reference();
        const case_results want = case_run(&reference, &masked, 0, 0);
        const case_results got = case_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 4), 0);
        case_expect_same(set->name, &c, &want, &got);
    }
}

static void test_gradients_of_ranges(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(120); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, 100000, &c);
        gradient_case masked = c;
        c.desc.forward.keep.data = NULL;
        draw_ranges(&rng, &c.desc.forward, &c.desc.forward.key_ranges, &masked.desc.forward.keep);
        masked.attention.desc.keep = masked.desc.forward.keep;
        gradient_run_forward(&masked);
        const qkv_ctx reference = case_reference();
        const gradient_results want = gradient_run(&reference, &masked, 0, 0);
        const gradient_results got = gradient_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 4), 0);
        gradient_expect_same(set->name, &c, &want, &got);
    }
}

/* The first keys of a sequence become those of the one before. */
static void begin_alike(const qkv_attention_desc *d, int64_t b, int64_t tokens) {
    float *k = (float *)(uintptr_t)d->k.data + b * d->k.batch, *v = (float *)(uintptr_t)d->v.data + b * d->v.batch;
    memcpy(k, k - d->k.batch, (size_t)(tokens * d->k.token) * 4);
    memcpy(v, v - d->v.batch, (size_t)(tokens * d->v.token) * 4);
}

/* Keys scattered over pages in any order, some of them shared by sequences that begin alike, the rest poison. */
static void put_in_pages(qt_rng *rng, batch *x, qkv_attention_desc *paged) {
    const qkv_attention_desc *d = &x->d;
    const bool panels = qt_chance(rng, 30);
    const int64_t tokens = panels ? 64 * qt_range(rng, 1, 3) : 16 * qt_range(rng, 1, 6), kv = d->num_kv_heads;
    const int64_t most = (d->seq_k + tokens - 1) / tokens, pool = d->batch * most + qt_range(rng, 0, 3);
    const int64_t stride = most + qt_range(rng, 0, 3);
    int32_t *table = qt_alloc((size_t)((d->batch - 1) * stride + most) * 4, 4, QT_TAIL), next = (int32_t)pool;
    float *k = qt_floats((size_t)(pool * tokens * kv * d->head_dim), QT_TAIL);
    float *v = qt_floats((size_t)(pool * tokens * kv * d->head_dim_v), QT_TAIL);
    paged->k = (qkv_input){k, tokens * kv * d->head_dim, tokens * d->head_dim, d->head_dim};
    paged->v = (qkv_input){v, tokens * kv * d->head_dim_v, d->head_dim_v, kv * d->head_dim_v};
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t p = 0; p < most; p++) {
            int32_t *entry = &table[b * stride + p];
            const int64_t n = x->lengths[b] - p * tokens;
            *entry = qt_chance(rng, 50) ? INT32_MIN : INT32_MAX; /* not looked at */
            if (n <= 0 || (d->flags & QKV_LEFT && (p + 1) * tokens <= x->offsets[b] - d->left))
                continue;
            const int32_t before = b > 0 ? table[(b - 1) * stride] : -1;
            if (p == 0 && before >= 0 && before < pool && x->lengths[b - 1] >= tokens && n >= tokens &&
                qt_chance(rng, 50)) {
                begin_alike(d, b, tokens);
                *entry = before;
                continue;
            }
            *entry = --next;
            for (int64_t h = 0; h < kv; h++)
                for (int64_t t = 0; t < (n < tokens ? n : tokens); t++) {
                    const int64_t key = p * tokens + t;
                    float *to = k + *entry * paged->k.batch + h * paged->k.head;
                    for (int64_t c = 0; c < d->head_dim; c++)
                        to[panels ? t / 64 * 64 * d->head_dim + c * 64 + t % 64 : t * paged->k.token + c] =
                            ((const float *)d->k.data)[b * d->k.batch + h * d->k.head + key * d->k.token + c];
                    memcpy(v + *entry * paged->v.batch + h * paged->v.head + t * paged->v.token,
                           (const float *)d->v.data + b * d->v.batch + h * d->v.head + key * d->v.token,
                           (size_t)d->head_dim_v * 4);
                }
        }
    paged->k_layout = panels ? QKV_KEY_PANELS : QKV_KEY_ROWS;
    paged->page_table = table;
    paged->table_stride = stride;
    paged->page_tokens = tokens;
    paged->num_pages = pool;
}

static void test_pages_are_tensors(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        batch x;
        if (!qt_case(i, &rng))
            continue;
        draw_batch(&rng, &x, false);
        batch paged = x;
        put_in_pages(&rng, &x, &paged.d);
        case_run_attention(&set->ctx, &paged.d, (int32_t)qt_range(&rng, 0, 8), 0);
        expect_sequences(set, &x);
    }
}

/* Without q_start: a batch whose sequences have as many queries each. */
static void test_pages_of_a_plain_batch(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(120); i++) {
        qt_rng rng;
        batch x;
        if (!qt_case(i, &rng))
            continue;
        draw_batch(&rng, &x, false);
        qkv_attention_desc *d = &x.d;
        const int64_t n = qt_range(&rng, 1, qt_chance(&rng, 30) ? 90 : 5);
        const int64_t wide = d->num_heads * d->head_dim, wide_v = d->num_heads * d->head_dim_v;
        for (int64_t b = 0; b <= d->batch; b++)
            x.starts_q[b] = b * n;
        d->seq_q = d->batch * n;
        d->bias.data = d->keep.data = NULL;
        d->q.data = case_normal(&rng, d->seq_q * wide);
        d->out.data = x.out = qt_floats((size_t)(d->seq_q * wide_v), QT_TAIL);
        d->lse.data = x.lse = qt_floats((size_t)(d->seq_q * d->num_heads), QT_TAIL);
        batch paged = x;
        put_in_pages(&rng, &x, &paged.d);
        paged.d.q_start = NULL;
        paged.d.seq_q = n;
        paged.d.q.batch = n * wide;
        paged.d.out.batch = n * wide_v;
        paged.d.lse.batch = n * d->num_heads;
        case_run_attention(&set->ctx, &paged.d, (int32_t)qt_range(&rng, 0, 8), 0);
        expect_sequences(set, &x);
    }
}

static qkv_status run_status(const qt_set *set, const qkv_attention_desc *d) {
    qkv_plan plan;
    const qkv_status status = qkv_attention_plan(&set->ctx, d, 2, &plan);
    if (status != QKV_OK)
        return status;
    void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
    return qkv_attention_run(&plan, d, workspace, plan.workspace_size);
}

static void test_indices_that_lead_nowhere_are_refused(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < 20; i++) {
        batch x, y;
        if (!qt_case(i, &rng))
            continue;
        do /* until the first sequence looks at its first key */
            draw_batch(&rng, &x, i % 2);
        while (x.d.batch < 2 || x.lengths[0] == 0 || x.starts_q[1] == x.starts_q[0] ||
               (x.d.flags & QKV_LEFT && x.offsets[0] > x.d.left));
        y = x;
        y.d.q_start = y.starts_q;
        y.d.k_start = x.d.k_start ? y.starts_k : NULL;
        const int64_t bad[] = {-1, y.d.seq_q + 1, INT64_MAX, INT64_MIN};
        for (int n = 0; n < 4; n++) {
            y.starts_q[y.d.batch] = bad[n];
            assert_int_equal(run_status(set, &y.d), QKV_ERROR_INDEX);
        }
        y.starts_q[y.d.batch] = x.starts_q[y.d.batch];
        y.starts_q[1] = y.starts_q[2] + 1;
        assert_int_equal(run_status(set, &y.d), QKV_ERROR_INDEX);
        y.starts_q[1] = x.starts_q[1];
        if (x.d.k_start) {
            y.starts_k[y.d.batch] = y.d.seq_k + 1;
            assert_int_equal(run_status(set, &y.d), QKV_ERROR_INDEX);
            continue;
        }
        put_in_pages(&rng, &x, &y.d);
        int32_t *first = (int32_t *)(uintptr_t)y.d.page_table;
        const int32_t good = *first, none[] = {-1, (int32_t)y.d.num_pages, INT32_MAX, INT32_MIN};
        for (int n = 0; n < 4; n++) {
            *first = none[n];
            assert_int_equal(run_status(set, &y.d), QKV_ERROR_INDEX);
            char text[128], want[128];
            qkv_plan plan;
            assert_int_equal(qkv_attention_plan(&set->ctx, &y.d, 1, &plan), QKV_OK);
            snprintf(want, sizeof want, "attention: page_table has page %d for sequence 0, and num_pages is %d",
                     (int)none[n], (int)y.d.num_pages);
            void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
            assert_string_equal(
                qkv_attention_explain_run(&plan, &y.d, workspace, plan.workspace_size, text, sizeof text), want);
        }
        qt_expect_untouched("out", y.out);
        qt_expect_untouched("lse", y.lse);
        if (!(x.d.flags & QKV_LEFT) && x.lengths[0] > y.d.page_tokens) { /* scores look at what a window hides */
            y.d.flags |= QKV_LEFT;
            y.d.left = x.offsets[0] + x.starts_q[1] - x.starts_q[0] - y.d.page_tokens;
            *first = -1;
            y.d.scores = (qkv_matrix_output){qt_floats((size_t)(y.d.num_heads * y.d.seq_q * y.d.seq_k), QT_TAIL), 0,
                                             y.d.seq_q * y.d.seq_k, y.d.seq_k, 1};
            if (y.d.left >= 0)
                assert_int_equal(run_status(set, &y.d), QKV_ERROR_INDEX);
            y.d.scores.data = NULL;
            y.d.flags = x.d.flags;
            y.d.left = x.d.left;
        }
        *first = good;
        y.d.page_tokens = 8;
        assert_int_equal(run_status(set, &y.d), QKV_ERROR_SHAPE);
        y.d.page_tokens = -16;
        assert_int_equal(run_status(set, &y.d), QKV_ERROR_NEGATIVE);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("packed_sequences_are_single_calls", test_packed_sequences_are_single_calls);
    qt_each_set_of_attention("ranges_are_the_mask_they_describe", test_ranges_are_the_mask_they_describe);
    qt_each_set_of_attention("gradients_of_ranges", test_gradients_of_ranges);
    qt_each_set_of_attention("pages_are_tensors", test_pages_are_tensors);
    qt_each_set_of_attention("pages_of_a_plain_batch", test_pages_of_a_plain_batch);
    qt_each_set("indices_that_lead_nowhere_are_refused", test_indices_that_lead_nowhere_are_refused);
    return qt_run();
}
