/* safetensors: the header, and tensors by name.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "safetensors.h"

#include "fuzz_reader.h"

static void read_all(const void *path) {
    struct safetensors model;
    open_safetensors(&model, path);
    if (has_tensor(&model, "a"))
        fuzz_free(read_tensor(&model, "a", 2, 3));
    if (has_tensor(&model, "b"))
        fuzz_free(read_tensor(&model, "b", 0, 4));
    close_safetensors(&model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON_InitHooks(&(cJSON_Hooks){fuzz_malloc, fuzz_free});
    return fuzz_run(size, read_all, fuzz_path(data, size));
}
