/* From a model's file to a decoder in memory.  SPDX-License-Identifier: MIT */
#include "decoder.h"
#include "support.h"
#include "matrices.h"

#include <stdlib.h>

static int has_window(const struct decoder_config *config, int64_t layer) {
    return config->window_every > 0 && (layer + 1) % config->window_every != 0;
}

/* Frequencies of Llama 3 come with the model, as a factor for each pair of channels. */
static void make_rope(struct decoder *decoder, struct weights *weights, int local) {
    const struct decoder_config *config = &decoder->config;
    float *factors = local ? NULL : read_vector(weights, -1, "rope_freqs.weight", config->rotary_dim / 2, 1);
    const size_t count = (size_t)(decoder->options.max_tokens * (config->rotary_dim / 2));
    decoder->cos[local] = allocate_floats(count);
    decoder->sin[local] = allocate_floats(count);
    must(qkv_rope_table(&(qkv_rope_table_desc){.size = sizeof(qkv_rope_table_desc),
                                               .num_positions = decoder->options.max_tokens,
                                               .rotary_dim = config->rotary_dim,
                                               .base = local ? config->local_rope_base : config->rope_base,
                                               .scaling = QKV_ROPE_LINEAR,
                                               .factor = local ? 1 : config->rope_factor,
                                               .pair_factors = factors},
                        decoder->cos[local], decoder->sin[local]),
         "RoPE's tables");
    free(factors);
}

/* x and the outputs of a product are rows of the decoder's own, contiguous. */
static void connect(struct projection *projection, const float *x, float *const *out) {
    projection->desc.x = (qkv_input){x, 0, 0, projection->desc.in_features};
    for (int64_t i = 0; i < projection->desc.num_parts; i++) {
        qkv_projection_part *part = &projection->desc.part[i];
        part->out = (qkv_output){out[i], 0, part->head_dim, part->out_features};
    }
}

static void load_qkv(struct decoder *decoder, struct weights *weights, int64_t index) {
    const struct decoder_config *config = &decoder->config;
    struct decoder_layer *layer = &decoder->layers[index];
    const int64_t dim = config->head_dim, local = has_window(config, index);
    const int64_t sizes[3] = {config->num_heads * dim, config->num_kv_heads * dim, config->num_kv_heads * dim};
    static const char *const names[3][2] = {
        {"attn_q.weight", "attn_q.bias"}, {"attn_k.weight", "attn_k.bias"}, {"attn_v.weight", "attn_v.bias"}};
    struct gguf_tensor tensors[3];
    layer->norm_q = read_vector(weights, index, "attn_q_norm.weight", dim, 1);
    layer->norm_k = read_vector(weights, index, "attn_k_norm.weight", dim, 1);
    for (int i = 0; i < 3; i++)
        find_tensor(weights, index, names[i][0], sizes[i], config->model_dim, 0, &tensors[i]);
    pack_tensors(decoder, &layer->qkv, tensors, 3);
    qkv_projection_desc *desc = &layer->qkv.desc;
    for (int i = 0; i < 3; i++) {
        desc->part[i].head_dim = dim;
        desc->part[i].bias = layer->bias[i] = read_vector(weights, index, names[i][1], sizes[i], 1);
    }
    for (int i = 0; i < 2; i++)
        desc->steps[i] = (qkv_head_steps){.norm = i ? layer->norm_k : layer->norm_q,
                                          .rotate = 1,
                                          .norm_epsilon = config->norm_epsilon,
                                          .positions = {decoder->positions, 0, 1}};
    desc->rope = (qkv_rope){decoder->cos[local], decoder->sin[local], decoder->options.max_tokens, config->rotary_dim,
                            config->rope_layout};
    connect(&layer->qkv, decoder->normed, (float *[]){decoder->q, decoder->k, decoder->v});
}

static void make_cache(struct decoder *decoder, int64_t index) {
    const struct decoder_config *config = &decoder->config;
    const struct decoder_options *options = &decoder->options;
    struct decoder_layer *layer = &decoder->layers[index];
    qkv_cache_desc desc = {.size = sizeof desc,
                           .num_sequences = options->num_sequences,
                           .max_tokens = options->max_tokens,
                           .num_kv_heads = config->num_kv_heads,
                           .head_dim = config->head_dim,
                           .k_type = options->cache_type,
                           .v_type = options->cache_type};
    if (has_window(config, index)) { /* room for what the window sees and the rows of one call, if that is less */
        const int64_t pages = (config->window + options->max_rows) / QKV_CACHE_PAGE + 3;
        const int64_t all = (options->max_tokens + QKV_CACHE_PAGE - 1) / QKV_CACHE_PAGE;
        desc.window = config->window;
        desc.num_pages = options->num_sequences * (pages < all ? pages : all);
    }
    size_t bytes;
    must(qkv_cache_size(&desc, &bytes), "the cache's size");
    layer->cache = allocate_bytes(bytes);
    must(qkv_cache_init(&desc, layer->cache, bytes), "the cache");
    const int64_t dim = config->head_dim, stride = config->num_heads * dim;
    layer->attention = (qkv_attention_desc){.size = sizeof layer->attention,
                                            .batch = options->num_sequences,
                                            .num_heads = config->num_heads,
                                            .q = {decoder->q, 0, dim, stride},
                                            .out = {decoder->heads, 0, dim, stride},
                                            .q_start = decoder->row_begin,
                                            .flags = QKV_RIGHT | QKV_FROM_END,
                                            .scale = config->attention_scale,
                                            .softcap = config->attention_softcap,
                                            .arithmetic = options->attention};
    must(qkv_cache_attach(layer->cache, 0, &layer->attention), "attention over the cache");
}

static void load_layer(struct decoder *decoder, struct weights *weights, int64_t index) {
    const struct decoder_config *config = &decoder->config;
    struct decoder_layer *layer = &decoder->layers[index];
    const int64_t dim = config->model_dim, heads = config->num_heads * config->head_dim;
    struct gguf_tensor tensors[2];
    layer->attention_norm = read_vector(weights, index, "attn_norm.weight", dim, 0);
    layer->ff_norm = read_vector(weights, index, "ffn_norm.weight", dim, 0);
    layer->after_attention = read_vector(weights, index, "post_attention_norm.weight", dim, 1);
    layer->after_ff = read_vector(weights, index, "post_ffw_norm.weight", dim, 1);
    load_qkv(decoder, weights, index);
    find_tensor(weights, index, "attn_output.weight", dim, heads, 0, tensors);
    pack_tensors(decoder, &layer->output, tensors, 1);
    connect(&layer->output, decoder->heads, &decoder->added);
    find_tensor(weights, index, "ffn_gate.weight", config->ff_dim, dim, 0, &tensors[0]);
    find_tensor(weights, index, "ffn_up.weight", config->ff_dim, dim, 0, &tensors[1]);
    pack_tensors(decoder, &layer->gate_up, tensors, 2);
    connect(&layer->gate_up, decoder->normed, (float *[]){decoder->gate, decoder->up});
    find_tensor(weights, index, "ffn_down.weight", dim, config->ff_dim, 0, tensors);
    pack_tensors(decoder, &layer->down, tensors, 1);
    connect(&layer->down, decoder->gate, &decoder->added);
    make_cache(decoder, index);
}

/* The shapes of all matrices, before memory is taken that the file's other values ask for. */
static void check_shapes(const struct decoder_config *config, struct weights *weights) {
    const int64_t heads = config->num_heads * config->head_dim, kv_heads = config->num_kv_heads * config->head_dim;
    struct gguf_tensor tensor;
    for (int64_t i = 0; i < config->num_layers; i++) {
        find_tensor(weights, i, "attn_q.weight", heads, config->model_dim, 0, &tensor);
        find_tensor(weights, i, "attn_k.weight", kv_heads, config->model_dim, 0, &tensor);
        find_tensor(weights, i, "ffn_up.weight", config->ff_dim, config->model_dim, 0, &tensor);
    }
}

static void make_rows(struct decoder *decoder) {
    const struct decoder_config *config = &decoder->config;
    const size_t rows = (size_t)decoder->options.max_rows, dim = (size_t)config->model_dim;
    const size_t heads = (size_t)(config->num_heads * config->head_dim), ff = (size_t)config->ff_dim;
    const size_t kv_heads = (size_t)(config->num_kv_heads * config->head_dim);
    decoder->x = allocate_floats(rows * dim);
    decoder->normed = allocate_floats(rows * dim);
    decoder->added = allocate_floats(rows * dim);
    decoder->q = allocate_floats(rows * heads);
    decoder->k = allocate_floats(rows * kv_heads);
    decoder->v = allocate_floats(rows * kv_heads);
    decoder->heads = allocate_floats(rows * heads);
    decoder->gate = allocate_floats(rows * ff);
    decoder->up = allocate_floats(rows * ff);
    decoder->positions = allocate(rows, sizeof *decoder->positions);
    decoder->row_tokens = allocate(rows, sizeof *decoder->row_tokens);
    decoder->row_begin = allocate((size_t)decoder->options.num_sequences + 1, sizeof *decoder->row_begin);
}

void load_decoder(struct decoder *decoder, const struct gguf *file, const struct decoder_config *config,
                  const struct decoder_options *options, const qkv_ctx *ctx, qkv_pthreads *pool) {
    struct weights weights;
    struct gguf_tensor output;
    *decoder = (struct decoder){.ctx = *ctx, .pool = pool, .config = *config, .options = *options};
    open_weights(&weights, file);
    find_tensor(&weights, -1, "token_embd.weight", config->num_tokens, config->model_dim, 0, &decoder->embedding);
    if (!find_tensor(&weights, -1, "output.weight", config->num_tokens, config->model_dim, 1, &output))
        output = decoder->embedding;
    decoder->final_norm = read_vector(&weights, -1, "output_norm.weight", config->model_dim, 0);
    check_shapes(config, &weights);
    make_rows(decoder);
    make_embedding_rows(decoder);
    make_rope(decoder, &weights, 0);
    if (config->window_every > 0)
        make_rope(decoder, &weights, 1);
    decoder->layers = allocate((size_t)config->num_layers, sizeof *decoder->layers);
    for (int64_t i = 0; i < config->num_layers; i++) {
        load_layer(decoder, &weights, i);
        forget_gguf_pages(file); /* the weights are packed */
    }
    pack_tensors(decoder, &decoder->logits, &output, 1);
    forget_gguf_pages(file);
    connect(&decoder->logits, decoder->normed, (float *[]){NULL});
    close_weights(&weights);
}

static void free_layer(struct decoder_layer *layer) {
    free(layer->attention_norm);
    free(layer->ff_norm);
    free(layer->after_attention);
    free(layer->after_ff);
    free(layer->norm_q);
    free(layer->norm_k);
    for (int i = 0; i < 3; i++)
        free(layer->bias[i]);
    free(layer->qkv.packed);
    free(layer->output.packed);
    free(layer->gate_up.packed);
    free(layer->down.packed);
    free(layer->cache);
}

void free_decoder(struct decoder *decoder) {
    float *const rows[] = {decoder->x,      decoder->normed, decoder->added,  decoder->q,     decoder->k,
                           decoder->v,      decoder->heads,  decoder->gate,   decoder->up,    decoder->final_norm,
                           decoder->cos[0], decoder->cos[1], decoder->sin[0], decoder->sin[1]};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        free(rows[i]);
    for (int64_t i = 0; i < decoder->config.num_layers; i++)
        free_layer(&decoder->layers[i]);
    free(decoder->layers);
    free(decoder->logits.packed);
    free(decoder->positions);
    free(decoder->row_tokens);
    free(decoder->row_begin);
    free(decoder->embedding_rows);
    free(decoder->embedding_panel);
    free(decoder->workspace);
    *decoder = (struct decoder){0};
}
