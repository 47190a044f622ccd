/* Choosing the next token by its logits.  SPDX-License-Identifier: MIT */
#ifndef SAMPLER_H
#define SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampling {
    float temperature;    /* 0: always the likeliest token */
    int32_t top_k;        /* of the k likeliest; 0: of all */
    float top_p;          /* of the likeliest that together have this probability; 1: of all */
    float min_p;          /* of those at least this part as likely as the likeliest; 0: of all */
    float repeat_penalty; /* logits of tokens among the last repeat_tokens are divided by it where positive, else
                           * multiplied; 1: none */
    int32_t repeat_tokens;
    uint64_t seed;
};

struct sampler {
    struct sampling how;
    uint64_t state; /* of the random numbers */
};

/* A token that may be chosen. */
struct choice {
    float logit;
    int32_t token;
    double weight;
};

void start_sampler(struct sampler *sampler, const struct sampling *how);

/* The next token after `count` tokens; may change the logits. Among equals the lowest number is the likeliest.
 * `choices` is room for num_tokens. */
int32_t sample_token(struct sampler *sampler, float *logits, int32_t num_tokens, const int32_t *before, size_t count,
                     struct choice *choices);

#endif
