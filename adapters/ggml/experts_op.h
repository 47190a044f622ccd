/* ggml's MUL_MAT_ID, each row times the matrix of an expert that it chose, as calls of qkv.
 * SPDX-License-Identifier: MIT */
#ifndef EXPERTS_OP_H
#define EXPERTS_OP_H

#include "runner.h"

#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

bool supports_experts(const struct ggml_tensor *op);

/* What is kept from one op to the next. */
struct experts_state {
    struct expert_piece *pieces;
    struct chosen_row *rows;
    int64_t *ends; /* of each expert's rows */
    int64_t num_pieces, pieces_room, rows_room, ends_room;
    int64_t ops; /* that were computed */
};

/* Computes some, none of which writes what another reads or writes. NULL, or why not. */
const char *run_experts(struct runner *runner, struct experts_state *state, struct ggml_tensor *const *ops, int count);

void free_experts_state(struct experts_state *state);

#endif
