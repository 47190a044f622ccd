/* What a model's file says of its shape.  SPDX-License-Identifier: MIT */
#include "decoder_config.h"

#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What the name of an architecture stands for; all else is in the file. */
static const struct architecture {
    const char *name;
    int64_t rope_layout;
    int gemma;              /* GeGLU, embeddings times √model_dim */
    int64_t window_every;   /* one layer of so many has no window */
    double local_rope_base; /* of layers with a window; 0: that of all */
    int64_t layers_27b;     /* the model of so many divides q by √(model_dim/num_heads), the others by √head_dim */
} architectures[] = {
    {"llama", QKV_ROPE_INTERLEAVED, 0, 0, 0, 0}, {"qwen2", QKV_ROPE_HALF, 0, 0, 0, 0},
    {"qwen3", QKV_ROPE_HALF, 0, 0, 0, 0},        {"gemma2", QKV_ROPE_HALF, 1, 2, 0, 46},
    {"gemma3", QKV_ROPE_HALF, 1, 6, 10000, 62},
};

/* Values are named "<architecture>.<key>". */
struct values {
    const struct gguf *file;
    const char *architecture;
    char key[128];
};

static const char *full_key(struct values *values, const char *key) {
    snprintf(values->key, sizeof values->key, "%s.%s", values->architecture, key);
    return values->key;
}

static int64_t integer(struct values *values, const char *key, int64_t high, int64_t otherwise) {
    return gguf_integer(values->file, full_key(values, key), 1, high, otherwise);
}

static double number(struct values *values, const char *key, double otherwise) {
    const double value = gguf_number(values->file, full_key(values, key), otherwise);
    if (!(value >= 0 && value < 1e30))
        die("%s: %s is %g", values->file->path, values->key, value);
    return value;
}

static int is(const struct gguf_string *text, const char *word) {
    return text->size == strlen(word) && memcmp(text->text, word, text->size) == 0;
}

static const struct architecture *find_architecture(const struct gguf *file) {
    const struct gguf_string name = gguf_text(file, "general.architecture");
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++)
        if (name.text && is(&name, architectures[i].name))
            return &architectures[i];
    die("%s: a model of the architecture \"%.*s\"; llama, qwen2, qwen3, gemma2 and gemma3 can be run", file->path,
        (int)(name.size < 40 ? name.size : 40), name.text ? name.text : "");
}

/* Without a type a factor is linear, as llama.cpp takes it; 0 is none. */
static double rope_factor(struct values *values) {
    const struct gguf_string scaling = gguf_text(values->file, full_key(values, "rope.scaling.type"));
    if (scaling.text && is(&scaling, "none"))
        return 1;
    if (scaling.text && !is(&scaling, "linear"))
        die("%s: RoPE scaled by \"%.*s\", which is not known here", values->file->path,
            (int)(scaling.size < 40 ? scaling.size : 40), scaling.text);
    const double factor = number(values, "rope.scaling.factor", number(values, "rope.scale_linear", 1));
    return factor > 0 ? factor : 1;
}

void read_decoder_config(struct decoder_config *config, const struct gguf *file) {
    const struct architecture *architecture = find_architecture(file);
    struct values values = {.file = file, .architecture = architecture->name};
    const int64_t most = 1 << 20;
    *config = (struct decoder_config){
        .architecture = architecture->name, .rope_layout = architecture->rope_layout, .gelu = architecture->gemma};
    config->num_layers = integer(&values, "block_count", 1000, -1);
    config->model_dim = integer(&values, "embedding_length", most, -1);
    config->ff_dim = integer(&values, "feed_forward_length", most, -1);
    config->max_context = integer(&values, "context_length", INT32_MAX, -1);
    config->num_heads = integer(&values, "attention.head_count", 4096, -1);
    config->num_kv_heads = integer(&values, "attention.head_count_kv", 4096, config->num_heads);
    config->head_dim = integer(&values, "attention.key_length", 4096, config->model_dim / config->num_heads);
    config->rotary_dim = integer(&values, "rope.dimension_count", 4096, config->head_dim);
    if (integer(&values, "attention.value_length", 4096, config->head_dim) != config->head_dim ||
        config->head_dim < 1 || config->rotary_dim > config->head_dim || config->rotary_dim % 2 != 0 ||
        config->num_heads % config->num_kv_heads != 0)
        die("%s: %lld heads, %lld of keys, with %lld channels, %lld of them rotated; the file is damaged or of a model "
            "that is not known here",
            file->path, (long long)config->num_heads, (long long)config->num_kv_heads, (long long)config->head_dim,
            (long long)config->rotary_dim);
    if (config->num_layers == architecture->layers_27b)
        config->attention_scale = 1 / sqrtf((float)(config->model_dim / config->num_heads));
    config->norm_epsilon = (float)number(&values, "attention.layer_norm_rms_epsilon", 1e-5);
    config->rope_base = number(&values, "rope.freq_base", 10000);
    config->rope_factor = rope_factor(&values);
    config->local_rope_base = architecture->local_rope_base > 0 ? architecture->local_rope_base : config->rope_base;
    config->local_rope_base = number(&values, "rope.freq_base_swa", config->local_rope_base);
    config->logit_softcap = (float)number(&values, "final_logit_softcapping", 0);
    config->attention_softcap = (float)number(&values, "attn_logit_softcapping", 0);
    config->embedding_scale = architecture->gemma ? sqrtf((float)config->model_dim) : 1;
    if (architecture->window_every > 0) {
        config->window = gguf_integer(file, full_key(&values, "attention.sliding_window"), 0, INT32_MAX, 0);
        if (config->window > 0)
            config->window_every =
                integer(&values, "attention.sliding_window_pattern", 1000, architecture->window_every);
    }
    config->num_tokens = (int64_t)gguf_strings(file, "tokenizer.ggml.tokens").count;
}
