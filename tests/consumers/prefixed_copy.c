/* One of two copies of qkv.c in a program (prefixed.c), compiled with the same -DQKV_PREFIX as its library.
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "qkv.h"

#define JOIN(prefix, name) JOIN_(prefix, name)
#define JOIN_(prefix, name) prefix##name

const char *JOIN(QKV_PREFIX, attend)(float *out, const float *x, int tokens, int dim);

/* Attention of x to itself; returns the version of the library that computed it. */
const char *JOIN(QKV_PREFIX, attend)(float *out, const float *x, int tokens, int dim) {
    static _Alignas(64) unsigned char workspace[1 << 18];
    const qkv_attention_desc desc = {.size = sizeof desc,
                                     .batch = 1,
                                     .num_heads = 1,
                                     .seq_q = tokens,
                                     .seq_k = tokens,
                                     .head_dim = dim,
                                     .q = {x, .token = dim},
                                     .k = {x, .token = dim},
                                     .v = {x, .token = dim},
                                     .out = {out, .token = dim}};
    qkv_ctx ctx;
    qkv_plan plan;
    if (qkv_init(&ctx, NULL) != QKV_OK || qkv_attention_plan(&ctx, &desc, 1, &plan) != QKV_OK ||
        qkv_attention_run(&plan, &desc, workspace, sizeof workspace) != QKV_OK)
        return "none";
    return qkv_version();
}
