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

/* A matrix of whole blocks, or several behind each other: ne[0] terms in, ne[1] out, ne[2] of them. */
bool holds_matrices_of_blocks(const struct ggml_tensor *tensor);

/* Bytes of all of them in panels, and of one panel of 64 rows. */
size_t bytes_in_panels(const struct ggml_tensor *matrices);
size_t bytes_of_panel(const struct ggml_tensor *matrices);

/* Panels of one of them. */
int64_t num_panels(const struct ggml_tensor *matrices);

/* A product by so many panels of matrix `index`, from panel `first` on, in 8 bits; all but its rows. */
qkv_projection_desc product_by(const struct ggml_tensor *matrices, int64_t index, int64_t first, int64_t panels);

/* Bytes [offset, offset + size) of the tensor as ggml has it: written into the panels at `panels`, read from them. Bit
 * for bit what was written is read. False without memory. */
bool write_blocks(const qkv_ctx *ctx, const struct ggml_tensor *matrices, void *panels, const void *from, size_t offset,
                  size_t size);
bool read_blocks(const struct ggml_tensor *matrices, const void *panels, void *to, size_t offset, size_t size);

#endif
