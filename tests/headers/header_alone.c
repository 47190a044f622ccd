/* qkv.h is the first include, comes twice, and every type, macro and enumerator of it is used, which
 * scripts/check/headers.sh makes sure of.  SPDX-License-Identifier: MIT */
#include <qkv.h>
#include <qkv.h>

struct everything {
    qkv_status status;
    qkv_cpu cpu;
    qkv_config config;
    qkv_ctx ctx;
    qkv_kernel_set kernel_set;
    qkv_input input;
    qkv_output output;
    qkv_matrix_input matrix_input;
    qkv_matrix_output matrix_output;
    qkv_type type;
    qkv_ranges ranges;
    qkv_plan plan;
    qkv_weight weight;
    qkv_pack_desc pack;
    qkv_rope rope;
    qkv_positions positions;
    qkv_rope_table_desc rope_table;
    qkv_projection_part projection_part;
    qkv_head_steps head_steps;
    qkv_projection_desc projection;
    qkv_attention_desc attention;
    qkv_merge_desc merge;
    qkv_layer_desc layer;
    qkv_cache_desc cache;
    qkv_attention_backward_desc attention_backward;
    qkv_weight_grad weight_grad;
    qkv_projection_backward_desc projection_backward;
    qkv_layer_backward_desc layer_backward;
    qkv_task task;
    qkv_parallel_for parallel_for;
};

static const uint64_t everything[] = {QKV_VERSION_MAJOR,
                                      QKV_VERSION_MINOR,
                                      QKV_VERSION_PATCH,
                                      QKV_CPU_AVX2,
                                      QKV_CPU_FMA,
                                      QKV_CPU_F16C,
                                      QKV_CPU_AVX512F,
                                      QKV_CPU_AVX512BW,
                                      QKV_CPU_AVX512DQ,
                                      QKV_CPU_AVX512VL,
                                      QKV_CPU_NEON,
                                      QKV_CPU_OS_YMM,
                                      QKV_CPU_OS_ZMM,
                                      QKV_CPU_AVX512VNNI,
                                      QKV_CPU_AVX512BF16,
                                      QKV_CPU_AVXVNNI,
                                      QKV_CPU_DOTPROD,
                                      QKV_CPU_I8MM,
                                      QKV_CPU_SVE,
                                      QKV_CPU_RVV,
                                      QKV_CPU_MVE,
                                      QKV_CPU_SIMD128,
                                      QKV_CPU_RELAXED_FMA,
                                      QKV_MAX_STAGES,
                                      QKV_PANEL,
                                      QKV_MAX_PARTS,
                                      QKV_IN_OUT,
                                      QKV_OUT_IN,
                                      QKV_ROPE_HALF,
                                      QKV_ROPE_INTERLEAVED,
                                      QKV_ROPE_UNSCALED,
                                      QKV_ROPE_LINEAR,
                                      QKV_ROPE_NTK,
                                      QKV_ROPE_YARN,
                                      QKV_ROPE_LLAMA3,
                                      QKV_STORE_K,
                                      QKV_STORE_V,
                                      QKV_ARITHMETIC_F32,
                                      QKV_ARITHMETIC_INT8,
                                      QKV_ARITHMETIC_BF16,
                                      QKV_LEFT,
                                      QKV_RIGHT,
                                      QKV_FROM_END,
                                      QKV_SCALE,
                                      QKV_HEAD_DIM_V,
                                      QKV_SCORES_SCALED,
                                      QKV_SCORES_CAPPED,
                                      QKV_SCORES_MASKED,
                                      QKV_KEY_BLOCK,
                                      QKV_KEY_ROWS,
                                      QKV_KEY_PANELS,
                                      QKV_CACHE_PAGE,
                                      QKV_ACCUMULATE,
                                      QKV_ACCUMULATE_Q,
                                      QKV_ACCUMULATE_K,
                                      QKV_ACCUMULATE_V,
                                      QKV_ACCUMULATE_O,
                                      QKV_ACCUMULATE_BIAS,
                                      QKV_ACCUMULATE_SINKS,
                                      QKV_ACCUMULATE_X,
                                      QKV_ACCUMULATE_X_KV,
                                      QKV_ACCUMULATE_PART(0),
                                      QKV_OK,
                                      QKV_ERROR_NULL,
                                      QKV_ERROR_SIZE,
                                      QKV_ERROR_NEGATIVE,
                                      QKV_ERROR_OVERFLOW,
                                      QKV_ERROR_HEADS,
                                      QKV_ERROR_FLAGS,
                                      QKV_ERROR_VALUE,
                                      QKV_ERROR_SHAPE,
                                      QKV_ERROR_ALIAS,
                                      QKV_ERROR_ALIGNMENT,
                                      QKV_ERROR_WORKSPACE,
                                      QKV_ERROR_WORKERS,
                                      QKV_ERROR_PLAN,
                                      QKV_ERROR_ISA_UNKNOWN,
                                      QKV_ERROR_ISA_UNAVAILABLE,
                                      QKV_ERROR_LSE,
                                      QKV_ERROR_STRIDES,
                                      QKV_ERROR_INDEX,
                                      QKV_ERROR_CAPACITY,
                                      QKV_ERROR_CACHE,
                                      QKV_ERROR_LEFT_OUT,
                                      QKV_F32,
                                      QKV_F16,
                                      QKV_BF16,
                                      QKV_Q8_0,
                                      QKV_INT8,
                                      QKV_Q4_0,
                                      QKV_Q4_1,
                                      QKV_Q5_0,
                                      QKV_Q5_1,
                                      QKV_Q4_K,
                                      QKV_Q5_K,
                                      QKV_Q6_K};

uint64_t header_alone(struct everything *e);

uint64_t header_alone(struct everything *e) {
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof everything / sizeof *everything; i++)
        sum += everything[i];
    e->attention.flags = QKV_LEFT | QKV_RIGHT;
    e->status = qkv_init(&e->ctx, &e->config);
    e->status = qkv_attention_plan(&e->ctx, &e->attention, 1, &e->plan);
    return sum;
}
