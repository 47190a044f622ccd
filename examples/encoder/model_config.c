/* The sizes and options of a BERT model: config.json and its neighbours.  SPDX-License-Identifier: MIT */
#include "model_config.h"

#include "json.h"
#include "support.h"

#include <stdlib.h>
#include <string.h>

#define USUAL_MAX_TOKENS 256

static void require_word(const cJSON *json, const char *name, const char *wanted, const char *path) {
    const char *found = json_string(json, name, wanted, path);
    if (strcmp(found, wanted) != 0)
        die("%s: \"%s\" is \"%s\"; only \"%s\" can be computed here", path, name, found, wanted);
}

static void read_max_tokens(struct model_config *config, const char *directory) {
    char *path = join_path(directory, "sentence_bert_config.json");
    cJSON *json = read_json(path, 1);
    config->max_tokens = USUAL_MAX_TOKENS;
    if (json)
        config->max_tokens = json_integer(json, "max_seq_length", 2, INT32_MAX, USUAL_MAX_TOKENS, path);
    if (config->max_tokens > config->max_positions)
        config->max_tokens = config->max_positions;
    cJSON_Delete(json);
    free(path);
}

static void read_pooling(struct model_config *config, const char *directory) {
    char *path = join_path(directory, "1_Pooling/config.json");
    cJSON *json = read_json(path, 1);
    if (json) {
        config->pool_cls = json_bool(json, "pooling_mode_cls_token", 0, path);
        if (config->pool_cls == json_bool(json, "pooling_mode_mean_tokens", !config->pool_cls, path) ||
            json_bool(json, "pooling_mode_max_tokens", 0, path) ||
            json_bool(json, "pooling_mode_mean_sqrt_len_tokens", 0, path))
            die("%s: only the mean of all tokens or the first token can be computed here", path);
    }
    cJSON_Delete(json);
    free(path);
}

void load_model_config(struct model_config *config, const char *directory) {
    char *path = join_path(directory, "config.json");
    cJSON *json = read_json(path, 0);
    require_word(json, "model_type", "bert", path);
    require_word(json, "hidden_act", "gelu", path);
    require_word(json, "position_embedding_type", "absolute", path);
    *config = (struct model_config){
        .hidden_size = json_integer(json, "hidden_size", 1, 1 << 16, 0, path),
        .num_layers = json_integer(json, "num_hidden_layers", 1, 1 << 10, 0, path),
        .num_heads = json_integer(json, "num_attention_heads", 1, 1 << 10, 0, path),
        .intermediate_size = json_integer(json, "intermediate_size", 1, 1 << 18, 0, path),
        .vocab_size = json_integer(json, "vocab_size", 1, 1 << 24, 0, path),
        .max_positions = json_integer(json, "max_position_embeddings", 2, 1 << 20, 0, path),
        .num_token_types = json_integer(json, "type_vocab_size", 1, 1 << 10, 2, path),
        .layer_norm_eps = (float)json_number(json, "layer_norm_eps", 1e-12, path),
    };
    if (config->hidden_size % config->num_heads != 0)
        die("%s: \"hidden_size\" is no multiple of \"num_attention_heads\"", path);
    if (!(config->layer_norm_eps >= 0.0f && config->layer_norm_eps < 1.0f))
        die("%s: \"layer_norm_eps\" must be a small positive number", path);
    config->head_dim = config->hidden_size / config->num_heads;
    read_max_tokens(config, directory);
    read_pooling(config, directory);
    cJSON_Delete(json);
    free(path);
}
