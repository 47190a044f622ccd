/* Text in UTF-8, as JSON has it, and hashed.  SPDX-License-Identifier: MIT */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Reads one code point of `size` ≥ 1 bytes of UTF-8 and returns how many bytes it took. An invalid sequence gives
 * U+FFFD and takes its longest prefix that could have begun a character, as the Unicode standard recommends. */
size_t decode_utf8(const char *text, size_t size, int32_t *c);

/* Writes one code point, at most 4 bytes, and returns how many. */
size_t encode_utf8(int32_t c, char *text);

/* For a hash table. */
size_t hash_bytes(const char *bytes, size_t size);

/* Writes "text" with JSON's escapes; invalid UTF-8 becomes U+FFFD. */
void write_json_string(FILE *file, const char *text, size_t size);

#endif
