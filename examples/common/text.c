/* Text in UTF-8, as JSON has it, and hashed.  SPDX-License-Identifier: MIT */
#include "text.h"

size_t decode_utf8(const char *text, size_t size, int32_t *c) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned lead = s[0], low = 0x80, high = 0xbf;
    size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    *c = (int32_t)(length == 1 ? lead : lead & (0x7fu >> length));
    if (length > 1 && (lead < 0xc2 || lead > 0xf4)) {
        *c = 0xfffd;
        return 1;
    }
    if (lead == 0xe0)
        low = 0xa0; /* else it would be an overlong form of two bytes */
    if (lead == 0xed)
        high = 0x9f; /* a surrogate */
    if (lead == 0xf0)
        low = 0x90;
    if (lead == 0xf4)
        high = 0x8f; /* past U+10FFFF */
    for (size_t i = 1; i < length; i++) {
        if (i == size || s[i] < low || s[i] > high) {
            *c = 0xfffd;
            return i;
        }
        *c = *c << 6 | (s[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

size_t encode_utf8(int32_t c, char *text) {
    const size_t length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = length; i-- > 1; c >>= 6)
        text[i] = (char)(0x80 | (c & 0x3f));
    text[0] = (char)(length == 1 ? c : c | (int32_t)(0xf00u >> length & 0xffu));
    return length;
}

size_t hash_bytes(const char *bytes, size_t size) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return (size_t)(hash ^ hash >> 32);
}

void write_json_string(FILE *file, const char *text, size_t size) {
    fputc('"', file);
    for (size_t i = 0; i < size;) {
        char encoded[4];
        int32_t c;
        i += decode_utf8(text + i, size - i, &c);
        if (c == '"' || c == '\\')
            fprintf(file, "\\%c", (int)c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(file, "\\u%04x", (unsigned)c);
        else
            fwrite(encoded, 1, encode_utf8(c, encoded), file);
    }
    fputc('"', file);
}
