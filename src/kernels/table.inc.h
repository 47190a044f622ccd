/* Template: the table of one instruction set, every entry by name. Needs KERNELS (the table's symbol), KERNELS_NAME,
 * KERNELS_NEEDS, TILE_ROWS, NT_ROWS, and the entries as static functions.
 *
 * SPDX-License-Identifier: MIT */
const qkv_kernels KERNELS = {
    .name = KERNELS_NAME,
    .needs = KERNELS_NEEDS,
    .tile_rows = 2 * TILE_ROWS,
    .few_rows = NT_ROWS,
    .pack = pack,
    .gemm = gemm,
    .gemm_nt = gemm_nt,
    .sum_visible = sum_visible,
    .logits = logits,
    .softmax = softmax,
    .nan_rows = nan_rows,
    .fold = fold,
    .scale = scale,
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
