/* GGUF: the file, its tokenizer, and the shape of its model.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "decoder_config.h"
#include "gguf.h"
#include "text_tokens.h"

#include "fuzz_reader.h"

struct input {
    const uint8_t *data;
    size_t size;
};

static void read_all(const void *arg) {
    static const char text[] = "The 3 r\xc3\xa9sum\xc3\xa9s: 12\n\n <|im_end|> don't\xff";
    const struct input *input = arg;
    struct gguf file;
    struct text_tokens tokens;
    struct token_list list = {0};
    read_gguf(&file, "input", input->data, input->size);
    read_text_tokens(&tokens, &file);
    tokenize_text(&tokens, text, sizeof text - 1, 10, 20, &list);
    for (size_t i = 0; i < list.count; i++)
        token_text(&tokens, list.ids[i]);
    fuzz_free(list.ids);
    free_text_tokens(&tokens);
    free_gguf(&file);
}

static void read_shape(const void *arg) {
    const struct input *input = arg;
    struct gguf file;
    struct decoder_config config;
    read_gguf(&file, "input", input->data, input->size);
    read_decoder_config(&config, &file);
    free_gguf(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_run(size, read_all, &(struct input){data, size});
    return fuzz_run(size, read_shape, &(struct input){data, size});
}
