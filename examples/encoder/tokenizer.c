/* BERT's tokenizer. A text passes through the same steps, in the same order, as in the `tokenizers` package:
 * added tokens are cut out of the raw text; the rest is normalised (controls removed, CJK set apart, accents stripped,
 * lower case), cut at white space and around punctuation into words; each word becomes the longest pieces that the
 * vocabulary has, from the left; a word that can't be pieced together is [UNK].  SPDX-License-Identifier: MIT */
#include "tokenizer.h"

#include "support.h"
#include "unicode.h"

#include <stdlib.h>
#include <string.h>

struct output {
    int32_t *ids;
    size_t length, capacity;
};

static void emit(struct output *out, int32_t id) {
    if (out->length < out->capacity)
        out->ids[out->length++] = id;
}

static int is_full(const struct output *out) {
    return out->length == out->capacity;
}

/* ------------------------------------------------------------------------------------------------ a word */

/* The longest piece of word[start, length) in the vocabulary, "##" in front unless it begins the word. Puts its end
 * into *end; −1 without one. */
static int32_t longest_piece(const struct vocabulary *vocabulary, const int32_t *word, size_t start, size_t length,
                             size_t *end) {
    char text[2 + MAX_WORD_BYTES + 4] = "##";
    size_t stops[MAX_WORD_BYTES + 1]; /* the first i characters of the rest are the bytes before stops[i] */
    size_t count = 0, bytes = start > 0 ? 2 : 0;
    while (start + count < length && bytes < vocabulary->longest_word) {
        bytes += encode_utf8(word[start + count], text + bytes);
        stops[++count] = bytes;
    }
    for (; count > 0; count--) {
        int32_t id = find_word(vocabulary, text, stops[count]);
        *end = start + count;
        if (id >= 0)
            return id;
    }
    return -1;
}

static void emit_word(const struct tokenizer *tokenizer, const int32_t *word, size_t length, struct output *out) {
    size_t before = out->length, end = 0;
    if (length > tokenizer->longest_word) {
        emit(out, tokenizer->unk);
        return;
    }
    for (size_t start = 0; start < length; start = end) {
        int32_t id = longest_piece(&tokenizer->vocabulary, word, start, length, &end);
        if (id < 0) { /* one unknown piece makes the word unknown */
            out->length = before;
            emit(out, tokenizer->unk);
            return;
        }
        emit(out, id);
    }
}

static void emit_words(const struct tokenizer *tokenizer, const int32_t *text, size_t length, struct output *out) {
    size_t start = 0;
    for (size_t i = 0; i <= length && !is_full(out); i++) {
        if (i < length && !is_whitespace(text[i]) && !is_punctuation(text[i]))
            continue;
        if (i > start)
            emit_word(tokenizer, text + start, i - start, out);
        if (i < length && !is_whitespace(text[i]))
            emit_word(tokenizer, text + i, 1, out);
        start = i + 1;
    }
}

/* ------------------------------------------------------------------------------------------------ the text */

void normalize(const struct tokenizer *tokenizer, const int32_t *text, size_t length, struct code_points *out) {
    struct code_points clean = {0}, bare = {0};
    for (size_t i = 0; i < length; i++) {
        int32_t c = text[i];
        if (tokenizer->clean_text && (c == 0 || c == 0xfffd || is_control(c)))
            continue;
        if (tokenizer->clean_text && is_whitespace(c))
            c = ' ';
        int apart = tokenizer->chinese_apart && is_chinese(c);
        if (apart)
            append_code_point(&clean, ' ');
        append_code_point(&clean, c);
        if (apart)
            append_code_point(&clean, ' ');
    }
    if (tokenizer->strip_accents)
        append_without_accents(&bare, clean.data, clean.length);
    struct code_points *last = tokenizer->strip_accents ? &bare : &clean;
    for (size_t i = 0; i < last->length; i++) {
        if (tokenizer->lower_case)
            append_lower(out, last->data[i]);
        else
            append_code_point(out, last->data[i]);
    }
    free(clean.data);
    free(bare.data);
}

/* The longest added token of this kind at text[at]. */
static const struct added_token *added_token_at(const struct tokenizer *tokenizer, int normalized, const int32_t *text,
                                                size_t length, size_t at) {
    const struct added_token *found = NULL;
    for (size_t i = 0; i < tokenizer->num_added; i++) {
        const struct added_token *added = &tokenizer->added[i];
        if (added->normalized == normalized && added->length <= length - at &&
            (!found || added->length > found->length) &&
            memcmp(added->text, text + at, added->length * sizeof *text) == 0)
            found = added;
    }
    return found;
}

static int is_inside_word(const int32_t *text, size_t length, size_t from, size_t to) {
    return (from > 0 && is_word_character(text[from - 1])) || (to < length && is_word_character(text[to]));
}

/* Cuts added tokens out of the text. What lies between them is normalised and comes back here for the added tokens
 * that are looked for in normalised text, and then falls into words. */
static void emit_text(const struct tokenizer *tokenizer, int normalized, const int32_t *text, size_t length,
                      struct output *out) {
    size_t start = 0;
    for (size_t at = 0; at <= length && !is_full(out);) {
        const struct added_token *found = NULL;
        if (at < length)
            found = added_token_at(tokenizer, normalized, text, length, at);
        size_t step = found ? found->length : 1;
        if (found && found->single_word && is_inside_word(text, length, at, at + step))
            found = NULL;
        if (found || at == length) {
            if (normalized) {
                emit_words(tokenizer, text + start, at - start, out);
            } else {
                struct code_points between = {0};
                normalize(tokenizer, text + start, at - start, &between);
                emit_text(tokenizer, 1, between.data, between.length, out);
                free(between.data);
            }
            if (found)
                emit(out, found->id);
            start = at + step;
        }
        at += step;
    }
}

size_t tokenize(const struct tokenizer *tokenizer, const char *text, size_t size, int32_t *ids, size_t max_tokens,
                int *cut) {
    struct output out = {.ids = ids, .capacity = max_tokens}; /* one more than may stay, to see whether there is one */
    struct code_points points = {0};
    for (size_t i = 0; i < size;) {
        int32_t c;
        i += decode_utf8(text + i, size - i, &c);
        append_code_point(&points, c);
    }
    emit(&out, tokenizer->cls);
    emit_text(tokenizer, 0, points.data, points.length, &out);
    free(points.data);
    *cut = is_full(&out);
    out.length -= (size_t)*cut;
    emit(&out, tokenizer->sep);
    return out.length;
}

const char *token_text(const struct tokenizer *tokenizer, int32_t id) {
    if (id < 0 || (size_t)id >= tokenizer->vocabulary.num_words)
        return "?";
    return tokenizer->vocabulary.words[id];
}
