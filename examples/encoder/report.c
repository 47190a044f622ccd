/* What the example prints.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "report.h"

#include "heads.h"
#include "json.h"
#include "text.h"
#include "support.h"
#include "rounding.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_MATRIX 20 /* sentences; more are shown as a list of the closest pairs */
#define MAX_PAIRS 10

void print_json(const struct encoder *encoder, const struct sentence *sentences, size_t count) {
    for (const struct sentence *s = sentences; s < sentences + count; s++) {
        fputs("{\"text\": ", stdout);
        write_json_string(stdout, s->text, s->size);
        fputs(", \"tokens\": [", stdout);
        for (int64_t i = 0; i < s->num_tokens; i++)
            printf("%s%d", i ? ", " : "", (int)s->ids[i]);
        if (s->embedding)
            fputs("], \"embedding\": [", stdout);
        for (int64_t i = 0; s->embedding && i < encoder->config.hidden_size; i++)
            printf("%s%.9g", i ? ", " : "", (double)s->embedding[i]);
        puts("]}");
    }
}

static double similarity(const struct encoder *encoder, const struct sentence *a, const struct sentence *b) {
    double sum = 0.0;
    for (int64_t i = 0; i < encoder->config.hidden_size; i++)
        sum += (double)a->embedding[i] * (double)b->embedding[i];
    return sum;
}

/* The text on one line of at most `width` characters, controls and damaged bytes left out. */
static void print_text(const struct sentence *sentence, int width) {
    for (size_t i = 0; i < sentence->size;) {
        char encoded[4];
        int32_t c;
        i += decode_utf8(sentence->text + i, sentence->size - i, &c);
        if (is_control(c) || c == '\t' || c == '\n' || c == '\r')
            c = ' ';
        if (width-- == 0) {
            fputs("…", stdout);
            break;
        }
        fwrite(encoded, 1, encode_utf8(c, encoded), stdout);
    }
    putchar('\n');
}

/* The closer, the darker the ground, where the terminal can show it. */
static void print_cell(double value, int colours) {
    static const int grounds[] = {255, 254, 223, 222, 216, 209, 203, 203};
    if (value < 0.0 && value > -0.005)
        value = 0.0; /* not "-0.00" */
    int level = value <= 0.0 ? 0 : value >= 1.0 ? 7 : (int)(value * 8.0);
    if (colours)
        printf("\033[30;48;5;%dm %5.2f \033[0m", grounds[level], value);
    else
        printf(" %5.2f ", value);
}

static void print_matrix(const struct encoder *encoder, const struct sentence *sentences, size_t count) {
    int colours = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    printf("similarity (1: the same meaning)\n   ");
    for (size_t j = 0; j < count; j++)
        printf(" %5zu ", j + 1);
    putchar('\n');
    for (size_t i = 0; i < count; i++) {
        printf("%2zu ", i + 1);
        for (size_t j = 0; j < count; j++)
            print_cell(similarity(encoder, &sentences[i], &sentences[j]), colours);
        printf("  ");
        print_text(&sentences[i], 60);
    }
}

static void print_closest_pairs(const struct encoder *encoder, const struct sentence *sentences, size_t count) {
    struct pair {
        size_t a, b;
        double similarity;
    } best[MAX_PAIRS + 1];
    size_t num_best = 0;
    for (size_t a = 0; a < count; a++) {
        for (size_t b = a + 1; b < count; b++) {
            struct pair pair = {a, b, similarity(encoder, &sentences[a], &sentences[b])};
            size_t at = num_best;
            for (; at > 0 && best[at - 1].similarity < pair.similarity; at--)
                best[at] = best[at - 1];
            best[at] = pair;
            if (num_best < MAX_PAIRS)
                num_best++;
        }
    }
    printf("the closest pairs of %zu sentences (--json gives all vectors)\n", count);
    for (size_t i = 0; i < num_best; i++) {
        printf("%6.3f  %6zu  ", best[i].similarity, best[i].a + 1);
        print_text(&sentences[best[i].a], 90);
        printf("        %6zu  ", best[i].b + 1);
        print_text(&sentences[best[i].b], 90);
    }
}

void warn_of_cuts(const struct encoder *encoder, const struct sentence *sentences, size_t count, size_t first) {
    size_t num_cut = 0, first_cut = 0;
    for (size_t i = count; i-- > 0;) {
        if (sentences[i].cut) {
            num_cut++;
            first_cut = first + i;
        }
    }
    if (num_cut == 0)
        return;
    fflush(stdout); /* both may go to one place */
    fprintf(stderr,
            "encoder: %zu sentence%s longer than the %lld tokens that the model reads, number %zu%s: "
            "the end is left out\n",
            num_cut, num_cut == 1 ? " is" : "s are", (long long)encoder->config.max_tokens, first_cut,
            num_cut == 1 ? "" : " is the first");
}

void print_similarities(const struct encoder *encoder, const struct sentence *sentences, size_t count) {
    if (count <= MAX_MATRIX)
        print_matrix(encoder, sentences, count);
    else
        print_closest_pairs(encoder, sentences, count);
}

void print_speed(const struct encoder *encoder, const struct sentence *sentences, size_t count,
                 double sentences_per_second) {
    int64_t tokens = 0;
    int32_t threads = encoder->pool->num_threads;
    for (size_t i = 0; i < count; i++)
        tokens += sentences[i].num_tokens;
    printf("\n%.0f sentences per second (%.0f tokens per second): kernel set %s, %d thread%s, qkv %s\n",
           sentences_per_second, sentences_per_second * (double)tokens / (double)count, encoder->ctx.isa, (int)threads,
           threads == 1 ? "" : "s", qkv_version());
}

void print_closeness(const struct encoder *encoder, const struct sentence *sentences, const struct sentence *plain,
                     size_t count, double plain_sentences_per_second) {
    double least = 1.0, sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        double cosine = similarity(encoder, &sentences[i], &plain[i]);
        least = cosine < least ? cosine : least;
        sum += cosine;
    }
    printf("weights in %s, products in %s, of attention in %s: cosine to the vectors of f32 %.6f on average, %.6f at "
           "least; f32 makes %.0f sentences per second\n",
           weight_type_name(encoder->weight_type), arithmetic_name(encoder->arithmetic),
           arithmetic_name(encoder->attention), sum / (double)count, least, plain_sentences_per_second);
}

/* Neither punctuation nor [CLS] and its like. */
static int is_word(const struct encoder *encoder, int32_t id) {
    const char *text = token_text(&encoder->tokenizer, id);
    int32_t c;
    if (strncmp(text, "##", 2) == 0 && text[2])
        text += 2;
    decode_utf8(text, strlen(text) + 1, &c);
    return is_word_character(c);
}

void print_heads(const struct encoder *encoder, const struct sentence *sentence, int64_t layer,
                 const struct attention_view *view) {
    int64_t n = view->num_tokens;
    printf("\nwhat the %lld heads of layer %lld of %lld attend to in\n  ", (long long)view->num_heads, (long long)layer,
           (long long)encoder->config.num_layers);
    print_text(sentence, 100);
    int *words = allocate((size_t)n, sizeof *words);
    for (int64_t i = 0; i < n; i++)
        words[i] = is_word(encoder, sentence->ids[i]);
    printf("  head  most of all       share   strongest link between two words\n");
    for (int64_t head = 0; head < view->num_heads; head++) {
        const float *probabilities = view->learned + head * n * n;
        double share;
        int64_t key = favourite_key(probabilities, n, &share), from, to;
        printf("  %4lld  %-16s %5.0f %%", (long long)head + 1, token_text(&encoder->tokenizer, sentence->ids[key]),
               100.0 * share);
        float link = strongest_link(probabilities, n, words, &from, &to);
        if (link > 0.0f)
            printf("   %s → %s (%.0f %%)", token_text(&encoder->tokenizer, sentence->ids[from]),
                   token_text(&encoder->tokenizer, sentence->ids[to]), 100.0 * (double)link);
        putchar('\n');
    }
    free(words);
    printf("mean Jensen-Shannon distance between heads: raw %.3g, learned %.3f\n",
           mean_head_distance(view->raw, view->num_heads, n), mean_head_distance(view->learned, view->num_heads, n));
}
