/* One self-attention layer with an output matrix, x → Q, K, V → heads → ·Wo, and its training through the library's
 * gradients.  SPDX-License-Identifier: MIT */
#ifndef MODEL_H
#define MODEL_H

#include "language.h"
#include "optimiser.h"

#include <qkv.h>
#include <qkv/pthreads.h>

enum { WQ, WK, WV, WO, NUM_MATRICES };

enum {
    ANSWER = 2 * NUM_WORDS, /* outputs: a score of every word as partner in role, then the same in number */
    BATCH = 32              /* sentences */
};

/* Which matrices a model has. A matrix that is not learned is fixed at the identity: every head gets its slice of the
 * embedding as it is, or all of it when the heads are as wide as the embedding. Wo is always learned. */
struct design {
    const char *name;
    int num_heads, head_dim; /* num_heads · head_dim = DIM, or head_dim = DIM */
    int learned[WO];         /* of WQ, WK, WV; all 0: raw attention, without any matrix */
    int hide_self;           /* a token does not see itself */
};

struct matrix {
    float *values, *gradient; /* [rows][columns]; no gradient: not learned */
    int64_t rows, columns;
    struct adamw adamw;
};

struct model {
    const qkv_ctx *ctx;
    const struct design *design;
    qkv_pthreads *pool;
    struct matrix matrices[NUM_MATRICES];
    void *packed_qkv, *packed_o; /* packed_qkv is NULL for raw attention */
    unsigned char *keep;         /* [TOKENS][TOKENS], or NULL */
    float *out, *grad_out;       /* [BATCH][TOKENS][ANSWER] */
    qkv_layer_desc forward;
    qkv_layer_backward_desc backward;
    qkv_plan forward_plan, backward_plan;
    void *workspace;
    size_t workspace_size;
};

void make_model(struct model *model, const struct design *design, const qkv_ctx *ctx, qkv_pthreads *pool,
                struct random *random);
void free_model(struct model *model);

/* out[BATCH][TOKENS][ANSWER] for x[BATCH][TOKENS][DIM]; the model's own memory, valid until the next call. */
const float *run_model(struct model *model, const float *x);

/* One step of training. The loss, which it gives back as it was before, is the squared error of a token's answer. */
double train_model(struct model *model, const float *x, const float *target, float rate);

/* What the heads attend to in one sentence x[TOKENS][DIM]: probabilities[num_heads][TOKENS][TOKENS]. */
void look_at_heads(const struct model *model, const float *x, float *probabilities);

/* The outputs of the heads, before Wo, for one sentence: heads[TOKENS][num_heads][head_dim]. */
void heads_of_model(const struct model *model, const float *x, float *heads);

uint64_t hash_model(uint64_t hash, const struct model *model);

#endif
