/* Where byte-level tokenizers cut a text before they join its bytes to tokens.  SPDX-License-Identifier: MIT */
#ifndef PIECES_H
#define PIECES_H

#include <stddef.h>

/* The rule of a model, by the name that its file gives it (tokenizer.ggml.pre). */
enum piece_rule {
    PIECES_GPT2,   /* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
    PIECES_DIGITS, /* the same with every digit apart, first: SmolLM, StarCoder */
    PIECES_LLAMA3, /* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*| …
                    * … \s*[\r\n]+|\s+(?!\S)|\s+; a piece that is a token is that, whatever the merges say */
    PIECES_QWEN2   /* the same with every digit apart */
};

/* 0 if the name is one that is known. */
int find_piece_rule(const char *name, size_t size, enum piece_rule *rule);

/* How many bytes the first piece of a text of `size` ≥ 1 bytes has. */
size_t piece_length(enum piece_rule rule, const char *text, size_t size);

#endif
