/* Dropout: who is dropped, how often, and what does and does not change that.  SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include <string.h>

static uint8_t *mask_of(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i) {
    uint8_t *keep = qt_alloc((size_t)d->seq_k, 1, QT_TAIL);
    const qkv_status status = qkv_dropout_mask(d, b, h, i, keep);
    QT_EXPECT(status == QKV_OK, "mask: %s", qkv_status_string(status));
    return keep;
}

static void test_the_mask_is_what_the_definition_says(void) {
    uint64_t kept = 0, pairs = 0;
    for (uint64_t n = 0; n < 200; n++) {
        qt_rng rng;
        if (!qt_case(n, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 100000, &c);
        const qkv_attention_desc *d = &c.desc;
        for (int64_t b = 0; b < d->batch; b++)
            for (int64_t h = 0; h < d->num_heads; h++)
                for (int64_t i = 0; i < d->seq_q; i += 1 + d->seq_q / 5) {
                    const uint8_t *keep = mask_of(d, b, h, i);
                    for (int64_t j = 0; j < d->seq_k; j++, pairs++) {
                        const int want = oracle_dropout_factor(d, b, h, i, j) != 0;
                        QT_EXPECT(keep[j] == want, "row %lld, key %lld: want %d, got %d", (long long)i, (long long)j,
                                  want, keep[j]);
                        kept += keep[j];
                    }
                }
    }
    QT_EXPECT(kept > 0 && kept < pairs, "%llu of %llu pairs kept", (unsigned long long)kept, (unsigned long long)pairs);
    qt_count_words(pairs);
}

/* The mean of out over many offsets is that without dropout; so is the share of pairs that is kept. */
static void test_probabilities_are_kept_at_the_rate(void) {
    static const float rates[] = {0.1f, 0.5f, 0.75f};
    for (uint64_t n = 0; n < 3; n++) {
        qt_rng rng;
        if (!qt_case(n, &rng))
            continue;
        attention_case c;
        case_plain(&rng, &c, 1, 4, 4, 64, 500, 8, 8);
        qkv_attention_desc *d = &c.desc;
        d->dropout = rates[n];
        d->dropout_seed = 42 + n;
        double kept = 0;
        for (int64_t h = 0; h < 4; h++)
            for (int64_t i = 0; i < 64; i++) {
                const uint8_t *keep = mask_of(d, 0, h, i);
                for (int64_t j = 0; j < 500; j++)
                    kept += keep[j];
            }
        const double pairs = 4 * 64 * 500, rate = (double)rates[n], sigma = sqrt(rate * (1 - rate) / pairs);
        QT_EXPECT(fabs(kept / pairs - (1 - rate)) < 4 * sigma, "kept %g of the pairs at a rate of %g", kept / pairs,
                  rate);
        qt_count_words(1);
    }
}

/* With V of one-hot rows, out is the row of probabilities after dropout. */
static void test_kept_probabilities_are_scaled_and_the_others_gone(const qt_set *set) {
    for (uint64_t n = 0; n < 8; n++) {
        qt_rng rng;
        if (!qt_case(n, &rng))
            continue;
        const int64_t keys = n < 4 ? 200 : 256;
        attention_case c;
        case_plain(&rng, &c, 2, 2, 1, 9, keys, 16, keys);
        qkv_attention_desc *d = &c.desc;
        for (int64_t b = 0; b < 2; b++)
            for (int64_t j = 0; j < keys; j++)
                for (int64_t x = 0; x < keys; x++)
                    case_row(&d->v, b, 0, j)[x] = x == j;
        const float sinks[2] = {0.5f, -1};
        d->sinks = n % 2 ? sinks : NULL;
        case_add_probabilities(&rng, &c);
        const case_results before = case_run(&set->ctx, &c, 0, 0);
        d->dropout = 0.3f;
        d->dropout_seed = n;
        const case_results r = case_run(&set->ctx, &c, (int32_t)n % 3, 0);
        qt_expect_words("lse", before.lse, r.lse, 2 * 2 * 9, 0); /* both are those without dropout */
        qt_expect_words("probabilities", before.probabilities, r.probabilities, (size_t)(2 * 2 * 9 * keys), 0);
        for (int64_t row = 0; row < 2 * 2 * 9; row++) {
            const uint8_t *keep = mask_of(d, row / 18, row / 9 % 2, row % 9);
            for (int64_t j = 0; j < keys; j++) {
                const double p = (double)before.out[row * keys + j], got = (double)r.out[row * keys + j];
                QT_EXPECT(keep[j] ? fabs(got - p / (1 - (double)d->dropout)) <= 8 * ORACLE_U * got : got == 0,
                          "row %lld, key %lld: %g became %g, kept: %d", (long long)row, (long long)j, p, got, keep[j]);
            }
        }
    }
}

/* A plan serves every step of a training loop: the seed and the offset may change, the rate may not. */
static void test_a_run_may_change_seed_and_offset(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 2, 2, 70, 300, 24, 24);
    qkv_attention_desc d = c.desc;
    d.dropout = 0.25f;
    qkv_plan plan;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_OK);
    void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
    float *first = NULL;
    for (int step = 0; step < 4; step++) {
        d.dropout_offset = step == 3 ? 0 : 2 * (uint64_t)step; /* batch·num_heads = 2 */
        d.dropout_seed = step == 2;
        assert_int_equal(qkv_attention_run(&plan, &d, workspace, plan.workspace_size), QKV_OK);
        float *out = case_gather(&d.out, 1, 2, 70, 24);
        bool same = first && memcmp(first, out, 2 * 70 * 24 * sizeof(float)) == 0;
        QT_EXPECT(same == (step == 3), "step %d: %s", step, same ? "the same bits" : "other bits");
        first = first ? first : out;
        attention_case fresh = {.desc = d, .kv_heads = 2, .dv = 24};
        const case_results want = case_run(&set->ctx, &fresh, 0, 0);
        qt_expect_words("out", want.out, out, 2 * 70 * 24, 0);
    }
    d.dropout = 0.5f;
    assert_int_equal(qkv_attention_run(&plan, &d, workspace, plan.workspace_size), QKV_ERROR_PLAN);
}

/* Rates so small that nothing is dropped give the bits of none. */
static void test_a_rate_of_nothing_changes_no_bit(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 3, 3, 40, 300, 24, 24);
    gradient_case g;
    gradient_plain(&rng, &c, &g);
    gradient_run_forward(&g);
    const gradient_results want = gradient_run(&set->ctx, &g, 0, 0);
    g.desc.forward.dropout = 1e-20f;
    const gradient_results got = gradient_run(&set->ctx, &g, 0, 0);
    gradient_expect_same("a rate of 1e-20", &g, &want, &got);
    qt_read_write(c.desc.out.data);
    qt_read_write(c.desc.lse.data);
    const case_results before = case_run(&set->ctx, &c, 0, 0);
    c.desc.dropout = 1e-20f;
    const case_results after = case_run(&set->ctx, &c, 0, 0);
    case_expect_same("a rate of 1e-20", &c, &before, &after);
}

/* A visible key is multiplied by 0 where it is dropped: its NaN is not swallowed. An invisible one takes no part. */
static void test_a_nan_in_a_dropped_v_stays_a_nan(const qt_set *set) {
    for (uint64_t n = 0; n < 3; n++) {
        qt_rng rng;
        if (!qt_case(n, &rng))
            continue;
        attention_case c;
        case_plain(&rng, &c, 1, 1, 1, 30, 300, 8, 8);
        qkv_attention_desc *d = &c.desc;
        d->dropout = 0.5f;
        d->flags = QKV_RIGHT;
        d->q_offset = 255;
        case_row(&d->v, 0, 0, 270)[3] = n == 0 ? NAN : INFINITY;
        const case_results r = case_run(&set->ctx, &c, n == 2 ? 2 : 0, 0);
        for (int64_t i = 0; i < 30; i++) {
            const uint8_t *keep = mask_of(d, 0, 0, i);
            for (int64_t x = 0; x < 8; x++) {
                const float got = r.out[i * 8 + x];
                const bool sees = i + 255 >= 270 && x == 3;
                QT_EXPECT(sees && n > 0 && keep[270] ? got == INFINITY : isnan(got) == sees, "row %lld: %g",
                          (long long)i, (double)got);
            }
        }
    }
}

static void test_masks_that_are_refused(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 2, 3, 3, 4, 5, 6, 6);
    qkv_attention_desc d = c.desc;
    uint8_t keep[5], before[5];
    memset(keep, 0xa5, sizeof keep);
    memset(before, 0xa5, sizeof before);
    static const int64_t bad[6][3] = {{-1, 0, 0}, {2, 0, 0}, {0, -1, 0}, {0, 3, 0}, {0, 0, -1}, {0, 0, 4}};
    for (int i = 0; i < 6; i++)
        assert_int_equal(qkv_dropout_mask(&d, bad[i][0], bad[i][1], bad[i][2], keep), QKV_ERROR_SHAPE);
    assert_int_equal(qkv_dropout_mask(NULL, 0, 0, 0, keep), QKV_ERROR_NULL);
    assert_int_equal(qkv_dropout_mask(&d, 0, 0, 0, NULL), QKV_ERROR_NULL);
    static const float rates[] = {1, 2, -0.1f, NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 6; i++) {
        d.dropout = rates[i];
        assert_int_equal(qkv_dropout_mask(&d, 0, 0, 0, keep), QKV_ERROR_VALUE);
    }
    assert_memory_equal(keep, before, sizeof keep);
    d.dropout = 0;
    assert_int_equal(qkv_dropout_mask(&d, 1, 2, 3, keep), QKV_OK);
    for (int j = 0; j < 5; j++)
        assert_int_equal(keep[j], 1);
    qt_count_words(1);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("the_mask_is_what_the_definition_says", test_the_mask_is_what_the_definition_says);
    qt_once("probabilities_are_kept_at_the_rate", test_probabilities_are_kept_at_the_rate);
    qt_each_set("kept_probabilities_are_scaled_and_the_others_gone",
                test_kept_probabilities_are_scaled_and_the_others_gone);
    qt_each_set("a_run_may_change_seed_and_offset", test_a_run_may_change_seed_and_offset);
    qt_each_set("a_rate_of_nothing_changes_no_bit", test_a_rate_of_nothing_changes_no_bit);
    qt_each_set("a_nan_in_a_dropped_v_stays_a_nan", test_a_nan_in_a_dropped_v_stays_a_nan);
    qt_once("masks_that_are_refused", test_masks_that_are_refused);
    return qt_run();
}
