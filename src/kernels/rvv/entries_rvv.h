/* Every function of the set that is not inline, declared with the attribute that the compiler has in place of a target
 * region: the entries, and what the loops' templates have beside them. Part of kernels_rvv.c.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_ENTRIES_RVV_H
#define QKV_ENTRIES_RVV_H

#define ENTRY(entry, name) static V_TARGET __typeof__(*((const qkv_kernels *)0)->entry) name;
ENTRY(widen, widen)
ENTRY(narrow, narrow)
ENTRY(pack, pack)
ENTRY(pack_stored, pack_stored)
ENTRY(gemm, gemm)
ENTRY(gemm_nt, gemm_nt)
ENTRY(gemm_stored, gemm_stored)
ENTRY(widen_weights, widen_weights)
ENTRY(quantize_rows, quantize_rows)
ENTRY(gemm_weights, gemm_weights)
ENTRY(rows_bf16, rows_bf16)
ENTRY(keys_bf16, keys_bf16)
ENTRY(values_bf16, values_bf16)
ENTRY(weights_bf16, weights_bf16)
ENTRY(gemm_bf16, gemm_bf16)
ENTRY(gemm_stored_bf16, gemm_stored_bf16)
ENTRY(gemm_t_bf16, gemm_t_bf16)
ENTRY(softmax_bf16, softmax_bf16)
ENTRY(rows_int8, rows_int8)
ENTRY(panel_int8, panel_int8)
ENTRY(gemm_int8, gemm_int8)
ENTRY(scale_scores, scale_scores)
ENTRY(scale_columns, scale_columns)
ENTRY(sum_visible, sum_visible)
ENTRY(logits, logits)
ENTRY(softmax, softmax)
ENTRY(nan_rows, nan_rows)
ENTRY(fold, fold)
ENTRY(scale, scale)
ENTRY(rotate, rotate)
ENTRY(add_bias, add_bias)
ENTRY(exp2, exp2_array)
ENTRY(tanh, tanh_array)
ENTRY(log, log_array)
ENTRY(dropout, dropout)
ENTRY(gemm_t, gemm_t)
ENTRY(recompute, recompute)
ENTRY(score_grad, score_grad)
ENTRY(row_dots, row_dots)
ENTRY(add, add)
#undef ENTRY

static V_TARGET float load_stored(const unsigned char *p, int type, size_t j);
static V_TARGET void block_factors(float factors[2][QKV_PANEL], int type, const unsigned char *panel, size_t block);
static V_TARGET void quantize_terms(qkv_terms *to, const float *x, size_t n);
static V_TARGET void multiply_terms(float *c, const int8_t *q, float scale, const int8_t *w, size_t terms,
                                    const float *factors, size_t cols);
static V_TARGET void multiply_block(float *c, ptrdiff_t ldc, const qkv_terms *a, const unsigned char *panel, int type,
                                    size_t rows, size_t cols, size_t block);
static V_TARGET float int8_factor(int finite, float largest, float *scale);

#endif
