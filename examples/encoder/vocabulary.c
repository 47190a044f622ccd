/* vocab.txt, one word a line, in a hash table with open addressing.  SPDX-License-Identifier: MIT */
#include "vocabulary.h"

#include "support.h"
#include "unicode.h"

#include <stdlib.h>
#include <string.h>

/* The slot that holds the word, or the free one where it would go. */
static size_t find_slot(const struct vocabulary *vocabulary, const char *word, size_t length) {
    size_t mask = vocabulary->num_slots - 1, slot = hash_bytes(word, length) & mask;
    for (; vocabulary->slots[slot] >= 0; slot = (slot + 1) & mask) {
        const char *other = vocabulary->words[vocabulary->slots[slot]];
        if (strncmp(other, word, length) == 0 && other[length] == '\0')
            break;
    }
    return slot;
}

int32_t find_word(const struct vocabulary *vocabulary, const char *word, size_t length) {
    if (memchr(word, '\0', length))
        return -1;
    return vocabulary->slots[find_slot(vocabulary, word, length)];
}

static void check_text(const char *path, const char *text, size_t size) {
    for (size_t i = 0; i < size;) {
        int32_t c;
        size_t taken = decode_utf8(text + i, size - i, &c);
        if (c == 0 || (c == 0xfffd && taken < 3))
            die("%s: byte %zu isn't part of a text in UTF-8; the file is damaged or no vocabulary", path, i);
        i += taken;
    }
}

void load_vocabulary(struct vocabulary *vocabulary, const char *path) {
    size_t size, lines = 0;
    char *text = read_file(path, &size, 0);
    check_text(path, text, size);
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    if (lines == 0 || lines > INT32_MAX / 4)
        die("%s: %zu lines; this is no vocabulary", path, lines);

    *vocabulary = (struct vocabulary){.text = text, .words = allocate(lines + 1, sizeof *vocabulary->words)};
    for (char *line = text, *end = text + size; line < end;) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop)
            stop = end;
        vocabulary->words[vocabulary->num_words++] = line;
        line = stop + 1;
        for (*stop = '\0'; stop > vocabulary->words[vocabulary->num_words - 1] && stop[-1] == '\r';)
            *--stop = '\0';
    }

    for (vocabulary->num_slots = 64; vocabulary->num_slots < 2 * vocabulary->num_words;)
        vocabulary->num_slots *= 2;
    vocabulary->slots = allocate(vocabulary->num_slots, sizeof *vocabulary->slots);
    memset(vocabulary->slots, 0xff, vocabulary->num_slots * sizeof *vocabulary->slots);
    for (size_t i = 0; i < vocabulary->num_words; i++) {
        size_t length = strlen(vocabulary->words[i]);
        if (length > MAX_WORD_BYTES)
            die("%s: line %zu has %zu bytes; this is no vocabulary", path, i + 1, length);
        vocabulary->slots[find_slot(vocabulary, vocabulary->words[i], length)] = (int32_t)i;
        if (length > vocabulary->longest_word)
            vocabulary->longest_word = length;
    }
}

void free_vocabulary(struct vocabulary *vocabulary) {
    free(vocabulary->text);
    free(vocabulary->words);
    free(vocabulary->slots);
    *vocabulary = (struct vocabulary){0};
}
