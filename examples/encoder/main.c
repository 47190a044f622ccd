/* Sentences in, vectors of meaning out: a real BERT model whose attention and matrices run on qkv.
 *
 *   options.c      the command line              safetensors.c   the model's weights
 *   tokenizer.c    text → tokens                 encoder.c       tokens → vector: start here to see qkv at work
 *   report.c       what is printed               heatmap.c       what is drawn
 *   rounding.c     the model's floats in fewer bits
 *
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "encoder.h"
#include "heatmap.h"
#include "options.h"
#include "report.h"
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char program_name[] = "encoder";

/* How many lines of --input --json are taken, computed and printed at a time. */
#define CHUNK 1024

static const char *const own_sentences[] = {
    "The animal did not cross the street because it was too tired.",
    "A weary dog refused to walk over the road.",
    "The bank raised its interest rates again.",
    "We sat on the bank of the river and watched the boats.",
    "Borrowing money has become more expensive.",
    "How do I bake sourdough bread?",
    "Mix flour, water, salt and a lively starter, then wait.",
    "Attention is all you need.",
};

static struct sentence new_sentence(const char *text, size_t size) {
    struct sentence sentence = {.text = allocate(size + 1, 1), .size = size};
    memcpy(sentence.text, text, size);
    return sentence;
}

static void free_sentences(struct sentence *sentences, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free(sentences[i].text);
        free(sentences[i].ids);
        free(sentences[i].embedding);
    }
    free(sentences);
}

static FILE *open_input(const char *path) {
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    return file;
}

/* At most max_lines lines without their ends, \n or \r\n. */
static struct sentence *read_lines(FILE *file, const char *path, size_t max_lines, size_t *count) {
    struct sentence *sentences = NULL;
    char *line = NULL;
    size_t capacity = 0, line_capacity = 0;
    *count = 0;
    for (ssize_t size; *count < max_lines && (size = getline(&line, &line_capacity, file)) >= 0; (*count)++) {
        if (*count == capacity) {
            capacity = 2 * capacity + 64;
            sentences = reallocate(sentences, capacity, sizeof *sentences);
        }
        if (size > 0 && line[size - 1] == '\n')
            size--;
        if (size > 0 && line[size - 1] == '\r')
            size--;
        sentences[*count] = new_sentence(line, (size_t)size);
    }
    if (ferror(file))
        die("%s: %s", path, strerror(errno));
    free(line);
    return sentences;
}

static struct sentence *given_sentences(const struct options *options, size_t *count) {
    int own = options->num_sentences == 0;
    *count = own ? sizeof own_sentences / sizeof own_sentences[0] : (size_t)options->num_sentences;
    struct sentence *sentences = allocate(*count, sizeof *sentences);
    for (size_t i = 0; i < *count; i++) {
        const char *text = own ? own_sentences[i] : options->sentences[i];
        sentences[i] = new_sentence(text, strlen(text));
    }
    return sentences;
}

static void print_chunk(const struct encoder *encoder, const struct options *options, struct sentence *sentences,
                        size_t count, size_t first) {
    tokenize_sentences(encoder, sentences, count);
    warn_of_cuts(encoder, sentences, count, first);
    if (!options->tokens_only)
        encode_sentences(encoder, sentences, count);
    print_json(encoder, sentences, count);
    if (fflush(stdout) != 0)
        die("standard output: %s", strerror(errno));
}

static void run_json(const struct encoder *encoder, const struct options *options) {
    size_t count;
    if (!options->input) {
        struct sentence *sentences = given_sentences(options, &count);
        print_chunk(encoder, options, sentences, count, 1);
        free_sentences(sentences, count);
        return;
    }
    FILE *file = open_input(options->input);
    for (size_t first = 1;; first += count) {
        struct sentence *sentences = read_lines(file, options->input, CHUNK, &count);
        if (count > 0)
            print_chunk(encoder, options, sentences, count, first);
        free_sentences(sentences, count);
        if (count < CHUNK)
            break;
    }
    if (file != stdin)
        fclose(file);
}

/* Encodes the sentences again and again for a quarter of a second, because a few of them are too quick to time. */
static double sentences_per_second(const struct encoder *encoder, struct sentence *sentences, size_t count) {
    double start = seconds_now(), elapsed = 0.0;
    size_t rounds = 0;
    while (elapsed < 0.25) {
        encode_sentences(encoder, sentences, count);
        rounds++;
        elapsed = seconds_now() - start;
    }
    return (double)(rounds * count) / elapsed;
}

static void show_heads(const struct encoder *encoder, const struct options *options, const struct sentence *sentence) {
    struct attention_view view;
    int64_t layer = options->layer ? options->layer : 1;
    view_attention(encoder, sentence, layer - 1, &view);
    print_heads(encoder, sentence, layer, &view);
    if (options->heatmap) {
        write_heatmap(options->heatmap, encoder, sentence, layer, &view);
        printf("\nheat map: %s\n", options->heatmap);
    }
    free_attention_view(&view);
}

/* The same sentences with the model's own floats, and how close the vectors are. */
static void compare_with_f32(const struct encoder *encoder, const struct options *options,
                             const struct sentence *sentences, size_t count) {
    struct encoder plain;
    struct sentence *copies = allocate(count, sizeof *copies);
    load_encoder(&plain, options->model, &encoder->ctx, encoder->pool, QKV_F32, QKV_ARITHMETIC_F32, QKV_ARITHMETIC_F32,
                 1);
    for (size_t i = 0; i < count; i++)
        copies[i] = new_sentence(sentences[i].text, sentences[i].size);
    tokenize_sentences(&plain, copies, count);
    double speed = sentences_per_second(&plain, copies, count);
    print_closeness(encoder, sentences, copies, count, speed);
    free_sentences(copies, count);
    free_encoder(&plain);
}

static void run_report(const struct encoder *encoder, const struct options *options) {
    size_t count;
    struct sentence *sentences;
    if (options->input) {
        FILE *file = open_input(options->input);
        sentences = read_lines(file, options->input, SIZE_MAX, &count);
        if (file != stdin)
            fclose(file);
    } else {
        sentences = given_sentences(options, &count);
    }
    if (count == 0)
        die("%s: no sentence in it", options->input);
    tokenize_sentences(encoder, sentences, count);
    warn_of_cuts(encoder, sentences, count, 1);
    double speed = sentences_per_second(encoder, sentences, count);
    print_similarities(encoder, sentences, count);
    print_speed(encoder, sentences, count, speed);
    if (options->weights != QKV_F32 || options->arithmetic != QKV_ARITHMETIC_F32 ||
        options->attention != QKV_ARITHMETIC_F32)
        compare_with_f32(encoder, options, sentences, count);
    show_heads(encoder, options, &sentences[0]);
    free_sentences(sentences, count);
}

int main(int argc, char **argv) {
    struct options options;
    struct encoder encoder;
    qkv_ctx ctx;
    read_options(&options, argc, argv);
    choose_kernels(&ctx, options.isa);
    qkv_pthreads pool;
    start_threads(&pool, options.num_threads);
    load_encoder(&encoder, options.model, &ctx, &pool, options.weights, options.arithmetic, options.attention,
                 !options.tokens_only);
    if (options.layer > encoder.config.num_layers)
        die("--layer %lld: this model has %lld", (long long)options.layer, (long long)encoder.config.num_layers);
    if (options.json)
        run_json(&encoder, &options);
    else
        run_report(&encoder, &options);
    free_encoder(&encoder);
    qkv_pthreads_stop(&pool);
    free(options.model);
    if (fclose(stdout) != 0)
        die("standard output: %s", strerror(errno));
    return 0;
}
