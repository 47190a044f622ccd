/* Text → tokens: special tokens are found first, what lies between them is cut into pieces (byte-level models), and
 * neighbours in a piece are merged.  SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem */
#include "text_tokens.h"

#include "support.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ reading */

struct special_order {
    size_t size;
    int32_t token;
};

static int longest_first(const void *a, const void *b) {
    const struct special_order *x = a, *y = b;
    if (x->size != y->size)
        return x->size > y->size ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static void find_special(struct text_tokens *tokens) {
    const struct lexicon *lexicon = &tokens->lexicon;
    size_t count = 0;
    for (int32_t i = 0; i < lexicon->num_tokens; i++)
        count += lexicon->kind[i] >= TOKEN_UNKNOWN && lexicon->kind[i] <= TOKEN_USER_DEFINED;
    struct special_order *order = allocate(count, sizeof *order);
    count = 0;
    for (int32_t i = 0; i < lexicon->num_tokens; i++)
        if (lexicon->kind[i] >= TOKEN_UNKNOWN && lexicon->kind[i] <= TOKEN_USER_DEFINED && token_bytes(lexicon, i).size)
            order[count++] = (struct special_order){token_bytes(lexicon, i).size, i};
    if (count > 0)
        qsort(order, count, sizeof *order, longest_first);
    tokens->special = allocate(count, sizeof *tokens->special);
    for (size_t i = 0; i < count; i++)
        tokens->special[i] = order[i].token;
    tokens->num_special = count;
    free(order);
}

static void find_bytes(struct text_tokens *tokens) {
    const struct lexicon *lexicon = &tokens->lexicon;
    for (int byte = 0; byte < 256; byte++) {
        const char text = (char)byte;
        tokens->byte_tokens[byte] = tokens->byte_level ? find_token(lexicon, &text, 1) : -1;
    }
    for (int32_t i = 0; i < lexicon->num_tokens && !tokens->byte_level; i++)
        if (lexicon->kind[i] == TOKEN_BYTE)
            tokens->byte_tokens[(unsigned char)token_bytes(lexicon, i).text[0]] = i;
}

static int32_t token_number(const struct text_tokens *tokens, const struct gguf *file, const char *key) {
    return (int32_t)gguf_integer(file, key, -1, tokens->lexicon.num_tokens - 1, -1);
}

static void add_end(struct text_tokens *tokens, int32_t token) {
    if (token >= 0 && !ends_answer(tokens, token) && tokens->num_ends < sizeof tokens->ends / sizeof tokens->ends[0])
        tokens->ends[tokens->num_ends++] = token;
}

static void find_ends(struct text_tokens *tokens, const struct gguf *file) {
    static const char *const turns[] = {"<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<|eot_id|>",
                                        "<|end_of_text|>"};
    add_end(tokens, token_number(tokens, file, "tokenizer.ggml.eos_token_id"));
    add_end(tokens, token_number(tokens, file, "tokenizer.ggml.eot_token_id"));
    for (size_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        const int32_t token = find_any_token(&tokens->lexicon, turns[i]);
        if (token >= 0 && tokens->lexicon.kind[token] == TOKEN_CONTROL)
            add_end(tokens, token);
    }
}

void read_text_tokens(struct text_tokens *tokens, const struct gguf *file) {
    const struct gguf_string model = gguf_text(file, "tokenizer.ggml.model");
    const struct gguf_string rule = gguf_text(file, "tokenizer.ggml.pre");
    *tokens = (struct text_tokens){.begin = -1};
    tokens->byte_level = model.size == 4 && memcmp(model.text, "gpt2", 4) == 0;
    if (!tokens->byte_level && !(model.size == 5 && memcmp(model.text, "llama", 5) == 0))
        die("%s: a tokenizer of the kind \"%.*s\"; \"gpt2\" and \"llama\" can be used", file->path,
            (int)(model.size < 40 ? model.size : 40), model.text ? model.text : "");
    if (tokens->byte_level && find_piece_rule(rule.text, rule.size, &tokens->rule) != 0)
        die("%s: its tokenizer cuts texts by the rule \"%.*s\", which is not known here", file->path,
            (int)(rule.size < 40 ? rule.size : 40), rule.text ? rule.text : "");
    read_lexicon(&tokens->lexicon, file, tokens->byte_level);
    read_merges(&tokens->merges, file, &tokens->lexicon, tokens->byte_level);
    tokens->space_first = !tokens->byte_level && gguf_bool(file, "tokenizer.ggml.add_space_prefix", 1);
    if (gguf_bool(file, "tokenizer.ggml.add_bos_token", !tokens->byte_level))
        tokens->begin = token_number(tokens, file, "tokenizer.ggml.bos_token_id");
    find_bytes(tokens);
    find_special(tokens);
    find_ends(tokens, file);
}

void free_text_tokens(struct text_tokens *tokens) {
    free_merges(&tokens->merges);
    free_lexicon(&tokens->lexicon);
    free(tokens->special);
    *tokens = (struct text_tokens){0};
}

/* ------------------------------------------------------------------------------------------------ text → tokens */

static void tokenize_plain(const struct text_tokens *tokens, const char *text, size_t size, int first,
                           struct token_list *out) {
    if (tokens->byte_level) {
        for (size_t at = 0; at < size;) {
            const size_t n = piece_length(tokens->rule, text + at, size - at);
            const int32_t whole = tokens->rule == PIECES_LLAMA3 ? find_token(&tokens->lexicon, text + at, n) : -1;
            if (whole >= 0)
                append_token(out, whole);
            else
                merge_piece(&tokens->merges, text + at, n, tokens->byte_tokens, out);
            at += n;
        }
    } else {
        const int more = first && tokens->space_first;
        char *spaced = allocate(size + 1, 1);
        spaced[0] = ' ';
        size = decode_spaces(spaced + more, text, size) + (size_t)more;
        merge_piece(&tokens->merges, spaced, size, tokens->byte_tokens, out);
        free(spaced);
    }
}

/* A part of the text: a special token, or text still (−1). */
struct part {
    size_t begin, size;
    int32_t token;
};

struct parts {
    struct part *items;
    size_t count, capacity;
};

static void append_part(struct parts *parts, size_t begin, size_t size, int32_t token) {
    if (parts->count == parts->capacity) {
        parts->capacity = parts->capacity ? 2 * parts->capacity : 16;
        parts->items = reallocate(parts->items, parts->capacity, sizeof *parts->items);
    }
    parts->items[parts->count++] = (struct part){begin, size, token};
}

/* Where the special token stands in the text from `begin` on, or SIZE_MAX. */
static size_t find_special_at(const char *text, size_t begin, size_t end, const struct gguf_string *special,
                              size_t plain_begin, size_t plain_end) {
    for (const char *found; (found = memmem(text + begin, end - begin, special->text, special->size)) != NULL;) {
        const size_t at = (size_t)(found - text);
        if (at + special->size <= plain_begin || at >= plain_end)
            return at;
        begin = at + 1;
    }
    return SIZE_MAX;
}

static struct parts find_parts(const struct text_tokens *tokens, const char *text, size_t size, size_t plain_begin,
                               size_t plain_end) {
    struct parts parts = {0};
    append_part(&parts, 0, size, -1);
    for (size_t s = 0; s < tokens->num_special; s++) {
        const int32_t token = tokens->special[s];
        const int control = tokens->lexicon.kind[token] != TOKEN_USER_DEFINED;
        const struct gguf_string special = token_bytes(&tokens->lexicon, token);
        if (!memmem(text, size, special.text, special.size))
            continue;
        struct parts next = {0};
        for (size_t i = 0; i < parts.count; i++) {
            const struct part part = parts.items[i];
            size_t begin = part.begin;
            const size_t end = part.begin + part.size;
            for (size_t at;
                 part.token < 0 && (at = find_special_at(text, begin, end, &special, control ? plain_begin : SIZE_MAX,
                                                         control ? plain_end : 0)) != SIZE_MAX;) {
                if (at > begin)
                    append_part(&next, begin, at - begin, -1);
                append_part(&next, at, special.size, token);
                begin = at + special.size;
            }
            if (end > begin)
                append_part(&next, begin, end - begin, part.token);
        }
        free(parts.items);
        parts = next;
    }
    return parts;
}

void tokenize_text(const struct text_tokens *tokens, const char *text, size_t size, size_t plain_begin,
                   size_t plain_end, struct token_list *out) {
    if (size == 0)
        return;
    struct parts parts = find_parts(tokens, text, size, plain_begin, plain_end);
    int first = 1;
    for (size_t i = 0; i < parts.count; i++) {
        const struct part *part = &parts.items[i];
        if (part->token >= 0)
            append_token(out, part->token);
        else
            tokenize_plain(tokens, text + part->begin, part->size, first, out);
        first = part->token >= 0;
    }
    free(parts.items);
}

/* ------------------------------------------------------------------------------------------------ tokens → text */

struct gguf_string token_text(const struct text_tokens *tokens, int32_t token) {
    const int kind = tokens->lexicon.kind[token];
    if (kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN)
        return (struct gguf_string){"", 0};
    return token_bytes(&tokens->lexicon, token);
}

int ends_answer(const struct text_tokens *tokens, int32_t token) {
    for (size_t i = 0; i < tokens->num_ends; i++)
        if (tokens->ends[i] == token)
            return 1;
    return 0;
}
