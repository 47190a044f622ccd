/* ggml's MUL_MAT as a call of qkv.  SPDX-License-Identifier: MIT */
#ifndef PRODUCT_OP_H
#define PRODUCT_OP_H

#include "runner.h"

#include <ggml.h>
#include <stdbool.h>

/* Whether this op is a product by a matrix in panels, or one that will be. */
bool supports_product(const struct ggml_tensor *op);

/* NULL, or why not. */
const char *run_product(struct runner *runner, struct ggml_tensor *op);

#endif
