/* A BERT sentence encoder on top of qkv: text → a vector of unit length.  SPDX-License-Identifier: MIT */
#ifndef ENCODER_H
#define ENCODER_H

#include "model_config.h"
#include "tokenizer.h"

#include <qkv.h>
#include <qkv/pthreads.h>
#include <stddef.h>
#include <stdint.h>

/* y = x·weight + bias, the weight packed by qkv_pack. */
struct linear {
    void *weight;
    float *bias;
    int64_t in_features, out_features;
};

struct layer_norm {
    float *weight, *bias;
};

struct encoder_layer {
    void *w_qkv; /* Wq|Wk|Wv packed as one matrix */
    float *bias_q, *bias_k, *bias_v;
    struct linear output, up, down;
    struct layer_norm attention_norm, output_norm;
};

struct encoder {
    qkv_ctx ctx;
    qkv_pthreads *pool;
    int64_t weight_type;           /* qkv_type of the packed weights */
    int64_t arithmetic, attention; /* QKV_ARITHMETIC_… of products with them, and in attention */
    struct model_config config;
    struct tokenizer tokenizer;
    float *word_embeddings, *position_embeddings, *type_embeddings;
    struct layer_norm embedding_norm;
    struct encoder_layer *layers;
};

struct sentence {
    char *text;
    size_t size;
    int32_t *ids; /* tokens, filled by tokenize_sentences */
    int64_t num_tokens;
    int cut;          /* there are more than the model reads */
    float *embedding; /* [hidden_size], filled by encode_sentences */
};

/* What one layer does to one sentence, for looking at. Matrices are [num_heads][num_tokens][num_tokens]. */
struct attention_view {
    int64_t num_heads, num_tokens;
    float *learned; /* the layer as it is */
    float *raw;     /* the same input x with Q = K = V = x: no Wq, Wk, Wv */
};

/* Reads a model folder, or ends the program with a message; matrices are rounded to weight_type. Without weights the
 * encoder can only tokenize. */
void load_encoder(struct encoder *encoder, const char *directory, const qkv_ctx *ctx, qkv_pthreads *pool,
                  int64_t weight_type, int64_t arithmetic, int64_t attention, int with_weights);
void free_encoder(struct encoder *encoder);

void tokenize_sentences(const struct encoder *encoder, struct sentence *sentences, size_t count);
void encode_sentences(const struct encoder *encoder, struct sentence *sentences, size_t count);

/* Attention probabilities of layer 0 … num_layers − 1 for a tokenized sentence. */
void view_attention(const struct encoder *encoder, const struct sentence *sentence, int64_t layer,
                    struct attention_view *view);
void free_attention_view(struct attention_view *view);

#endif
