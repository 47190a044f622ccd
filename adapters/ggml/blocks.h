/* ggml's blocks of quantised weights as the panels that qkv multiplies, and back.  SPDX-License-Identifier: MIT */
#ifndef BLOCKS_H
#define BLOCKS_H

#include <ggml.h>
#include <qkv.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The type of qkv; false: qkv has none, or multiplies no integers of it. */
bool type_of_blocks(enum ggml_type from, int64_t *to);

/* A matrix of whole blocks, its rows behind each other: ne[0] terms in, ne[1] out. */
bool is_matrix_of_blocks(const struct ggml_tensor *tensor);

/* Bytes of such a matrix in panels, and of one panel of 64 rows. */
size_t bytes_in_panels(const struct ggml_tensor *matrix);
size_t bytes_of_panel(const struct ggml_tensor *matrix);

/* Bytes [offset, offset + size) of the matrix as ggml has it: written into the panels at `panels`, read from them. Bit
 * for bit what was written is read. False without memory. */
bool write_blocks(const qkv_ctx *ctx, const struct ggml_tensor *matrix, void *panels, const void *from, size_t offset,
                  size_t size);
bool read_blocks(const struct ggml_tensor *matrix, const void *panels, void *to, size_t offset, size_t size);

#endif
