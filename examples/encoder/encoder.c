/* The forward pass: token embeddings, then per layer attention and feed-forward, then one vector a sentence.
 *
 * Sentences are sorted by length and go through the layers in batches [sentence][token][channel], padded to the
 * longest of the batch; kv_len hides the padding from attention. The result does not depend on who is in a batch.
 * SPDX-License-Identifier: MIT */
#include "encoder.h"

#include "activation.h"
#include "support.h"
#include "rounding.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Enough rows for the weights to be read seldom, few enough to stay in the cache between the steps. */
#define BATCH_TOKENS 512

struct batch {
    int64_t num_sentences, num_tokens; /* tokens of each, padding included */
    int64_t *lengths;
    float *x, *y; /* [sentence][token][hidden_size] */
    float *wide;  /* [sentence][token][intermediate_size] */
    void *workspace;
    size_t workspace_size;
};

static void reserve_workspace(struct batch *batch, const qkv_plan *plan) {
    if (plan->workspace_size <= batch->workspace_size)
        return;
    free(batch->workspace);
    batch->workspace_size = plan->workspace_size;
    batch->workspace = allocate_bytes(plan->workspace_size);
}

/* y = attention of x. With probabilities, a [head][token][token] of the first sentence, they are written too. */
static void attend(const struct encoder *encoder, const struct encoder_layer *layer, struct batch *batch,
                   float *probabilities) {
    const struct model_config *config = &encoder->config;
    int64_t hidden = config->hidden_size, tokens = batch->num_tokens;
    qkv_layer_desc desc = {
        .size = sizeof desc,
        .model_dim = hidden,
        .out_features = hidden,
        .x = {.data = batch->x, .batch = tokens * hidden, .token = hidden},
        .w_qkv = layer->w_qkv,
        .bias_q = layer->bias_q,
        .bias_k = layer->bias_k,
        .bias_v = layer->bias_v,
        .w_o = layer->output.weight,
        .bias_o = layer->output.bias,
        .wq_type = (int32_t)encoder->weight_type,
        .wk_type = (int32_t)encoder->weight_type,
        .wv_type = (int32_t)encoder->weight_type,
        .wo_type = (int32_t)encoder->weight_type,
        .arithmetic = encoder->arithmetic,
        .out = {.data = batch->y, .batch = tokens * hidden, .token = hidden},
        .attention = {.size = sizeof desc.attention,
                      .arithmetic = encoder->attention,
                      .batch = batch->num_sentences,
                      .num_heads = config->num_heads,
                      .seq_q = tokens,
                      .seq_k = tokens,
                      .head_dim = config->head_dim,
                      .kv_len = batch->lengths,
                      .probabilities = {.data = probabilities, .head = tokens * tokens, .query = tokens, .key = 1}},
    };
    qkv_plan plan;
    must(qkv_layer_plan(&encoder->ctx, &desc, encoder->pool->num_threads, &plan), "planning attention");
    reserve_workspace(batch, &plan);
    must(qkv_layer_run_parallel(&plan, &desc, batch->workspace, batch->workspace_size, qkv_pthreads_for, encoder->pool),
         "attention");
}

/* The same without Wq, Wk, Wv and Wo: every head compares the whole embeddings, so all heads are alike. */
static void attend_raw(const struct encoder *encoder, struct batch *batch, float *probabilities) {
    int64_t hidden = encoder->config.hidden_size, heads = encoder->config.num_heads, tokens = batch->num_tokens;
    float *out = allocate_floats((size_t)(tokens * heads * hidden));
    qkv_layer_desc desc = {
        .size = sizeof desc,
        .model_dim = hidden,
        .out_features = heads * hidden,
        .x = {.data = batch->x, .token = hidden},
        .out = {.data = out, .token = heads * hidden},
        .attention = {.size = sizeof desc.attention,
                      .batch = 1,
                      .num_heads = heads,
                      .seq_q = tokens,
                      .seq_k = tokens,
                      .head_dim = hidden,
                      .probabilities = {.data = probabilities, .head = tokens * tokens, .query = tokens, .key = 1}},
    };
    qkv_plan plan;
    must(qkv_layer_plan(&encoder->ctx, &desc, encoder->pool->num_threads, &plan), "planning raw attention");
    reserve_workspace(batch, &plan);
    must(qkv_layer_run_parallel(&plan, &desc, batch->workspace, batch->workspace_size, qkv_pthreads_for, encoder->pool),
         "raw attention");
    free(out);
}

/* out = in·W + bias for all rows of the batch. */
static void project(const struct encoder *encoder, const struct linear *linear, struct batch *batch, const float *in,
                    float *out) {
    qkv_projection_desc desc = {
        .size = sizeof desc,
        .batch = 1,
        .tokens = batch->num_sentences * batch->num_tokens,
        .in_features = linear->in_features,
        .num_parts = 1,
        .x = {.data = in, .token = linear->in_features},
        .packed = linear->weight,
        .part[0] = {.out_features = linear->out_features,
                    .bias = linear->bias,
                    .out = {.data = out, .token = linear->out_features},
                    .type = encoder->weight_type},
        .arithmetic = encoder->arithmetic,
    };
    qkv_plan plan;
    must(qkv_projection_plan(&encoder->ctx, &desc, encoder->pool->num_threads, &plan), "planning a projection");
    reserve_workspace(batch, &plan);
    must(qkv_projection_run_parallel(&plan, &desc, batch->workspace, batch->workspace_size, qkv_pthreads_for,
                                     encoder->pool),
         "projection");
}

static void run_layer(const struct encoder *encoder, const struct encoder_layer *layer, struct batch *batch) {
    int64_t rows = batch->num_sentences * batch->num_tokens;
    attend(encoder, layer, batch, NULL);
    add_and_normalize(encoder, batch->x, batch->y, &layer->attention_norm, rows);
    project(encoder, &layer->up, batch, batch->x, batch->wide);
    apply_gelu(encoder, batch->wide, rows, encoder->config.intermediate_size);
    project(encoder, &layer->down, batch, batch->wide, batch->y);
    add_and_normalize(encoder, batch->x, batch->y, &layer->output_norm, rows);
}

/* x = LayerNorm(word + position + type), with zeros in place of padding's embeddings. */
static void embed_tokens(const struct encoder *encoder, struct batch *batch, struct sentence *const *sentences) {
    int64_t hidden = encoder->config.hidden_size;
    memset(batch->x, 0, (size_t)(batch->num_sentences * batch->num_tokens * hidden) * sizeof *batch->x);
    for (int64_t s = 0; s < batch->num_sentences; s++) {
        batch->lengths[s] = sentences[s]->num_tokens;
        for (int64_t t = 0; t < sentences[s]->num_tokens; t++) {
            float *x = batch->x + (s * batch->num_tokens + t) * hidden;
            const float *word = encoder->word_embeddings + sentences[s]->ids[t] * hidden;
            const float *position = encoder->position_embeddings + t * hidden;
            for (int64_t i = 0; i < hidden; i++)
                x[i] = word[i] + position[i] + encoder->type_embeddings[i];
        }
    }
    add_and_normalize(encoder, batch->x, NULL, &encoder->embedding_norm, batch->num_sentences * batch->num_tokens);
}

/* The mean of the tokens' vectors (or that of [CLS]) at unit length. */
static void pool_tokens(const struct encoder *encoder, const float *x, struct sentence *sentence) {
    int64_t hidden = encoder->config.hidden_size, tokens = encoder->config.pool_cls ? 1 : sentence->num_tokens;
    double *sums = allocate((size_t)hidden, sizeof *sums), length = 0.0;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < hidden; i++)
            sums[i] += (double)x[t * hidden + i];
    for (int64_t i = 0; i < hidden; i++)
        length += sums[i] * sums[i];
    length = sqrt(length);
    if (!isfinite(length) || length == 0.0)
        die("a sentence has no finite embedding; the model's weights are damaged");
    for (int64_t i = 0; i < hidden; i++)
        sentence->embedding[i] = (float)(sums[i] / length);
    free(sums);
}

static void start_batch(const struct encoder *encoder, struct batch *batch, int64_t max_sentences, int64_t max_tokens) {
    size_t rows = (size_t)max_tokens;
    *batch = (struct batch){
        .lengths = allocate((size_t)max_sentences, sizeof *batch->lengths),
        .x = allocate_floats(rows * (size_t)encoder->config.hidden_size),
        .y = allocate_floats(rows * (size_t)encoder->config.hidden_size),
        .wide = allocate_floats(rows * (size_t)encoder->config.intermediate_size),
    };
}

static void end_batch(struct batch *batch) {
    free(batch->lengths);
    free(batch->x);
    free(batch->y);
    free(batch->wide);
    free(batch->workspace);
}

/* ------------------------------------------------------------------------------------------------ sentences */

void tokenize_sentences(const struct encoder *encoder, struct sentence *sentences, size_t count) {
    size_t max_tokens = (size_t)encoder->config.max_tokens;
    int32_t *ids = allocate(max_tokens, sizeof *ids);
    for (size_t i = 0; i < count; i++) {
        size_t n =
            tokenize(&encoder->tokenizer, sentences[i].text, sentences[i].size, ids, max_tokens, &sentences[i].cut);
        sentences[i].num_tokens = (int64_t)n;
        sentences[i].ids = allocate(n, sizeof *ids);
        memcpy(sentences[i].ids, ids, n * sizeof *ids);
    }
    free(ids);
}

static int shorter_first(const void *a, const void *b) {
    int64_t x = (*(struct sentence *const *)a)->num_tokens, y = (*(struct sentence *const *)b)->num_tokens;
    return (x > y) - (x < y);
}

/* How many of the sorted sentences make the next batch: padding stays below a quarter. */
static int64_t batch_length(struct sentence *const *sorted, int64_t count) {
    int64_t n = 1;
    while (n < count && (n + 1) * sorted[n]->num_tokens <= BATCH_TOKENS &&
           3 * sorted[n]->num_tokens <= 4 * sorted[0]->num_tokens + 3)
        n++;
    return n;
}

void encode_sentences(const struct encoder *encoder, struct sentence *sentences, size_t count) {
    if (count == 0)
        return;
    struct sentence **sorted = allocate(count, sizeof *sorted);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &sentences[i];
    qsort(sorted, count, sizeof *sorted, shorter_first);

    struct batch batch;
    int64_t longest = sorted[count - 1]->num_tokens, hidden = encoder->config.hidden_size;
    start_batch(encoder, &batch, BATCH_TOKENS, longest > BATCH_TOKENS ? longest : BATCH_TOKENS);
    for (size_t done = 0; done < count; done += (size_t)batch.num_sentences) {
        batch.num_sentences = batch_length(sorted + done, (int64_t)(count - done));
        batch.num_tokens = sorted[done + (size_t)batch.num_sentences - 1]->num_tokens;
        embed_tokens(encoder, &batch, sorted + done);
        for (int64_t i = 0; i < encoder->config.num_layers; i++)
            run_layer(encoder, &encoder->layers[i], &batch);
        for (int64_t s = 0; s < batch.num_sentences; s++) {
            struct sentence *sentence = sorted[done + (size_t)s];
            if (!sentence->embedding)
                sentence->embedding = allocate_floats((size_t)hidden);
            pool_tokens(encoder, batch.x + s * batch.num_tokens * hidden, sentence);
        }
    }
    end_batch(&batch);
    free(sorted);
}

void view_attention(const struct encoder *encoder, const struct sentence *sentence, int64_t layer,
                    struct attention_view *view) {
    struct sentence copy = *sentence, *pointer = &copy;
    struct batch batch;
    int64_t heads = encoder->config.num_heads, tokens = sentence->num_tokens;
    start_batch(encoder, &batch, 1, tokens);
    batch.num_sentences = 1;
    batch.num_tokens = tokens;
    *view = (struct attention_view){
        .num_heads = heads,
        .num_tokens = tokens,
        .learned = allocate_floats((size_t)(heads * tokens * tokens)),
        .raw = allocate_floats((size_t)(heads * tokens * tokens)),
    };
    embed_tokens(encoder, &batch, &pointer);
    for (int64_t i = 0; i < layer; i++)
        run_layer(encoder, &encoder->layers[i], &batch);
    attend(encoder, &encoder->layers[layer], &batch, view->learned);
    attend_raw(encoder, &batch, view->raw);
    end_batch(&batch);
}

void free_attention_view(struct attention_view *view) {
    free(view->learned);
    free(view->raw);
}
