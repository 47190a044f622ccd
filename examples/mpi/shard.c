/* What a rank has of the tensors, and how it calls the library.  SPDX-License-Identifier: MIT */
#include "shard.h"
#include "ledger.h"
#include "messages.h"
#include "support.h"

#include <string.h>

/* ---------------------------------------------------------------------------------------------------- numbers */

enum tensor { OF_Q, OF_K, OF_V, OF_GRAD_OUT, OF_SINKS };

/* From −1 to 1, by its place in the whole tensor: every rank makes its own part. */
static float number_at(enum tensor tensor, int64_t token, int64_t at) {
    uint64_t x = (uint64_t)tensor + 8 * ((uint64_t)token + ((uint64_t)at << 40));
    x += UINT64_C(0x9e3779b97f4a7c15); /* SplitMix64 */
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return (float)(int32_t)(x >> 40) * 0x1p-23f - 1;
}

static float *make(enum tensor tensor, int64_t first, int64_t tokens, int64_t width, float factor) {
    float *x = take_floats(tokens * width);
    for (int64_t i = 0; i < tokens; i++) {
        for (int64_t c = 0; c < width; c++)
            x[i * width + c] = factor * number_at(tensor, first + i, c);
    }
    return x;
}

void take_tensors(struct tensors *t, const struct problem *p, int64_t first_row, int64_t rows, int64_t first_key,
                  int64_t keys, int64_t backward) {
    *t = (struct tensors){.first_row = first_row, .rows = rows, .first_key = first_key, .keys = keys};
    t->q = make(OF_Q, first_row, rows, p->heads * p->dim, 3); /* logits of a few units */
    t->k = make(OF_K, first_key, keys, p->kv_heads * p->dim, 1);
    t->v = make(OF_V, first_key, keys, p->kv_heads * p->dim_v, 1);
    t->out = take_floats(rows * p->heads * p->dim_v);
    t->lse = take_floats(rows * p->heads);
    if (!backward)
        return;
    t->grad_out = make(OF_GRAD_OUT, first_row, rows, p->heads * p->dim_v, 1);
    t->grad_q = take_floats(rows * p->heads * p->dim);
    t->grad_k = take_floats(keys * p->kv_heads * p->dim);
    t->grad_v = take_floats(keys * p->kv_heads * p->dim_v);
}

void release_tensors(struct tensors *t) {
    float *all[] = {t->q, t->k, t->v, t->out, t->lse, t->grad_out, t->grad_q, t->grad_k, t->grad_v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        release_floats(all[i]);
}

/* ------------------------------------------------------------------------------------------------------- heads */

int64_t heads_together(const struct problem *p, int64_t groups) {
    return p->heads / groups;
}

/* With groups it is one head for each KV head, whose group it is in. */
int64_t head_of(int64_t groups, int64_t group, int64_t i) {
    return i * groups + group;
}

static float *by_group(const float *x, const struct problem *p) {
    int64_t groups = p->heads / p->kv_heads;
    float *y = take_floats(p->heads);
    for (int64_t group = 0; group < groups; group++) {
        for (int64_t i = 0; i < p->kv_heads; i++)
            y[group * p->kv_heads + i] = x[head_of(groups, group, i)];
    }
    return y;
}

void open_shard(struct shard *s, const qkv_ctx *ctx, const struct sharding *sharding,
                const struct attention_options *options, int rank, int64_t backward) {
    const struct problem *p = &sharding->problem;
    const int64_t *row = sharding->first_row + rank;
    int64_t key = first_key(sharding, rank);
    *s = (struct shard){.ctx = ctx, .sharding = sharding, .options = *options, .workers = 1};
    take_tensors(&s->t, p, row[0], row[1] - row[0], key, first_key(sharding, rank + 1) - key, backward);
    if (options->has_sinks) {
        s->sinks = make(OF_SINKS, 0, 1, p->heads, 2);
        s->sinks_of_group = by_group(s->sinks, p);
        s->grad_sinks = take_floats(p->heads);
    }
    if (options->has_alibi) {
        s->slopes = take_floats(p->heads);
        must(qkv_alibi_slopes(p->heads, s->slopes), "qkv_alibi_slopes");
        s->slopes_of_group = by_group(s->slopes, p);
    }
}

void close_shard(struct shard *s) {
    float *all[] = {s->sinks,           s->slopes, s->grad_sinks, s->sinks_of_group,
                    s->slopes_of_group, s->states, s->workspace,  s->merge_workspace};
    release_tensors(&s->t);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        release_floats(all[i]);
}

/* ------------------------------------------------------------------------------------------------------- calls */

qkv_input rows_in(const float *data, int64_t heads, int64_t dim) {
    return (qkv_input){data, 0, dim, heads * dim};
}

qkv_output rows_out(float *data, int64_t heads, int64_t dim) {
    return (qkv_output){data, 0, dim, heads * dim};
}

qkv_attention_desc describe(const struct shard *s, int64_t groups, int64_t group, int64_t first_row, int64_t rows,
                            int64_t first_key, int64_t keys) {
    const struct problem *p = &s->sharding->problem;
    int64_t heads = heads_together(p, groups);
    qkv_attention_desc d = {.size = sizeof d,
                            .batch = 1,
                            .num_heads = heads,
                            .num_kv_heads = p->kv_heads,
                            .seq_q = rows,
                            .seq_k = keys,
                            .head_dim = p->dim,
                            .head_dim_v = p->dim_v,
                            .softcap = s->options.softcap};
    if (p->causal)
        d.flags |= QKV_RIGHT;
    if (p->window) {
        d.flags |= QKV_LEFT;
        d.left = p->window - 1;
    }
    d.q_offset = p->keys - p->queries + first_row - first_key; /* positions count from the first of these keys */
    if (s->slopes)
        d.alibi_slopes = groups == 1 ? s->slopes : s->slopes_of_group + group * heads;
    if (s->sinks)
        d.sinks = groups == 1 ? s->sinks : s->sinks_of_group + group * heads;
    return d;
}

static void *room_for(float **room, int64_t *floats, size_t bytes) {
    int64_t needed = (int64_t)(bytes / sizeof(float));
    if (needed > *floats) {
        release_floats(*room);
        *room = take_floats(needed);
        *floats = needed;
    }
    return *room;
}

#define RUN(operation, what)                                                                                           \
    qkv_plan plan;                                                                                                     \
    enum activity before = begin_activity(COMPUTING);                                                                  \
    must(qkv_##operation##_plan(s->ctx, desc, s->workers, &plan), what);                                               \
    must(qkv_##operation##_run_parallel(&plan, desc,                                                                   \
                                        room_for(&s->workspace, &s->workspace_floats, plan.workspace_size),            \
                                        plan.workspace_size, run_tasks, NULL),                                         \
         what);                                                                                                        \
    begin_activity(before)

void run_attention(struct shard *s, const qkv_attention_desc *desc) {
    RUN(attention, "attention");
}

void run_gradients(struct shard *s, const qkv_attention_backward_desc *desc) {
    RUN(attention_backward, "gradients of attention");
}

void run_merge(struct shard *s, const qkv_merge_desc *desc) {
    qkv_plan plan;
    enum activity before = begin_activity(COMPUTING);
    must(qkv_merge_plan(s->ctx, desc, 1, &plan), "merge");
    must(qkv_merge_run(&plan, desc, room_for(&s->merge_workspace, &s->merge_floats, plan.workspace_size),
                       plan.workspace_size),
         "merge");
    begin_activity(before);
}
