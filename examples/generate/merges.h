/* Byte-pair merges: which two neighbours become one token, and which pair goes first.  SPDX-License-Identifier: MIT */
#ifndef MERGES_H
#define MERGES_H

#include "lexicon.h"

/* A byte-level model lists pairs of tokens, the first goes first. A SentencePiece model has a score for each token:
 * what two neighbours make together, if that is a token, goes by its score. */
struct merges {
    const struct lexicon *lexicon;
    struct gguf_array scores; /* count > 0: SentencePiece */
    struct merge {
        int32_t left, right, result;
    } * list;
    size_t count;
    int32_t *slots; /* hash table of list indices, −1 where free */
    size_t num_slots;
};

/* Reads them, or ends the program with a message. `lexicon` must live as long. */
void read_merges(struct merges *merges, const struct gguf *file, const struct lexicon *lexicon, int byte_level);
void free_merges(struct merges *merges);

/* A growing array of tokens. */
struct token_list {
    int32_t *ids;
    size_t count, capacity;
};

void append_token(struct token_list *list, int32_t token);

/* Appends the tokens that a piece of text becomes. Bytes that are no token: their byte tokens, or nothing where there
 * is none either; `byte_tokens` is [256]. */
void merge_piece(const struct merges *merges, const char *text, size_t size, const int32_t *byte_tokens,
                 struct token_list *out);

#endif
