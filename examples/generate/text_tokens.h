/* Text → tokens → text, as the tokenizer in a model's file has it.  SPDX-License-Identifier: MIT */
#ifndef TEXT_TOKENS_H
#define TEXT_TOKENS_H

#include "lexicon.h"
#include "merges.h"
#include "pieces.h"

#include <stddef.h>
#include <stdint.h>

struct text_tokens {
    struct lexicon lexicon;
    struct merges merges;
    int byte_level; /* else SentencePiece */
    enum piece_rule rule;
    int space_first; /* SentencePiece: a text begins with a space of its own */
    int32_t byte_tokens[256];
    int32_t *special; /* tokens that are looked for in the text as they are written, the longest first */
    size_t num_special;
    int32_t begin;   /* what every text begins with, or −1 */
    int32_t ends[8]; /* tokens that end an answer */
    size_t num_ends;
};

/* Reads it, or ends the program with a message. `file` must live as long. */
void read_text_tokens(struct text_tokens *tokens, const struct gguf *file);
void free_text_tokens(struct text_tokens *tokens);

/* Appends the tokens of a text, any bytes. From plain_begin on, up to plain_end, control tokens are text like any
 * other: so nobody's words can end a turn. */
void tokenize_text(const struct text_tokens *tokens, const char *text, size_t size, size_t plain_begin,
                   size_t plain_end, struct token_list *out);

/* What a token adds to a text; nothing for control tokens. */
struct gguf_string token_text(const struct text_tokens *tokens, int32_t token);

/* Whether a model says with this token that it has finished. */
int ends_answer(const struct text_tokens *tokens, int32_t token);

#endif
