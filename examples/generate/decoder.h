/* A decoder of Llama's kind on qkv: tokens of any number of sequences in, logits out.  SPDX-License-Identifier: MIT */
#ifndef DECODER_H
#define DECODER_H

#include "decoder_config.h"
#include "gguf.h"

#include <qkv.h>
#include <qkv/pthreads.h>
#include <stddef.h>
#include <stdint.h>

/* What the caller chooses. */
struct decoder_options {
    int64_t num_sequences, max_tokens; /* sequences at the same time, tokens of each */
    int64_t max_rows;                  /* tokens in one call of run_decoder */
    int32_t cache_type;                /* QKV_F32, _F16, _BF16, _INT8 */
    int64_t arithmetic;                /* QKV_ARITHMETIC_…, of which INT8 where weights are integers */
    int64_t attention;                 /* QKV_ARITHMETIC_… in attention */
};

extern const char *const arithmetic_names[3]; /* by QKV_ARITHMETIC_… */

/* Y = X·W: the descriptor, and the plan for as many rows as the last call had. */
struct projection {
    qkv_projection_desc desc;
    qkv_plan plan;
    int64_t planned;
    void *packed;
};

struct decoder_layer {
    float *attention_norm, *ff_norm;
    float *after_attention, *after_ff; /* optional norms */
    float *norm_q, *norm_k, *bias[3];  /* optional */
    struct projection qkv, output, gate_up, down;
    void *cache;
    qkv_attention_desc attention;
    qkv_plan attention_plan;
    int64_t attention_planned;
};

struct decoder {
    qkv_ctx ctx;
    qkv_pthreads *pool;
    struct decoder_config config;
    struct decoder_options options;
    struct gguf_tensor embedding;
    struct decoder_layer *layers;
    float *final_norm;
    struct projection logits;
    float *cos[2], *sin[2]; /* of layers that see all, of those with a window */
    /* Rows of the call that runs. */
    float *x, *normed, *q, *k, *v, *heads, *gate, *up, *added;
    int64_t *positions, *row_begin; /* [max_rows], [num_sequences + 1] */
    int32_t *row_tokens;
    void *embedding_rows, *embedding_panel; /* room for embed_rows */
    void *workspace;
    size_t workspace_size;
    double seconds[4]; /* spent in products, attention, logits, the rest */
};

enum { SECONDS_PRODUCTS, SECONDS_ATTENTION, SECONDS_LOGITS, SECONDS_REST };

/* Reads the model, or ends the program with a message. `file` must stay open. */
void load_decoder(struct decoder *decoder, const struct gguf *file, const struct decoder_config *config,
                  const struct decoder_options *options, const qkv_ctx *ctx, qkv_pthreads *pool);
void free_decoder(struct decoder *decoder);

/* The next tokens of a sequence. */
struct run {
    int64_t sequence;
    const int32_t *tokens;
    int64_t num_tokens;
    int64_t num_logits; /* of so many last ones of them */
};

/* Runs come in ascending order of their sequences, and fit: max_rows, max_tokens. The logits asked for go to `logits`,
 * [sum of num_logits][num_tokens of the model]. */
void run_decoder(struct decoder *decoder, const struct run *runs, int64_t num_runs, float *logits);

/* Forgets all but the first `length` tokens of a sequence. */
void truncate_sequence(struct decoder *decoder, int64_t sequence, int64_t length);

/* Its parts: out = norm·x/√(mean x² + ε), x += y or norm·y/√…, gate = activation(gate)·up. */
void normalize_rows(const struct decoder *decoder, float *out, const float *x, const float *norm, int64_t rows);
void add_rows(const struct decoder *decoder, float *x, const float *y, const float *norm, int64_t rows);
void gate_rows(const struct decoder *decoder, float *gate, const float *up, int64_t rows);

/* Embeddings of row_tokens into x. */
void embed_rows(struct decoder *decoder, int64_t rows);

#endif
