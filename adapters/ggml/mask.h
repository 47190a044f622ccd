/* ggml's mask, numbers in f16 that are added to the logits, as the ranges that it nearly always is.
 * SPDX-License-Identifier: MIT */
#ifndef MASK_H
#define MASK_H

#include "team.h"

#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

#define MAX_MASKS 4 /* in a graph: one for each kind of layer, say all keys and a window */

/* What is known of one mask. A row is of a query of a (batch, head) of the mask. */
struct mask {
    const struct ggml_tensor *tensor;
    const void *data;
    int64_t keys, queries, heads, batch;
    bool only_ranges; /* what lies in the range of each row is 0: there is no number to add */
    int64_t *ranges;  /* [batch][heads][queries]: the keys from the first to the end of what is not −inf */
    int64_t *kv_len;  /* [batch]: the largest end */
    int64_t room;     /* of ranges, in numbers */
    float *bias;      /* the mask in f32, [batch][heads][queries][keys], where it was asked for */
    int64_t bias_room;
    bool has_bias;
};

/* The masks of one computation of a graph: each is looked at once, however many layers share it. */
struct masks {
    struct mask known[MAX_MASKS];
    int count, oldest;
    uint64_t epoch; /* masks are known for this one only */
};

/* The mask of an op. NULL without memory. */
struct mask *look_at_mask(struct masks *masks, const struct ggml_tensor *tensor, int64_t queries, struct team *team);

/* Fills mask->bias; false without memory. */
bool mask_as_bias(struct mask *mask, struct team *team);

void forget_masks(struct masks *masks); /* memory stays for the next ones */
void free_masks(struct masks *masks);

#endif
