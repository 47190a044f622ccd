/* Drawing attention as a picture.  SPDX-License-Identifier: MIT */
#ifndef HEATMAP_H
#define HEATMAP_H

#include "encoder.h"

/* Writes an SVG: raw attention on the left, every head of layer 1 … num_layers on the right, rows being queries and
 * columns keys. Of a long sentence the first 64 tokens are drawn. */
void write_heatmap(const char *path, const struct encoder *encoder, const struct sentence *sentence, int64_t layer,
                   const struct attention_view *view);

#endif
