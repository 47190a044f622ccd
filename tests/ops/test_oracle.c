/* The oracle itself: values worked out by hand, agreement with a plain float program, and a comparison that no NaN can
 * pass by accident. What it can find is shown by the tests that use it.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <string.h>

static void test_within_is_aware_of_nan(void) {
    double worst = 0;
    assert_true(oracle_within(1.5, 1, 0.5, &worst));
    assert_true(worst == 1);
    assert_false(oracle_within(1.5, 1, 0.49, &worst));
    assert_false(oracle_within(NAN, 1, 0.5, &worst));
    assert_false(oracle_within(NAN, 1, INFINITY, &worst));
    assert_false(oracle_within(1, 1, NAN, &worst));
    assert_false(oracle_within(1, NAN, 0.5, &worst));
    assert_true(oracle_within(NAN, NAN, NAN, &worst));
    assert_true(oracle_within(-INFINITY, -INFINITY, 0, &worst));
    assert_false(oracle_within(INFINITY, -INFINITY, INFINITY, &worst));
    assert_false(oracle_within(-FLT_MAX, -INFINITY, INFINITY, &worst));
    qt_count_words(1);
}

static void expect(const char *what, double got, double want) {
    QT_EXPECT(fabs(got - want) <= 1e-12 * fmax(1, fabs(want)), "%s: want %.15g, got %.15g", what, want, got);
    qt_count_words(1);
}

/* One query, keys with q·k = 0, 4, 8, v = 1, 10, 100; what each feature makes of it. */
static void test_values_by_hand(void) {
    const float q[4] = {2, 0, 0, 0}, k[12] = {0, 9, 0, 0, 2, 9, 0, 0, 4, 9, 0, 0}, v[3] = {1, 10, 100}, slope = 0.5f,
                bias[3] = {1, -INFINITY, -2}, sink = 1;
    const uint8_t keep[3] = {1, 0, 7};
    const qkv_attention_desc plain = {.size = sizeof plain,
                                      .batch = 1,
                                      .num_heads = 1,
                                      .seq_q = 1,
                                      .seq_k = 3,
                                      .head_dim = 4,
                                      .head_dim_v = 1,
                                      .q = {q, 0, 0, 4},
                                      .k = {k, 0, 0, 4},
                                      .v = {v, 0, 0, 1}};
    for (int i = 0; i < 8; i++) {
        qkv_attention_desc d = plain;
        double s[3] = {0, 2, 4}, w[3], extra = 0; /* 1/√4 of the dot products */
        const float given[] = {0, 0.25f, 0, 0, 0, 0, 0, -1};
        d.scale = given[i];
        for (int j = 0; j < 3; j++) {
            s[j] = d.scale == 0 ? s[j] : 2 * (double)d.scale * s[j];
            if (i == 2)
                s[j] = 3 * tanh(s[j] / 3);
            if (i == 3)
                s[j] += 0.5 * (j - 7);
            if (i == 4)
                s[j] = j == 1 ? -INFINITY : s[j] + (j == 0 ? 1 : -2);
            if ((i == 5 && j == 1) || (i == 6 && j == 2))
                s[j] = -INFINITY;
            w[j] = exp(s[j]);
        }
        if (i == 2)
            d.softcap = 3;
        if (i == 3) {
            d.alibi_slopes = &slope;
            d.q_offset = 7;
        }
        if (i == 4)
            d.bias = (qkv_matrix_input){bias, 0, 0, 0, 1};
        if (i == 5)
            d.keep = (qkv_matrix_input){keep, 0, 0, 0, 1};
        if (i == 6) {
            d.flags = QKV_RIGHT;
            d.right = 1;
        }
        if (i == 7) {
            d.sinks = &sink;
            extra = exp(1);
        }
        oracle *o = oracle_open(&d);
        oracle_head(o, 0, 0);
        const oracle_row *r = oracle_attention_row(o, 0, 0, 0);
        const double sum = w[0] + w[1] + w[2] + extra;
        assert_int_equal(r->kind, ORACLE_NUMBER);
        expect("out", r->out[0], (w[0] + 10 * w[1] + 100 * w[2]) / sum);
        expect("lse", r->lse, log(sum));
        for (int j = 0; j < 3; j++)
            expect("probability", r->prob[j], w[j] / sum);
        QT_EXPECT(r->out_bound[0] > 0 && r->out_bound[0] < 1e-3, "a bound of %g", r->out_bound[0]);
        oracle_close(o);
    }
}

/* 1e30 times anything: exact ties stay ties, a difference decides. */
static void test_huge_logits_by_hand(void) {
    const float q[1] = {1}, k[4] = {1, 1, 0.5f, 1}, v[4] = {1, 2, 1000, 6};
    const qkv_attention_desc d = {.size = sizeof d,
                                  .batch = 1,
                                  .num_heads = 1,
                                  .seq_q = 1,
                                  .seq_k = 4,
                                  .head_dim = 1,
                                  .scale = 1e30f,
                                  .q = {q, 0, 0, 1},
                                  .k = {k, 0, 0, 1},
                                  .v = {v, 0, 0, 1}};
    oracle *o = oracle_open(&d);
    oracle_head(o, 0, 0);
    const oracle_row *r = oracle_attention_row(o, 0, 0, 0);
    expect("out", r->out[0], 3);
    expect("lse", r->lse, (double)1e30f);
    oracle_close(o);
}

/* Two programs that have nothing but the header in common. */
static void test_a_plain_float_program_agrees(void) {
    double worst = 0;
    for (uint64_t i = 0; i < case_count(400); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 300000, &c);
        if (!case_is_comparable(&c))
            continue;
        const qkv_attention_desc *d = &c.desc;
        oracle *o = oracle_open(d);
        float *out = case_floats(&rng, c.dv);
        for (int64_t row = 0; row < d->batch * d->num_heads * d->seq_q; row++) {
            const int64_t b = row / d->seq_q / d->num_heads, h = row / d->seq_q % d->num_heads, t = row % d->seq_q;
            if (t == 0)
                oracle_head(o, b, h);
            const oracle_row *r = oracle_attention_row(o, b, h, t);
            oracle_unfused_f32(d, b, h, t, out);
            for (int64_t x = 0; x < c.dv; x++) {
                const double error = fabs((double)out[x] - r->out[x]), unit = fmax(r->magnitude[x], 1e-30);
                QT_EXPECT(r->kind == ORACLE_ANY || error <= 1e-4 * unit, "row %d, channel %d: oracle %.9g, plain %.9g",
                          (int)row, (int)x, r->out[x], (double)out[x]);
                worst = r->kind == ORACLE_ANY ? worst : fmax(worst, error / unit);
            }
            qt_count_words((uint64_t)c.dv);
        }
        oracle_close(o);
    }
    qt_note("worst difference %.3g of Σp|v|", worst);
}

static void test_projection_and_merge_by_hand(void) {
    const double x[3] = {1, 2, 3};
    const float w[6] = {1, 10, 2, 20, 3, -30}, bias[2] = {0.5f, 0};
    double value[2], bound[2];
    oracle_projection_row(x, NULL, w, bias, 3, 2, value, bound);
    expect("y[0]", value[0], 14.5);
    expect("y[1]", value[1], -40);
    assert_true(bound[0] > 0 && bound[0] < 1e-4);
    const float out[2] = {1, 5}, lse[2] = {0, logf(3)}, sink = 0;
    qkv_merge_desc m = {.size = sizeof m,
                        .batch = 1,
                        .num_heads = 1,
                        .seq_q = 1,
                        .head_dim_v = 1,
                        .num_parts = 2,
                        .part_out = {out, 0, 0, 0},
                        .part_out_stride = 1,
                        .part_lse = {lse, 0, 0, 0},
                        .part_lse_stride = 1};
    oracle *o = oracle_open_merge(&m);
    const double three = exp((double)lse[1]);
    expect("merged", oracle_merge_row(o, &m, 0, 0, 0, NULL, NULL)->out[0], (1 + 5 * three) / (1 + three));
    m.sinks = &sink;
    const oracle_row *r = oracle_merge_row(o, &m, 0, 0, 0, NULL, NULL);
    expect("merged with a sink", r->out[0], (1 + 5 * three) / (2 + three));
    expect("its lse", r->lse, log(2 + three));
    oracle_close(o);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("within_is_aware_of_nan", test_within_is_aware_of_nan);
    qt_once("values_by_hand", test_values_by_hand);
    qt_once("huge_logits_by_hand", test_huge_logits_by_hand);
    qt_once("a_plain_float_program_agrees", test_a_plain_float_program_agrees);
    qt_once("projection_and_merge_by_hand", test_projection_and_merge_by_hand);
    return qt_run();
}
