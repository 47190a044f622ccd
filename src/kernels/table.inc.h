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
/* An entry that a build has, or NULL: see ../config.h. */
#define ENTRY(with, entry) (with) ? (entry) : NULL

const qkv_kernels KERNELS = {
    .name = KERNELS_NAME,
    .needs = KERNELS_NEEDS,
    .tile_rows = 2 * TILE_ROWS,
    .few_rows = NT_ROWS,
    .native = 1 << QKV_ARITHMETIC_F32 | NATIVE,
    .bf16_bytes = BF16_BYTES,
    .int8_bytes = INT8_BYTES,
    .widen = ENTRY(QKV_WITH(STORED) || QKV_WITH(PAGES) || QKV_WITH(BF16) || QKV_WITH(BACKWARD), widen),
    .narrow = ENTRY(QKV_WITH(STORED) || QKV_WITH(BF16), narrow),
    .pack = pack,
    .pack_stored = ENTRY(QKV_WITH(STORED), pack_stored),
    .gemm = gemm,
    .gemm_nt = gemm_nt,
    .gemm_stored = ENTRY(QKV_WITH(STORED) || QKV_WITH(PAGES), gemm_stored),
    .widen_weights = ENTRY(QKV_WITH(STORED) || QKV_WITH(QUANTIZED), widen_weights),
    .quantize_rows = ENTRY(QKV_WITH(QUANTIZED), quantize_rows),
    .gemm_weights = ENTRY(QKV_WITH(QUANTIZED), GEMM_WEIGHTS),
    .rows_bf16 = ENTRY(QKV_WITH(BF16), BF16(rows_bf16)),
    .keys_bf16 = ENTRY(QKV_WITH(BF16), BF16(keys_bf16)),
    .values_bf16 = ENTRY(QKV_WITH(BF16), BF16(values_bf16)),
    .weights_bf16 = ENTRY(QKV_WITH(BF16), BF16(weights_bf16)),
    .gemm_bf16 = ENTRY(QKV_WITH(BF16), BF16(gemm_bf16)),
    .gemm_stored_bf16 = ENTRY(QKV_WITH(BF16), BF16(gemm_stored_bf16)),
    .gemm_t_bf16 = ENTRY(QKV_WITH(BACKWARD) && QKV_WITH(BF16), BF16(gemm_t_bf16)),
    .softmax_bf16 = ENTRY(QKV_WITH(BF16), BF16(softmax_bf16)),
    .rows_int8 = ENTRY(QKV_WITH(BF16) && QKV_WITH(QUANTIZED), INT8(rows_int8)),
    .panel_int8 = ENTRY(QKV_WITH(BF16) && QKV_WITH(QUANTIZED), INT8(panel_int8)),
    .gemm_int8 = ENTRY(QKV_WITH(BF16) && QKV_WITH(QUANTIZED), INT8(gemm_int8)),
    .scale_scores = ENTRY(QKV_WITH(BF16) && QKV_WITH(QUANTIZED), scale_scores),
    .scale_columns = ENTRY(QKV_WITH(STORED) || QKV_WITH(ROPE), scale_columns),
    .sum_visible = sum_visible,
    .logits = ENTRY(QKV_WITH(MASKS), logits),
    .softmax = softmax,
    .nan_rows = nan_rows,
    .fold = fold,
    .scale = scale,
    .rotate = ENTRY(QKV_WITH(ROPE), rotate),
    .add_bias = add_bias,
    .exp2 = ENTRY(QKV_WITH(BACKWARD) || QKV_WITH(SCORES), exp2_array),
    .tanh = ENTRY(QKV_WITH(BACKWARD) && QKV_WITH(MASKS), tanh_array),
    .log = log_array,
    .dropout = ENTRY(QKV_WITH(DROPOUT), dropout),
    .gemm_t = ENTRY(QKV_WITH(BACKWARD), gemm_t),
    .recompute = ENTRY(QKV_WITH(BACKWARD), recompute),
    .score_grad = ENTRY(QKV_WITH(BACKWARD), score_grad),
    .row_dots = ENTRY(QKV_WITH(BACKWARD) || QKV_WITH(ROPE) || QKV_WITH(BF16), row_dots),
    .add = add,
};
#undef ENTRY
#undef KERNELS
#undef KERNELS_NAME
#undef KERNELS_NEEDS
#undef GEMM_WEIGHTS
#undef BF16
#undef BF16_BYTES
#undef INT8
#undef INT8_BYTES
#undef NATIVE
