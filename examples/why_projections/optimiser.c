/* SGD and AdamW. Only +, −, ·, / and the square root, which IEEE 754 rounds correctly everywhere: the steps are the
 * same bits on every machine, as long as the compiler fuses nothing (see CMakeLists.txt).
 * SPDX-License-Identifier: MIT */
#include "optimiser.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>

#define BETA1 0.9f
#define BETA2 0.99f /* the runs are short: a mean over 100 steps */
/* Keeps weights still whose gradient is nothing but rounding: the step has no scale of its own. */
#define EPSILON 1e-5f
#define DECAY 1e-4f /* of the weights, times the rate */

void sgd_step(float *weights, const float *gradient, size_t count, float rate) {
    for (size_t i = 0; i < count; i++)
        weights[i] -= rate * gradient[i];
}

struct adamw new_adamw(size_t count) {
    return (struct adamw){.mean = allocate(count, sizeof(float)),
                          .square = allocate(count, sizeof(float)),
                          .mean_weight = 1.0f,
                          .square_weight = 1.0f,
                          .count = count};
}

void free_adamw(struct adamw *state) {
    free(state->mean);
    free(state->square);
}

void adamw_step(struct adamw *state, float *weights, const float *gradient, float rate) {
    state->mean_weight *= BETA1;
    state->square_weight *= BETA2;
    /* Both means start at 0. Dividing by the weight that real gradients have in them takes that out again. */
    float mean_share = 1.0f - state->mean_weight, square_share = 1.0f - state->square_weight;
    for (size_t i = 0; i < state->count; i++) {
        float g = gradient[i];
        float mean = state->mean[i] = BETA1 * state->mean[i] + (1.0f - BETA1) * g;
        float square = state->square[i] = BETA2 * state->square[i] + (1.0f - BETA2) * g * g;
        float step = mean / mean_share / (sqrtf(square / square_share) + EPSILON);
        weights[i] -= rate * (step + DECAY * weights[i]);
    }
}
