/* The tokens of a model, in a hash table with open addressing.  SPDX-License-Identifier: MIT */
#include "lexicon.h"

#include "support.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

/* The slot that holds the token, or the free one where it would go. */
static size_t find_slot(const struct lexicon *lexicon, const char *bytes, size_t size) {
    const size_t mask = lexicon->num_slots - 1;
    size_t slot = hash_bytes(bytes, size) & mask;
    for (; lexicon->slots[slot] >= 0; slot = (slot + 1) & mask) {
        const struct gguf_string other = token_bytes(lexicon, lexicon->slots[slot]);
        if (other.size == size && memcmp(other.text, bytes, size) == 0)
            break;
    }
    return slot;
}

struct gguf_string token_bytes(const struct lexicon *lexicon, int32_t token) {
    const uint32_t begin = lexicon->begin[token];
    return (struct gguf_string){lexicon->bytes + begin, lexicon->begin[token + 1] - begin};
}

int32_t find_token(const struct lexicon *lexicon, const char *bytes, size_t size) {
    return lexicon->slots[find_slot(lexicon, bytes, size)];
}

int32_t find_any_token(const struct lexicon *lexicon, const char *text) {
    const size_t size = strlen(text);
    for (int32_t i = 0; i < lexicon->num_tokens; i++) {
        const struct gguf_string token = token_bytes(lexicon, i);
        if (token.size == size && memcmp(token.text, text, size) == 0)
            return i;
    }
    return -1;
}

/* The byte that GPT-2 writes as this character: printable ones of Latin-1 are themselves, the others come in order from
 * U+0100 on. −1: none. */
static int byte_of_character(int32_t c) {
    if ((c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xff && c != 0xad))
        return c;
    if (c < 0x100 || c >= 0x100 + 68)
        return -1;
    c -= 0x100;
    return c <= 0x20 ? c : c <= 0x20 + 34 ? c - 0x21 + 0x7f : 0xad;
}

size_t decode_byte_level(char *bytes, const char *text, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size;) {
        int32_t c;
        i += decode_utf8(text + i, size - i, &c);
        const int byte = byte_of_character(c);
        if (byte < 0)
            return SIZE_MAX;
        bytes[count++] = (char)byte;
    }
    return count;
}

size_t decode_spaces(char *bytes, const char *text, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size;) {
        const int space = size - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        bytes[count++] = space ? ' ' : text[i];
        i += space ? 3 : 1;
    }
    return count;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0x0A>" means, or −1. */
static int byte_token(const struct gguf_string *text) {
    if (text->size != 6 || memcmp(text->text, "<0x", 3) != 0 || text->text[5] != '>')
        return -1;
    const int high = hex_digit(text->text[3]), low = hex_digit(text->text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static size_t decode_token(const struct gguf *file, char *bytes, const struct gguf_string *text, unsigned char *kind,
                           int byte_level, size_t number) {
    size_t count = SIZE_MAX;
    if (*kind == TOKEN_BYTE) {
        const int byte = byte_token(text);
        if (byte < 0)
            die("%s: token %zu should be a byte and isn't; the file is damaged", file->path, number);
        bytes[0] = (char)byte;
        return 1;
    }
    if (byte_level && *kind == TOKEN_NORMAL)
        count = decode_byte_level(bytes, text->text, text->size);
    else if (!byte_level && *kind != TOKEN_CONTROL)
        count = decode_spaces(bytes, text->text, text->size);
    if (*kind == TOKEN_USER_DEFINED && count < text->size)
        *kind = TOKEN_NORMAL; /* spaces are joined as any text is */
    if (count == SIZE_MAX) {  /* stands for itself */
        memcpy(bytes, text->text, text->size);
        count = text->size;
    }
    return count;
}

void read_lexicon(struct lexicon *lexicon, const struct gguf *file, int byte_level) {
    const struct gguf_array texts = gguf_strings(file, "tokenizer.ggml.tokens");
    const struct gguf_array kinds = gguf_integers(file, "tokenizer.ggml.token_type");
    size_t size = 0;
    if (texts.count == 0)
        die("%s: it brings no tokens (tokenizer.ggml.tokens)", file->path);
    if (texts.count > INT32_MAX / 4 || (kinds.count != 0 && kinds.count != texts.count))
        die("%s: %zu tokens with %zu types; the file is damaged", file->path, texts.count, kinds.count);
    const unsigned char *at = texts.data;
    for (size_t i = 0; i < texts.count; i++)
        size += gguf_next_string(&at).size;
    if (size > UINT32_MAX / 2)
        die("%s: %zu bytes of tokens are too many", file->path, size);
    *lexicon = (struct lexicon){.num_tokens = (int32_t)texts.count,
                                .bytes = allocate(size + 1, 1),
                                .num_slots = 64,
                                .begin = allocate(texts.count + 1, sizeof *lexicon->begin),
                                .kind = allocate(texts.count, 1)};
    while (lexicon->num_slots < texts.count + texts.count / 2)
        lexicon->num_slots *= 2;
    lexicon->slots = allocate(lexicon->num_slots, sizeof *lexicon->slots);
    memset(lexicon->slots, 0xff, lexicon->num_slots * sizeof *lexicon->slots);
    at = texts.data;
    for (size_t i = 0; i < texts.count; i++) {
        const struct gguf_string text = gguf_next_string(&at);
        const int32_t kind = kinds.count ? gguf_integer_at(&kinds, i) : TOKEN_NORMAL;
        if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE)
            die("%s: token %zu has the unknown type %d; the file is damaged", file->path, i, (int)kind);
        lexicon->kind[i] = (unsigned char)kind;
        char *bytes = lexicon->bytes + lexicon->begin[i];
        const size_t count = decode_token(file, bytes, &text, &lexicon->kind[i], byte_level, i);
        lexicon->begin[i + 1] = lexicon->begin[i] + (uint32_t)count;
        /* SentencePiece's spaces are U+2581: a token with others is found as it is written, before text is cut. */
        if (kind != TOKEN_CONTROL && kind != TOKEN_UNKNOWN && (kind != TOKEN_BYTE || byte_level) &&
            (byte_level || !memchr(text.text, ' ', text.size)))
            lexicon->slots[find_slot(lexicon, bytes, count)] = (int32_t)i;
    }
}

void free_lexicon(struct lexicon *lexicon) {
    free(lexicon->bytes);
    free(lexicon->begin);
    free(lexicon->kind);
    free(lexicon->slots);
    *lexicon = (struct lexicon){0};
}
