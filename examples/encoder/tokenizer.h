/* BERT's tokenizer: text → the numbers of its WordPieces.  SPDX-License-Identifier: MIT */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "unicode.h"
#include "vocabulary.h"

#include <stddef.h>
#include <stdint.h>

/* A token that is found in the text as it is written, such as [MASK]. */
struct added_token {
    int32_t *text; /* code points */
    size_t length;
    int32_t id;
    int single_word; /* not inside a word */
    int normalized;  /* looked for in the normalised text, else in the raw text */
};

struct tokenizer {
    struct vocabulary vocabulary;
    int32_t cls, sep, unk;
    int clean_text, chinese_apart, strip_accents, lower_case;
    size_t longest_word; /* a word of more characters is [UNK] */
    struct added_token *added;
    size_t num_added;
};

/* Reads vocab.txt and, where they exist, tokenizer.json and tokenizer_config.json of a model folder. */
void load_tokenizer(struct tokenizer *tokenizer, const char *directory);
void free_tokenizer(struct tokenizer *tokenizer);

/* Writes [CLS] … [SEP], cut to max_tokens ≥ 2, into ids and returns how many. Any bytes will do as text. *cut
 * becomes 1 if there was more than fitted, else 0. */
size_t tokenize(const struct tokenizer *tokenizer, const char *text, size_t size, int32_t *ids, size_t max_tokens,
                int *cut);

/* Appends what the text is before it falls into words: controls removed, accents stripped, lower case … */
void normalize(const struct tokenizer *tokenizer, const int32_t *text, size_t length, struct code_points *out);

/* The text of a token, "##ing" for example. */
const char *token_text(const struct tokenizer *tokenizer, int32_t id);

#endif
