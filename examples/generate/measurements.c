/* What is measured of a model: perplexity, logits, speed.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "measurements.h"

#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { PIECE = 512, LOGIT_ROWS = 32 };

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* −ln of the probability that these logits give a token. */
static double surprise(const float *logits, int64_t count, int32_t token) {
    float largest = logits[0];
    for (int64_t i = 1; i < count; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += exp((double)(logits[i] - largest));
    return log(sum) + (double)(largest - logits[token]);
}

/* The tokens of one piece in steps, with the logits of those from first_logits on. */
static void run_piece(struct decoder *decoder, const int32_t *tokens, int64_t count, int64_t first_logits,
                      float *logits, void (*take)(void *arg, const float *logits, int64_t token), void *arg) {
    truncate_sequence(decoder, 0, 0);
    for (int64_t at = 0; at < count;) {
        const int64_t rest = at < first_logits ? first_logits - at : least(count - at, LOGIT_ROWS);
        const int64_t n = least(rest, decoder->options.max_rows);
        const int64_t num_logits = at < first_logits ? 0 : n;
        run_decoder(decoder, &(struct run){.tokens = tokens + at, .num_tokens = n, .num_logits = num_logits}, 1,
                    logits);
        for (int64_t i = 0; i < num_logits; i++)
            take(arg, logits + i * decoder->config.num_tokens, at + i);
        at += n;
    }
}

struct perplexity {
    const int32_t *tokens;
    int64_t width, count;
    double sum;
};

static void add_surprise(void *arg, const float *logits, int64_t token) {
    struct perplexity *perplexity = arg;
    if (token == PIECE - 1) /* what follows is in the next piece */
        return;
    perplexity->sum += surprise(logits, perplexity->width, perplexity->tokens[token + 1]);
    perplexity->count++;
}

void measure_perplexity(struct decoder *decoder, const struct text_tokens *tokens, const char *path,
                        volatile sig_atomic_t *interrupted) {
    size_t size;
    char *text = read_file(path, &size, 0);
    struct token_list list = {0};
    struct perplexity perplexity = {.width = decoder->config.num_tokens};
    if (decoder->options.max_tokens < PIECE)
        die("--perplexity needs a context of %d tokens", PIECE);
    if (tokens->begin >= 0)
        append_token(&list, tokens->begin);
    tokenize_text(tokens, text, size, 0, SIZE_MAX, &list);
    const size_t pieces = list.count / PIECE;
    if (pieces == 0)
        die("%s: %zu tokens are too few: %d make a piece", path, list.count, PIECE);
    float *logits = allocate_floats((size_t)(LOGIT_ROWS * decoder->config.num_tokens));
    for (size_t i = 0; i < pieces && !*interrupted; i++) {
        int32_t *piece = list.ids + i * PIECE;
        if (tokens->begin >= 0)
            piece[0] = tokens->begin;
        perplexity.tokens = piece;
        run_piece(decoder, piece, PIECE, PIECE / 2, logits, add_surprise, &perplexity);
        show_progress("perplexity", (double)(i + 1) / (double)pieces);
    }
    end_progress();
    if (perplexity.count > 0)
        printf("perplexity %.4f of %lld tokens\n", exp(perplexity.sum / (double)perplexity.count),
               (long long)perplexity.count);
    free(logits);
    free(list.ids);
    free(text);
}

struct output {
    FILE *file;
    size_t width;
};

static void write_row(void *arg, const float *logits, int64_t token) {
    const struct output *output = arg;
    (void)token;
    fwrite(logits, sizeof *logits, output->width, output->file);
}

void write_logits(struct decoder *decoder, const struct text_tokens *tokens, const char *text, const char *path) {
    struct token_list list = {0};
    struct output output = {fopen(path, "wb"), (size_t)decoder->config.num_tokens};
    if (!output.file)
        die("%s: %s", path, strerror(errno));
    if (tokens->begin >= 0)
        append_token(&list, tokens->begin);
    tokenize_text(tokens, text, strlen(text), 0, SIZE_MAX, &list);
    if ((int64_t)list.count > decoder->options.max_tokens)
        die("%zu tokens don't fit into the context of %lld; see --ctx", list.count,
            (long long)decoder->options.max_tokens);
    float *logits = allocate_floats((size_t)(LOGIT_ROWS * decoder->config.num_tokens));
    run_piece(decoder, list.ids, (int64_t)list.count, 0, logits, write_row, &output);
    if (ferror(output.file) || fclose(output.file) != 0)
        die("%s: can't be written", path);
    free(logits);
    free(list.ids);
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_tokens(struct decoder *decoder, int64_t count, int64_t most_rows, float *logits) {
    int32_t tokens[512];
    for (int64_t at = 0; at < count;) {
        const int64_t n = least(count - at, least(most_rows, 512));
        for (int64_t i = 0; i < n; i++)
            tokens[i] = (int32_t)((1000 + at + i) % decoder->config.num_tokens);
        run_decoder(decoder, &(struct run){.tokens = tokens, .num_tokens = n, .num_logits = at + n == count}, 1,
                    logits);
        at += n;
    }
}

void measure_speed(struct decoder *decoder, int64_t tokens, int64_t steps) {
    if (tokens + steps > decoder->options.max_tokens)
        die("--speed: %lld tokens and %lld steps don't fit into the context", (long long)tokens, (long long)steps);
    float *logits = allocate_floats((size_t)decoder->config.num_tokens);
    run_tokens(decoder, least(tokens, 32), decoder->options.max_rows, logits); /* memory is taken the first time */
    truncate_sequence(decoder, 0, 0);
    const double begin = seconds_now(), cpu_begin = cpu_seconds();
    run_tokens(decoder, tokens, decoder->options.max_rows, logits);
    const double middle = seconds_now(), cpu_middle = cpu_seconds();
    for (int64_t i = 0; i < steps; i++)
        run_tokens(decoder, 1, 1, logits);
    printf("%f %f %f %f\n", middle - begin, cpu_middle - cpu_begin, seconds_now() - middle, cpu_seconds() - cpu_middle);
    free(logits);
}

static void print_speed(const char *what, size_t tokens, double seconds) {
    fprintf(stderr, "%s %zu tokens", what, tokens);
    if (tokens > 0 && seconds > 0)
        fprintf(stderr, ", %.1f a second; ", (double)tokens / seconds);
    else
        fputs("; ", stderr);
}

void print_closing_line(const struct generation *generation, const char *cache_name) {
    const struct decoder *decoder = generation->decoder;
    const double *seconds = decoder->seconds, total = seconds[0] + seconds[1] + seconds[2] + seconds[3];
    struct rusage usage = {0};
    if (generation->prompt_tokens == 0)
        return;
    getrusage(RUSAGE_SELF, &usage);
    print_speed("prompt", generation->prompt_tokens, generation->prompt_seconds);
    print_speed("answer", generation->answer_tokens, generation->answer_seconds);
    fprintf(stderr, "%ld MiB; %s, %d thread%s, products in %s, of attention in %s, cache %s; ", usage.ru_maxrss >> 10,
            decoder->ctx.isa, (int)decoder->pool->num_threads, decoder->pool->num_threads == 1 ? "" : "s",
            arithmetic_names[decoder->options.arithmetic], arithmetic_names[decoder->options.attention], cache_name);
    fprintf(stderr, "products %.0f %%, logits %.0f %%, attention %.0f %%\n", 100 * seconds[SECONDS_PRODUCTS] / total,
            100 * seconds[SECONDS_LOGITS] / total, 100 * seconds[SECONDS_ATTENTION] / total);
}
