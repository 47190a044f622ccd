/* Choosing the next token by its logits: penalty, then top-k, temperature, top-p and min-p over those left, then a
 * random number.  SPDX-License-Identifier: MIT */
#include "sampler.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>

struct choice {
    float logit;
    int32_t token;
    double weight;
};

void start_sampler(struct sampler *sampler, const struct sampling *how, int32_t num_tokens) {
    *sampler = (struct sampler){.how = *how, .state = how->seed, .num_tokens = num_tokens};
    if (how->temperature > 0)
        sampler->choices = allocate((size_t)num_tokens, sizeof *sampler->choices);
}

void free_sampler(struct sampler *sampler) {
    free(sampler->choices);
    *sampler = (struct sampler){0};
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

int32_t sample_token(struct sampler *sampler, float *logits, const int32_t *before, size_t count) {
    const struct sampling *how = &sampler->how;
    if (how->repeat_penalty != 1)
        punish_repetition(how, logits, before, count);
    const int32_t best = likeliest(logits, sampler->num_tokens);
    if (how->temperature <= 0)
        return best;
    struct choice *choices = sampler->choices;
    int32_t left = 0;
    /* What is this unlikely beside the best has a probability of 0 in double. */
    for (int32_t i = 0; i < sampler->num_tokens; i++)
        if ((logits[i] - logits[best]) / how->temperature > -700)
            choices[left++] = (struct choice){.logit = logits[i], .token = i};
    if (left == 0) /* NaN */
        return best;
    qsort(choices, (size_t)left, sizeof *choices, likelier_first);
    if (how->top_k > 0 && left > how->top_k)
        left = how->top_k;
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
