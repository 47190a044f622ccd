/* The same bits for any thread count, order of tasks, batch, and split of the work.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <string.h>

static void test_threads_and_order_of_tasks_change_no_bit(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 1000000, &c);
        const case_results one = case_run(&set->ctx, &c, 0, 0);
        for (int32_t threads = 1; threads <= 8; threads++) {
            const case_results many = case_run(&set->ctx, &c, threads, threads % 2 ? qt_u64(&rng) : 0);
            case_expect_same("so many threads", &c, &one, &many);
        }
    }
}

/* The caller's own loop over qkv_attention_task, with worker numbers and order of its choice. */
static void test_tasks_by_hand_give_the_same_bits(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 300000, &c);
        const case_results helper = case_run(&set->ctx, &c, 0, 0);
        const int32_t workers = (int32_t)qt_range(&rng, 1, 9);
        qkv_plan plan, copy;
        assert_int_equal(qkv_attention_plan(&set->ctx, &c.desc, workers, &plan), QKV_OK);
        memcpy(&copy, &plan, sizeof copy); /* a plan is a plain value */
        memset(&plan, 0xa5, sizeof plan);
        void *workspace = qt_alloc(copy.workspace_size, 64, QT_TAIL);
        assert_int_equal(qkv_attention_check(&copy, &c.desc, workspace, copy.workspace_size), QKV_OK);
        qt_poison(c.desc.out.data);
        for (int32_t phase = 0; phase < copy.num_phases; phase++)
            for (int64_t task = qkv_plan_num_tasks(&copy, phase); task-- > 0;)
                qkv_attention_task(&copy, &c.desc, workspace, phase, task, (int32_t)qt_range(&rng, 0, workers - 1));
        const qkv_attention_desc *d = &c.desc;
        const case_results by_hand = {case_gather(&d->out, d->batch, d->num_heads, d->seq_q, c.dv), helper.lse,
                                      helper.probabilities, helper.scores};
        case_expect_same("tasks by hand", &c, &helper, &by_hand);
    }
}

/* Restricts a case to one batch and a range of queries and heads of one KV head. */
static attention_case part_of(const attention_case *c, int64_t b, int64_t kv, int64_t first_query, int64_t queries) {
    attention_case part = *c;
    qkv_attention_desc *d = &part.desc;
    const int64_t group = d->num_heads / c->kv_heads, h = kv * group;
    d->batch = 1;
    d->num_heads = group;
    d->num_kv_heads = 1;
    part.kv_heads = 1;
    d->seq_q = queries;
    d->q.data = (const float *)d->q.data + b * d->q.batch + h * d->q.head + first_query * d->q.token;
    d->k.data = (const float *)d->k.data + b * d->k.batch + kv * d->k.head;
    d->v.data = (const float *)d->v.data + b * d->v.batch + kv * d->v.head;
    d->q_offset = (d->q_offsets ? d->q_offsets[b] : d->q_offset) + first_query;
    d->q_offsets = NULL;
    d->dropout_offset += (uint64_t)(b * c->desc.num_heads + h);
    if (d->kv_len)
        d->kv_len += b;
    if (d->alibi_slopes)
        d->alibi_slopes += h;
    if (d->sinks)
        d->sinks += h;
    if (d->k_means.data)
        d->k_means.data = (const float *)d->k_means.data + b * d->k_means.batch + kv * d->k_means.head;
    if (d->bias.data)
        d->bias.data = (const float *)d->bias.data + b * d->bias.batch + h * d->bias.head + first_query * d->bias.query;
    if (d->keep.data)
        d->keep.data =
            (const uint8_t *)d->keep.data + b * d->keep.batch + h * d->keep.head + first_query * d->keep.query;
    d->probabilities.data = d->scores.data = NULL;
    return part;
}

/* Runs the part into memory of its own and compares it with its place in the whole. */
static void expect_part(qt_rng *rng, const qt_set *set, const attention_case *c, const case_results *whole, int64_t b,
                        int64_t kv, int64_t first_query, int64_t queries) {
    attention_case part = part_of(c, b, kv, first_query, queries);
    qkv_attention_desc *d = &part.desc;
    const int64_t group = d->num_heads, dv = c->dv, seq_q = c->desc.seq_q;
    float *out = case_floats(rng, group * queries * dv), *lse = case_floats(rng, group * queries);
    d->out = (qkv_output){out, 0, queries * dv, dv};
    d->lse = (qkv_output){lse, 0, queries, 1};
    case_run_attention(&set->ctx, d, 0, 0);
    for (int64_t h = 0; h < group; h++) {
        const int64_t row = (b * c->desc.num_heads + kv * group + h) * seq_q + first_query;
        qt_expect_words("out", whole->out + row * dv, out + h * queries * dv, (size_t)(queries * dv), 0);
        if (whole->lse)
            qt_expect_words("lse", whole->lse + row, lse + h * queries, (size_t)queries, 0);
    }
}

static void test_a_batch_of_n_equals_n_batches(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 1000000, &c);
        const case_results whole = case_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 4), 0);
        for (int64_t b = 0; b < c.desc.batch; b++)
            for (int64_t kv = 0; kv < c.kv_heads; kv++)
                expect_part(&rng, set, &c, &whole, b, kv, 0, c.desc.seq_q);
    }
}

static void test_a_prefill_row_equals_the_decode_step(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 1000000, &c);
        const qkv_attention_desc *d = &c.desc;
        if (d->batch == 0 || d->num_heads == 0)
            continue;
        const case_results whole = case_run(&set->ctx, &c, 0, 0);
        const int64_t b = qt_range(&rng, 0, d->batch - 1), kv = qt_range(&rng, 0, c.kv_heads - 1);
        for (int64_t q = 0; q < d->seq_q; q += qt_range(&rng, 1, 9))
            expect_part(&rng, set, &c, &whole, b, kv, q, 1);
    }
}

/* A cache that grows: step t sees t + 1 keys by kv_len, or is given no more than those. */
static void test_decoding_step_by_step_equals_causal_prefill(const qt_set *set) {
    for (uint64_t i = 0; i < 6; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        const int64_t n = qt_range(&rng, 250, 530);
        case_plain(&rng, &c, 1, 4, 2, n, n, 16, 24);
        case_draw_arithmetic(&rng, &c.desc);
        c.desc.flags = QKV_RIGHT;
        const case_results whole = case_run(&set->ctx, &c, 0, 0);
        attention_case step = c;
        qkv_attention_desc *d = &step.desc;
        d->flags = 0;
        d->seq_q = 1;
        float *out = qt_floats(4 * 24, QT_TAIL), *lse = qt_floats(4, QT_TAIL);
        d->out = (qkv_output){out, 0, 24, 0};
        d->lse = (qkv_output){lse, 0, 1, 0};
        for (int64_t t = 0; t < n; t += qt_emulated() ? 29 : 5) {
            const int64_t len = t + 1;
            d->q.data = case_row(&c.desc.q, 0, 0, t);
            d->kv_len = t % 2 ? &len : NULL;
            d->seq_k = t % 2 ? n : t + 1;
            case_run_attention(&set->ctx, d, 0, 0);
            for (int64_t h = 0; h < 4; h++) {
                qt_expect_words("out", whole.out + (h * n + t) * 24, out + h * 24, 24, 0);
                qt_expect_words("lse", whole.lse + h * n + t, lse + h, 1, 0);
            }
        }
    }
}

/* Lengths and positions that change from run to run, as in a server's loop, with keys divided among workers or not. */
static void test_one_plan_serves_every_length(const qt_set *set) {
    for (uint64_t i = 0; i < 8; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        const int64_t keys = qt_range(&rng, 300, 2000), queries = qt_range(&rng, 1, 9);
        const int32_t workers = (int32_t)qt_range(&rng, 2, 16);
        case_plain(&rng, &c, 2, 2, 1, queries, keys, 16, 24);
        qkv_attention_desc *d = &c.desc;
        int64_t lengths[2], offsets[2];
        d->kv_len = lengths;
        d->q_offsets = offsets;
        d->flags = i % 4 == 0 ? 0 : i % 4 == 1 ? QKV_RIGHT : QKV_LEFT | QKV_RIGHT;
        d->left = qt_range(&rng, 0, 700);
        uint8_t *keep = qt_alloc((size_t)keys, 1, QT_TAIL);
        memset(keep, 1, (size_t)keys);
        memset(keep + keys / 5, 0, (size_t)(keys / 2)); /* whole blocks of it */
        if (i >= 4)
            d->keep = (qkv_matrix_input){keep, 0, 0, 0, 1};
        qkv_plan plan;
        assert_int_equal(qkv_attention_plan(&set->ctx, d, workers, &plan), QKV_OK);
        void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
        for (int run = 0; run < 12; run++) {
            for (int b = 0; b < 2; b++) {
                lengths[b] = qt_range(&rng, -1, keys + 1);
                offsets[b] = qt_range(&rng, 0, 3) ? lengths[b] - queries : qt_range(&rng, -20, keys);
            }
            const case_results one = case_run(&set->ctx, &c, 0, 0);
            qt_poison(d->out.data);
            qt_pool pool = {workers, run % 2 ? qt_u64(&rng) : 0};
            assert_int_equal(
                qkv_attention_run_parallel(&plan, d, workspace, plan.workspace_size, qt_parallel_for, &pool), QKV_OK);
            const case_results many = {case_gather(&d->out, 2, 2, queries, 24), one.lse, one.probabilities, one.scores};
            case_expect_same("one plan", &c, &one, &many);
        }
    }
}

/* Key and value heads copied for every query head give what sharing them gives. */
static void test_shared_kv_heads_equal_repeated_ones(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t kv = qt_range(&rng, 1, 3), group = qt_range(&rng, 2, 5), n = qt_range(&rng, 1, 300);
        attention_case c;
        case_plain(&rng, &c, 1, kv * group, kv, qt_range(&rng, 1, 20), n, 9, 11);
        const case_results shared = case_run(&set->ctx, &c, 0, 0);
        attention_case repeated = c;
        qkv_attention_desc *d = &repeated.desc;
        d->num_kv_heads = kv * group;
        repeated.kv_heads = kv * group;
        float *k = case_floats(&rng, kv * group * n * 9), *v = case_floats(&rng, kv * group * n * 11);
        for (int64_t h = 0; h < kv * group; h++)
            for (int64_t t = 0; t < n; t++) {
                memcpy(k + (h * n + t) * 9, case_row(&c.desc.k, 0, h / group, t), 9 * sizeof(float));
                memcpy(v + (h * n + t) * 11, case_row(&c.desc.v, 0, h / group, t), 11 * sizeof(float));
            }
        d->k = (qkv_input){k, 0, n * 9, 9};
        d->v = (qkv_input){v, 0, n * 11, 11};
        const case_results copies = case_run(&set->ctx, &repeated, 0, 0);
        case_expect_same("repeated heads", &c, &shared, &copies);
    }
}

/* A token's projection does not depend on the tokens beside it. */
static void test_a_projected_token_does_not_depend_on_the_others(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t m = qt_range(&rng, 1, 60), k = qt_range(&rng, 1, 300), n = qt_range(&rng, 1, 200);
        float *x = case_floats(&rng, m * k), *w = case_floats(&rng, k * n), *y = case_floats(&rng, m * n);
        float *alone = case_floats(&rng, n);
        qt_fill(&rng, x, (size_t)(m * k), QT_NORMAL);
        qt_fill(&rng, w, (size_t)(k * n), QT_NORMAL);
        const qkv_pack_desc pack = {
            .size = sizeof pack, .in_features = k, .num_parts = 1, .part = {{.data = w, .out_features = n}}};
        qkv_projection_desc d = {.size = sizeof d,
                                 .batch = 1,
                                 .tokens = m,
                                 .in_features = k,
                                 .num_parts = 1,
                                 .x = {x, 0, 0, k},
                                 .packed = case_pack(&set->ctx, &pack),
                                 .part = {{.out_features = n, .out = {y, 0, 0, n}}}};
        case_run_projection(&set->ctx, &d, (int32_t)qt_range(&rng, 0, 8), qt_u64(&rng));
        d.tokens = 1;
        d.part[0].out.data = alone;
        for (int64_t t = 0; t < m; t += qt_range(&rng, 1, 7)) {
            d.x.data = x + t * k;
            case_run_projection(&set->ctx, &d, 0, 0);
            qt_expect_words("token", y + t * n, alone, (size_t)n, 0);
        }
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("threads_and_order_of_tasks_change_no_bit", test_threads_and_order_of_tasks_change_no_bit);
    qt_each_set_of_attention("tasks_by_hand_give_the_same_bits", test_tasks_by_hand_give_the_same_bits);
    qt_each_set_of_attention("a_batch_of_n_equals_n_batches", test_a_batch_of_n_equals_n_batches);
    qt_each_set_of_attention("a_prefill_row_equals_the_decode_step", test_a_prefill_row_equals_the_decode_step);
    qt_each_set_of_attention("decoding_step_by_step_equals_causal_prefill",
                             test_decoding_step_by_step_equals_causal_prefill);
    qt_each_set("one_plan_serves_every_length", test_one_plan_serves_every_length);
    qt_each_set("shared_kv_heads_equal_repeated_ones", test_shared_kv_heads_equal_repeated_ones);
    qt_each_set("a_projected_token_does_not_depend_on_the_others",
                test_a_projected_token_does_not_depend_on_the_others);
    return qt_run();
}
