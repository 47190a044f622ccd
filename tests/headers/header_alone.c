/* qkv.h is the first include, comes twice, and every type and macro of it is used.  SPDX-License-Identifier: MIT */
#include <qkv.h>
#include <qkv.h>

struct everything {
    qkv_status status;
    qkv_cpu cpu;
    qkv_config config;
    qkv_ctx ctx;
    qkv_kernel_set set;
    qkv_input input;
    qkv_output output;
    qkv_matrix_input matrix_input;
    qkv_matrix_output matrix_output;
    qkv_plan plan;
    qkv_task task;
    qkv_parallel_for parallel_for;
    qkv_weight weight;
    qkv_pack_desc pack;
    qkv_projection_part part;
    qkv_projection_desc projection;
    qkv_attention_desc attention;
    qkv_merge_desc merge;
    qkv_layer_desc layer;
};

uint64_t header_alone(struct everything *e);

uint64_t header_alone(struct everything *e) {
    int64_t panel[QKV_MAX_PARTS + QKV_MAX_STAGES] = { QKV_PANEL, QKV_KEY_BLOCK, QKV_IN_OUT, QKV_OUT_IN };
    e->attention.flags = QKV_LEFT | QKV_RIGHT;
    e->status = qkv_init(&e->ctx, &e->config);
    e->ctx.features = QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_AVX512F | QKV_CPU_AVX512BW |
                      QKV_CPU_AVX512DQ | QKV_CPU_AVX512VL | QKV_CPU_NEON | QKV_CPU_OS_YMM | QKV_CPU_OS_ZMM;
    e->status = qkv_attention_plan(&e->ctx, &e->attention, 1, &e->plan);
    return e->ctx.features + (uint64_t)panel[0] + QKV_VERSION_MAJOR + QKV_VERSION_MINOR + QKV_VERSION_PATCH;
}
