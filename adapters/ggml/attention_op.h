/* ggml's FLASH_ATTN_EXT as a call of qkv.  SPDX-License-Identifier: MIT */
#ifndef ATTENTION_OP_H
#define ATTENTION_OP_H

#include "mask.h"
#include "runner.h"

#include <ggml.h>
#include <qkv.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is known and kept from one op to the next. */
struct attention_state {
    struct masks masks;
    float *head_bias; /* of one head: the mask times its slope; grows and stays */
    int64_t head_bias_room;
    int64_t ops, biased_ops; /* that were computed; and those of them whose mask was no ranges */
};

/* Whether qkv computes this op: everything that it says is said in a descriptor, without a copy. */
bool supports_attention(const qkv_ctx *ctx, const struct ggml_tensor *op);

/* Multiplications of the op, were its mask empty. */
int64_t attention_work(const struct ggml_tensor *op);

/* NULL, or why not. */
const char *run_attention(struct runner *runner, struct attention_state *state, struct ggml_tensor *op);

void free_attention_state(struct attention_state *state);

#endif
