/* A small inference engine as many people have written one: a Llama-shaped decoder in plain loops. What is here can be
 * computed by three attentions; see engine.c.  SPDX-License-Identifier: MIT */
#ifndef ENGINE_H
#define ENGINE_H

#include <stddef.h>

/* Layers of SmolLM2-135M's shape; the model has 30. */
enum {
    LAYERS = 2,
    DIM = 576,
    HEADS = 9,
    KV_HEADS = 3,
    HEAD_DIM = 64,
    KV_DIM = KV_HEADS * HEAD_DIM,
    HIDDEN = 1536,
    VOCABULARY = 1024,
    MAX_TOKENS = 4096 + 64
};

struct layer { /* matrices are [out][in] */
    float *attention_norm, *wq, *wk, *wv, *wo;
    float *mlp_norm, *w_gate, *w_up, *w_down;
    float *keys, *values; /* of all tokens so far: [token][KV_DIM] */
};

struct engine {
    struct layer layers[LAYERS];
    float *embedding, *final_norm, *output;
    float *cosines, *sines; /* of RoPE: [position][HEAD_DIM/2] */
    float x[DIM], normed[DIM], q[DIM], heads[DIM], added[DIM], gate[HIDDEN], up[HIDDEN], logits[VOCABULARY];
    int threads;
};

/* An attention block for the token at `position`: normed → Q, K, V → cache → heads → ·Wo → added. */
typedef void attention_block(struct engine *engine, int layer, int position);

/* out = w·in. */
void matmul(const struct engine *engine, float *out, const float *w, const float *in, int num_out, int num_in);

/* normed → q, and K and V to their rows of the cache; RoPE. */
void project(struct engine *engine, struct layer *layer, int position);

/* In attention_plain.c: what the engine had. */
attention_block plain_attention;

/* In attention_qkv.c: the same over the same cache, by qkv. */
attention_block qkv_attention;
void start_qkv_attention(const struct engine *engine);
void must(int status); /* ends the program unless it is QKV_OK */

/* In layer_qkv.c: the whole block is qkv's, and so is the cache. */
attention_block qkv_layer;
void start_qkv_layer(const struct engine *engine);
void fill_qkv_cache(const struct engine *engine, int tokens); /* with the engine's first so many keys and values */

void *allocate(size_t bytes); /* 64-byte aligned */

#endif
