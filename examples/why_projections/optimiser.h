/* What turns a gradient into a better weight. The library gives gradients; steps are the program's affair.
 * SPDX-License-Identifier: MIT */
#ifndef OPTIMISER_H
#define OPTIMISER_H

#include <stddef.h>

/* Stochastic gradient descent: w −= rate·g. */
void sgd_step(float *weights, const float *gradient, size_t count, float rate);

/* AdamW (Loshchilov and Hutter, 2017): every weight has a step length of its own, from running means of its gradient
 * and of the gradient's square. */
struct adamw {
    float *mean, *square;             /* [count] each */
    float mean_weight, square_weight; /* β₁ᵗ and β₂ᵗ after t steps */
    size_t count;
};

struct adamw new_adamw(size_t count);
void free_adamw(struct adamw *state);
void adamw_step(struct adamw *state, float *weights, const float *gradient, float rate);

#endif
