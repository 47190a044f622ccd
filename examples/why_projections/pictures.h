/* The pictures of the story.  SPDX-License-Identifier: MIT */
#ifndef PICTURES_H
#define PICTURES_H

#include "latent.h"
#include "toy.h"
#include "training.h"

#define NUM_SERIES 4
extern const char *const series_colours[NUM_SERIES]; /* told apart by colour-blind eyes as well */

/* Keys of dog and cat before and after, and how the attention grew. */
void draw_toy(const char *path, const struct toy_result *toy);

/* The loss of every design over the steps. */
void draw_curves(const char *path, const struct study *study, int steps);

/* What each head attends to in the first sentence of the test. */
void draw_heads(const char *path, const struct study *study);

/* The tokens in the plane: as embeddings and as the keys of each head. */
void draw_latent(const char *path, const struct latent *latent);

#endif
