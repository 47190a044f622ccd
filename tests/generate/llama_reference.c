/* What llama.cpp makes of a model, to compare examples/generate with.
 *
 *   llama_reference tokens MODEL <lines                     the tokens of each line, [1,2,3]
 *   llama_reference greedy MODEL THREADS N "text"           the N likeliest next tokens, with K and V in f32
 *   llama_reference speed MODEL THREADS TOKENS STEPS        seconds and processor seconds of both
 *   llama_reference perplexity MODEL THREADS TEXT           in pieces of 512 tokens, with K and V in f32
 *   llama_reference quantize MODEL OUT TYPE                 weights as f16, q8_0, q5_1, q5_0, q4_1 or q4_0
 *
 * SPDX-License-Identifier: MIT */
#include "../../bench/engines/llama_side.h"

#include <ggml-backend.h> /* BACKENDS: the folder of ggml's own */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void only_errors(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static struct llama_model *open_model(const char *path, bool tokens_only) {
    struct llama_model_params p = llama_model_default_params();
    p.vocab_only = tokens_only;
    llama_log_set(only_errors, NULL);
    llama_backend_init();
    ggml_backend_load_all_from_path(BACKENDS);
    return need(llama_model_load_from_file(path, p));
}

static int print_tokens(const char *path) {
    const struct llama_vocab *vocab = llama_model_get_vocab(open_model(path, true));
    static char line[1 << 20];
    static llama_token tokens[1 << 20];
    for (int c = getchar(); c != EOF; c = getchar()) {
        int32_t size = 0;
        for (; c != EOF && c != '\n'; c = getchar())
            if (size < (int32_t)sizeof line)
                line[size++] = (char)c;
        const int32_t n = llama_tokenize(vocab, line, size, tokens, 1 << 20, false, false);
        putchar('[');
        for (int32_t i = 0; i < n; i++)
            printf("%s%d", i ? "," : "", (int)tokens[i]);
        puts("]");
    }
    return 0;
}

static struct sides with_context(const char *path, int32_t threads, enum ggml_type cache, int32_t tokens) {
    struct llama_model *model = open_model(path, false);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)tokens;
    p.n_batch = 2048;
    p.n_ubatch = 512;
    p.n_threads = p.n_threads_batch = threads;
    p.flash_attn_type = cache == GGML_TYPE_F32 ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
    p.type_k = p.type_v = cache;
    p.no_perf = true;
    return (struct sides){.vocab = llama_model_get_vocab(model),
                          .side = {{"llama.cpp", model, need(llama_init_from_model(model, p))}}};
}

static int greedy(const char *path, int32_t threads, int32_t steps, const char *text) {
    int32_t n;
    struct sides s = with_context(path, threads, GGML_TYPE_F32, 4096);
    llama_token *tokens = tokens_of(&s, text, false, &n);
    run_tokens(&s.side[0], tokens, n);
    for (int32_t i = 0; i < steps; i++) {
        llama_token token = likeliest_token(&s, &s.side[0]);
        printf("%s%d", i ? "," : "[", (int)token);
        run_tokens(&s.side[0], &token, 1);
    }
    puts("]");
    return 0;
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int speed(const char *path, int32_t threads, int32_t count, int32_t steps) {
    struct sides s = with_context(path, threads, GGML_TYPE_F16, count + steps + 64);
    llama_token *tokens = need(calloc((size_t)count, sizeof *tokens));
    for (int32_t i = 0; i < count; i++)
        tokens[i] = 1000 + i % 1000;
    run_tokens(&s.side[0], tokens, count < 32 ? count : 32); /* the first time takes memory and starts threads */
    keep_tokens(&s.side[0], 0);
    const double cpu_before = cpu_seconds(), prompt = run_tokens(&s.side[0], tokens, count);
    const double begin = seconds_now(), cpu_begin = cpu_seconds();
    for (int32_t i = 0; i < steps; i++) {
        likeliest_token(&s, &s.side[0]);
        run_tokens(&s.side[0], &tokens[i % count], 1);
    }
    printf("%f %f %f %f\n", prompt, cpu_begin - cpu_before, seconds_now() - begin, cpu_seconds() - cpu_begin);
    return 0;
}

static int perplexity(const char *path, int32_t threads, const char *text) {
    enum { PIECE = 512 };
    int32_t n;
    int64_t count;
    struct sides s = with_context(path, threads, GGML_TYPE_F32, PIECE);
    const llama_token *tokens = tokens_of(&s, read_text(text), false, &n);
    const double found = perplexity_of(&s, &s.side[0], tokens, n, PIECE, &count);
    printf("perplexity %.4f of %lld tokens\n", found, (long long)count);
    return count == 0;
}

static int quantize(const char *from, const char *to, const char *type) {
    static const struct {
        const char *name;
        enum llama_ftype type;
    } types[] = {
        {"f16", LLAMA_FTYPE_MOSTLY_F16},   {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0}, {"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},
        {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0}, {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1}, {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},
    };
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.allow_requantize = true;
    p.ftype = (enum llama_ftype) - 1;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(type, types[i].name) == 0)
            p.ftype = types[i].type;
    llama_log_set(only_errors, NULL);
    return (int)p.ftype < 0 || llama_model_quantize(from, to, &p) != 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "tokens") == 0)
        return print_tokens(argv[2]);
    if (argc == 6 && strcmp(argv[1], "greedy") == 0)
        return greedy(argv[2], atoi(argv[3]), atoi(argv[4]), argv[5]);
    if (argc == 6 && strcmp(argv[1], "speed") == 0)
        return speed(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    if (argc == 5 && strcmp(argv[1], "perplexity") == 0)
        return perplexity(argv[2], atoi(argv[3]), argv[4]);
    if (argc == 5 && strcmp(argv[1], "quantize") == 0)
        return quantize(argv[2], argv[3], argv[4]);
    fputs("usage: see the beginning of the source\n", stderr);
    return 2;
}
