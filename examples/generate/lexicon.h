/* The tokens of a model: number ↔ bytes.  SPDX-License-Identifier: MIT */
#ifndef LEXICON_H
#define LEXICON_H

#include "gguf.h"

#include <stddef.h>
#include <stdint.h>

/* As GGUF numbers them. */
enum token_kind { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };

struct lexicon {
    int32_t num_tokens;
    char *bytes;         /* of all tokens, one after the other */
    uint32_t *begin;     /* [num_tokens + 1] */
    unsigned char *kind; /* token_kind of each */
    int32_t *slots;      /* hash table of token numbers, −1 where free */
    size_t num_slots;    /* a power of two */
};

/* Reads the tokens of a model, or ends the program with a message. byte_level: text is written as GPT-2 does it, a
 * printable character for each byte; it becomes those bytes, except of tokens that stand for themselves. Else U+2581
 * becomes a space, and <0x0A> the byte. */
void read_lexicon(struct lexicon *lexicon, const struct gguf *file, int byte_level);
void free_lexicon(struct lexicon *lexicon);

/* The number of the token of these bytes, or −1; of several the last. Control tokens, and single bytes of a lexicon
 * that is not byte_level, are not found. */
int32_t find_token(const struct lexicon *lexicon, const char *bytes, size_t size);

/* Control tokens too: the number of the token that is written so, or −1. */
int32_t find_any_token(const struct lexicon *lexicon, const char *text);

struct gguf_string token_bytes(const struct lexicon *lexicon, int32_t token);

/* The bytes that GPT-2's way of writing `text` means, in place: returns how many, or SIZE_MAX if it is none. */
size_t decode_byte_level(char *bytes, const char *text, size_t size);

/* The same for SentencePiece's: U+2581 means a space. */
size_t decode_spaces(char *bytes, const char *text, size_t size);

#endif
