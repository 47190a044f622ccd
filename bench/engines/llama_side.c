/* Contexts of llama.cpp, with and without the adapter.  SPDX-License-Identifier: MIT */
#include "llama_side.h"

#include <ggml-backend.h> /* BACKENDS: the folder of ggml's own, from the build */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static _Noreturn void give_up(const char *what, const char *detail) {
    fprintf(stderr, "llama_compare: %s%s\n", what, detail);
    exit(1);
}

void *need(void *memory) {
    if (!memory) give_up("out of memory", "");
    return memory;
}

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void only_errors(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR || getenv("LLAMA_LOG")) fputs(text, stderr);
}

static struct llama_context *make_context(struct llama_model *model, enum llama_flash_attn_type flash, int32_t tokens,
                                          int32_t threads) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)tokens;
    p.n_batch = 2048;
    p.n_ubatch = 512;
    p.n_threads = p.n_threads_batch = threads;
    p.flash_attn_type = flash;
    p.no_perf = true;
    return need(llama_init_from_model(model, p));
}

static void load_adapter(struct sides *sides, const char *path) {
    ggml_backend_reg_t reg = ggml_backend_load(path);
    if (!reg) give_up("could not load ", path);
    void *address = ggml_backend_reg_get_proc_address(reg, "qkv_attention_seconds");
    memcpy(&sides->attention_seconds, &address, sizeof address);
    address = ggml_backend_reg_get_proc_address(reg, "qkv_product_seconds");
    memcpy(&sides->product_seconds, &address, sizeof address);
}

static struct llama_model *load_model(const char *path) {
    struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) give_up("could not load ", path);
    return model;
}

struct sides open_sides(const char *model, const char *adapter, const bool wanted[NUM_SIDES], int32_t tokens,
                        int32_t threads) {
    struct sides s = {.side = {{"plain", NULL, NULL}, {"flash", NULL, NULL}, {"qkv", NULL, NULL}}};
    llama_log_set(only_errors, NULL);
    llama_backend_init();
    ggml_backend_load_all_from_path(BACKENDS);
    struct llama_model *plain = load_model(model);
    s.vocab = llama_model_get_vocab(plain);
    s.side[PLAIN].model = s.side[FLASH].model = plain;
    if (wanted[PLAIN]) s.side[PLAIN].context = make_context(plain, LLAMA_FLASH_ATTN_TYPE_DISABLED, tokens, threads);
    if (wanted[FLASH]) s.side[FLASH].context = make_context(plain, LLAMA_FLASH_ATTN_TYPE_ENABLED, tokens, threads);
    if (wanted[QKV]) { /* as by default: llama.cpp finds out by itself that flash attention works */
        load_adapter(&s, adapter);
        s.side[QKV].model = load_model(model);
        s.side[QKV].context = make_context(s.side[QKV].model, LLAMA_FLASH_ATTN_TYPE_AUTO, tokens, threads);
    }
    return s;
}

void close_sides(struct sides *sides) {
    for (int i = 0; i < NUM_SIDES; i++)
        if (sides->side[i].context) llama_free(sides->side[i].context);
    if (sides->side[QKV].model) llama_model_free(sides->side[QKV].model);
    llama_model_free(sides->side[PLAIN].model);
    llama_backend_free();
}

double run_tokens(struct side *side, const llama_token *tokens, int32_t n) {
    const double begin = seconds_now();
    for (int32_t i = 0; i < n; i += 2048) {
        llama_token *some = (llama_token *)tokens + i; /* llama.cpp does not write to them */
        if (llama_decode(side->context, llama_batch_get_one(some, n - i < 2048 ? n - i : 2048)) != 0)
            give_up("llama_decode failed: ", side->name);
    }
    llama_synchronize(side->context);
    return seconds_now() - begin;
}

void copy_cache(const struct side *from, struct side *to) {
    const size_t size = llama_state_seq_get_size(from->context, 0);
    uint8_t *state = need(malloc(size));
    if (llama_state_seq_get_data(from->context, state, size, 0) != size ||
        llama_state_seq_set_data(to->context, state, size, 0) != size)
        give_up("the cache could not be copied to ", to->name);
    free(state);
}

void keep_tokens(struct side *side, int32_t n) {
    llama_memory_seq_rm(llama_get_memory(side->context), 0, n, -1);
}

llama_token likeliest_token(const struct sides *sides, struct side *side) {
    const float *logits = llama_get_logits_ith(side->context, -1);
    const int32_t n = llama_vocab_n_tokens(sides->vocab);
    llama_token best = 0;
    for (llama_token i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

llama_token *tokens_of(const struct sides *sides, const char *text, bool special, int32_t *n) {
    const int32_t length = (int32_t)strlen(text);
    llama_token *tokens = need(malloc(((size_t)length + 8) * sizeof *tokens));
    *n = llama_tokenize(sides->vocab, text, length, tokens, length + 8, !special, special);
    if (*n <= 0) give_up("no tokens in the text", "");
    return tokens;
}

char *read_text(const char *path) {
    FILE *file = need(fopen(path, "rb"));
    char *text = need(calloc(1, 1 << 20));
    if (fread(text, 1, (1 << 20) - 1, file) == 0) give_up("nothing in ", path);
    fclose(file);
    return text;
}

/* −ln of the probability that these logits give a token. */
static double surprise(const float *logits, int32_t n, llama_token token) {
    double sum = 0, largest = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        largest = fmax(largest, (double)logits[i]);
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - largest);
    return log(sum) + largest - (double)logits[token];
}

double perplexity_of(const struct sides *sides, struct side *side, const llama_token *tokens, int32_t n,
                     int32_t context, int64_t *count) {
    const int32_t vocab = llama_vocab_n_tokens(sides->vocab);
    struct llama_batch batch = llama_batch_init(context, 0, 1);
    double sum = 0;
    *count = 0;
    for (int32_t begin = 0; begin + context <= n; begin += context) {
        keep_tokens(side, 0);
        for (int32_t t = 0; t < context; t++) {
            batch.token[t] = tokens[begin + t];
            batch.pos[t] = t;
            batch.n_seq_id[t] = 1;
            batch.seq_id[t][0] = 0;
            batch.logits[t] = t >= context / 2;
        }
        if (llama_vocab_get_add_bos(sides->vocab)) batch.token[0] = llama_vocab_bos(sides->vocab);
        batch.n_tokens = context;
        if (llama_decode(side->context, batch) != 0) give_up("the model can't take so many tokens", "");
        for (int32_t t = context / 2; t + 1 < context; t++, (*count)++)
            sum += surprise(llama_get_logits_ith(side->context, t), vocab, batch.token[t + 1]);
    }
    llama_batch_free(batch);
    return exp(sum / (double)*count);
}

void print_token(const struct sides *sides, llama_token token) {
    char piece[256];
    const int32_t n = llama_token_to_piece(sides->vocab, token, piece, sizeof piece, 0, false);
    printf("%.*s", n > 0 ? (int)n : 0, piece);
}
