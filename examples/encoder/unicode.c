/* Unicode as BERT tokenizers see it: utf8proc, corrected to the tables that the `tokenizers` package is built with.
 * Its categories are those of Unicode 8, its decompositions of Unicode 12, its lower case is of the latest version.
 * tests/encoder compares all of this, code point by code point.  SPDX-License-Identifier: MIT */
#include "unicode.h"

#include "support.h"

#include <utf8proc.h>

struct range {
    int32_t first, last;
};

/* Here lie all code points up to Unicode 18 that utf8proc (whichever version) may call a mark, a punctuation or
 * control character, or decompose, but that the reference's older tables do not know: to it they are like letters.
 * Everything between the two ends is like a letter to both. */
/* clang-format off */
static const struct range too_new[] = {
    {0x5c8, 0x5c9}, {0x61d, 0x61d}, {0x7fd, 0x7fd}, {0x890, 0x8e2}, {0x9fd, 0x9fe}, {0xa76, 0xa76},
    {0xafa, 0xaff}, {0xb53, 0xb55}, {0xc04, 0xc3c}, {0xc77, 0xc77}, {0xc84, 0xc84}, {0xd00, 0xd00},
    {0xd3b, 0xd3c}, {0xd81, 0xd81}, {0xeba, 0xeba}, {0xece, 0xece}, {0x180f, 0x1886}, {0x1abf, 0x1af0},
    {0x1b4e, 0x1b4f}, {0x1b7d, 0x1b7f}, {0x1df6, 0x1dfb}, {0x2e43, 0x2e63}, {0xa82c, 0xa82c}, {0xa8c5, 0xa8c5},
    {0xa8ff, 0xa8ff}, {0xa9bd, 0xa9bd}, {0x105c9, 0x105e4}, {0x10d24, 0x10f89}, {0x11070, 0x11074},
    {0x110c2, 0x110cd}, {0x111cf, 0x111cf}, {0x1123e, 0x11241}, {0x1133b, 0x1133b}, {0x11383, 0x1145e},
    {0x11660, 0x1166c}, {0x116b9, 0x116b9}, {0x1182f, 0x11fff}, {0x12ff1, 0x1612f}, {0x16d68, 0x16f4f},
    {0x16fe2, 0x16fe4}, {0x1cf00, 0x1d128}, {0x1d25b, 0x1d25c}, {0x1e000, 0x1e6f5}, {0x1e944, 0x1e95f},
};
/* clang-format on */

/* Capitals that utf8proc 2.8 (Unicode 15) does not know yet. */
static const struct {
    int32_t first, last, step, lower;
} new_capitals[] = {
    {0x1c89, 0x1c89, 1, 0x1c8a},    {0xa7cb, 0xa7cb, 1, 0x264},     {0xa7cc, 0xa7ce, 2, 0xa7cd},
    {0xa7d2, 0xa7d4, 2, 0xa7d3},    {0xa7da, 0xa7da, 1, 0xa7db},    {0xa7dc, 0xa7dc, 1, 0x19b},
    {0x10d50, 0x10d65, 1, 0x10d70}, {0x16ea0, 0x16eb8, 1, 0x16ebb},
};

static int in_ranges(int32_t c, const struct range *ranges, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (c >= ranges[i].first && c <= ranges[i].last)
            return 1;
    return 0;
}

#define IN_RANGES(c, ranges) in_ranges(c, ranges, sizeof(ranges) / sizeof((ranges)[0]))

static int is_too_new(int32_t c) {
    return c >= too_new[0].first && IN_RANGES(c, too_new);
}

static utf8proc_category_t category(int32_t c) {
    switch (c) { /* their category has changed since Unicode 8 */
    case 0x1734:
    case 0x1171e: return UTF8PROC_CATEGORY_MN;
    case 0x166d:
    case 0x111c9: return UTF8PROC_CATEGORY_PO;
    default: return is_too_new(c) ? UTF8PROC_CATEGORY_LO : utf8proc_category(c);
    }
}

void append_code_point(struct code_points *text, int32_t c) {
    if (text->length == text->capacity) {
        text->capacity = text->capacity ? 2 * text->capacity : 256;
        text->data = reallocate(text->data, text->capacity, sizeof *text->data);
    }
    text->data[text->length++] = c;
}

int is_whitespace(int32_t c) {
    static const struct range spaces[] = {
        {0x9, 0xd},       {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
        {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
    };
    return IN_RANGES(c, spaces);
}

int is_control(int32_t c) {
    utf8proc_category_t k = category(c);
    if (c == '\t' || c == '\n' || c == '\r')
        return 0;
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

int is_punctuation(int32_t c) {
    utf8proc_category_t k;
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    k = category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

int is_chinese(int32_t c) {
    static const struct range blocks[] = {
        {0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},   {0x20000, 0x2a6df},
        {0x2a700, 0x2b81f}, {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f},
    };
    return c >= 0x3400 && IN_RANGES(c, blocks);
}

int is_word_character(int32_t c) {
    static const struct range more[] = {
        /* joiners, and symbols that count as letters */
        {0x200c, 0x200d}, {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189},
    };
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_NL ||
           k == UTF8PROC_CATEGORY_PC || IN_RANGES(c, more);
}

static int combining_class(int32_t c) {
    return is_too_new(c) ? 0 : utf8proc_get_property(c)->combining_class;
}

void append_without_accents(struct code_points *out, const int32_t *text, size_t length) {
    size_t start = out->length; /* of the marks that may still be reordered */
    for (size_t i = 0; i < length; i++) {
        utf8proc_int32_t parts[8] = {text[i]};
        utf8proc_ssize_t count = 1;
        if (text[i] >= 0x80 && !is_too_new(text[i]))
            count = utf8proc_decompose_char(text[i], parts, 8, UTF8PROC_DECOMPOSE, NULL);
        for (utf8proc_ssize_t j = 0; j < count; j++) {
            int rank = combining_class(parts[j]);
            if (parts[j] < 0x300 || category(parts[j]) != UTF8PROC_CATEGORY_MN) {
                append_code_point(out, parts[j]);
                size_t at = out->length - 1; /* canonical order: marks go behind those of the same or a lower class */
                for (; rank > 0 && at > start && combining_class(out->data[at - 1]) > rank; at--)
                    out->data[at] = out->data[at - 1];
                out->data[at] = parts[j];
            }
            if (rank == 0)
                start = out->length;
        }
    }
}

void append_lower(struct code_points *out, int32_t c) {
    if (c == 0x130) { /* İ: the one letter whose lower case is two code points */
        append_code_point(out, 'i');
        append_code_point(out, 0x307);
        return;
    }
    for (size_t i = 0; i < sizeof new_capitals / sizeof new_capitals[0]; i++) {
        int32_t offset = c - new_capitals[i].first;
        if (offset >= 0 && c <= new_capitals[i].last && offset % new_capitals[i].step == 0) {
            append_code_point(out, new_capitals[i].lower + offset);
            return;
        }
    }
    append_code_point(out, utf8proc_tolower(c));
}
