/* The workspace: exactly as large as the plan says, no larger than promised, and nothing outside it is touched.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <string.h>

static size_t workspace_of(const qkv_ctx *ctx, const qkv_attention_desc *d, int32_t workers) {
    qkv_plan plan;
    assert_int_equal(qkv_attention_plan(ctx, d, workers, &plan), QKV_OK);
    return plan.workspace_size;
}

/* At both ends of inaccessible pages; what it holds before does not matter. */
static void test_exactly_the_stated_size_is_enough(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(150); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 500000, &c);
        if (qt_chance(&rng, 50)) /* rows with a NaN are done once more, elsewhere */
            case_poison_invisible(&rng, &c);
        const case_results want = case_run(&set->ctx, &c, 0, 0);
        const int32_t workers = (int32_t)qt_range(&rng, 1, 8);
        qkv_plan plan;
        assert_int_equal(qkv_attention_plan(&set->ctx, &c.desc, workers, &plan), QKV_OK);
        for (int head = 0; head < 2; head++) {
            void *workspace = qt_alloc(plan.workspace_size, 64, head ? QT_HEAD : QT_TAIL);
            if (head)
                memset(workspace, 0, plan.workspace_size);
            qt_pool pool = {workers, qt_u64(&rng)};
            qt_poison(c.desc.out.data);
            assert_int_equal(
                qkv_attention_run_parallel(&plan, &c.desc, workspace, plan.workspace_size, qt_parallel_for, &pool),
                QKV_OK);
            qt_check_memory();
            const case_results got = {case_gather(&c.desc.out, c.desc.batch, c.desc.num_heads, c.desc.seq_q, c.dv),
                                      want.lse, want.probabilities, want.scores};
            case_expect_same("another workspace", &c, &want, &got);
            if (plan.workspace_size == 0)
                continue;
            assert_int_equal(qkv_attention_run(&plan, &c.desc, workspace, plan.workspace_size - 1),
                             QKV_ERROR_WORKSPACE);
            assert_int_equal(qkv_attention_run(&plan, &c.desc, (char *)workspace + 4, plan.workspace_size),
                             QKV_ERROR_ALIGNMENT);
        }
        assert_int_equal(qkv_attention_run(&plan, &c.desc, qt_alloc(plan.workspace_size + 64, 64, QT_TAIL),
                                           plan.workspace_size + 64),
                         QKV_OK);
    }
}

/* batch · kv_heads · ⌈seq_k / 64⌉ · 64 · head_dim floats, if that is at most 64 MiB. */
static size_t packed_keys(const qkv_attention_desc *d, int64_t kv_heads) {
    const size_t size = (size_t)(d->batch * kv_heads * ((d->seq_k + 63) / 64 * 64) * d->head_dim) * sizeof(float);
    return size <= (size_t)64 << 20 ? size : 0;
}

static qkv_attention_desc shape(int64_t batch, int64_t heads, int64_t kv_heads, int64_t sq, int64_t sk, int64_t dim) {
    return (qkv_attention_desc){.size = sizeof(qkv_attention_desc),
                                .batch = batch,
                                .num_heads = heads,
                                .num_kv_heads = kv_heads,
                                .seq_q = sq,
                                .seq_k = sk,
                                .head_dim = dim,
                                .q = {NULL, sq * heads * dim, dim, heads * dim},
                                .k = {NULL, sk * kv_heads * dim, dim, kv_heads * dim},
                                .v = {NULL, sk * kv_heads * dim, dim, kv_heads * dim},
                                .out = {NULL, sq * heads * dim, dim, heads * dim}};
}

/* States are kept only where there are fewer tiles of rows than two for each worker. */
static size_t kept_states(const qkv_attention_desc *d, int32_t workers) {
    const int64_t rows = d->batch * d->num_heads * d->seq_q, tiles = 2 * workers * QKV_MAX_ROWS;
    const int64_t blocks = (d->seq_k + QKV_KEY_BLOCK - 1) / QKV_KEY_BLOCK;
    const int64_t state = ((d->head_dim + 15) / 16 + 1) * 64;
    return workers == 1 ? 0 : (size_t)((rows < tiles ? rows : tiles) * blocks * state);
}

/* A worker's share does not grow with queries or keys: what it needs up to 600 queries is enough at any length. */
static void test_never_more_than_packed_keys_and_a_share_per_worker(const qt_set *set) {
    static const int64_t lengths[] = {1, 5, 64, 255, 1000, 4096, 100000, 3000000};
    static const int64_t dims[] = {1, 32, 64, 80, 128, 256};
    static const int32_t workers[] = {1, 2, 8};
    size_t largest = 0;
    for (size_t n = 0; n < 6; n++)
        for (size_t w = 0; w < 3; w++) {
            const int64_t dim = dims[n];
            qkv_attention_desc d;
            size_t limit = 0;
            for (int64_t q = 1; q <= 600; q++) {
                d = shape(1, 4, 2, q, 256, dim);
                const size_t share = workspace_of(&set->ctx, &d, 1);
                limit = share > limit ? share : limit;
            }
            largest = limit > largest ? limit : largest;
            for (size_t q = 0; q < 8; q++)
                for (size_t k = 0; k < 8; k++) {
                    d = shape(2, 4, 2, lengths[q], lengths[k], dim);
                    const size_t got = workspace_of(&set->ctx, &d, workers[w]);
                    const size_t most = packed_keys(&d, 2) + kept_states(&d, workers[w]) + (size_t)workers[w] * limit;
                    QT_EXPECT(got <= most,
                              "seq_q=%" PRId64 " seq_k=%" PRId64 " head_dim=%" PRId64
                              " workers=%d: %zu bytes, at most %zu expected",
                              lengths[q], lengths[k], dim, workers[w], got, most);
                    qt_count_words(1);
                }
        }
    QT_EXPECT(largest <= (size_t)2 << 20, "a worker's share is %zu bytes", largest);
    qt_note("the largest share of a worker is %zu KiB", largest >> 10);
}

/* With both ends of a window the keys that it can reach count, not those that there are. */
static void test_a_window_needs_no_more_than_it_reaches(const qt_set *set) {
    static const int64_t queries[] = {1, 2, 300, 4096}, widths[] = {0, 127, 1000};
    for (size_t q = 0; q < 4; q++)
        for (size_t w = 0; w < 3; w++)
            for (int32_t workers = 1; workers <= 8; workers += 7) {
                qkv_attention_desc d = shape(1, 4, 2, queries[q], 2 * (queries[q] + widths[w]) + 1024, 64);
                d.flags = QKV_LEFT | QKV_RIGHT;
                d.left = widths[w];
                const size_t most = workspace_of(&set->ctx, &d, workers);
                d.seq_k = 100 * d.seq_k;
                d.k.batch = d.v.batch = d.seq_k * 128;
                const size_t got = workspace_of(&set->ctx, &d, workers);
                QT_EXPECT(got <= most,
                          "%" PRId64 " queries, left=%" PRId64 ", %d workers: %zu bytes, %zu for fewer "
                          "keys",
                          queries[q], widths[w], workers, got, most);
                qt_count_words(1);
            }
}

/* Projections and merges need nothing that grows with the number of rows. */
static void test_projections_and_merges_need_a_fixed_share(const qt_set *set) {
    qkv_plan plan;
    size_t first[2] = {0, 0};
    for (int64_t rows = 1000; rows <= 100000000; rows *= 10) {
        const qkv_projection_desc p = {.size = sizeof p,
                                       .batch = 1,
                                       .tokens = rows,
                                       .in_features = 700,
                                       .num_parts = 1,
                                       .x = {NULL, 0, 0, 700},
                                       .part = {{.out_features = 900, .out = {NULL, 0, 0, 900}}}};
        assert_int_equal(qkv_projection_plan(&set->ctx, &p, 3, &plan), QKV_OK);
        const size_t projection = plan.workspace_size;
        const qkv_merge_desc m = {.size = sizeof m,
                                  .batch = 1,
                                  .num_heads = 1,
                                  .seq_q = rows,
                                  .head_dim_v = 128,
                                  .num_parts = 4,
                                  .part_out = {NULL, 0, 0, 128},
                                  .part_out_stride = 128 * rows,
                                  .part_lse = {NULL, 0, 0, 1},
                                  .part_lse_stride = rows,
                                  .out = {NULL, 0, 0, 128}};
        assert_int_equal(qkv_merge_plan(&set->ctx, &m, 3, &plan), QKV_OK);
        if (rows == 1000) {
            first[0] = projection;
            first[1] = plan.workspace_size;
        }
        QT_EXPECT(projection <= 2 * first[0] && plan.workspace_size <= 2 * first[1],
                  "%" PRId64 " rows: %zu and %zu bytes, %zu and %zu for 1,000", rows, projection, plan.workspace_size,
                  first[0], first[1]);
        qt_count_words(2);
    }
}

/* The layer holds Q, K, V and the heads besides. */
static void test_a_layer_needs_its_steps_and_their_operands(const qt_set *set) {
    static const int64_t tokens[] = {1, 64, 1000, 20000};
    for (size_t i = 0; i < 4; i++) {
        const int64_t n = tokens[i];
        static const float w[16] __attribute__((aligned(64)));
        const qkv_layer_desc d = {
            .size = sizeof d,
            .model_dim = 256,
            .out_features = 256,
            .x = {NULL, 0, 0, 256},
            .w_qkv = w,
            .w_o = w,
            .out = {NULL, 0, 0, 256},
            .attention = {
                .size = sizeof d.attention, .batch = 1, .num_heads = 4, .seq_q = n, .seq_k = n, .head_dim = 64}};
        qkv_plan plan;
        assert_int_equal(qkv_layer_plan(&set->ctx, &d, 1, &plan), QKV_OK);
        const qkv_attention_desc a = shape(1, 4, 4, n, n, 64);
        const size_t operands = (size_t)(4 * n * 256) * sizeof(float);
        const size_t most = operands + packed_keys(&a, 4) + ((size_t)2 << 20);
        QT_EXPECT(plan.workspace_size <= most, "%" PRId64 " tokens: %zu bytes, at most %zu expected", n,
                  plan.workspace_size, most);
        qt_count_words(1);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("exactly_the_stated_size_is_enough", test_exactly_the_stated_size_is_enough);
    qt_each_set("never_more_than_packed_keys_and_a_share_per_worker",
                test_never_more_than_packed_keys_and_a_share_per_worker);
    qt_each_set("a_window_needs_no_more_than_it_reaches", test_a_window_needs_no_more_than_it_reaches);
    qt_each_set("projections_and_merges_need_a_fixed_share", test_projections_and_merges_need_a_fixed_share);
    qt_each_set("a_layer_needs_its_steps_and_their_operands", test_a_layer_needs_its_steps_and_their_operands);
    return qt_run();
}
