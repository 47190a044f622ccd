/* The library's calls as the small problems of this program need them: contiguous arrays, plan and workspace made
 * anew for each. A training loop keeps them instead: model.c.  SPDX-License-Identifier: MIT */
#ifndef CALLS_H
#define CALLS_H

#include <qkv.h>

/* y[tokens][out] = x[tokens][in] · w[in][out]. */
void project(const qkv_ctx *ctx, const float *x, const float *w, int64_t tokens, int64_t in, int64_t out, float *y);

/* dw[in][out] = xᵀ · dy. */
void project_backward(const qkv_ctx *ctx, const float *x, const float *dy, int64_t tokens, int64_t in, int64_t out,
                      float *dw);

void attend(const qkv_ctx *ctx, const qkv_attention_desc *desc);
void attend_backward(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc);

#endif
