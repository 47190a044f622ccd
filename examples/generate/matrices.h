/* A model's matrices, from its file into the form that qkv multiplies.  SPDX-License-Identifier: MIT */
#ifndef MATRICES_H
#define MATRICES_H

#include "decoder.h"

/* The tensors of a file, by name; which have been asked for. */
struct weights {
    const struct gguf *file;
    unsigned char *used;
};

void open_weights(struct weights *weights, const struct gguf *file);

/* A tensor that nobody asked for belongs to a model of another kind: ends the program. */
void close_weights(struct weights *weights);

/* The tensor "name", or with layer ≥ 0 "blk.<layer>.name". Its shape must be that; a vector has one row. Without it:
 * 0 if optional, else the end of the program. */
int find_tensor(struct weights *weights, int64_t layer, const char *name, int64_t rows, int64_t columns, int optional,
                struct gguf_tensor *tensor);

/* A vector of floats, to be freed. NULL: optional, and not there. */
float *read_vector(struct weights *weights, int64_t layer, const char *name, int64_t size, int optional);

/* Packs the tensors as the parts of one matrix, with a descriptor that lacks x, tokens and where outputs go. */
void pack_tensors(const struct decoder *decoder, struct projection *projection, const struct gguf_tensor *tensors,
                  int64_t count);

/* Room for embed_rows. */
void make_embedding_rows(struct decoder *decoder);

#endif
