/* Attention backward: checking a descriptor and cutting the work into tasks, whole KV heads or a wavefront.
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

#if QKV_WITH(BACKWARD)

void qkv_gradient_add_bias(qkv_operands *o, const qkv_attention_desc *d, const qkv_matrix_output *x) {
    const int64_t all[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
    const int64_t strides[4] = {x->batch, x->head, x->query, x->key};
    int64_t sizes[4];
    for (int i = 0; i < 4; i++)
        sizes[i] = strides[i] == 0 ? 1 : all[i];
    qkv_add_operand(o, QKV_NEEDED | QKV_OUTPUT | QKV_SUMMED, "grad_bias", x->data, sizeof(float), 4, sizes, strides, 1);
}

void qkv_settle_bias_gradient(qkv_matrix_output *x, const qkv_attention_desc *d) {
    x->batch = qkv_settled(x->batch, d->batch, false);
    x->head = qkv_settled(x->head, d->num_heads, false);
    x->query = qkv_settled(x->query, d->seq_q, false);
    x->key = qkv_settled(x->key, d->seq_k, false);
}

enum {
    ATTENTION_GRADIENTS =
        QKV_ACCUMULATE_Q | QKV_ACCUMULATE_K | QKV_ACCUMULATE_V | QKV_ACCUMULATE_BIAS | QKV_ACCUMULATE_SINKS
};

static qkv_status qkv_attention_backward_complete(const qkv_attention_backward_desc *desc,
                                                  qkv_attention_backward_desc *d, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    if (status != QKV_OK)
        return status;
    qkv_enter(why, "forward.");
    status = qkv_import_inner(&d->forward.size, sizeof d->forward,
                              desc->size - offsetof(qkv_attention_backward_desc, forward), why);
    if (status != QKV_OK)
        return status;
    qkv_leave(why);
    qkv_attention_defaults(&d->forward);
    d->flags = qkv_accumulated(d->flags, ATTENTION_GRADIENTS);
    const qkv_attention_desc *f = &d->forward;
    qkv_settle_input(&d->grad_out, f->batch, f->num_heads, f->seq_q, f->head_dim_v);
    qkv_settle_input(&d->grad_lse, f->batch, f->num_heads, f->seq_q, 1);
    qkv_settle_output(&d->grad_q, f->batch, f->num_heads, f->seq_q, f->head_dim);
    qkv_settle_output(&d->grad_k, f->batch, f->num_kv_heads, f->seq_k, f->head_dim);
    qkv_settle_output(&d->grad_v, f->batch, f->num_kv_heads, f->seq_k, f->head_dim_v);
    qkv_settle_bias_gradient(&d->grad_bias, f);
    return QKV_OK;
}

static qkv_status qkv_attention_backward_validate(const qkv_attention_backward_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->forward;
    qkv_enter(why, "forward.");
    qkv_status status = qkv_attention_validate(a, why);
    if (status != QKV_OK)
        return status;
    if (a->k_type > QKV_BF16 || a->v_type > QKV_BF16)
        return qkv_refuse(why, QKV_ERROR_FLAGS, a->k_type > QKV_BF16 ? "k_type" : "v_type", -1,
                          "must be of 16 or 32 bits in gradients", 0, 0);
    if (qkv_attention_only_plain(a, why) != QKV_OK)
        return why->status;
    if (a->arithmetic != QKV_ARITHMETIC_F32 && a->arithmetic != QKV_ARITHMETIC_BF16)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "arithmetic", -1, "is none of gradients (%)", a->arithmetic, 0);
    if (a->first_tokens != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "first_tokens", -1, "must be 0 in gradients", 0, 0);
    if (a->states.data)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "states", -1, "must be NULL: gradients are of out and lse", 0, 0);
    /* What is counted stays small also where another size is 0. */
    int64_t heads[2] = {a->batch, a->num_heads}, kv_heads[2] = {a->batch, a->num_kv_heads}, unused;
    int64_t values[4] = {a->batch, a->num_kv_heads, a->seq_k, qkv_max(1, a->head_dim_v)}, limit = INT64_C(1) << 52;
    if (!qkv_product(heads, 2, limit, &unused) || !qkv_product(kv_heads, 2, limit, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * num_heads", -1, "is too large", 0, 0);
    if (!qkv_product(values, 4, limit, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * num_kv_heads * seq_k * head_dim_v", -1, "is too large", 0,
                          0);
    qkv_leave(why);
    if ((d->flags & ~(uint32_t)(QKV_ACCUMULATE | ATTENTION_GRADIENTS)) != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "flags", -1, "has unknown bits (%)",
                          d->flags & ~(uint32_t)(QKV_ACCUMULATE | ATTENTION_GRADIENTS), 0);
    if (d->reserved != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "reserved", -1, "is not 0 (%)", d->reserved, 0);
    return QKV_OK;
}

/* ------------------------------------------------------------------------------------------------------- tasks */

/* Queries of a head against the open block. */
static void sweep_queries(gradient_task *t, int64_t head, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i += GRADIENT_ROWS)
        qkv_gradient_rows(t, head, i, qkv_min(GRADIENT_ROWS, end - i));
}

static void sweep_head(const qkv_kernels *kernels, const gradient_shape *shape, const qkv_attention_backward_desc *desc,
                       void *workspace, int64_t index, int32_t worker) {
    gradient_task t;
    qkv_gradient_begin(&t, kernels, shape, desc, workspace, worker, worker);
    qkv_gradient_choose_head(&t, index);
    int64_t heads = desc->forward.seq_q > 0 ? shape->scores.group : 0;
    for (int64_t block = 0; block < shape->key_blocks; block++) {
        qkv_gradient_choose_keys(&t, block);
        qkv_gradient_load_keys(&t);
        qkv_gradient_open_sums(&t);
        for (int64_t h = 0; h < heads; h++)
            sweep_queries(&t, t.rows.kv_head * heads + h, 0, desc->forward.seq_q);
        qkv_gradient_close_sums(&t);
    }
}

static void sweep_cells(const qkv_kernels *kernels, const gradient_shape *shape,
                        const qkv_attention_backward_desc *desc, void *workspace, int64_t phase, int64_t lane,
                        int32_t worker) {
    gradient_schedule *schedule = qkv_gradient_schedule_of(shape, workspace, lane);
    gradient_step step;
    if (phase == 0)
        qkv_gradient_start(schedule, shape, &desc->forward);
    qkv_gradient_advance(schedule, shape, &desc->forward, lane, &step);
    if (!step.sweeps)
        return;
    gradient_task t;
    qkv_gradient_begin(&t, kernels, shape, desc, workspace, step.slot, worker);
    qkv_gradient_choose_head(&t, step.kv_head);
    qkv_gradient_choose_keys(&t, step.block);
    if (step.first == 0) {
        qkv_gradient_load_keys(&t);
        qkv_gradient_open_sums(&t);
    }
    int64_t width = step.units.end - step.units.first;
    for (int64_t cell = step.first; cell < step.end; cell++) {
        int64_t first = (step.units.first + cell % width) * shape->unit_rows;
        sweep_queries(&t, t.rows.kv_head * shape->scores.group + cell / width, first,
                      qkv_min(first + shape->unit_rows, desc->forward.seq_q));
    }
    if (step.closes)
        qkv_gradient_close_sums(&t);
}

/* Whether a sweep has something to sum. Else each gradient that has elements is all zeros, and cleared elsewhere. */
static bool wants_sweeps(const gradient_shape *shape, const qkv_attention_backward_desc *desc) {
    const qkv_attention_desc *d = &desc->forward;
    bool rows = shape->rows > 0, keys = shape->kv_heads > 0 && d->seq_k > 0;
    bool sums_keys = (desc->grad_k.data && d->head_dim > 0) || (desc->grad_v.data && d->head_dim_v > 0);
    bool sums_rows =
        (desc->grad_q.data && d->head_dim > 0) || (desc->grad_bias.data && qkv_gradient_bias_is_direct(desc));
    return keys && (sums_keys || (rows && sums_rows));
}

enum gradient_stage { STATISTICS, SWEEP, BIAS, SINK };

static int32_t gradient_stages(const gradient_shape *shape, const qkv_attention_backward_desc *desc,
                               enum gradient_stage list[4]) {
    int32_t n = 0;
    list[n++] = STATISTICS;
    list[n++] = SWEEP;
    if (shape->bias_queries > 0)
        list[n++] = BIAS;
    if (desc->grad_sinks)
        list[n++] = SINK;
    return n;
}

static void qkv_attention_backward_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase,
                                           int64_t index, int32_t worker) {
    const qkv_attention_backward_desc *d = desc;
    gradient_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    enum gradient_stage list[4];
    gradient_stages(&shape, d, list);
    int32_t stage = qkv_stage_of_phase(plan, &phase);
    switch (list[stage]) {
    case STATISTICS: qkv_gradient_statistics(plan->kernels, &shape, d, workspace, index, worker); break;
    case SWEEP:
        if (shape.lanes == 0)
            sweep_head(plan->kernels, &shape, d, workspace, index, worker);
        else
            sweep_cells(plan->kernels, &shape, d, workspace, phase, index, worker);
        break;
    case BIAS: qkv_gradient_bias(plan->kernels, &shape, d, workspace, index, worker); break;
    default: qkv_gradient_sink(&shape, d, workspace, index, plan->kernels); break;
    }
}

/* -------------------------------------------------------------------------------------------------------- plan */

/* Whether to run a wavefront, and of which units. It pays where whole heads would leave workers idle. */
static void cut_wavefront(gradient_shape *shape, const qkv_attention_desc *d, int32_t max_workers) {
    enum { MOST_SWEEPS = 4096, MOST_CELLS = 1024 };
    const int64_t factors[2] = {shape->kv_heads, shape->key_blocks};
    int64_t sweeps, time = 0, longest;
    if (max_workers == 1 || shape->key_blocks < 2 || shape->rows == 0 || shape->kv_heads % max_workers == 0 ||
        !qkv_product(factors, 2, MOST_SWEEPS, &sweeps))
        return;
    gradient_shape wave = *shape;
    wave.lanes = qkv_min(qkv_min(max_workers, sweeps), MAX_LANES);
    for (wave.unit_rows = GRADIENT_ROWS; qkv_gradient_cells(&wave, d) > MOST_CELLS * wave.lanes; wave.unit_rows *= 2) {
        if (wave.unit_rows >= d->seq_q)
            return;
    }
    gradient_schedule schedule;
    gradient_step unused;
    qkv_gradient_start(&schedule, &wave, d);
    for (; (longest = qkv_gradient_advance(&schedule, &wave, d, 0, &unused)) > 0; time += longest)
        wave.phases++;
    if (time + time / 32 < qkv_ceil_div(shape->kv_heads, max_workers) * qkv_gradient_head_work(&wave, d))
        *shape = wave;
}

static qkv_status cut_gradient(const qkv_kernels *kernels, const qkv_attention_backward_desc *desc, int32_t max_workers,
                               gradient_shape *shape, size_t *workspace_size) {
    const qkv_attention_desc *d = &desc->forward;
    memset(shape, 0, sizeof *shape);
    qkv_attention_shape *scores = &shape->scores;
    shape->scale = qkv_attention_measure(d, scores);
    shape->kv_heads = d->batch * d->num_kv_heads;
    shape->key_blocks = scores->key_blocks;
    shape->rows = d->batch * d->num_heads * d->seq_q;
    shape->row_chunks = qkv_ceil_div(d->seq_q, GRADIENT_ROWS);
    bool in_bf16 = qkv_in_bf16(d); /* there, what is copied are operands */
    shape->copies_q = d->q_type != QKV_F32 || (!in_bf16 && d->q.token != scores->ld_q);
    shape->copies_k = !in_bf16 && desc->grad_q.data &&
                      (d->k_type != QKV_F32 || d->k.token != scores->ld_q || d->keep.data || d->bias.data);
    shape->copies_out = d->out_type != QKV_F32 || (!in_bf16 && desc->grad_out.token != scores->ld_o);
    if (desc->grad_bias.data && !qkv_gradient_bias_is_direct(desc)) {
        shape->bias_queries = desc->grad_bias.query == 0 ? 1 : shape->row_chunks;
        shape->bias_keys = desc->grad_bias.key == 0 ? 1 : shape->key_blocks;
    }
    if (wants_sweeps(shape, desc))
        cut_wavefront(shape, d, max_workers);
    shape->statistics_size = qkv_round_up(3 * shape->rows, QKV_LANES) * (int64_t)sizeof(float);

    /* A block of keys and a block of rows in a few tiles each: no size is near the limits unless a dimension is. */
    int64_t widths[2] = {scores->ld_q + scores->ld_o, 8 * (QKV_KEY_BLOCK + GRADIENT_ROWS)}, unused;
    if (!qkv_product(widths, 2, PTRDIFF_MAX / 64, &unused))
        return QKV_ERROR_OVERFLOW;
    qkv_gradient_scratch(kernels, shape, desc);
    shape->slots = (shape->lanes > 0 ? LANE_SLOTS : 1) * (int64_t)max_workers;
    int64_t share = shape->worker_size + (shape->lanes > 0 ? LANE_SLOTS : 1) * shape->slot_size;
    int64_t areas[2] = {share + (shape->lanes > 0 ? SCHEDULE_SIZE : 0), max_workers}, scratch;
    if (!qkv_product(areas, 2, PTRDIFF_MAX / 4, &scratch) || shape->statistics_size > PTRDIFF_MAX / 4)
        return QKV_ERROR_OVERFLOW;
    *workspace_size = (size_t)(shape->statistics_size + scratch);
    return QKV_OK;
}

static uint64_t qkv_attention_backward_checksum(const qkv_attention_backward_desc *d) {
    int64_t fields[QKV_ATTENTION_FIELDS + 32];
    size_t n = qkv_attention_fields(&d->forward, fields);
    const int64_t more[] = {
        d->flags,          d->reserved,         d->grad_out.batch, d->grad_out.head,
        d->grad_out.token, d->grad_lse.batch,   d->grad_lse.head,  d->grad_lse.token,
        d->grad_q.batch,   d->grad_q.head,      d->grad_q.token,   d->grad_k.batch,
        d->grad_k.head,    d->grad_k.token,     d->grad_v.batch,   d->grad_v.head,
        d->grad_v.token,   d->grad_bias.batch,  d->grad_bias.head, d->grad_bias.query,
        d->grad_bias.key,  !!d->grad_lse.data,  !!d->grad_q.data,  !!d->grad_k.data,
        !!d->grad_v.data,  !!d->grad_bias.data, !!d->grad_sinks,
    };
    _Static_assert(sizeof more + QKV_ATTENTION_FIELDS * sizeof(int64_t) <= sizeof fields, "fields has room");
    memcpy(fields + n, more, sizeof more);
    return qkv_checksum(fields, n + sizeof more / sizeof more[0]);
}

static void qkv_attention_backward_operands(qkv_operands *o, const qkv_attention_backward_desc *desc) {
    const qkv_attention_desc *d = &desc->forward;
    const int64_t rows[3] = {d->batch, d->num_heads, d->seq_q}, keys[3] = {d->batch, d->num_kv_heads, d->seq_k};
    int pairs = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0 && d->seq_k > 0 ? QKV_NEEDED : 0;
    o->within = QKV_IN_FORWARD;
    qkv_add_stored(o, pairs, "q", d->q, d->q_type, rows, d->head_dim);
    qkv_add_stored(o, pairs, "k", d->k, d->k_type, keys, d->head_dim);
    qkv_add_stored(o, pairs, "v", d->v, d->v_type, keys, d->head_dim_v);
    qkv_add_stored(o, QKV_NEEDED, "out", qkv_as_input(&d->out), d->out_type, rows, d->head_dim_v);
    qkv_add_input(o, QKV_NEEDED | QKV_LSE, "lse", qkv_as_input(&d->lse), rows, 1);
    qkv_attention_options(o, d);
    o->within = QKV_OUTERMOST;
    qkv_add_stored(o, QKV_NEEDED, "grad_out", desc->grad_out, d->out_type, rows, d->head_dim_v);
    if (desc->grad_lse.data)
        qkv_add_input(o, QKV_NEEDED, "grad_lse", desc->grad_lse, rows, 1);
    if (desc->grad_q.data)
        qkv_add_output(o, QKV_NEEDED, "grad_q", desc->grad_q, rows, d->head_dim);
    if (desc->grad_k.data)
        qkv_add_output(o, QKV_NEEDED, "grad_k", desc->grad_k, keys, d->head_dim);
    if (desc->grad_v.data)
        qkv_add_output(o, QKV_NEEDED, "grad_v", desc->grad_v, keys, d->head_dim_v);
    if (desc->grad_bias.data)
        qkv_gradient_add_bias(o, d, &desc->grad_bias);
    if (desc->grad_sinks)
        qkv_add_operand(o, QKV_NEEDED | QKV_OUTPUT, "grad_sinks", desc->grad_sinks, sizeof(float), 0, NULL, NULL,
                        d->num_heads);
}

static QKV_NOINLINE qkv_status qkv_attention_backward_make_plan(const qkv_ctx *ctx,
                                                                const qkv_attention_backward_desc *d, qkv_plan *plan) {
    gradient_shape shape;
    qkv_status status = cut_gradient(ctx->kernels, d, plan->max_workers, &shape, &plan->workspace_size);
    if (status != QKV_OK)
        return status;
    enum gradient_stage list[4];
    int32_t num_stages = gradient_stages(&shape, d, list);
    int64_t phases = shape.lanes > 0 ? shape.phases : 1;
    bool sweeps = wants_sweeps(&shape, d), clears = d->grad_q.data && d->forward.head_dim > 0;
    bool rows = sweeps || clears || shape.bias_queries > 0 || d->grad_sinks;
    const int64_t num_tasks[] = {rows ? d->forward.batch * d->forward.num_heads * shape.row_chunks : 0,
                                 shape.lanes > 0 ? shape.lanes
                                 : sweeps        ? shape.kv_heads
                                                 : 0,
                                 shape.bias_queries > 0 ? qkv_gradient_bias_tasks(&shape, d) : 0, d->forward.num_heads};
    plan->num_phases = num_stages - 1 + (int32_t)phases;
    plan->more_phases[SWEEP] = (int32_t)phases - 1;
    for (int32_t i = 0; i < num_stages; i++)
        plan->num_tasks[i] = num_tasks[list[i]];
    _Static_assert(sizeof shape <= sizeof plan->geometry, "the plan holds the shape");
    memcpy(plan->geometry, &shape, sizeof shape);
    return QKV_OK;
}

#define QKV_OP(name) qkv_attention_backward_##name
#define DESC qkv_attention_backward_desc
#define OPERATION QKV_ATTENTION_BACKWARD
#include "../shell.inc.h"

#endif
