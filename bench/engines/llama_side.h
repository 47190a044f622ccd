/* One of the ways to run a model that are compared: a context of llama.cpp.  SPDX-License-Identifier: MIT */
#ifndef LLAMA_SIDE_H
#define LLAMA_SIDE_H

#include <llama.h>
#include <stdbool.h>
#include <stdint.h>

enum { PLAIN, FLASH, QKV, NUM_SIDES }; /* without flash attention, with it, and with it by qkv */

struct side {
    const char *name;
    struct llama_model *model;     /* of the sides without qkv, the same one */
    struct llama_context *context; /* NULL: this side is not run */
};

struct sides {
    const struct llama_vocab *vocab;
    struct side side[NUM_SIDES];
    double (*attention_seconds)(void), (*product_seconds)(void); /* of qkv, so far */
};

/* Contexts for so many tokens. Those without qkv are made before the adapter is loaded: a context has the devices that
 * there were when it was made, and a model's weights lie where the devices wanted them. Ends the program on errors. */
struct sides open_sides(const char *model, const char *adapter, const bool wanted[NUM_SIDES], int32_t tokens,
                        int32_t threads);
void close_sides(struct sides *sides);

/* Seconds it takes to append the tokens to what is in the cache. */
double run_tokens(struct side *side, const llama_token *tokens, int32_t n);

/* Makes the cache of `to` that of `from`, which are both with flash attention or both without. */
void copy_cache(const struct side *from, struct side *to);

/* Keeps the first n tokens of the cache. */
void keep_tokens(struct side *side, int32_t n);

llama_token likeliest_token(const struct sides *sides, struct side *side);

/* Tokens of a text, in memory to be freed. */
llama_token *tokens_of(const struct sides *sides, const char *text, bool special, int32_t *n);
void print_token(const struct sides *sides, llama_token token);

/* As llama.cpp counts it: in pieces of `context` tokens, which the side has room for, of each the second half, given
 * all before it in the piece. What makes no whole piece is left out. `count`: of so many tokens. */
double perplexity_of(const struct sides *sides, struct side *side, const llama_token *tokens, int32_t n,
                     int32_t context, int64_t *count);

double seconds_now(void);
char *read_text(const char *path); /* the first MiB of a file, to be freed */
void *need(void *memory);          /* or the end of the program */

#endif
