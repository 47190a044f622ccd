/* Unicode as BERT tokenizers see it.  SPDX-License-Identifier: MIT */
#ifndef UNICODE_H
#define UNICODE_H

#include "text.h"

#include <stddef.h>
#include <stdint.h>

/* A growing array of code points. */
struct code_points {
    int32_t *data;
    size_t length, capacity;
};

void append_code_point(struct code_points *text, int32_t c);

int is_whitespace(int32_t c);
int is_control(int32_t c);        /* categories Cc, Cf, Co, but not tab, newline and carriage return */
int is_punctuation(int32_t c);    /* categories P* and all ASCII that is neither letter, digit, space nor control */
int is_chinese(int32_t c);        /* the blocks of CJK ideographs that BERT sets apart */
int is_word_character(int32_t c); /* letters, marks, digits, connectors: \w of regular expressions */

/* Appends the canonical decomposition (NFD) of the text without its accents. */
void append_without_accents(struct code_points *out, const int32_t *text, size_t length);

/* Appends the full lower case of one code point. */
void append_lower(struct code_points *out, int32_t c);

#endif
