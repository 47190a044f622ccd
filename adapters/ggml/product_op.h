/* ggml's MUL_MAT as a call of qkv.  SPDX-License-Identifier: MIT */
#ifndef PRODUCT_OP_H
#define PRODUCT_OP_H

#include "runner.h"

#include <ggml.h>
#include <stdbool.h>

/* Whether an op's weights are in panels, or will be, and rows of it and of what it multiplies are floats that follow
 * each other. */
bool multiplies_rows(const struct ggml_tensor *op);

/* Whether this op is such a product by one matrix. */
bool supports_product(const struct ggml_tensor *op);

#define MAX_TOGETHER 8

/* What is kept from one op to the next. */
struct product_state {
    struct piece *pieces;
    int room;
    int64_t ops; /* that were computed */
};

/* Computes some, 1 … MAX_TOGETHER, none of which writes what another reads or writes. NULL, or why not. */
const char *run_products(struct runner *runner, struct product_state *state, struct ggml_tensor *const *ops, int count);

void free_product_state(struct product_state *state);

#endif
