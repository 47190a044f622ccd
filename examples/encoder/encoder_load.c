/* From a model folder to an encoder in memory: weights are packed as qkv wants them.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "encoder.h"
#include "safetensors.h"
#include "support.h"
#include "rounding.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static float *read_layer_tensor(struct safetensors *file, int64_t layer, const char *name, int64_t rows,
                                int64_t columns) {
    char full_name[128];
    snprintf(full_name, sizeof full_name, "encoder.layer.%lld.%s", (long long)layer, name);
    return read_tensor(file, full_name, rows, columns);
}

/* PyTorch keeps the weight of a Linear as [out][in]. */
static void *pack_weights(const struct encoder *encoder, int64_t in_features, int64_t out_features, int64_t num_parts,
                          float *const *weights) {
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = in_features, .num_parts = num_parts};
    size_t bytes;
    for (int64_t i = 0; i < num_parts; i++) {
        desc.part[i].out_features = out_features;
        desc.part[i].layout = QKV_OUT_IN;
        round_weights(encoder->weight_type, weights[i], in_features, &desc.part[i]);
    }
    must(qkv_packed_size(&desc, &bytes), "packing weights");
    void *packed = allocate_bytes(bytes);
    must(qkv_pack(&encoder->ctx, &desc, packed), "packing weights");
    for (int64_t i = 0; i < num_parts; i++) {
        free((void *)(uintptr_t)desc.part[i].data);
        free((void *)(uintptr_t)desc.part[i].scales);
    }
    return packed;
}

static struct linear read_linear(struct safetensors *file, const struct encoder *encoder, int64_t layer,
                                 const char *name, int64_t in_features, int64_t out_features) {
    struct linear linear = {.in_features = in_features, .out_features = out_features};
    char full_name[64];
    snprintf(full_name, sizeof full_name, "%s.weight", name);
    float *weight = read_layer_tensor(file, layer, full_name, out_features, in_features);
    linear.weight = pack_weights(encoder, in_features, out_features, 1, &weight);
    snprintf(full_name, sizeof full_name, "%s.bias", name);
    linear.bias = read_layer_tensor(file, layer, full_name, 0, out_features);
    return linear;
}

static void read_layer(struct encoder *encoder, struct safetensors *file, int64_t index) {
    struct encoder_layer *layer = &encoder->layers[index];
    int64_t hidden = encoder->config.hidden_size, intermediate = encoder->config.intermediate_size;
    float *weights[3] = {
        read_layer_tensor(file, index, "attention.self.query.weight", hidden, hidden),
        read_layer_tensor(file, index, "attention.self.key.weight", hidden, hidden),
        read_layer_tensor(file, index, "attention.self.value.weight", hidden, hidden),
    };
    layer->w_qkv = pack_weights(encoder, hidden, hidden, 3, weights);
    layer->bias_q = read_layer_tensor(file, index, "attention.self.query.bias", 0, hidden);
    layer->bias_k = read_layer_tensor(file, index, "attention.self.key.bias", 0, hidden);
    layer->bias_v = read_layer_tensor(file, index, "attention.self.value.bias", 0, hidden);
    layer->output = read_linear(file, encoder, index, "attention.output.dense", hidden, hidden);
    layer->attention_norm.weight = read_layer_tensor(file, index, "attention.output.LayerNorm.weight", 0, hidden);
    layer->attention_norm.bias = read_layer_tensor(file, index, "attention.output.LayerNorm.bias", 0, hidden);
    layer->up = read_linear(file, encoder, index, "intermediate.dense", hidden, intermediate);
    layer->down = read_linear(file, encoder, index, "output.dense", intermediate, hidden);
    layer->output_norm.weight = read_layer_tensor(file, index, "output.LayerNorm.weight", 0, hidden);
    layer->output_norm.bias = read_layer_tensor(file, index, "output.LayerNorm.bias", 0, hidden);
}

static void read_weights(struct encoder *encoder, const char *directory) {
    const struct model_config *config = &encoder->config;
    struct safetensors file;
    char *path = join_path(directory, "model.safetensors");
    open_safetensors(&file, path);
    if (!has_tensor(&file, "embeddings.word_embeddings.weight"))
        file.prefix = "bert.";
    encoder->word_embeddings =
        read_tensor(&file, "embeddings.word_embeddings.weight", config->vocab_size, config->hidden_size);
    encoder->position_embeddings =
        read_tensor(&file, "embeddings.position_embeddings.weight", config->max_positions, config->hidden_size);
    encoder->type_embeddings =
        read_tensor(&file, "embeddings.token_type_embeddings.weight", config->num_token_types, config->hidden_size);
    encoder->embedding_norm.weight = read_tensor(&file, "embeddings.LayerNorm.weight", 0, config->hidden_size);
    encoder->embedding_norm.bias = read_tensor(&file, "embeddings.LayerNorm.bias", 0, config->hidden_size);
    encoder->layers = allocate((size_t)config->num_layers, sizeof *encoder->layers);
    for (int64_t i = 0; i < config->num_layers; i++)
        read_layer(encoder, &file, i);
    show_progress("loading the model", 1.0);
    end_progress();
    close_safetensors(&file);
    free(path);
}

/* Every number the tokenizer can give must have a row in the embeddings. */
static void check_vocabulary(const struct encoder *encoder, const char *directory) {
    const struct tokenizer *tokenizer = &encoder->tokenizer;
    int64_t rows = encoder->config.vocab_size, words = (int64_t)tokenizer->vocabulary.num_words;
    if (words > rows)
        die("%s: vocab.txt has %lld words, but config.json speaks of %lld; the two don't belong together", directory,
            (long long)words, (long long)rows);
    if (words < rows)
        note("%s/vocab.txt has %lld words, but the model knows %lld; is the file complete?", directory,
             (long long)words, (long long)rows);
    for (size_t i = 0; i < tokenizer->num_added; i++)
        if (tokenizer->added[i].id >= rows)
            die("%s: tokenizer.json has a token number %d, but the model knows only %lld", directory,
                (int)tokenizer->added[i].id, (long long)rows);
}

void load_encoder(struct encoder *encoder, const char *directory, const qkv_ctx *ctx, qkv_pthreads *pool,
                  int64_t weight_type, int64_t arithmetic, int64_t attention, int with_weights) {
    struct stat status;
    if (stat(directory, &status) != 0 || !S_ISDIR(status.st_mode))
        die("%s: there is no such folder; it must hold config.json, vocab.txt and model.safetensors", directory);
    *encoder = (struct encoder){
        .ctx = *ctx, .pool = pool, .weight_type = weight_type, .arithmetic = arithmetic, .attention = attention};
    load_model_config(&encoder->config, directory);
    load_tokenizer(&encoder->tokenizer, directory);
    check_vocabulary(encoder, directory);
    if (with_weights)
        read_weights(encoder, directory);
}

static void free_linear(struct linear *linear) {
    free(linear->weight);
    free(linear->bias);
}

static void free_norm(struct layer_norm *norm) {
    free(norm->weight);
    free(norm->bias);
}

void free_encoder(struct encoder *encoder) {
    for (int64_t i = 0; encoder->layers && i < encoder->config.num_layers; i++) {
        struct encoder_layer *layer = &encoder->layers[i];
        free(layer->w_qkv);
        free(layer->bias_q);
        free(layer->bias_k);
        free(layer->bias_v);
        free_linear(&layer->output);
        free_linear(&layer->up);
        free_linear(&layer->down);
        free_norm(&layer->attention_norm);
        free_norm(&layer->output_norm);
    }
    free(encoder->layers);
    free(encoder->word_embeddings);
    free(encoder->position_embeddings);
    free(encoder->type_embeddings);
    free_norm(&encoder->embedding_norm);
    free_tokenizer(&encoder->tokenizer);
}
