/* One drawn call of FLASH_ATTN_EXT, on any device, and what it is in double.  SPDX-License-Identifier: MIT */
#ifndef DRAWN_OP_H
#define DRAWN_OP_H

#include <ggml-backend.h>
#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

enum mask_kind { NO_MASK, CAUSAL, WINDOW, PADDED, NUMBERS, TWO_SEQUENCES, NUM_MASK_KINDS };

struct shape {
    int64_t head_dim, head_dim_v, kv_heads, group, queries, keys, batch;
    enum ggml_type k_type, v_type;
    enum mask_kind mask;
    bool mask_of_each_sequence, token_major, v_in_k, sinks;
    float max_bias, softcap;
};

struct drawn_op {
    struct shape shape;
    struct ggml_context *context;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor *q, *k, *v, *mask, *sinks, *op;
    struct ggml_cgraph *graph;
};

double uniform(uint64_t *seed); /* of [0, 1) */
struct shape draw_shape(uint64_t *seed);
void print_shape(const struct shape *shape);

/* Tensors in memory of the CPU, filled. */
struct drawn_op make_op(const struct shape *shape, uint64_t *seed, ggml_backend_t cpu);
void fill_mask(struct drawn_op *d, enum mask_kind kind, uint64_t *seed);
void free_op(struct drawn_op *d);

/* out[batch][queries][heads][head_dim_v]: from the numbers that are stored. */
void attend_in_double(const struct drawn_op *d, double *out);

/* The root of the mean square of what the op has computed less `exact`, divided by that of `exact`. */
double relative_error(const struct drawn_op *d, const double *exact);

#endif
