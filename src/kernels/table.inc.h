/* Template: the table of one instruction set, every entry by name. Needs KERNELS (the table's symbol), KERNELS_NAME,
 * KERNELS_NEEDS, TILE_ROWS, NT_ROWS, and the entries as static functions. Included again it makes the table of a set
 * that shares them, but for those that macros name: GEMM_WEIGHTS, BF16(entry) with BF16_BYTES, INT8(entry)
 * with INT8_BYTES, and what NATIVE says.
 *
 * SPDX-License-Identifier: MIT */
#ifndef GEMM_WEIGHTS
#define GEMM_WEIGHTS gemm_weights
#endif
#ifndef BF16
#define BF16(entry) entry
#define BF16_BYTES 4
#endif
#ifndef INT8
#define INT8(entry) entry
#define INT8_BYTES 4
#endif
#ifndef NATIVE
#define NATIVE 0
#endif
const qkv_kernels KERNELS = {
    .name = KERNELS_NAME,
    .needs = KERNELS_NEEDS,
    .tile_rows = 2 * TILE_ROWS,
    .few_rows = NT_ROWS,
    .native = 1 << QKV_ARITHMETIC_F32 | NATIVE,
    .bf16_bytes = BF16_BYTES,
    .int8_bytes = INT8_BYTES,
    .widen = widen,
    .narrow = narrow,
    .pack = pack,
    .pack_stored = pack_stored,
    .gemm = gemm,
    .gemm_nt = gemm_nt,
    .gemm_stored = gemm_stored,
    .widen_weights = widen_weights,
    .quantize_rows = quantize_rows,
    .gemm_weights = GEMM_WEIGHTS,
    .rows_bf16 = BF16(rows_bf16),
    .keys_bf16 = BF16(keys_bf16),
    .values_bf16 = BF16(values_bf16),
    .weights_bf16 = BF16(weights_bf16),
    .gemm_bf16 = BF16(gemm_bf16),
    .gemm_stored_bf16 = BF16(gemm_stored_bf16),
    .gemm_t_bf16 = BF16(gemm_t_bf16),
    .softmax_bf16 = BF16(softmax_bf16),
    .rows_int8 = INT8(rows_int8),
    .panel_int8 = INT8(panel_int8),
    .gemm_int8 = INT8(gemm_int8),
    .scale_scores = scale_scores,
    .scale_columns = scale_columns,
    .sum_visible = sum_visible,
    .logits = logits,
    .softmax = softmax,
    .nan_rows = nan_rows,
    .fold = fold,
    .scale = scale,
    .rotate = rotate,
    .add_bias = add_bias,
    .exp2 = exp2_array,
    .tanh = tanh_array,
    .log = log_array,
    .dropout = dropout,
    .gemm_t = gemm_t,
    .recompute = recompute,
    .score_grad = score_grad,
    .row_dots = row_dots,
    .add = add,
};
#undef KERNELS
#undef KERNELS_NAME
#undef KERNELS_NEEDS
#undef GEMM_WEIGHTS
#undef BF16
#undef BF16_BYTES
#undef INT8
#undef INT8_BYTES
#undef NATIVE
