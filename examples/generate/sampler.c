/* Choosing the next token by its logits: penalty, then top-k, temperature, top-p and min-p over those left, then a
 * random number.  SPDX-License-Identifier: MIT */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>

void start_sampler(struct sampler *sampler, const struct sampling *how) {
    *sampler = (struct sampler){.how = *how, .state = how->seed};
}

static double random_share(struct sampler *sampler) { /* splitmix64; in [0, 1) */
    uint64_t z = sampler->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static int32_t likeliest(const float *logits, int32_t count) {
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void punish_repetition(const struct sampling *how, float *logits, const int32_t *before, size_t count) {
    const size_t most = (size_t)how->repeat_tokens;
    const size_t begin = count > most ? count - most : 0;
    for (size_t i = begin; i < count; i++) {
        size_t earlier = begin; /* each token once */
        while (before[earlier] != before[i])
            earlier++;
        float *logit = &logits[before[i]];
        if (earlier == i)
            *logit = *logit > 0 ? *logit / how->repeat_penalty : *logit * how->repeat_penalty;
    }
}

static int likelier_first(const void *a, const void *b) {
    const struct choice *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* The likeliest tokens in their order, at most `most`, and none so unlikely beside the best that its probability is 0
 * in double. A few are put into their places one by one, which takes a small part of the time of sorting all. */
static int32_t find_likeliest(struct choice *choices, int32_t most, const float *logits, int32_t count, float best,
                              float temperature) {
    const int few = most <= 256;
    int32_t left = 0;
    for (int32_t i = 0; i < count; i++) {
        const int full = few && left == most;
        if ((full && logits[i] <= choices[most - 1].logit) || !((logits[i] - best) / temperature > -700))
            continue;
        int32_t at = full ? most - 1 : left++;
        for (; few && at > 0 && choices[at - 1].logit < logits[i]; at--)
            choices[at] = choices[at - 1];
        choices[at] = (struct choice){.logit = logits[i], .token = i};
    }
    if (!few && left > 0)
        qsort(choices, (size_t)left, sizeof *choices, likelier_first);
    return left < most ? left : most;
}

int32_t sample_token(struct sampler *sampler, float *logits, int32_t num_tokens, const int32_t *before, size_t count,
                     struct choice *choices) {
    const struct sampling *how = &sampler->how;
    if (how->repeat_penalty != 1)
        punish_repetition(how, logits, before, count);
    const int32_t best = likeliest(logits, num_tokens);
    if (how->temperature <= 0)
        return best;
    const int32_t left = find_likeliest(choices, how->top_k > 0 ? how->top_k : num_tokens, logits, num_tokens,
                                        logits[best], how->temperature);
    if (left == 0) /* NaN */
        return best;
    double sum = 0, used = 0;
    for (int32_t i = 0; i < left; i++)
        sum += choices[i].weight = exp((double)((choices[i].logit - choices[0].logit) / how->temperature));
    int32_t kept = 0;
    while (kept < left && (kept == 0 || (used < (double)how->top_p * sum &&
                                         choices[kept].weight >= (double)how->min_p * choices[0].weight)))
        used += choices[kept++].weight;
    double point = random_share(sampler) * used;
    for (int32_t i = 0; i + 1 < kept; i++)
        if ((point -= choices[i].weight) < 0)
            return choices[i].token;
    return choices[kept - 1].token;
}
