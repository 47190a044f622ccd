/* logits: every combination of steps, every tail, nasty values.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

enum { CAP = 1, ALIBI = 2, BIAS = 4, KEEP = 8, COMBINATIONS = 16 };

/* Biases as they occur: numbers, −inf, a huge negative number whose product with log2 e overflows. */
static const float *draw_bias(qt_rng *rng, size_t n, int place, qt_kind kind) {
    float *bias = qt_floats(n, place);
    for (size_t j = 0; j < n; j++) {
        int64_t what = qt_range(rng, 0, 9);
        bias[j] = what == 0 ? -INFINITY : what == 1 ? -FLT_MAX : what == 2 ? -0.7f * FLT_MAX : qt_draw(rng, kind);
    }
    qt_read_only(bias);
    return bias;
}

static const uint8_t *draw_keep(qt_rng *rng, size_t n, int place) {
    uint8_t *keep = qt_alloc(n, 1, place);
    for (size_t j = 0; j < n; j++)
        keep[j] = qt_chance(rng, 40) ? 0 : (uint8_t)qt_range(rng, 0, 255);
    qt_read_only(keep);
    return keep;
}

static qkv_logit_steps draw_steps(qt_rng *rng, size_t n, int which, int place, qt_kind kind) {
    qkv_logit_steps steps = {0};
    if (which & CAP)
        steps.cap = qt_chance(rng, 80) ? qt_uniform(rng, 0.1f, 100) : fabsf(qt_nasty_finite(rng));
    if (which & ALIBI) {
        steps.slope = qt_chance(rng, 80) ? qt_uniform(rng, -1, 1) : qt_nasty(rng);
        float *distance = qt_floats(n, place);
        int64_t first = qt_range(rng, -100000, 100000);
        for (size_t j = 0; j < n; j++)
            distance[j] = (float)(first + (int64_t)j);
        qt_read_only(distance);
        steps.distance = distance;
    }
    if (which & BIAS)
        steps.bias = draw_bias(rng, n, place, kind);
    if (which & KEEP)
        steps.keep = draw_keep(rng, n, place);
    return steps;
}

static void check(const qt_set *set, qt_rng *rng, size_t n, int which, int place) {
    qt_kind kind = (qt_kind)qt_range(rng, 0, QT_NUM_KINDS - 1);
    qkv_logit_steps steps = draw_steps(rng, n, which, place, kind);
    qt_describe("n=%zu steps=%s%s%s%s cap=%a slope=%a %s place=%d", n, which & CAP ? " cap" : "",
                which & ALIBI ? " alibi" : "", which & BIAS ? " bias" : "", which & KEEP ? " keep" : "",
                (double)steps.cap, (double)steps.slope, qt_kind_name(kind), place);
    float *want = qt_floats(n, place);
    qt_fill(rng, want, n, kind);
    for (size_t j = 0; j < n; j++)
        if (qt_chance(rng, 10))
            want[j] = qt_chance(rng, 50) ? -INFINITY : qt_nasty(rng);
    float *got = copy_of(want, n, place);
    qkv_kernels_ref.logits(want, n, &steps);
    set->kernels->logits(got, n, &steps);
    qt_expect_words("t", want, got, n, 0);
    for (size_t j = 0; j < n; j++) {
        bool hidden = ((which & KEEP) && steps.keep[j] == 0) || ((which & BIAS) && steps.bias[j] == -INFINITY);
        QT_EXPECT(!hidden || got[j] == -INFINITY, "t[%zu] is hidden, got %a", j, (double)got[j]);
    }
}

static void test_logits(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int which = 0; which < COMBINATIONS; which++)
        for (size_t n = 0; n <= 131; n += qt_quick() ? 3 : 1)
            for (int round = 0; round < (qt_quick() ? 2 : 6); round++)
                if (qt_case(index++, &rng))
                    check(set, &rng, n, which, round % 2 == 0 ? QT_TAIL : QT_HEAD + (int)qt_range(&rng, 0, 17));
    for (int i = 0; i < (qt_quick() ? 50 : 500); i++)
        if (qt_case(index++, &rng)) {
            size_t n = draw_size(&rng, 600);
            check(set, &rng, n, i % COMBINATIONS, qt_place(&rng));
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("logits", test_logits);
    return qt_run();
}
