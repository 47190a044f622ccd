/* Attention backward over all features in combination: the reference within the analytic bound of the oracle, every
 * kernel set the same words as the reference, and nothing touched that is not an output.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

typedef struct totals {
    double worst[5]; /* error / bound, of ordinary cases: dq, dk, dv, dbias, dsink */
    uint64_t elements, unjudged, zeros, nans, features[14];
} totals;

static const char *const gradient_name[5] = {"dq", "dk", "dv", "dbias", "dsink"};

static void check(const gradient_case *c, int which, const oracle_gradient *want, const float *before, const float *got,
                  totals *t) {
    const bool accumulates = c->desc.flags & QKV_ACCUMULATE;
    for (int64_t i = 0; got && i < want->size; i++) {
        t->elements++;
        if (want->bound[i] < 0) {
            t->unjudged++;
            continue;
        }
        const double old = accumulates ? (double)before[i] : 0;
        const double value = old + want->value[i];
        const double bound = want->bound[i] + oracle_gamma((double)want->terms) * fabs(old);
        t->zeros += want->magnitude[i] == 0 ? 1 : 0;
        t->nans += isnan(value) ? 1 : 0;
        if (want->magnitude[i] == 0 && !isnan(value))
            QT_EXPECT(qt_bits(got[i]) == qt_bits((float)old + 0.0f), "%s at %lld: want exactly %a, got %a",
                      gradient_name[which], (long long)i, old, (double)got[i]);
        QT_EXPECT(oracle_within((double)got[i], value, bound,
                                case_is_comparable(&c->attention) && !accumulates ? &t->worst[which] : NULL),
                  "%s at %lld: want %.9g ± %.3g, got %.9g", gradient_name[which], (long long)i, value, bound,
                  (double)got[i]);
    }
}

static void count_features(const gradient_case *c, totals *t) {
    const qkv_attention_desc *d = &c->desc.forward;
    const bool has[14] = {c->attention.kv_heads != d->num_heads,
                          d->seq_q != d->seq_k,
                          c->attention.dv != d->head_dim,
                          d->flags != 0,
                          d->q_offset != 0 || d->q_offsets,
                          d->kv_len != NULL,
                          d->keep.data != NULL,
                          d->softcap != 0,
                          d->alibi_slopes != NULL,
                          d->bias.data && c->desc.grad_bias.data,
                          d->sinks && c->desc.grad_sinks,
                          c->desc.grad_lse.data != NULL,
                          d->dropout != 0,
                          d->arithmetic == QKV_ARITHMETIC_BF16};
    for (int i = 0; i < 14; i++)
        t->features[i] += has[i];
}

static void test_backward(void) {
    const uint64_t count = case_count(1600);
    const qkv_ctx reference = case_reference();
    totals t = {0};
    for (uint64_t i = 0; i < count; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, i % 8 == 0 ? 1500000 : 200000, &c);
        if (qt_chance(&rng, 50))
            gradient_poison_invisible(&rng, &c);
        gradient_run_forward(&c);
        const gradient_results before = gradient_before(&c), want = gradient_run(&reference, &c, 0, 0);
        for (size_t s = 0; s < qt_num_sets(); s++) {
            const qt_set *set = qt_get_set(s);
            const int32_t threads = qt_chance(&rng, 50) ? 0 : (int32_t)qt_range(&rng, 1, 8);
            const gradient_results got = gradient_run(&set->ctx, &c, threads, qt_chance(&rng, 50) ? qt_u64(&rng) : 0);
            gradient_expect_same(set->name, &c, &want, &got);
        }
        oracle_gradients *g = oracle_backward(&c.desc);
        check(&c, 0, &g->q, before.q, want.q, &t);
        check(&c, 1, &g->k, before.k, want.k, &t);
        check(&c, 2, &g->v, before.v, want.v, &t);
        check(&c, 3, &g->bias, before.bias, want.bias, &t);
        check(&c, 4, &g->sinks, before.sinks, want.sinks, &t);
        oracle_free_gradients(g);
        count_features(&c, &t);
    }
    qt_note("worst error/bound: dq %.3f, dk %.3f, dv %.3f, dbias %.3f, dsink %.3f", t.worst[0], t.worst[1], t.worst[2],
            t.worst[3], t.worst[4]);
    qt_note("%llu elements: %llu exactly zero, %llu NaN, %llu beyond float", (unsigned long long)t.elements,
            (unsigned long long)t.zeros, (unsigned long long)t.nans, (unsigned long long)t.unjudged);
    for (int f = 0; f < 14 && count > 1000; f++)
        QT_EXPECT(t.features[f] > 50, "feature %d occurs in %llu cases", f, (unsigned long long)t.features[f]);
    QT_EXPECT(t.unjudged * 10 <= t.elements, "the oracle can't judge more than one element in 10");
}

/* Root mean square and largest error of a gradient, in units of its own root mean square. */
typedef struct errors {
    double rms, largest;
} errors;

static errors errors_of(const oracle_gradient *want, const float *got) {
    errors e = {0, 0};
    double squares = 0;
    for (int64_t i = 0; i < want->size; i++) {
        const double off = fabs((double)got[i] - want->value[i]);
        squares += want->value[i] * want->value[i];
        e.rms += off * off;
        e.largest = fmax(e.largest, off);
    }
    return (errors){sqrt(e.rms / squares), e.largest / sqrt(squares / (double)want->size)};
}

static void draw_measured(qt_rng *rng, int kind, gradient_case *c) {
    attention_case forward;
    case_plain(rng, &forward, 1, 1, 1, 64, 1024, 64, 64);
    gradient_plain(rng, &forward, c);
    const qkv_attention_desc *d = &c->desc.forward;
    for (int64_t t = 0; t < 1024; t++)
        for (int64_t x = 0; x < 64; x++) {
            if (kind == 1 && t < 64)
                case_row(&d->q, 0, 0, t)[x] *= 8;
            if (kind == 2 && x % 20 == 5)
                case_row(&d->k, 0, 0, t)[x] *= 20;
            if (kind == 3)
                case_row(&d->v, 0, 0, t)[x] += 4;
        }
}

/* The table of docs/numerics.md. What is asserted is that each arithmetic is what it is called: 24 and 8 bits. */
static void test_errors_by_arithmetic(void) {
    static const char *const names[] = {"normal", "peaky, q times 8", "outliers, three channels of k times 20",
                                        "v plus 4"};
    const qkv_ctx reference = case_reference();
    for (int kind = 0; kind < 4; kind++) {
        qt_rng rng;
        if (!qt_case((uint64_t)kind, &rng))
            continue;
        gradient_case c;
        draw_measured(&rng, kind, &c);
        oracle_gradients *g = oracle_backward(&c.desc);
        const oracle_gradient *want[3] = {&g->q, &g->k, &g->v};
        errors found[2][3];
        for (int in_bf16 = 0; in_bf16 < 2; in_bf16++) {
            c.desc.forward.arithmetic = in_bf16 ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_F32;
            case_run_attention(&reference, &c.desc.forward, 0, 0);
            const gradient_results got = gradient_run(&reference, &c, 0, 0);
            const float *const results[3] = {got.q, got.k, got.v};
            for (int i = 0; i < 3; i++)
                found[in_bf16][i] = errors_of(want[i], results[i]);
        }
        for (int i = 0; i < 3; i++) {
            const errors f32 = found[0][i], bf16 = found[1][i];
            qt_note("%s, %s: f32 rms %.2g, largest %.2g; bf16 rms %.2g, largest %.2g", names[kind], gradient_name[i],
                    f32.rms, f32.largest, bf16.rms, bf16.largest);
            QT_EXPECT(f32.rms < 0x1p-14, "f32 is off by %g", f32.rms);
            QT_EXPECT(bf16.rms > 0x1p-14 && bf16.rms < 0x1p-3, "bf16 is off by %g", bf16.rms);
        }
        oracle_free_gradients(g);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("errors_by_arithmetic", test_errors_by_arithmetic);
    qt_once("backward", test_backward);
    return qt_run();
}
