/* Reading model.safetensors: a JSON header that names tensors, then their bytes.  SPDX-License-Identifier: MIT */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <cJSON.h>
#include <stdint.h>
#include <stdio.h>

struct safetensors {
    const char *path;
    FILE *file;
    cJSON *header;
    int64_t data_start; /* where the bytes of tensors begin in the file */
    int64_t data_size;
    int64_t bytes_read; /* for the progress display */
    const char *prefix; /* "bert." or "": what stands before the names in this file */
};

/* Opens the file and checks everything the header says against the file's size; a file that is damaged, truncated or
 * of another kind ends the program with a message. `path` must live as long as the struct. */
void open_safetensors(struct safetensors *model, const char *path);
void close_safetensors(struct safetensors *model);

int has_tensor(const struct safetensors *model, const char *name);

/* Reads a tensor of type F32, F16 or BF16 as floats, 64-byte aligned, to be freed. Its shape must be rows × columns,
 * or columns alone when rows is 0. A missing tensor, another shape or type, NaN or infinity ends the program. */
float *read_tensor(struct safetensors *model, const char *name, int64_t rows, int64_t columns);

#endif
