/* The task that needs two views, learned by every design of a layer.  SPDX-License-Identifier: MIT */
#include "training.h"

#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATE 0.02f /* constant for the first half of the steps, then falling to 0 in a straight line */

static const struct design designs[NUM_DESIGNS] = {
    [RAW] = {"raw: no Wq, Wk, Wv", 2, 32, {0, 0, 0}, 0},
    [RAW_SELF_HIDDEN] = {"raw, a token doesn't see itself", 2, 32, {0, 0, 0}, 1},
    [ONE_HEAD] = {"one head", 1, 32, {1, 1, 1}, 0},
    [TWO_HEADS] = {"two heads", 2, 16, {1, 1, 1}, 0},
    [FOUR_HEADS] = {"four heads", 4, 8, {1, 1, 1}, 0},
    [FOUR_WITHOUT_WQ] = {"four heads without Wq", 4, 8, {0, 1, 1}, 0},
    [FOUR_WITHOUT_WK] = {"four heads without Wk", 4, 8, {1, 0, 1}, 0},
    [FOUR_WITHOUT_WV] = {"four heads without Wv", 4, 8, {1, 1, 0}, 0},
    [WIDE] = {"two wide heads", 2, 32, {1, 1, 1}, 0},
    [WIDE_WITHOUT_WQ] = {"two wide heads without Wq", 2, 32, {0, 1, 1}, 0},
    [WIDE_WITHOUT_WK] = {"two wide heads without Wk", 2, 32, {1, 0, 1}, 0},
    [WIDE_WITHOUT_WV] = {"two wide heads without Wv", 2, 32, {1, 1, 0}, 0},
    [WIDE_WITHOUT_BOTH] = {"two wide heads without Wq, Wk", 2, 32, {0, 0, 1}, 0},
};

static void embed_sentence(const struct language *language, const struct sentence *sentence, float *x) {
    for (int i = 0; i < TOKENS; i++)
        embed(language, sentence->tokens[i], x + i * DIM);
}

/* A batch for training and its answers: 1 for the right word, 0 for the others, in each half. */
static void make_batch(const struct language *language, struct random *random, float *x, float *target) {
    memset(target, 0, BATCH * TOKENS * ANSWER * sizeof *target);
    for (int s = 0; s < BATCH; s++) {
        struct sentence sentence;
        make_sentence(&sentence, random, 0);
        embed_sentence(language, &sentence, x + s * TOKENS * DIM);
        for (int i = 0; i < TOKENS; i++) {
            float *answer = target + (s * TOKENS + i) * ANSWER;
            answer[sentence.tokens[sentence.same_role[i]].word] = 1.0f;
            answer[NUM_WORDS + sentence.tokens[sentence.same_number[i]].word] = 1.0f;
        }
    }
}

static void take_means(const double *losses, int steps, double *points) {
    for (int i = 0; i < LOSS_POINTS; i++) {
        int begin = i * steps / LOSS_POINTS, end = (i + 1) * steps / LOSS_POINTS;
        if (end == begin)
            end++; /* fewer steps than points */
        for (int step = begin; step < end; step++)
            points[i] += losses[step] / (end - begin);
    }
}

static void train(struct outcome *outcome, const struct language *language, uint64_t seed, int steps) {
    struct random random = {seed}; /* the same sentences for every design */
    float *x = allocate_floats(BATCH * TOKENS * DIM), *target = allocate_floats(BATCH * TOKENS * ANSWER);
    double *losses = allocate((size_t)steps, sizeof *losses);
    char label[80];
    snprintf(label, sizeof label, "%-32s", outcome->model.design->name);
    for (int step = 0; step < steps; step++) {
        float left = (float)(steps - step) / (float)(steps / 2);
        make_batch(language, &random, x, target);
        losses[step] = train_model(&outcome->model, x, target, left < 1.0f ? RATE * left : RATE);
        show_progress(label, (double)(step + 1) / steps);
    }
    end_progress();
    take_means(losses, steps, outcome->loss);
    free(losses);
    free(x);
    free(target);
}

static int best_word(const float *scores) {
    int best = 0;
    for (int word = 1; word < NUM_WORDS; word++)
        if (scores[word] > scores[best])
            best = word;
    return best;
}

static void test_answers(struct outcome *outcome, const struct study *study) {
    int role = 0, number = 0, both = 0;
    for (int begin = 0; begin < TEST_SENTENCES; begin += BATCH) {
        const float *out = run_model(&outcome->model, study->test_x[begin][0]);
        for (int i = 0; i < BATCH * TOKENS; i++) {
            const struct sentence *sentence = &study->test[begin + i / TOKENS];
            const struct token *tokens = sentence->tokens;
            const float *answer = out + i * ANSWER;
            int role_right = best_word(answer) == tokens[sentence->same_role[i % TOKENS]].word;
            int number_right = best_word(answer + NUM_WORDS) == tokens[sentence->same_number[i % TOKENS]].word;
            role += role_right;
            number += number_right;
            both += role_right && number_right;
        }
    }
    outcome->role = (double)role / (TEST_SENTENCES * TOKENS);
    outcome->number = (double)number / (TEST_SENTENCES * TOKENS);
    outcome->both = (double)both / (TEST_SENTENCES * TOKENS);
}

static void follow_gaze(struct outcome *outcome, const struct study *study) {
    enum { MATRIX = TOKENS * TOKENS };
    float probabilities[MAX_HEADS * MATRIX];
    for (int s = 0; s < TEST_SENTENCES; s++) {
        const struct sentence *sentence = &study->test[s];
        look_at_heads(&outcome->model, study->test_x[s][0], probabilities);
        for (int i = 0; i < outcome->model.design->num_heads * TOKENS; i++) {
            struct gaze *gaze = &outcome->gaze[i / TOKENS];
            const float *row = probabilities + i * TOKENS;
            int query = i % TOKENS;
            gaze->self += (double)row[query];
            gaze->same_role += (double)row[sentence->same_role[query]];
            gaze->same_number += (double)row[sentence->same_number[query]];
        }
    }
    for (int head = 0; head < outcome->model.design->num_heads; head++) {
        struct gaze *gaze = &outcome->gaze[head];
        gaze->self /= TEST_SENTENCES * TOKENS;
        gaze->same_role /= TEST_SENTENCES * TOKENS;
        gaze->same_number /= TEST_SENTENCES * TOKENS;
        gaze->others = 1.0 - gaze->self - gaze->same_role - gaze->same_number;
    }
}

void run_study(struct study *study, const qkv_ctx *ctx, qkv_pthreads *pool, uint64_t seed, int steps) {
    struct random random = {seed};
    make_language(&study->language, &random);
    for (int s = 0; s < TEST_SENTENCES; s++) {
        make_sentence(&study->test[s], &random, 1);
        embed_sentence(&study->language, &study->test[s], study->test_x[s][0]);
    }
    for (int i = 0; i < NUM_DESIGNS; i++) {
        struct outcome *outcome = &study->outcomes[i];
        struct random weights = random; /* and the same first weights, as far as the shapes agree */
        make_model(&outcome->model, &designs[i], ctx, pool, &weights);
        train(outcome, &study->language, seed + 1, steps);
        test_answers(outcome, study);
        if (i <= FOUR_HEADS)
            follow_gaze(outcome, study);
    }
}

void free_study(struct study *study) {
    for (int i = 0; i < NUM_DESIGNS; i++)
        free_model(&study->outcomes[i].model);
}
