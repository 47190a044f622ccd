/* The same attention on one machine, in one call, to compare with.  SPDX-License-Identifier: MIT */
#include "one_machine.h"
#include "ledger.h"
#include "messages.h"
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A result: where the shard and the whole have it, and floats of a token. */
struct result {
    const char *name;
    float *part, *whole;
    int64_t heads, dim;
    int of_keys;
};

static void compute(struct shard *s, const struct tensors *t, int64_t backward) {
    const struct problem *p = &s->sharding->problem;
    qkv_attention_desc d = describe(s, 1, 0, 0, p->queries, 0, p->keys);
    d.q = rows_in(t->q, p->heads, p->dim);
    d.k = rows_in(t->k, p->kv_heads, p->dim);
    d.v = rows_in(t->v, p->kv_heads, p->dim_v);
    d.out = rows_out(t->out, p->heads, p->dim_v);
    d.lse = rows_out(t->lse, p->heads, 1);
    run_attention(s, &d);
    if (!backward)
        return;
    qkv_attention_backward_desc g = {.size = sizeof g,
                                     .grad_out = rows_in(t->grad_out, p->heads, p->dim_v),
                                     .grad_q = rows_out(t->grad_q, p->heads, p->dim),
                                     .grad_k = rows_out(t->grad_k, p->kv_heads, p->dim),
                                     .grad_v = rows_out(t->grad_v, p->kv_heads, p->dim_v),
                                     .forward = d};
    run_gradients(s, &g);
}

/* Of the sinks, which is summed in another call, as its size is another one. */
static void compute_sinks(struct shard *s, const struct tensors *t, float *grad_sinks) {
    const struct problem *p = &s->sharding->problem;
    qkv_attention_backward_desc g = {.size = sizeof g,
                                     .grad_out = rows_in(t->grad_out, p->heads, p->dim_v),
                                     .grad_sinks = grad_sinks,
                                     .forward = describe(s, 1, 0, 0, p->queries, 0, p->keys)};
    g.forward.q = rows_in(t->q, p->heads, p->dim);
    g.forward.k = rows_in(t->k, p->kv_heads, p->dim);
    g.forward.v = rows_in(t->v, p->kv_heads, p->dim_v);
    g.forward.out = rows_out(t->out, p->heads, p->dim_v);
    g.forward.lse = rows_out(t->lse, p->heads, 1);
    run_gradients(s, &g);
}

static uint32_t word_of(float x) {
    uint32_t word;
    memcpy(&word, &x, sizeof word);
    return word;
}

/* Words that differ; of the first one the place is printed. */
static int64_t compare(const struct result *r, const float *got, int64_t first, int64_t tokens, int rank) {
    int64_t width = r->heads * r->dim, differ = 0;
    const float *want = r->whole + first * width;
    for (int64_t i = 0; i < tokens * width; i++) {
        if (word_of(want[i]) == word_of(got[i]))
            continue;
        if (differ++ == 0)
            printf("%s differs on rank %d: token %lld, head %lld, channel %lld is %a (%08x), want %a (%08x)\n", r->name,
                   rank, (long long)(first + i / width), (long long)(i % width / r->dim), (long long)(i % r->dim),
                   (double)got[i], word_of(got[i]), (double)want[i], word_of(want[i]));
    }
    return differ;
}

int64_t compare_with_one_machine(struct shard *s, int64_t backward) {
    const struct problem *p = &s->sharding->problem;
    const struct sharding *sharding = s->sharding;
    struct tensors whole = {0}, *t = &s->t;
    float *whole_sinks = NULL;
    int64_t differ = 0, words = 0;
    if (my_rank == 0) {
        s->workers = 7; /* one worker takes whole heads at a time, and looks at no message meanwhile */
        take_tensors(&whole, p, 0, p->queries, 0, p->keys, backward);
        compute(s, &whole, backward);
        if (backward && s->sinks) {
            whole_sinks = take_floats(p->heads);
            compute_sinks(s, &whole, whole_sinks);
        }
    }
    const struct result results[] = {
        {"out", t->out, whole.out, p->heads, p->dim_v, 0},
        {"lse", t->lse, whole.lse, p->heads, 1, 0},
        {"dQ", t->grad_q, whole.grad_q, p->heads, p->dim, 0},
        {"dK", t->grad_k, whole.grad_k, p->kv_heads, p->dim, 1},
        {"dV", t->grad_v, whole.grad_v, p->kv_heads, p->dim_v, 1},
    };
    for (size_t i = 0; i < (backward ? 5 : 2); i++) {
        const struct result *r = &results[i];
        int64_t width = r->heads * r->dim;
        for (int rank = 0; rank < num_ranks; rank++) {
            int64_t first = r->of_keys ? first_key(sharding, rank) : sharding->first_row[rank];
            int64_t end = r->of_keys ? first_key(sharding, rank + 1) : sharding->first_row[rank + 1];
            size_t bytes = (size_t)((end - first) * width) * sizeof(float);
            if (my_rank == rank && rank > 0)
                send_now(r->part, bytes, 0, A_TENSOR);
            if (my_rank != 0)
                continue;
            float *got = rank == 0 ? r->part : take_floats((end - first) * width);
            if (rank > 0)
                receive_now(got, bytes, rank, A_TENSOR);
            differ += compare(r, got, first, end - first, rank);
            words += (end - first) * width;
            if (rank > 0)
                release_floats(got);
        }
    }
    if (backward && s->sinks && my_rank == num_ranks - 1 && my_rank > 0)
        send_now(s->grad_sinks, (size_t)p->heads * sizeof(float), 0, A_TENSOR);
    if (whole_sinks) {
        const struct result r = {"dsink", NULL, whole_sinks, p->heads, 1, 0};
        if (num_ranks > 1)
            receive_now(s->grad_sinks, (size_t)p->heads * sizeof(float), num_ranks - 1, A_TENSOR);
        differ += compare(&r, s->grad_sinks, 0, 1, num_ranks - 1);
        words += p->heads;
        release_floats(whole_sinks);
    }
    if (my_rank == 0) {
        if (differ == 0)
            printf("the same bits as on one machine: %lld words of out, lse%s%s\n", (long long)words,
                   backward ? ", dQ, dK, dV" : "", backward && s->sinks ? ", dsink" : "");
        else
            printf("OTHER BITS than on one machine: %lld of %lld words\n", (long long)differ, (long long)words);
    }
    release_tensors(&whole);
    return differ;
}
