/* Whether a product by weights is faster than ggml's own, on this CPU.  SPDX-License-Identifier: MIT */
#ifndef WEIGHTS_SPEED_H
#define WEIGHTS_SPEED_H

#include "runner.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <stdbool.h>

/* ggml's time in qkv's: of a token's row, as in generation, and of a prompt's. */
struct comparison {
    double one_row, many_rows;
};

/* Some hundredths of a second of one thread. Of experts: two of eight for each row. ggml's weights are where its hosts
 * would put them, so repacked where it has that; qkv's are in buffers of `type_of_qkv`. False without memory or a CPU
 * backend. */
bool compare_products(const qkv_ctx *ctx, ggml_backend_buffer_type_t type_of_qkv, enum ggml_type type, bool of_experts,
                      struct comparison *result);

#endif
