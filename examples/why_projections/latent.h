/* Part 4 of the story: the same tokens as embeddings and as the keys of each head.  SPDX-License-Identifier: MIT */
#ifndef LATENT_H
#define LATENT_H

#include "training.h"

enum { EMBEDDINGS, ROLE_KEYS, NUMBER_KEYS, NUM_SPACES };
enum { NUM_POINTS = NUM_WORDS * NUM_ROLES * NUM_NUMBERS }; /* every token there can be in the first clause */

struct latent {
    struct token tokens[NUM_POINTS];
    double plane[NUM_SPACES][NUM_POINTS][2];
    double share[NUM_SPACES];   /* of the variance that the plane shows */
    double scale[NUM_SPACES];   /* the mean distance of two tokens */
    int role_head, number_head; /* of the two heads: which of them looks at what */
    float x[NUM_POINTS][DIM], keys[NUM_POINTS][DIM];
};

/* The place of a token in struct latent. */
static inline int point_of(int word, int role, int number) {
    return (word * NUM_ROLES + role) * NUM_NUMBERS + number;
}

void find_latent(struct latent *latent, const struct study *study, const qkv_ctx *ctx);
void tell_latent(const struct latent *latent);

#endif
