/* What a model's file says of its shape.  SPDX-License-Identifier: MIT */
#ifndef DECODER_CONFIG_H
#define DECODER_CONFIG_H

#include "gguf.h"

#include <stdint.h>

struct decoder_config {
    const char *architecture;
    int64_t num_layers, model_dim, ff_dim, num_heads, num_kv_heads, head_dim, num_tokens, max_context;
    int64_t rope_layout, rotary_dim;
    double rope_base, local_rope_base;                                     /* the second is of layers with a window */
    double rope_factor;                                                    /* divides the positions of layers without */
    float norm_epsilon, embedding_scale, logit_softcap, attention_softcap; /* caps: 0: none */
    float attention_scale;                                                 /* of q·k; 0: 1/√head_dim */
    int gelu;                                                              /* GeGLU, else SwiGLU */
    int64_t window;                                                        /* tokens that a layer sees … */
    int64_t window_every; /* … but every n-th, which sees all; 0: all do */
};

/* Or the end of the program: an unknown architecture, values that contradict each other. */
void read_decoder_config(struct decoder_config *config, const struct gguf *file);

#endif
