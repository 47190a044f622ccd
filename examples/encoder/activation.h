/* What BERT computes between its matrices, row by row.  SPDX-License-Identifier: MIT */
#ifndef ACTIVATION_H
#define ACTIVATION_H

#include "encoder.h"

/* x = LayerNorm(x + y) for every row of [num_rows][size]. y may be NULL. */
void add_and_normalize(const struct encoder *encoder, float *x, const float *y, const struct layer_norm *norm,
                       int64_t num_rows);

/* x = x·Φ(x), Φ being the normal distribution: GELU as BERT means it, by erf, not by tanh. */
void apply_gelu(const struct encoder *encoder, float *x, int64_t num_rows, int64_t size);

#endif
