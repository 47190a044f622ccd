/* vocab.txt: lines, and words looked up.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "vocabulary.h"

#include "fuzz_reader.h"

static void read_all(const void *path) {
    struct vocabulary vocabulary;
    load_vocabulary(&vocabulary, path);
    for (size_t i = 0; i < vocabulary.num_words; i++)
        if (find_word(&vocabulary, vocabulary.words[i], strlen(vocabulary.words[i])) < 0)
            abort();
    find_word(&vocabulary, "##ing", 5);
    free_vocabulary(&vocabulary);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_run(size, read_all, fuzz_path(data, size));
}
