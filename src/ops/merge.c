/* Joining partial results over disjoint sets of keys: the fold of attention_fwd.c, over states that were kept.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention.h"

enum { BLOCK_ROWS = 64 }; /* queries of a task */

static qkv_status merge_prepare(const qkv_merge_desc *desc, qkv_merge_desc *d) {
    qkv_status status = qkv_import(d, sizeof *d, desc);
    if (status != QKV_OK)
        return status;
    int64_t sizes[5] = {d->num_parts, d->batch, d->num_heads, d->seq_q, d->head_dim_v};
    if (!qkv_not_negative(sizes, 5))
        return QKV_ERROR_NEGATIVE;
    if (d->states.data && (d->part_out.data || d->part_lse.data))
        return QKV_ERROR_SHAPE;
    int64_t part_strides[5] = {d->part_out_stride, d->part_out.batch, d->part_out.head, d->part_out.token, 1};
    int64_t lse_strides[4] = {d->part_lse_stride, d->part_lse.batch, d->part_lse.head, d->part_lse.token};
    int64_t state_sizes[5] = {d->num_parts, d->batch, d->num_heads, d->seq_q, 0};
    int64_t state_strides[5] = {d->states.key, d->states.batch, d->states.head, d->states.query, 1};
    int64_t out_strides[4] = {d->out.batch, d->out.head, d->out.token, 1};
    int64_t out_lse_strides[3] = {d->lse.batch, d->lse.head, d->lse.token};
    int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, 64}, unused;
    if (__builtin_add_overflow(d->head_dim_v, 2, &state_sizes[4]) || d->head_dim_v > INT64_C(1) << 50 ||
        !qkv_product(rows, 4, INT64_C(1) << 58, &unused) ||
        (d->states.data ? !qkv_fits(sizeof(float), state_sizes, state_strides, 5)
                        : !qkv_fits(sizeof(float), sizes, part_strides, 5) ||
                              !qkv_fits(sizeof(float), sizes, lse_strides, 4)) ||
        !qkv_fits(sizeof(float), sizes + 1, out_strides, 4) ||
        (d->lse.data && !qkv_fits(sizeof(float), sizes + 1, out_lse_strides, 3)))
        return QKV_ERROR_OVERFLOW;
    return QKV_OK;
}

static void load_part(const qkv_merge_desc *d, int64_t part, int64_t b, int64_t h, int64_t i, float *m, float *l,
                      float *out) {
    size_t bytes = (size_t)d->head_dim_v * sizeof(float);
    if (d->states.data) {
        const float *state = (const float *)d->states.data + part * d->states.key + b * d->states.batch +
                             h * d->states.head + i * d->states.query;
        memcpy(out, state, bytes);
        *m = state[d->head_dim_v];
        *l = state[d->head_dim_v + 1];
        return;
    }
    const float *lse = (const float *)d->part_lse.data + part * d->part_lse_stride + b * d->part_lse.batch +
                       h * d->part_lse.head + i * d->part_lse.token;
    qkv_single_state(*lse, m, l);
    if (bytes > 0)
        memcpy(out, (const float *)d->part_out.data + part * d->part_out_stride + b * d->part_out.batch +
                        h * d->part_out.head + i * d->part_out.token, bytes);
}

/* One row: scratch holds the sum and the part, each ld floats. */
static void merge_row(const qkv_kernels *kernels, const qkv_merge_desc *d, float *scratch, int64_t ld, int64_t b,
                      int64_t h, int64_t i) {
    float *out = scratch, *part_out = scratch + ld;
    size_t n = (size_t)d->head_dim_v;
    float m = -FLT_MAX, l = 0, part_m, part_l;
    memset(scratch, 0, (size_t)(2 * ld) * sizeof(float));
    for (int64_t part = 0; part < d->num_parts; part++) {
        load_part(d, part, b, h, i, &part_m, &part_l, part_out);
        kernels->fold(&m, &l, out, ld, &part_m, &part_l, part_out, ld, 1, n);
    }
    if (d->sinks) {
        qkv_single_state(d->sinks[h], &part_m, &part_l);
        memset(part_out, 0, (size_t)ld * sizeof(float));
        kernels->fold(&m, &l, out, ld, &part_m, &part_l, part_out, ld, 1, n);
    }
    if (n > 0)
        qkv_scale_row(kernels, (float *)d->out.data + b * d->out.batch + h * d->out.head + i * d->out.token, out,
                      qkv_inverse_sum(l), n);
    if (d->lse.data)
        ((float *)d->lse.data)[b * d->lse.batch + h * d->lse.head + i * d->lse.token] = qkv_log_sum_exp(kernels, m, l);
}

static int64_t merge_tasks(const qkv_merge_desc *d) {
    return d->batch * d->num_heads * qkv_ceil_div(d->seq_q, BLOCK_ROWS);
}

/* Of a row of the sum and one of the part. */
static int64_t merge_row_stride(const qkv_merge_desc *d) {
    return qkv_max(QKV_LANES, qkv_round_up(d->head_dim_v, QKV_LANES));
}

/* Bytes of a worker. */
static int64_t merge_scratch_size(const qkv_merge_desc *d) {
    return 2 * merge_row_stride(d) * (int64_t)sizeof(float);
}

static void merge_execute(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                          int32_t worker) {
    const qkv_merge_desc *d = desc;
    (void)phase;
    float *scratch = (float *)(void *)((unsigned char *)workspace + worker * merge_scratch_size(d));
    int64_t row_blocks = qkv_ceil_div(d->seq_q, BLOCK_ROWS);
    int64_t head = index / row_blocks, first = index % row_blocks * BLOCK_ROWS;
    for (int64_t i = first; i < qkv_min(first + BLOCK_ROWS, d->seq_q); i++)
        merge_row(plan->kernels, d, scratch, merge_row_stride(d), head / d->num_heads, head % d->num_heads, i);
}

static uint64_t merge_checksum(const qkv_merge_desc *d) {
    int64_t fields[] = {d->batch, d->num_heads, d->seq_q, d->head_dim_v, d->num_parts, d->part_out_stride,
                        d->part_lse_stride, d->part_out.batch, d->part_out.head, d->part_out.token,
                        d->part_lse.batch, d->part_lse.head, d->part_lse.token, d->states.batch, d->states.head,
                        d->states.query, d->states.key, d->out.batch, d->out.head, d->out.token, d->lse.batch,
                        d->lse.head, d->lse.token};
    return qkv_checksum(fields, sizeof fields / sizeof fields[0]);
}

static qkv_status merge_check_call(const qkv_plan *plan, const qkv_merge_desc *desc, const void *workspace,
                                   size_t workspace_size, qkv_merge_desc *d) {
    if (!plan)
        return QKV_ERROR_NULL;
    qkv_status status = merge_prepare(desc, d);
    if (status != QKV_OK)
        return status;
    if (plan->operation != QKV_MERGE || plan->checksum != merge_checksum(d))
        return QKV_ERROR_PLAN;
    bool rows = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0, parts = rows && d->num_parts > 0;
    qkv_pointers pointers = {0};
    qkv_add_input(&pointers, d->states.data, sizeof(float), d->states.data);
    qkv_add_input(&pointers, d->part_out.data, sizeof(float), parts && !d->states.data && d->head_dim_v > 0);
    qkv_add_input(&pointers, d->part_lse.data, sizeof(float), parts && !d->states.data);
    qkv_add_input(&pointers, d->sinks, sizeof(float), d->sinks);
    qkv_add_output(&pointers, d->out.data, sizeof(float), rows && d->head_dim_v > 0);
    qkv_add_output(&pointers, d->lse.data, sizeof(float), d->lse.data);
    status = qkv_check_pointers(&pointers);
    return status != QKV_OK ? status : qkv_check_workspace(plan, workspace, workspace_size);
}

qkv_status qkv_merge_plan(const qkv_ctx *ctx, const qkv_merge_desc *desc, int32_t max_workers, qkv_plan *plan) {
    if (!ctx || !plan)
        return QKV_ERROR_NULL;
    qkv_merge_desc d;
    qkv_status status = merge_prepare(desc, &d);
    if (status != QKV_OK)
        return status;
    if (max_workers < 1)
        return QKV_ERROR_WORKERS;
    int64_t num_tasks = merge_tasks(&d), size;
    int64_t factors[2] = {num_tasks > 0 ? merge_scratch_size(&d) : 0, max_workers};
    if (!qkv_product(factors, 2, PTRDIFF_MAX / 2, &size))
        return QKV_ERROR_OVERFLOW;
    qkv_plan p = {.workspace_size = (size_t)size,
                  .num_phases = 1,
                  .max_workers = max_workers,
                  .num_tasks = {num_tasks},
                  .kernels = ctx->kernels,
                  .operation = QKV_MERGE,
                  .checksum = merge_checksum(&d)};
    *plan = p;
    return QKV_OK;
}

#define QKV_OP(name) qkv_merge_##name
#define LOCAL(name) merge_##name
#define PREPARE merge_prepare
#include "shell.inc.h"
