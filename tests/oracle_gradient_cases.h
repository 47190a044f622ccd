/* Random gradients of attention in guarded memory, on top of oracle_cases.h.  SPDX-License-Identifier: MIT */
#ifndef ORACLE_GRADIENT_CASES_H
#define ORACLE_GRADIENT_CASES_H

#include "oracle_backward.h"
#include "oracle_cases.h"

typedef struct gradient_case {
    attention_case attention; /* the forward's case */
    qkv_attention_backward_desc desc;
    bool interleaved; /* dQ, dK and dV share an allocation */
    uint64_t old;     /* seed of what the outputs hold before an accumulating run */
} gradient_case;

/* Every feature at random, as case_attention; gives the forward an lse. The forward has not run yet. */
void gradient_draw(qt_rng *rng, int64_t work, gradient_case *c);

/* One that gradients have. */
void gradient_draw_arithmetic(qt_rng *rng, qkv_attention_desc *d);

/* The gradients wanted of a case that has none, contiguous; all of them. */
void gradient_want_all(qt_rng *rng, gradient_case *c);

/* Wraps a forward case: contiguous grad_out, all of dQ, dK, dV. */
void gradient_plain(qt_rng *rng, const attention_case *forward, gradient_case *c);

/* NaN and infinities wherever nothing may look: k and v that no row sees, q and grad_out of rows that see no key. */
void gradient_poison_invisible(qt_rng *rng, gradient_case *c);

/* Runs the forward on the reference, then makes all inputs read-only. */
void gradient_run_forward(gradient_case *c);

/* All gradients of a case, contiguous; NULL where not wanted. `before`: what an accumulating run started from. */
typedef struct gradient_results {
    float *q, *k, *v, *bias, *sinks;
} gradient_results;

gradient_results gradient_before(const gradient_case *c);
gradient_results gradient_run(const qkv_ctx *ctx, const gradient_case *c, int32_t threads, uint64_t shuffle);
void gradient_expect_same(const char *set, const gradient_case *c, const gradient_results *want,
                          const gradient_results *got);

/* Sizes of dbias: 1 where it is summed, also over nothing. */
void gradient_bias_sizes(const qkv_attention_backward_desc *desc, int64_t size[4]);

#endif
