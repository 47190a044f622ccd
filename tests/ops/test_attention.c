/* Attention forward over all features in combination: the reference within the analytic bound of the oracle, every
 * kernel set the same words as the reference, and nothing touched that is not an output.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct totals {
    double worst_out, worst_lse, worst_probability; /* error / bound, of ordinary cases */
    struct {
        double squares, unfused_squares, elements; /* (error / (u·Σ p|v|))² */
    } rms[CASE_NUM_DATA + 1];                      /* by kind of data; the last: all */
    double worst_score;
    uint64_t cases, rows, by_kind[4], scores, unjudged_scores;
} totals;

/* Adds the errors of one row, and those of a plain float program, to the root mean squares. */
static void compare_accuracy(const attention_case *c, const oracle_row *r, int64_t b, int64_t h, int64_t i,
                             const float *out, totals *t) {
    float *plain = oracle_alloc((size_t)c->dv, sizeof *plain);
    oracle_unfused_f32(&c->desc, b, h, i, plain);
    for (int64_t x = 0; x < c->dv; x++) {
        if (!(r->magnitude[x] > 0x1p-100))
            continue;
        const double unit = ORACLE_U * r->magnitude[x];
        const double e = ((double)out[x] - r->out[x]) / unit, plain_e = ((double)plain[x] - r->out[x]) / unit;
        for (int k = (int)c->data;; k = CASE_NUM_DATA) {
            t->rms[k].squares += e * e;
            t->rms[k].unfused_squares += plain_e * plain_e;
            t->rms[k].elements++;
            if (k == CASE_NUM_DATA)
                break;
        }
    }
    free(plain);
}

static void check_row(const attention_case *c, const oracle_row *r, const case_results *got, size_t row, totals *t) {
    const float *out = got->out + row * (size_t)c->dv;
    t->rows++;
    t->by_kind[r->kind]++;
    if (r->kind == ORACLE_ANY)
        return;
    double *worst[3] = {NULL, NULL, NULL};
    if (case_is_comparable(c)) {
        worst[0] = &t->worst_out;
        worst[1] = &t->worst_lse;
        worst[2] = &t->worst_probability;
    }
    for (int64_t x = 0; x < c->dv; x++) {
        if (r->kind == ORACLE_EMPTY)
            QT_EXPECT(qt_bits(out[x]) == 0, "out of row %zu, channel %lld: want +0, got %a", row, (long long)x,
                      (double)out[x]);
        QT_EXPECT(oracle_within((double)out[x], r->out[x], r->out_bound[x], worst[0]),
                  "out of row %zu, channel %lld: want %.9g ± %.3g, got %.9g", row, (long long)x, r->out[x],
                  r->out_bound[x], (double)out[x]);
    }
    if (got->lse)
        QT_EXPECT(oracle_within((double)got->lse[row], r->lse, r->lse_bound, worst[1]),
                  "lse of row %zu: want %.9g ± %.3g, got %.9g", row, r->lse, r->lse_bound, (double)got->lse[row]);
    if (!got->probabilities || r->kind == ORACLE_NAN)
        return;
    const float *p = got->probabilities + row * (size_t)c->desc.seq_k;
    for (int64_t j = 0; j < c->desc.seq_k; j++)
        QT_EXPECT(oracle_within((double)p[j], r->prob[j], r->prob_bound[j], worst[2]),
                  "probability of row %zu, key %lld: want %.9g ± %.3g, got %.9g", row, (long long)j, r->prob[j],
                  r->prob_bound[j], (double)p[j]);
}

static void check_scores(const attention_case *c, const oracle *o, int64_t b, int64_t h, int64_t i, const float *got,
                         totals *t) {
    for (int64_t j = 0; j < c->desc.seq_k; j++) {
        double want, bound;
        oracle_score(o, b, h, i, j, &want, &bound);
        t->scores++;
        t->unjudged_scores += bound < 0;
        double *worst = case_is_comparable(c) ? &t->worst_score : NULL;
        QT_EXPECT(bound < 0 || oracle_within((double)got[j], want, bound, worst),
                  "score of row %lld, key %lld: want %.9g ± %.3g, got %.9g", (long long)i, (long long)j, want, bound,
                  (double)got[j]);
    }
}

static void check_against_oracle(const attention_case *c, const case_results *got, totals *t) {
    const qkv_attention_desc *d = &c->desc;
    oracle *o = oracle_open(d);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->num_heads; h++) {
            oracle_head(o, b, h);
            for (int64_t i = 0; i < d->seq_q; i++) {
                const size_t row = (size_t)((b * d->num_heads + h) * d->seq_q + i);
                const oracle_row *r = oracle_attention_row(o, b, h, i);
                check_row(c, r, got, row, t);
                if (got->scores)
                    check_scores(c, o, b, h, i, got->scores + row * (size_t)d->seq_k, t);
                if (case_is_comparable(c) && r->kind == ORACLE_NUMBER && i < 4)
                    compare_accuracy(c, r, b, h, i, got->out + row * (size_t)c->dv, t);
            }
        }
    oracle_close(o);
}

static void test_forward(void) {
    const uint64_t count = case_count(qt_quick() ? 1500 : 2500);
    const qkv_ctx reference = case_reference();
    totals t = {0};
    for (uint64_t i = 0; i < count; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 4000000, &c);
        if (qt_chance(&rng, 50))
            case_poison_invisible(&rng, &c);
        case_protect(&c.desc);
        const case_results want = case_run(&reference, &c, 0, 0);
        for (size_t s = 0; s < qt_num_sets(); s++) {
            const qt_set *set = qt_get_set(s);
            const int32_t threads = qt_chance(&rng, 50) ? 0 : (int32_t)qt_range(&rng, 1, 8);
            const case_results got = case_run(&set->ctx, &c, threads, qt_chance(&rng, 50) ? qt_u64(&rng) : 0);
            case_expect_same(set->name, &c, &want, &got);
        }
        check_against_oracle(&c, &want, &t);
        t.cases++;
    }
    qt_note("worst error/bound: out %.3f, lse %.3f, probabilities %.3f, scores %.3f", t.worst_out, t.worst_lse,
            t.worst_probability, t.worst_score);
    QT_EXPECT(t.unjudged_scores * 10 <= t.scores, "the oracle can't judge more than one score in 10");
    qt_note("%llu rows: %llu numbers, %llu empty, %llu NaN, %llu beyond float", (unsigned long long)t.rows,
            (unsigned long long)t.by_kind[ORACLE_NUMBER], (unsigned long long)t.by_kind[ORACLE_EMPTY],
            (unsigned long long)t.by_kind[ORACLE_NAN], (unsigned long long)t.by_kind[ORACLE_ANY]);
    for (int k = 0; k <= CASE_NUM_DATA; k++) {
        const double elements = t.rms[k].elements, ratio = sqrt(t.rms[k].squares / t.rms[k].unfused_squares);
        qt_note("rms error of %s: %.3f u·Σp|v|, unfused f32 %.3f, ratio %.3f",
                k < CASE_NUM_DATA ? case_data_name[k] : "all", sqrt(t.rms[k].squares / elements),
                sqrt(t.rms[k].unfused_squares / elements), ratio);
        /* Of all together: with ties the plain program makes no error in the logits at all. */
        QT_EXPECT(k < CASE_NUM_DATA || t.cases < 200 || ratio <= 1.25, "rms error %.3f times that of unfused f32",
                  ratio);
    }
    QT_EXPECT(t.cases < 200 || t.by_kind[ORACLE_ANY] * 20 <= t.rows, "the oracle can't judge more than one row in 20");
}

/* Root mean square and largest error of out, in units of Σ p|v|. */
typedef struct errors {
    double rms, largest;
} errors;

static errors errors_of(const attention_case *c, const float *out) {
    const qkv_attention_desc *d = &c->desc;
    oracle *o = oracle_open(d);
    errors e = {0, 0};
    oracle_head(o, 0, 0);
    for (int64_t i = 0; i < d->seq_q; i++) {
        const oracle_row *r = oracle_attention_row(o, 0, 0, i);
        for (int64_t x = 0; x < c->dv; x++) {
            const double off = fabs((double)out[i * c->dv + x] - r->out[x]) / r->magnitude[x];
            e.rms += off * off / (double)(d->seq_q * c->dv);
            e.largest = fmax(e.largest, off);
        }
    }
    e.rms = sqrt(e.rms);
    oracle_close(o);
    return e;
}

/* The table of docs/numerics.md. What is asserted is that each arithmetic is what it is called: 24 and 8 bits. */
static void test_errors_by_arithmetic(void) {
    static const char *const names[] = {"normal", "peaky, q times 8", "outliers, three channels of k times 20",
                                        "shifted, 20 added to three channels of k"};
    const qkv_ctx reference = case_reference();
    for (int kind = 0; kind < 4; kind++) {
        qt_rng rng;
        if (!qt_case((uint64_t)kind, &rng))
            continue;
        attention_case c;
        case_plain(&rng, &c, 1, 1, 1, 64, 1024, 64, 64);
        for (int64_t t = 0; t < 64 && kind == 1; t++)
            for (int64_t x = 0; x < 64; x++)
                case_row(&c.desc.q, 0, 0, t)[x] *= 8;
        for (int64_t t = 0; t < 1024 && kind == 2; t++)
            for (int64_t x = 5; x < 64; x += 20)
                case_row(&c.desc.k, 0, 0, t)[x] *= 20;
        for (int64_t t = 0; t < 1024 && kind == 3; t++)
            for (int64_t x = 5; x < 64; x += 20)
                case_row(&c.desc.k, 0, 0, t)[x] += 20;
        const errors f32 = errors_of(&c, case_run(&reference, &c, 0, 0).out);
        c.desc.arithmetic = QKV_ARITHMETIC_BF16;
        const errors bf16 = errors_of(&c, case_run(&reference, &c, 0, 0).out);
        c.desc.arithmetic = QKV_ARITHMETIC_INT8;
        const errors int8 = errors_of(&c, case_run(&reference, &c, 0, 0).out);
        float *means = case_floats(&rng, c.desc.head_dim);
        QT_EXPECT(qkv_attention_key_means(&reference, &c.desc, means) == QKV_OK, "no means");
        c.desc.k_means = (qkv_input){means, 0, 0, 0};
        const errors smooth = errors_of(&c, case_run(&reference, &c, 0, 0).out);
        qt_note("%s: f32 rms %.2g, largest %.2g; bf16 rms %.2g, largest %.2g; int8 rms %.2g, largest %.2g, "
                "less means rms %.2g, largest %.2g",
                names[kind], f32.rms, f32.largest, bf16.rms, bf16.largest, int8.rms, int8.largest, smooth.rms,
                smooth.largest);
        QT_EXPECT(f32.largest < 0x1p-16, "f32 is off by %g of the mean of |v|", f32.largest);
        QT_EXPECT(bf16.rms > 0x1p-16 && bf16.rms < 0x1p-5, "bf16 is off by %g of the mean of |v|", bf16.rms);
        QT_EXPECT(kind < 3 || smooth.rms < int8.rms / 4, "without means %g, with %g", int8.rms, smooth.rms);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("errors_by_arithmetic", test_errors_by_arithmetic);
    qt_once("forward", test_forward);
    return qt_run();
}
