/* Parts 1 and 2 of the story: two words, one question, and the keys that learn to tell them apart.
 * SPDX-License-Identifier: MIT */
#ifndef TOY_H
#define TOY_H

#include <qkv.h>

enum { TOY_CURVE = 8192 }; /* steps at most */

struct toy_result {
    float raw_keys[2][2], learned_keys[2][2]; /* of dog and cat */
    float curve[TOY_CURVE];                   /* the subject's share of the attention before each step */
    int num_steps;
    uint64_t hash; /* of every weight learned here */
};

/* Part 1: raw attention finds nothing. */
void tell_raw_attention(const qkv_ctx *ctx);

/* Part 2: Wk alone by gradient descent until the subject has the share `enough` of the attention, then Wq, Wk and Wv
 * together. */
void tell_learned_keys(const qkv_ctx *ctx, float enough, struct toy_result *result);

#endif
