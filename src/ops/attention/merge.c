/* Joining partial results over disjoint sets of keys: the fold of attention_fwd.c, over states that were kept.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention.h"

#if QKV_WITH(MERGE)

enum { BLOCK_ROWS = 64 }; /* queries of a task */

static qkv_status qkv_merge_complete(const qkv_merge_desc *desc, qkv_merge_desc *d, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    if (status != QKV_OK)
        return status;
    int64_t channels = qkv_min(d->head_dim_v, d->num_parts);
    qkv_settle_input(&d->part_out, d->batch, d->num_heads, d->seq_q, channels);
    qkv_settle_input(&d->part_lse, d->batch, d->num_heads, d->seq_q, d->num_parts);
    d->part_out_stride = qkv_settled(d->part_out_stride, d->num_parts, channels < 1);
    d->part_lse_stride = qkv_settled(d->part_lse_stride, d->num_parts, false);
    qkv_settle_matrix_input(&d->states, d->batch, d->num_heads, d->seq_q, d->num_parts);
    qkv_settle_output(&d->out, d->batch, d->num_heads, d->seq_q, d->head_dim_v);
    qkv_settle_output(&d->lse, d->batch, d->num_heads, d->seq_q, 1);
    qkv_settle_output(&d->state, d->batch, d->num_heads, d->seq_q, 1); /* never without elements */
    return QKV_OK;
}

static qkv_status qkv_merge_validate(const qkv_merge_desc *d, qkv_problem *why) {
    const struct {
        const char *field;
        int64_t value;
    } sizes[] = {{"batch", d->batch},
                 {"num_heads", d->num_heads},
                 {"seq_q", d->seq_q},
                 {"head_dim_v", d->head_dim_v},
                 {"num_parts", d->num_parts}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (qkv_check_size(why, sizes[i].field, -1, sizes[i].value) != QKV_OK)
            return why->status;
    }
    if (d->states.data && (d->part_out.data || d->part_lse.data))
        return qkv_refuse(why, QKV_ERROR_SHAPE, d->part_out.data ? "part_out" : "part_lse", -1,
                          "must be NULL beside states", 0, 0);
    if (d->state.data && (d->out.data || d->lse.data || d->sinks))
        return qkv_refuse(why, QKV_ERROR_SHAPE,
                          d->out.data   ? "out"
                          : d->lse.data ? "lse"
                                        : "sinks",
                          -1, "must be NULL beside state", 0, 0);
    int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, 64}, unused;
    if (d->head_dim_v > INT64_C(1) << 50 || d->num_parts > INT64_C(1) << 50)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, d->head_dim_v > INT64_C(1) << 50 ? "head_dim_v" : "num_parts", -1,
                          "is too large (%)", qkv_max(d->head_dim_v, d->num_parts), 0);
    if (!qkv_product(rows, 4, INT64_C(1) << 58, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * num_heads * seq_q", -1, "is too large", 0, 0);
    return QKV_OK;
}

static void qkv_merge_operands(qkv_operands *o, const qkv_merge_desc *d) {
    const int64_t rows[3] = {d->batch, d->num_heads, d->seq_q};
    const int64_t parts[4] = {d->batch, d->num_heads, d->seq_q, d->num_parts};
    if (d->states.data) {
        const int64_t strides[4] = {d->states.batch, d->states.head, d->states.query, d->states.key};
        qkv_add_operand(o, QKV_NEEDED, "states", d->states.data, sizeof(float), 4, parts, strides, d->head_dim_v + 2);
    } else {
        const qkv_input *out = &d->part_out, *lse = &d->part_lse;
        const int64_t out_strides[4] = {out->batch, out->head, out->token, d->part_out_stride};
        const int64_t lse_strides[4] = {lse->batch, lse->head, lse->token, d->part_lse_stride};
        qkv_add_operand(o, QKV_NEEDED, "part_out", out->data, sizeof(float), 4, parts, out_strides, d->head_dim_v);
        qkv_add_operand(o, QKV_NEEDED, "part_lse", lse->data, sizeof(float), 4, parts, lse_strides, 1);
    }
    qkv_add_vector(o, QKV_NEEDED, "sinks", d->sinks, sizeof(float), d->num_heads);
    if (d->state.data)
        qkv_add_output(o, QKV_NEEDED, "state", d->state, rows, d->head_dim_v + 2);
    else
        qkv_add_output(o, QKV_NEEDED, "out", d->out, rows, d->head_dim_v);
    if (d->lse.data)
        qkv_add_output(o, QKV_NEEDED, "lse", d->lse, rows, 1);
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
        memcpy(out,
               (const float *)d->part_out.data + part * d->part_out_stride + b * d->part_out.batch +
                   h * d->part_out.head + i * d->part_out.token,
               bytes);
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
    if (d->state.data) {
        qkv_store_state(kernels, (float *)d->state.data + b * d->state.batch + h * d->state.head + i * d->state.token,
                        m, l, out, n);
        return;
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
    int64_t factors[3] = {d->batch, d->num_heads, qkv_ceil_div(d->seq_q, BLOCK_ROWS)}, tasks;
    return qkv_product(factors, 3, INT64_MAX, &tasks) ? tasks : 0;
}

/* Of a row of the sum and one of the part. */
static int64_t merge_row_stride(const qkv_merge_desc *d) {
    return qkv_max(QKV_LANES, qkv_round_up(d->head_dim_v, QKV_LANES));
}

/* Bytes of a worker. */
static int64_t merge_scratch_size(const qkv_merge_desc *d) {
    return 2 * merge_row_stride(d) * (int64_t)sizeof(float);
}

static void qkv_merge_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                              int32_t worker) {
    const qkv_merge_desc *d = desc;
    (void)phase;
    float *scratch = (float *)(void *)((unsigned char *)workspace + worker * merge_scratch_size(d));
    int64_t row_blocks = qkv_ceil_div(d->seq_q, BLOCK_ROWS);
    int64_t head = index / row_blocks, first = index % row_blocks * BLOCK_ROWS;
    for (int64_t i = first; i < qkv_min(first + BLOCK_ROWS, d->seq_q); i++)
        merge_row(plan->kernels, d, scratch, merge_row_stride(d), head / d->num_heads, head % d->num_heads, i);
}

static uint64_t qkv_merge_checksum(const qkv_merge_desc *d) {
    int64_t fields[] = {d->batch,
                        d->num_heads,
                        d->seq_q,
                        d->head_dim_v,
                        d->num_parts,
                        d->part_out_stride,
                        d->part_lse_stride,
                        d->part_out.batch,
                        d->part_out.head,
                        d->part_out.token,
                        d->part_lse.batch,
                        d->part_lse.head,
                        d->part_lse.token,
                        d->states.batch,
                        d->states.head,
                        d->states.query,
                        d->states.key,
                        d->out.batch,
                        d->out.head,
                        d->out.token,
                        d->lse.batch,
                        d->lse.head,
                        d->lse.token,
                        !!d->states.data,
                        !!d->sinks,
                        !!d->lse.data,
                        d->states.data && (d->part_out.data || d->part_lse.data),
                        d->state.batch,
                        d->state.head,
                        d->state.token,
                        !!d->state.data,
                        d->state.data && (d->out.data || d->lse.data || d->sinks)};
    return qkv_checksum(fields, sizeof fields / sizeof fields[0]);
}

static qkv_status qkv_merge_make_plan(const qkv_ctx *ctx, const qkv_merge_desc *d, qkv_plan *plan) {
    (void)ctx;
    int64_t num_tasks = merge_tasks(d), size;
    int64_t factors[2] = {num_tasks > 0 ? merge_scratch_size(d) : 0, plan->max_workers};
    if (!qkv_product(factors, 2, PTRDIFF_MAX / 2, &size))
        return QKV_ERROR_OVERFLOW;
    plan->workspace_size = (size_t)size;
    plan->num_phases = 1;
    plan->num_tasks[0] = num_tasks;
    return QKV_OK;
}

#define QKV_OP(name) qkv_merge_##name
#define DESC qkv_merge_desc
#define OPERATION QKV_MERGE
#include "../shell.inc.h"

#endif
