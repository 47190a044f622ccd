/* The words of a model: vocab.txt.  SPDX-License-Identifier: MIT */
#ifndef VOCABULARY_H
#define VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#define MAX_WORD_BYTES 512 /* a vocabulary with a longer line is none */

/* Word number i is the i-th line of the file. */
struct vocabulary {
    char *text; /* the file; words end with a byte 0 */
    const char **words;
    size_t num_words;
    size_t longest_word; /* in bytes */
    int32_t *slots;      /* hash table of word numbers, −1 where free */
    size_t num_slots;    /* a power of two */
};

/* Reads the file or ends the program with a message. */
void load_vocabulary(struct vocabulary *vocabulary, const char *path);
void free_vocabulary(struct vocabulary *vocabulary);

/* The number of a word of `length` bytes, or −1. Of equal words the last one counts. */
int32_t find_word(const struct vocabulary *vocabulary, const char *word, size_t length);

#endif
