/* A decoder of Llama's kind, step by step: rows of all sequences go through the products together; their K and V go to
 * each sequence's end of the caches; one attention call takes them all.  SPDX-License-Identifier: MIT */
#include "decoder.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const arithmetic_names[3] = {
    [QKV_ARITHMETIC_F32] = "f32", [QKV_ARITHMETIC_INT8] = "int8", [QKV_ARITHMETIC_BF16] = "bf16"};

static void need_workspace(struct decoder *decoder, const qkv_plan *plan) {
    if (plan->workspace_size <= decoder->workspace_size)
        return;
    free(decoder->workspace);
    decoder->workspace_size = plan->workspace_size;
    decoder->workspace = allocate_bytes(plan->workspace_size);
}

/* Weights and shapes stay, so a plan is made anew only for another number of rows. */
static void project(struct decoder *decoder, struct projection *projection, int64_t rows) {
    if (projection->planned != rows) {
        projection->desc.tokens = rows;
        must(qkv_projection_plan(&decoder->ctx, &projection->desc, decoder->pool->num_threads, &projection->plan),
             "planning a product");
        projection->planned = rows;
    }
    need_workspace(decoder, &projection->plan);
    must(qkv_projection_run_parallel(&projection->plan, &projection->desc, decoder->workspace, decoder->workspace_size,
                                     qkv_pthreads_for, decoder->pool),
         "a product");
}

static void store(struct decoder *decoder, struct decoder_layer *layer, const struct run *runs, int64_t num_runs) {
    const int64_t dim = decoder->config.head_dim, stride = dim * decoder->config.num_kv_heads;
    for (int64_t i = 0; i < num_runs; i++) {
        const int64_t row = decoder->row_begin[runs[i].sequence];
        must(qkv_cache_append(&decoder->ctx, layer->cache, runs[i].sequence, runs[i].num_tokens,
                              (qkv_input){.data = decoder->k + row * stride, .head = dim, .token = stride},
                              (qkv_input){.data = decoder->v + row * stride, .head = dim, .token = stride}),
             "storing keys and values");
    }
}

static void attend(struct decoder *decoder, struct decoder_layer *layer, int64_t rows) {
    if (layer->attention_planned != rows) {
        layer->attention.seq_q = rows;
        must(qkv_attention_plan(&decoder->ctx, &layer->attention, decoder->pool->num_threads, &layer->attention_plan),
             "planning attention");
        layer->attention_planned = rows;
    }
    need_workspace(decoder, &layer->attention_plan);
    must(qkv_attention_run_parallel(&layer->attention_plan, &layer->attention, decoder->workspace,
                                    decoder->workspace_size, qkv_pthreads_for, decoder->pool),
         "attention");
}

/* Of x and heads, the rows whose logits are asked for, moved together; returns how many. */
static int64_t keep_rows(struct decoder *decoder, const struct run *runs, int64_t num_runs) {
    const int64_t dim = decoder->config.model_dim, heads = decoder->config.num_heads * decoder->config.head_dim;
    int64_t kept = 0, row = 0;
    for (int64_t i = 0; i < num_runs; i++) {
        const int64_t n = runs[i].num_logits;
        row += runs[i].num_tokens;
        memmove(decoder->x + kept * dim, decoder->x + (row - n) * dim, (size_t)(n * dim) * sizeof(float));
        memmove(decoder->heads + kept * heads, decoder->heads + (row - n) * heads, (size_t)(n * heads) * sizeof(float));
        kept += n;
    }
    return kept;
}

static double since(double *start) {
    const double now = seconds_now(), seconds = now - *start;
    *start = now;
    return seconds;
}

/* The layer's rows; in the last layer only those whose logits are asked for go on behind the attention. */
static int64_t run_layer(struct decoder *decoder, struct decoder_layer *layer, const struct run *runs, int64_t num_runs,
                         int64_t rows, int last) {
    double start = seconds_now(), *seconds = decoder->seconds;
    normalize_rows(decoder, decoder->normed, decoder->x, layer->attention_norm, rows);
    seconds[SECONDS_REST] += since(&start);
    project(decoder, &layer->qkv, rows);
    seconds[SECONDS_PRODUCTS] += since(&start);
    store(decoder, layer, runs, num_runs);
    attend(decoder, layer, rows);
    seconds[SECONDS_ATTENTION] += since(&start);
    if (last && (rows = keep_rows(decoder, runs, num_runs)) == 0)
        return 0;
    project(decoder, &layer->output, rows);
    seconds[SECONDS_PRODUCTS] += since(&start);
    add_rows(decoder, decoder->x, decoder->added, layer->after_attention, rows);
    normalize_rows(decoder, decoder->normed, decoder->x, layer->ff_norm, rows);
    seconds[SECONDS_REST] += since(&start);
    project(decoder, &layer->gate_up, rows);
    seconds[SECONDS_PRODUCTS] += since(&start);
    gate_rows(decoder, decoder->gate, decoder->up, rows);
    seconds[SECONDS_REST] += since(&start);
    project(decoder, &layer->down, rows);
    seconds[SECONDS_PRODUCTS] += since(&start);
    add_rows(decoder, decoder->x, decoder->added, layer->after_ff, rows);
    seconds[SECONDS_REST] += since(&start);
    return rows;
}

static void cap_logits(float *logits, int64_t count, float cap) {
    for (int64_t i = 0; i < count; i++)
        logits[i] = cap * tanhf(logits[i] / cap);
}

void run_decoder(struct decoder *decoder, const struct run *runs, int64_t num_runs, float *logits) {
    int64_t rows = 0, sequence = 0;
    for (int64_t i = 0; i < num_runs; i++) {
        int64_t length;
        must(qkv_cache_length(decoder->layers[0].cache, runs[i].sequence, &length), "the cache");
        while (sequence <= runs[i].sequence)
            decoder->row_begin[sequence++] = rows;
        for (int64_t t = 0; t < runs[i].num_tokens; t++, rows++) {
            decoder->row_tokens[rows] = runs[i].tokens[t];
            decoder->positions[rows] = length + t;
        }
    }
    while (sequence <= decoder->options.num_sequences)
        decoder->row_begin[sequence++] = rows;
    if (rows == 0)
        return;
    double start = seconds_now();
    embed_rows(decoder, rows);
    decoder->seconds[SECONDS_REST] += since(&start);
    for (int64_t i = 0; i < decoder->config.num_layers; i++)
        rows = run_layer(decoder, &decoder->layers[i], runs, num_runs, rows, i + 1 == decoder->config.num_layers);
    if (rows == 0)
        return;
    start = seconds_now();
    normalize_rows(decoder, decoder->normed, decoder->x, decoder->final_norm, rows);
    decoder->logits.desc.part[0].out.data = logits;
    project(decoder, &decoder->logits, rows);
    if (decoder->config.logit_softcap > 0)
        cap_logits(logits, rows * decoder->config.num_tokens, decoder->config.logit_softcap);
    decoder->seconds[SECONDS_LOGITS] += since(&start);
}

void truncate_sequence(struct decoder *decoder, int64_t sequence, int64_t length) {
    for (int64_t i = 0; i < decoder->config.num_layers; i++)
        must(qkv_cache_truncate(decoder->layers[i].cache, sequence, length), "shortening a sequence");
}
