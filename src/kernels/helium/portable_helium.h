/* Entries that are the portable set's, called through its table.  SPDX-License-Identifier: MIT */

/* ENTRY(name in the table, name in table.inc.h, parameters, arguments) */
#define ENTRY(entry, name, parameters, arguments)                                                                      \
    static void name parameters { qkv_kernels_portable.entry arguments; }

ENTRY(narrow, narrow, (void *dst, ptrdiff_t stride, const float *src, ptrdiff_t lds, int type, size_t rows, size_t n),
      (dst, stride, src, lds, type, rows, n))
ENTRY(widen_weights, widen_weights, (float *dst, const void *panel, int type, size_t first, size_t k),
      (dst, panel, type, first, k))
ENTRY(keys_bf16, keys_bf16, (void *dst, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k),
      (dst, src, stride, type, rows, k))
ENTRY(weights_bf16, weights_bf16, (void *dst, const void *panel, int type, size_t first, size_t k),
      (dst, panel, type, first, k))
ENTRY(gemm_stored_bf16, gemm_stored_bf16,
      (float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, ptrdiff_t stride, int type,
       size_t rows, size_t cols, size_t k, int resume, const qkv_soon *soon),
      (c, ldc, a, lda, first, b, stride, type, rows, cols, k, resume, soon))
ENTRY(sum_visible, sum_visible,
      (float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k, size_t cols),
      (o, p, t, v, ldv, k, cols))
ENTRY(logits, logits, (float *t, size_t n, const qkv_logit_steps *steps), (t, n, steps))
ENTRY(fold, fold,
      (float *m, float *l, float *o, ptrdiff_t ldo, const float *mb, const float *lb, const float *ob, ptrdiff_t ldob,
       size_t rows, size_t cols),
      (m, l, o, ldo, mb, lb, ob, ldob, rows, cols))
ENTRY(rotate, rotate,
      (float *x, ptrdiff_t ld, const float *cos, const float *sin, const ptrdiff_t *at, size_t rows, size_t pairs,
       int interleaved, int inverse),
      (x, ld, cos, sin, at, rows, pairs, interleaved, inverse))
ENTRY(tanh, tanh_array, (float *x, size_t n), (x, n))
ENTRY(log, log_array, (float *x, size_t n), (x, n))
ENTRY(dropout, dropout, (float *t, size_t first, size_t end, const qkv_dropout *d), (t, first, end, d))
ENTRY(score_grad, score_grad,
      (float *d, const float *p, ptrdiff_t ld, size_t rows, size_t cols, const float *delta, float scale,
       const float *cap_tanh),
      (d, p, ld, rows, cols, delta, scale, cap_tanh))
ENTRY(row_dots, row_dots,
      (float *d, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows, size_t n),
      (d, a, lda, b, ldb, rows, n))
#undef ENTRY
