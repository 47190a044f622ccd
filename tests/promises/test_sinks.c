/* Sinks, logsumexp and block states, on values that can be worked out by hand.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

/* All logits 0: seq_k keys of weight 1. */
static void draw_flat(qt_rng *rng, attention_case *c, int64_t seq_k) {
    case_plain(rng, c, 1, 3, 1, 4, seq_k, 5, 6);
    memset(case_row(&c->desc.q, 0, 0, 0), 0, 4 * 3 * 5 * sizeof(float));
}

static void expect_near(const char *what, float got, double want, double roundings) {
    QT_EXPECT(fabs((double)got - want) <= roundings * ORACLE_U * fabs(want) + 1e-30, "%s: want %.9g, got %.9g", what,
              want, (double)got);
}

static void test_the_sink_is_counted_once_and_in_the_lse(const qt_set *set) {
    static const int64_t lengths[] = {1, 2, 63, 256, 257, 512, 1000};
    for (uint64_t i = 0; i < 7; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t n = lengths[i];
        attention_case c;
        draw_flat(&rng, &c, n);
        const case_results without = case_run(&set->ctx, &c, 0, 0);
        const float sinks[3] = {0, 3, -INFINITY};
        c.desc.sinks = sinks;
        const case_results with = case_run(&set->ctx, &c, 0, 0);
        for (int64_t h = 0; h < 3; h++)
            for (int64_t t = 0; t < 4; t++) {
                const int64_t row = h * 4 + t;
                const double sum = (double)n + exp((double)sinks[h]);
                expect_near("lse without a sink", without.lse[row], log((double)n), 4);
                expect_near("lse", with.lse[row], log(sum), 8);
                for (int64_t x = 0; x < 6; x++) {
                    const float before = without.out[row * 6 + x], after = with.out[row * 6 + x];
                    if (h == 2)
                        QT_EXPECT(qt_bits(before) == qt_bits(after), "a sink of −inf changed out: %a, %a",
                                  (double)before, (double)after);
                    else
                        expect_near("out", after, (double)before * (double)n / sum, 30);
                }
            }
    }
}

static void test_an_empty_row_has_the_sink_as_lse(const qt_set *set) {
    static const float sinks[] = {2.5f, -7, 0, -INFINITY, 1e30f, -FLT_MAX};
    for (uint64_t i = 0; i < 12; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        draw_flat(&rng, &c, i < 6 ? 300 : 0);
        const int64_t none = 0;
        const float sink[3] = {sinks[i % 6], sinks[i % 6], sinks[i % 6]};
        c.desc.kv_len = &none;
        c.desc.sinks = sink;
        case_add_probabilities(&rng, &c);
        const case_results r = case_run(&set->ctx, &c, 0, 0);
        for (int64_t row = 0; row < 12; row++) {
            if (isinf(sink[0]))
                assert_true(r.lse[row] == sink[0]);
            else /* −FLT_MAX is cut in base 2 */
                expect_near("lse", r.lse[row], fmax((double)sink[0], -(double)FLT_MAX * 0.69314718055994531), 4);
            for (int64_t x = 0; x < 6; x++)
                assert_int_equal(qt_bits(r.out[row * 6 + x]), 0);
            for (int64_t j = 0; j < c.desc.seq_k; j++)
                assert_int_equal(qt_bits(r.probabilities[row * c.desc.seq_k + j]), 0);
        }
    }
}

/* Finite logits that overflow in base 2 are the least logit there, −2.36e38, and never "none": not as sinks of empty
 * rows, not as biases, not as the lse of a merge's part. Optimisers have taken them for −inf. */
static void test_a_logit_below_the_least_is_the_least(const qt_set *set) {
    static const float logits[] = {-FLT_MAX, -3.4e38f, -3e38f, -2.4e38f, -2.359e38f, -2.3e38f};
    const double least = -(double)FLT_MAX * 0.69314718055994531;
    for (uint64_t i = 0; i < 6; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const double want = fmax((double)logits[i], least);
        attention_case c;
        draw_flat(&rng, &c, 20);
        const float sinks[3] = {logits[i], logits[i], logits[i]};
        float bias[20];
        for (int j = 0; j < 20; j++)
            bias[j] = j == 7 ? logits[i] : -INFINITY;
        c.desc.bias = (qkv_matrix_input){bias, 0, 0, 0, 1};
        const case_results biased = case_run(&set->ctx, &c, 0, 0);
        for (int row = 0; row < 12; row++) {
            expect_near("lse of a single key", biased.lse[row], want, 4);
            for (int64_t x = 0; x < 6; x++)
                assert_true(biased.out[row * 6 + x] == case_row(&c.desc.v, 0, 0, 7)[x]);
        }
        bias[7] = -INFINITY;
        c.desc.sinks = sinks;
        const case_results empty = case_run(&set->ctx, &c, 0, 0);
        for (int row = 0; row < 12; row++)
            expect_near("lse of a sink alone", empty.lse[row], want, 4);

        const float part_out[4] = {1, 2, 3, 4}, part_lse[2] = {-INFINITY, logits[i]};
        float out[2], lse[1];
        const qkv_merge_desc m = {.size = sizeof m,
                                  .batch = 1,
                                  .num_heads = 1,
                                  .seq_q = 1,
                                  .head_dim_v = 2,
                                  .num_parts = 2,
                                  .part_out = {part_out, 0, 0, 2},
                                  .part_out_stride = 2,
                                  .part_lse = {part_lse, 0, 0, 1},
                                  .part_lse_stride = 1,
                                  .out = {out, 0, 0, 2},
                                  .lse = {lse, 0, 0, 1}};
        case_run_merge(&set->ctx, &m, 0, 0);
        expect_near("lse of a merge", lse[0], want, 4);
        assert_true(out[0] == 3 && out[1] == 4);
    }
}

static void test_probabilities_and_the_sink_add_up_to_one(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_plain(&rng, &c, 1, 2, 2, 3, qt_range(&rng, 1, 700), 16, 16);
        const float sinks[2] = {2 * qt_normal(&rng), -INFINITY};
        c.desc.sinks = sinks;
        case_add_probabilities(&rng, &c);
        const case_results r = case_run(&set->ctx, &c, 0, 0);
        for (int64_t row = 0; row < 6; row++) {
            double sum = exp((double)sinks[row / 3] - (double)r.lse[row]);
            for (int64_t j = 0; j < c.desc.seq_k; j++)
                sum += (double)r.probabilities[row * c.desc.seq_k + j];
            QT_EXPECT(fabs(sum - 1) < 1e-5, "row %" PRId64 ": %.9g", row, sum);
        }
    }
}

/* States hold no sink; the merge brings it. */
static void test_sinks_take_no_part_in_states(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 3, 1, 4, 700, 5, 6);
    qkv_attention_desc *d = &c.desc;
    const float sinks[3] = {1, 2, 30};
    d->sinks = sinks;
    const case_results whole = case_run(&set->ctx, &c, 0, 0);
    const size_t n = 3 * 4 * 3 * 8;
    float *state[2];
    d->out = d->lse = (qkv_output){0};
    for (int i = 0; i < 2; i++) {
        state[i] = qt_floats(n, QT_TAIL);
        d->states = (qkv_matrix_output){state[i], 0, 4 * 3 * 8, 3 * 8, 8};
        d->sinks = i ? NULL : sinks;
        case_run_attention(&set->ctx, d, 0, 0);
    }
    qt_expect_words("states", state[0], state[1], n, 0);
    float *out = qt_floats(3 * 4 * 6, QT_TAIL), *lse = qt_floats(12, QT_TAIL);
    const qkv_merge_desc m = {.size = sizeof m,
                              .batch = 1,
                              .num_heads = 3,
                              .seq_q = 4,
                              .head_dim_v = 6,
                              .num_parts = 3,
                              .states = {state[0], 0, 4 * 3 * 8, 3 * 8, 8},
                              .sinks = sinks,
                              .out = {out, 0, 24, 6},
                              .lse = {lse, 0, 4, 1}};
    case_run_merge(&set->ctx, &m, 0, 0);
    qt_expect_words("out", whole.out, out, 72, 0);
    qt_expect_words("lse", whole.lse, lse, 12, 0);
}

/* All logits 0: a state is Σ v, 0, the number of keys, which is exact. */
static void test_a_state_holds_what_the_header_says(const qt_set *set) {
    qt_case(0, NULL);
    float q[1] = {1}, k[258], v[258], states[2 * 3], bias[258];
    for (int j = 0; j < 258; j++) {
        k[j] = 0;
        v[j] = (float)(j % 4);
        bias[j] = j < 3 || j >= 256 ? 0 : -INFINITY;
    }
    const qkv_attention_desc d = {.size = sizeof d,
                                  .batch = 1,
                                  .num_heads = 1,
                                  .seq_q = 1,
                                  .seq_k = 258,
                                  .head_dim = 1,
                                  .q = {q, 0, 0, 1},
                                  .k = {k, 0, 0, 1},
                                  .v = {v, 0, 0, 1},
                                  .bias = {bias, 0, 0, 0, 1},
                                  .states = {states, 0, 0, 0, 3}};
    case_run_attention(&set->ctx, &d, 0, 0);
    const float want[6] = {0 + 1 + 2, 0, 3, 0 + 1, 0, 2};
    qt_expect_words("states", want, states, 6, 0);
    for (int j = 0; j < 256; j++)
        bias[j] = -INFINITY;
    case_run_attention(&set->ctx, &d, 0, 0);
    const float empty[6] = {0, -FLT_MAX, 0, 0 + 1, 0, 2};
    qt_expect_words("states", empty, states, 6, QT_ANY_ZERO);
}

/* ALiBi's slopes as its authors' recipe has them, within one ulp. */
static void test_alibi_slopes_are_those_of_the_authors(void) {
    for (int64_t n = 1; n <= 130; n++) {
        float slopes[130];
        assert_int_equal(qkv_alibi_slopes(n, slopes), QKV_OK);
        int64_t power = 1;
        while (2 * power <= n)
            power *= 2;
        for (int64_t h = 0; h < n; h++) { /* the rest: every other slope of twice as many heads */
            const double want = h < power ? exp2(-8.0 * (double)(h + 1) / (double)power)
                                          : exp2(-8.0 * (double)(2 * (h - power) + 1) / (double)(2 * power));
            QT_EXPECT(fabs((double)slopes[h] - want) <= want * 0x1p-23, "slope %d of %d: want %.9g, got %.9g", (int)h,
                      (int)n, want, (double)slopes[h]);
        }
    }
    qt_count_words(130 * 131 / 2);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("the_sink_is_counted_once_and_in_the_lse", test_the_sink_is_counted_once_and_in_the_lse);
    qt_each_set("an_empty_row_has_the_sink_as_lse", test_an_empty_row_has_the_sink_as_lse);
    qt_each_set("a_logit_below_the_least_is_the_least", test_a_logit_below_the_least_is_the_least);
    qt_each_set("probabilities_and_the_sink_add_up_to_one", test_probabilities_and_the_sink_add_up_to_one);
    qt_each_set("sinks_take_no_part_in_states", test_sinks_take_no_part_in_states);
    qt_each_set("a_state_holds_what_the_header_says", test_a_state_holds_what_the_header_says);
    qt_once("alibi_slopes_are_those_of_the_authors", test_alibi_slopes_are_those_of_the_authors);
    return qt_run();
}
