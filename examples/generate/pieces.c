/* The regular expressions by which byte-level tokenizers cut texts, written out.  SPDX-License-Identifier: MIT */
#include "pieces.h"

#include "text.h"

#include <string.h>
#include <utf8proc.h>

int find_piece_rule(const char *name, size_t size, enum piece_rule *rule) {
    /* clang-format off */
    static const struct {
        const char *name;
        enum piece_rule rule;
    } names[] = {
        {"gpt-2", PIECES_GPT2},          {"gpt2", PIECES_GPT2},       {"mpt", PIECES_GPT2},
        {"olmo", PIECES_GPT2},           {"smollm", PIECES_DIGITS},   {"starcoder", PIECES_DIGITS},
        {"refact", PIECES_DIGITS},       {"command-r", PIECES_DIGITS}, {"llama-bpe", PIECES_LLAMA3},
        {"llama3", PIECES_LLAMA3},       {"llama-v3", PIECES_LLAMA3}, {"qwen2", PIECES_QWEN2},
        {"deepseek-r1-qwen", PIECES_QWEN2},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i].name) == size && memcmp(names[i].name, name, size) == 0) {
            *rule = names[i].rule;
            return 0;
        }
    return -1;
}

enum kind { END, LETTER, NUMBER, SPACE, OTHER };

struct cursor {
    const char *text;
    size_t size, at;
    int digits_end; /* a digit is the end of the text, as it is a piece of its own */
    int32_t c;      /* the character at `at`, */
    enum kind kind; /* its kind, */
    size_t length;  /* and its bytes */
};

static int is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static enum kind kind_of(int32_t c) {
    if (is_space(c))
        return SPACE;
    const utf8proc_category_t category = utf8proc_category(c);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO)
        return LETTER;
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO ? NUMBER : OTHER;
}

static void look(struct cursor *cursor) {
    cursor->kind = END;
    cursor->length = 0;
    cursor->c = -1;
    if (cursor->at >= cursor->size)
        return;
    const size_t length = decode_utf8(cursor->text + cursor->at, cursor->size - cursor->at, &cursor->c);
    const enum kind kind = kind_of(cursor->c);
    if (kind == NUMBER && cursor->digits_end && cursor->at > 0) {
        cursor->c = -1;
        return;
    }
    cursor->kind = kind;
    cursor->length = length;
}

static void step(struct cursor *cursor) {
    cursor->at += cursor->length;
    look(cursor);
}

static size_t run_of(struct cursor *cursor, enum kind kind, int most) {
    for (int i = 0; cursor->kind == kind && (most == 0 || i < most); i++)
        step(cursor);
    return cursor->at;
}

/* 's 't 're 've 'm 'll 'd: the bytes of one that the text begins with, or 0. */
static size_t contraction(const char *text, size_t size, int any_case) {
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (size < 2 || text[0] != '\'')
        return 0;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t n = 0;
        while (endings[i][n] && 1 + n < size &&
               (text[1 + n] == endings[i][n] || (any_case && text[1 + n] == endings[i][n] - 'a' + 'A')))
            n++;
        if (!endings[i][n])
            return 1 + n;
    }
    return 0;
}

/* \s+(?!\S)|\s+: the last of several spaces belongs to what follows, if anything does. */
static size_t spaces(struct cursor *cursor) {
    size_t last = cursor->at, count = 0;
    for (; cursor->kind == SPACE; count++) {
        last = cursor->at;
        step(cursor);
    }
    return count > 1 && cursor->kind != END ? last : cursor->at;
}

static size_t gpt2_piece(struct cursor *cursor) {
    const size_t ending = contraction(cursor->text, cursor->size, 0);
    if (ending > 0)
        return ending;
    const struct cursor begin = *cursor;
    if (cursor->c == ' ')
        step(cursor);
    if (cursor->kind != SPACE && cursor->kind != END)
        return run_of(cursor, cursor->kind, cursor->digits_end && cursor->kind == NUMBER);
    *cursor = begin;
    return spaces(cursor);
}

static size_t others_and_line_ends(struct cursor *cursor) {
    run_of(cursor, OTHER, 0);
    while (cursor->c == '\r' || cursor->c == '\n')
        step(cursor);
    return cursor->at;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t spaces_and_line_ends(struct cursor *cursor) {
    const struct cursor begin = *cursor;
    size_t behind_line_end = 0;
    for (; cursor->kind == SPACE;) {
        const int line_end = cursor->c == '\r' || cursor->c == '\n';
        step(cursor);
        if (line_end)
            behind_line_end = cursor->at;
    }
    *cursor = begin;
    return behind_line_end > 0 ? behind_line_end : spaces(cursor);
}

static size_t llama3_piece(struct cursor *cursor, int digits) {
    const size_t ending = contraction(cursor->text, cursor->size, 1);
    if (ending > 0)
        return ending;
    if (cursor->kind == LETTER)
        return run_of(cursor, LETTER, 0);
    if (cursor->kind == NUMBER)
        return run_of(cursor, NUMBER, digits);
    const struct cursor begin = *cursor;
    step(cursor);
    if (begin.c != '\r' && begin.c != '\n' && cursor->kind == LETTER)
        return run_of(cursor, LETTER, 0);
    if (begin.c == ' ' && cursor->kind == OTHER)
        return others_and_line_ends(cursor);
    *cursor = begin;
    return cursor->kind == OTHER ? others_and_line_ends(cursor) : spaces_and_line_ends(cursor);
}

size_t piece_length(enum piece_rule rule, const char *text, size_t size) {
    struct cursor cursor = {.text = text, .size = size, .digits_end = rule == PIECES_DIGITS};
    look(&cursor);
    if (rule == PIECES_GPT2 || rule == PIECES_DIGITS)
        return gpt2_piece(&cursor);
    return llama3_piece(&cursor, rule == PIECES_LLAMA3 ? 3 : 1);
}
