/* Part 3 of the story: a task that needs two views of a sentence at once, and which matrices a layer needs to learn it.
 * SPDX-License-Identifier: MIT */
#ifndef TRAINING_H
#define TRAINING_H

#include "model.h"

enum {
    RAW,
    RAW_SELF_HIDDEN,
    ONE_HEAD,
    TWO_HEADS,
    FOUR_HEADS,
    FOUR_WITHOUT_WQ,
    FOUR_WITHOUT_WK,
    FOUR_WITHOUT_WV,
    WIDE,
    WIDE_WITHOUT_WQ,
    WIDE_WITHOUT_WK,
    WIDE_WITHOUT_WV,
    WIDE_WITHOUT_BOTH,
    NUM_DESIGNS
};

enum {
    TEST_SENTENCES = 8 * BATCH,
    LOSS_POINTS = 40, /* of a curve; each the mean of as many steps */
    MAX_HEADS = 4
};

/* Where a head looks, on average over the test. The shares add up to 1. */
struct gaze {
    double self, same_role, same_number, others;
};

struct outcome {
    struct model model;
    double role, number, both; /* accuracy on the test */
    double loss[LOSS_POINTS];
    struct gaze gaze[MAX_HEADS]; /* RAW … FOUR_HEADS only */
};

struct study {
    struct language language;
    struct sentence test[TEST_SENTENCES];
    float test_x[TEST_SENTENCES][TOKENS][DIM];
    struct outcome outcomes[NUM_DESIGNS];
};

/* Trains every design for `steps` steps on the same sentences, and tests it. */
void run_study(struct study *study, const qkv_ctx *ctx, qkv_pthreads *pool, uint64_t seed, int steps);
void free_study(struct study *study);

void tell_heads(const struct study *study);

#endif
