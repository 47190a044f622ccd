/* How what people say is put to a model.  SPDX-License-Identifier: MIT */
#ifndef CHAT_H
#define CHAT_H

#include "gguf.h"
#include "text_tokens.h"

/* A turn is before + what was said + after, and the answer follows. */
struct chat {
    const char *name;
    const char *sign;   /* what the template in the model's file has in it */
    const char *system; /* what the model is told first, with its marks; "" */
    const char *before, *after;
    const char *answer_end; /* what stands behind an answer before the next turn */
};

/* The chat that the model's file describes, or NULL: it has none, or one that is not known here. */
const struct chat *find_chat(const struct gguf *file);

/* Appends the tokens of a turn. Without a chat (NULL) that is the text alone. `first` begins with what the model wants
 * at the beginning. */
void tokenize_turn(const struct text_tokens *tokens, const struct chat *chat, const char *text, size_t size, int first,
                   struct token_list *out);

#endif
