/* llama.cpp with qkv and without, in one process and in turns.
 *
 *   llama_compare quantize IN.gguf OUT.gguf                     to Q4_0, as llama-quantize does
 *   llama_compare ask MODEL ADAPTER THREADS TOKENS "prompt"     the same prompt with and without: speed, and the text
 *   llama_compare speed MODEL ADAPTER THREADS ROUNDS N… @N…     prompts of N tokens, and generation behind N tokens
 *   llama_compare perplexity MODEL ADAPTER THREADS TEXT.txt     of the first 4096 tokens, 2048 at a time
 *
 * SPDX-License-Identifier: MIT */
#include "llama_side.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 16 /* of generation, in a round */

static const bool all_sides[NUM_SIDES] = {true, true, true}, flash_sides[NUM_SIDES] = {false, true, true};

/* ---------------------------------------------------------------------------------------------------------- ask */

/* The prompt in the words that the model was trained to be asked in. */
static char *as_chat(const struct sides *s, const char *prompt) {
    const char *template = llama_model_chat_template(s->side[PLAIN].model, NULL);
    const struct llama_chat_message message = {"user", prompt};
    const size_t size = 2 * strlen(prompt) + 1024;
    char *text = need(calloc(1, size));
    if (!template || llama_chat_apply_template(template, &message, 1, true, text, (int32_t)size - 1) <= 0)
        strcpy(text, prompt);
    return text;
}

struct answer {
    llama_token *tokens;
    int32_t n;
    float *margins; /* by how much each token was likelier than the next one, in logits */
    double prompt_seconds, seconds, attention_seconds, product_seconds; /* the last two, by qkv, are a part of both */
};

static float margin_of(const struct sides *s, struct side *side, llama_token best) {
    const float *logits = llama_get_logits_ith(side->context, -1);
    float second = -INFINITY;
    for (llama_token i = 0; i < llama_vocab_n_tokens(s->vocab); i++)
        if (i != best && logits[i] > second) second = logits[i];
    return logits[best] - second;
}

static struct answer answer_of(struct sides *s, struct side *side, const llama_token *prompt, int32_t prompt_tokens,
                               int32_t most) {
    struct answer a = {.tokens = need(malloc((size_t)most * sizeof *a.tokens)),
                       .margins = need(malloc((size_t)most * sizeof *a.margins))};
    run_tokens(side, prompt, prompt_tokens); /* the first time takes memory and starts threads */
    keep_tokens(side, 0);
    const double before = s->attention_seconds(), products_before = s->product_seconds();
    a.prompt_seconds = run_tokens(side, prompt, prompt_tokens);
    while (a.n < most) {
        const llama_token token = likeliest_token(s, side);
        if (llama_vocab_is_eog(s->vocab, token)) break;
        a.margins[a.n] = margin_of(s, side, token);
        a.tokens[a.n++] = token;
        a.seconds += run_tokens(side, &token, 1);
    }
    a.attention_seconds = s->attention_seconds() - before;
    a.product_seconds = s->product_seconds() - products_before;
    return a;
}

static void compare_answers(struct sides *s, const struct answer *without, const struct answer *with) {
    int32_t same = 0;
    while (same < without->n && same < with->n && without->tokens[same] == with->tokens[same])
        same++;
    if (same == without->n && same == with->n) {
        printf("the same %d tokens\n", (int)same);
        return;
    }
    printf("the first %d tokens are the same; then without qkv: \"", (int)same);
    if (same < without->n) print_token(s, without->tokens[same]);
    printf("\", with: \"");
    if (same < with->n) print_token(s, with->tokens[same]);
    printf("\"");
    if (same < without->n)
        printf(", where ggml's logits of the two likeliest lie %.4f apart", (double)without->margins[same]);
    printf(" (each rounds in a way of its own)\n");
}

static int ask(const char *model, const char *adapter, int32_t threads, int32_t most, const char *prompt) {
    const int32_t room = (int32_t)strlen(prompt) + 1024 + most;
    struct sides s = open_sides(model, adapter, flash_sides, room, threads);
    char *text = as_chat(&s, prompt);
    int32_t n;
    llama_token *tokens = tokens_of(&s, text, true, &n);
    struct answer answer[NUM_SIDES];
    printf("%-28s %14s %14s\n", "tokens per second", "prompt", "generation");
    for (int i = FLASH; i < NUM_SIDES; i++) {
        answer[i] = answer_of(&s, &s.side[i], tokens, n, most);
        printf("%-28s %14.1f %14.1f\n", i == QKV ? "llama.cpp with qkv" : "llama.cpp", n / answer[i].prompt_seconds,
               answer[i].n / answer[i].seconds);
    }
    printf("prompt of %d tokens; ", (int)n);
    compare_answers(&s, &answer[FLASH], &answer[QKV]);
    printf("of %.3f s with qkv, its attention took %.3f s and its products by weights %.3f s\n",
           answer[QKV].prompt_seconds + answer[QKV].seconds, answer[QKV].attention_seconds,
           answer[QKV].product_seconds);
    if (answer[QKV].attention_seconds + answer[QKV].product_seconds == 0)
        printf("qkv computed none of it: adapters/ggml/README.md says what is left to ggml\n");
    printf("\n");
    for (int32_t i = 0; i < answer[QKV].n; i++)
        print_token(&s, answer[QKV].tokens[i]);
    printf("\n");
    for (int i = FLASH; i < NUM_SIDES; i++) {
        free(answer[i].tokens);
        free(answer[i].margins);
    }
    free(tokens);
    free(text);
    close_sides(&s);
    return 0;
}

/* -------------------------------------------------------------------------------------------------------- speed */

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *of, int n) {
    qsort(of, (size_t)n, sizeof *of, ascending);
    return n % 2 ? of[n / 2] : (of[n / 2 - 1] + of[n / 2]) / 2;
}

struct timing {
    double side[NUM_SIDES][64], attention[64], products[64];
};

/* Ratios are medians of those of each round: what slows the machine down for a while slows all sides of a round. */
static void report(const char *what, int32_t tokens, int32_t n, struct timing *t, int rounds) {
    double plain[64], flash[64], attention[64], products[64], least = INFINITY, most = 0;
    for (int r = 0; r < rounds; r++) {
        plain[r] = t->side[PLAIN][r] / t->side[QKV][r];
        flash[r] = t->side[FLASH][r] / t->side[QKV][r];
        attention[r] = t->attention[r] / t->side[QKV][r];
        products[r] = t->products[r] / t->side[QKV][r];
        least = fmin(least, flash[r]);
        most = fmax(most, flash[r]);
    }
    printf("%-11s %6d %9.1f %9.1f %9.1f %8.2f %8.2f (%.2f-%.2f) %7.0f %7.0f\n", what, (int)n,
           tokens / median(t->side[PLAIN], rounds), tokens / median(t->side[FLASH], rounds),
           tokens / median(t->side[QKV], rounds), median(plain, rounds), median(flash, rounds), least, most,
           100 * median(attention, rounds), 100 * median(products, rounds));
    fflush(stdout);
}

static void time_prompt(struct sides *s, const llama_token *tokens, int32_t n, int rounds) {
    struct timing t;
    for (int r = -1; r < rounds; r++) /* the first round takes memory */
        for (int i = 0; i < NUM_SIDES; i++) {
            if (r < 0 && n > 512) continue;
            const double before = s->attention_seconds(), products_before = s->product_seconds();
            keep_tokens(&s->side[i], 0);
            const double seconds = run_tokens(&s->side[i], tokens, n);
            if (r >= 0) t.side[i][r] = seconds;
            if (r >= 0 && i == QKV) {
                t.attention[r] = s->attention_seconds() - before;
                t.products[r] = s->product_seconds() - products_before;
            }
        }
    report("prompt", n, n, &t, rounds);
}

static void time_steps(struct sides *s, const llama_token *tokens, int32_t depth, int rounds) {
    struct timing t;
    for (int i = 0; i < NUM_SIDES; i++) {
        keep_tokens(&s->side[i], 0);
        if (i != FLASH) run_tokens(&s->side[i], tokens, depth > 0 ? depth : 1);
    }
    copy_cache(&s->side[QKV], &s->side[FLASH]); /* takes no time */
    for (int r = -1; r < rounds; r++)
        for (int i = 0; i < NUM_SIDES; i++) {
            const double before = s->attention_seconds(), products_before = s->product_seconds();
            double seconds = 0;
            keep_tokens(&s->side[i], depth);
            for (int32_t step = 0; step < STEPS; step++)
                seconds += run_tokens(&s->side[i], tokens + step, 1);
            if (r >= 0) t.side[i][r] = seconds;
            if (r >= 0 && i == QKV) {
                t.attention[r] = s->attention_seconds() - before;
                t.products[r] = s->product_seconds() - products_before;
            }
        }
    report("generation", STEPS, depth, &t, rounds);
}

static int speed(const char *model, const char *adapter, int32_t threads, int rounds, int count, char **sizes) {
    int32_t most = 512;
    for (int i = 0; i < count; i++)
        most = (int32_t)fmax(most, atoi(sizes[i] + (sizes[i][0] == '@')));
    struct sides s = open_sides(model, adapter, all_sides, most + 256, threads);
    llama_token *tokens = need(malloc(((size_t)most + 256) * sizeof *tokens));
    uint32_t seed = 1;
    for (int32_t i = 0; i < most + 256; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = (llama_token)((seed >> 8) % (uint32_t)llama_vocab_n_tokens(s.vocab));
    }
    printf("%d threads, medians of %d rounds, in turns; tokens per second, qkv's ratio to each, and\n"
           "what of its time attention and products of weights take that qkv computes\n",
           (int)threads, rounds);
    printf("%-11s %6s %9s %9s %9s %8s %8s %11s %7s %7s\n", "", "tokens", "no flash", "flash", "qkv", "/no fl.",
           "/flash", "(range)", "% attn", "% prod");
    for (int i = 0; i < count; i++)
        if (sizes[i][0] == '@')
            time_steps(&s, tokens, atoi(sizes[i] + 1), rounds);
        else
            time_prompt(&s, tokens, atoi(sizes[i]), rounds);
    free(tokens);
    close_sides(&s);
    return 0;
}

/* --------------------------------------------------------------------------------------------------- perplexity */

static int perplexity(const char *model, const char *adapter, int32_t threads, const char *path) {
    enum { CONTEXT = 2048, PARTS = 2 };
    struct sides s = open_sides(model, adapter, flash_sides, CONTEXT, threads);
    char *text = read_text(path);
    int32_t n;
    int64_t count;
    llama_token *tokens = tokens_of(&s, text, false, &n);
    if (n < CONTEXT * PARTS) {
        fprintf(stderr, "llama_compare: %s has %d tokens, less than %d\n", path, (int)n, CONTEXT * PARTS);
        return 1;
    }
    for (int i = FLASH; i < NUM_SIDES; i++) {
        const double found = perplexity_of(&s, &s.side[i], tokens, CONTEXT * PARTS, CONTEXT, &count);
        printf("%-20s perplexity %.4f over %lld tokens\n", i == QKV ? "llama.cpp with qkv" : "llama.cpp", found,
               (long long)count);
    }
    free(tokens);
    free(text);
    close_sides(&s);
    return 0;
}

static int quantize(const char *from, const char *to) {
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = LLAMA_FTYPE_MOSTLY_Q4_0;
    p.allow_requantize = true;
    llama_backend_init();
    return (int)llama_model_quantize(from, to, &p);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "quantize") == 0 && argc == 4) return quantize(argv[2], argv[3]);
    if (strcmp(what, "ask") == 0 && argc == 7) return ask(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]), argv[6]);
    if (strcmp(what, "speed") == 0 && argc > 6 && atoi(argv[5]) >= 1 && atoi(argv[5]) <= 64)
        return speed(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]), argc - 6, argv + 6);
    if (strcmp(what, "perplexity") == 0 && argc == 6) return perplexity(argv[2], argv[3], atoi(argv[4]), argv[5]);
    fprintf(stderr, "usage: llama_compare quantize|ask|speed|perplexity … (sh scripts/llama.sh runs it)\n");
    return 2;
}
