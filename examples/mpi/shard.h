/* What a rank has of the tensors, and the attention of queries that visit it.  SPDX-License-Identifier: MIT */
#ifndef SHARD_H
#define SHARD_H

#include "sharding.h"

#include <qkv.h>

/* Options of the attention, the same on all ranks. Arrays have a value for each head. */
struct attention_options {
    float softcap;
    int64_t has_sinks, has_alibi;
};

/* Everything that the whole attention is about, or what a rank has of it: rows are [token][head][channel]. */
struct tensors {
    int64_t first_row, rows, first_key, keys;
    float *q, *out, *lse, *grad_out, *grad_q; /* of the queries */
    float *k, *v, *grad_k, *grad_v;           /* of the keys */
};

struct shard {
    const qkv_ctx *ctx;
    const struct sharding *sharding;
    struct attention_options options;
    struct tensors t;
    float *sinks, *slopes, *grad_sinks;      /* [heads], or NULL */
    float *sinks_of_group, *slopes_of_group; /* the same, group by group */
    float *states, *workspace, *merge_workspace;
    int64_t workspace_floats, merge_floats;
    int32_t workers; /* that plans divide work among: all of it is done in one thread, in tasks the smaller */
};

/* Makes the tensors of these rows and keys and fills the inputs with numbers that follow from place alone. `backward`:
 * with gradients. */
void take_tensors(struct tensors *t, const struct problem *p, int64_t first_row, int64_t rows, int64_t first_key,
                  int64_t keys, int64_t backward);
void release_tensors(struct tensors *t);

void open_shard(struct shard *shard, const qkv_ctx *ctx, const struct sharding *sharding,
                const struct attention_options *options, int rank, int64_t backward);
void close_shard(struct shard *shard);

/* Heads of a query that travel together, and the head that number i of them is. */
int64_t heads_together(const struct problem *p, int64_t groups);
int64_t head_of(int64_t groups, int64_t group, int64_t i);

/* The attention of `rows` queries from first_row on and `keys` keys from first_key on, counted in the whole sequence;
 * tensors are empty. `group` of `groups`: with those heads alone. */
qkv_attention_desc describe(const struct shard *shard, int64_t groups, int64_t group, int64_t first_row, int64_t rows,
                            int64_t first_key, int64_t keys);

/* (token, head, channel) in a contiguous tensor. */
qkv_input rows_in(const float *data, int64_t heads, int64_t dim);
qkv_output rows_out(float *data, int64_t heads, int64_t dim);

/* Runs a call, whose tasks alternate with messages. */
void run_attention(struct shard *shard, const qkv_attention_desc *desc);
void run_gradients(struct shard *shard, const qkv_attention_backward_desc *desc);

/* This one does not look at messages, and has a workspace of its own: what a message brings may be merged while one of
 * the others is half done. */
void run_merge(struct shard *shard, const qkv_merge_desc *desc);

#endif
