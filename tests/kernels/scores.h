/* Rows of scores for a softmax whose weights are 0 from some difference to the maximum on, the cut.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_SCORES_H
#define QKV_TESTS_SCORES_H

#include <float.h>
#include <math.h>

#include "harness.h"

typedef enum score_kind {
    PLAIN,
    INTEGERS, /* weights are powers of two */
    AT_CUT,
    BELOW_ZERO_AT_CUT, /* the maximum is 0, and differences exact */
    WIDE,
    MASKED,
    LAST_ONLY,
    EMPTY,
    LOWEST,
    HIGHEST,
    WITH_NAN,
    WITH_INF,
    NASTY,
    NUM_SCORE_KINDS
} score_kind;

static inline float draw_score(qt_rng *rng, score_kind kind, float cut, bool last) {
    const float x = qt_normal(rng);
    switch (kind) {
    case INTEGERS: return (float)qt_range(rng, (int64_t)-cut - 4, 0);
    case AT_CUT: return 3 + (qt_chance(rng, 50) ? x : -cut + x / 0x1p10f);
    case BELOW_ZERO_AT_CUT: return qt_from_bits(qt_bits(-cut) + (uint32_t)qt_range(rng, 0, 6) - 3);
    case WIDE: return qt_uniform(rng, -3.2f * cut, 3.2f * cut);
    case MASKED: return qt_chance(rng, 70) ? -INFINITY : 20 * x;
    case LAST_ONLY: return last ? x : -INFINITY;
    case EMPTY: return -INFINITY;
    case LOWEST: return qt_chance(rng, 50) ? -INFINITY : -FLT_MAX;
    case HIGHEST: return qt_chance(rng, 50) ? FLT_MAX : x;
    case NASTY: return qt_nasty(rng);
    default: return 5 * x;
    }
}

static inline void draw_scores(qt_rng *rng, float *t, size_t cols, score_kind kind, float cut) {
    const size_t at = (size_t)qt_range(rng, 0, (int64_t)cols - 1);
    for (size_t j = 0; j < cols; j++)
        t[j] = draw_score(rng, kind, cut, j + 1 == cols);
    if (kind == WITH_NAN)
        t[at] = qt_from_bits(0x7fc00000 | (uint32_t)(qt_u64(rng) >> 32));
    if (kind == WITH_INF)
        t[at] = INFINITY;
    if (kind == BELOW_ZERO_AT_CUT)
        t[at] = 0;
}

static inline score_kind draw_score_kind(qt_rng *rng) {
    return (score_kind)qt_range(rng, 0, NUM_SCORE_KINDS - 1);
}

/* ℓ of weights by its definition: 16 lanes, then the tree. */
static inline float sum_of_weights(const float *p, size_t cols) {
    float lane[QKV_LANES] = {0};
    for (size_t j = 0; j < cols; j++)
        lane[j % QKV_LANES] += p[j];
    for (int half = QKV_LANES / 2; half > 0; half /= 2)
        for (int x = 0; x < half; x++)
            lane[x] += lane[x + half];
    return lane[0];
}

#endif
