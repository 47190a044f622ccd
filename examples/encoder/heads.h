/* What the heads of a layer do, in figures.  SPDX-License-Identifier: MIT */
#ifndef HEADS_H
#define HEADS_H

#include "encoder.h"

/* The mean over all pairs of heads and all queries of the Jensen–Shannon distance (square root of the divergence to
 * base 2) between what the two heads attend to: 0 for heads that are alike, 1 for heads that share no key. */
double mean_head_distance(const float *probabilities, int64_t num_heads, int64_t num_tokens);

/* The key that a head attends to most, summed over all queries; its share of all attention goes to *share. */
int64_t favourite_key(const float *probabilities, int64_t num_tokens, double *share);

/* The query and key with the strongest link among tokens where is_word is not 0; 0 without such a pair. */
float strongest_link(const float *probabilities, int64_t num_tokens, const int *is_word, int64_t *query, int64_t *key);

#endif
