/* Attention backward: checking a descriptor and cutting the work into tasks, whole KV heads or a wavefront.
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

enum {
    GRADIENTS = QKV_ACCUMULATE_Q | QKV_ACCUMULATE_K | QKV_ACCUMULATE_V | QKV_ACCUMULATE_BIAS | QKV_ACCUMULATE_SINKS
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
    d->flags = qkv_accumulated(d->flags, GRADIENTS);
    return QKV_OK;
}

static qkv_status qkv_attention_backward_validate(const qkv_attention_backward_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->forward;
    qkv_enter(why, "forward.");
    qkv_status status = qkv_attention_validate(a, why);
    if (status != QKV_OK)
        return status;
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
    if ((d->flags & ~(uint32_t)(QKV_ACCUMULATE | GRADIENTS)) != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "flags", -1, "has unknown bits (%)",
                          d->flags & ~(uint32_t)(QKV_ACCUMULATE | GRADIENTS), 0);
    if (d->reserved != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "reserved", -1, "is not 0 (%)", d->reserved, 0);
    return QKV_OK;
}

/* -------------------------------------------------------------------------------------------------- wavefront */

enum { MAX_LANES = 64 };

/* Units [first, end) of a head that see something of a key block, as far as the plan knows; at least one. */
static key_range units_of_block(const gradient_shape *shape, const qkv_attention_desc *d, int64_t block) {
    key_range queries = {0, d->seq_q};
    if (!d->q_offsets) {
        int64_t offset = bounded(d->q_offset);
        if (d->flags & QKV_RIGHT) /* key ≤ query + offset + right */
            queries.first = qkv_max(0, block * QKV_KEY_BLOCK - bounded(d->right) - offset);
        if (d->flags & QKV_LEFT) /* key ≥ query + offset − left */
            queries.end = qkv_min(d->seq_q, (block + 1) * QKV_KEY_BLOCK + bounded(d->left) - offset);
    }
    int64_t first = qkv_min(queries.first, d->seq_q) / shape->unit_rows;
    return (key_range){first, qkv_max(first + 1, qkv_ceil_div(qkv_max(0, queries.end), shape->unit_rows))};
}

/* A sweep and when it runs: unit u of the group's head h in phase start + h·width + u − units.first. */
typedef struct sweep {
    int64_t index, lane, start, width, phases;
    key_range units;
} sweep;

/* All sweeps in order, each on the lane that is free first. */
typedef struct schedule {
    int64_t free[MAX_LANES]; /* the phase from which a lane has nothing to do */
    sweep last;
} schedule;

/* Within a KV head a sweep must leave each unit to the sweep before: be one phase behind it at every unit of every
 * head, of which the first and the last decide. */
static const sweep *next_sweep(schedule *s, const gradient_shape *shape, const qkv_attention_desc *d, int64_t index) {
    const sweep before = s->last;
    int64_t heads = qkv_max(1, shape->scores.group);
    sweep *next = &s->last;
    *next = (sweep){.index = index, .units = units_of_block(shape, d, index % shape->key_blocks)};
    next->width = next->units.end - next->units.first;
    next->phases = heads * next->width;
    for (int64_t lane = 1; lane < shape->lanes; lane++) {
        if (s->free[lane] < s->free[next->lane])
            next->lane = lane;
    }
    next->start = s->free[next->lane];
    if (index % shape->key_blocks > 0) {
        int64_t behind = 1 + next->units.first - before.units.first;
        behind += qkv_max(0, (heads - 1) * (before.width - next->width));
        next->start = qkv_max(next->start, before.start + behind);
    }
    s->free[next->lane] = next->start + next->phases;
    return next;
}

static int64_t num_sweeps(const gradient_shape *shape) {
    return shape->kv_heads * shape->key_blocks;
}

int64_t qkv_gradient_phases(const gradient_shape *shape, const qkv_attention_desc *d) {
    schedule s = {{0}, {0}};
    int64_t phases = 0;
    for (int64_t i = 0; i < num_sweeps(shape); i++) {
        const sweep *x = next_sweep(&s, shape, d, i);
        phases = qkv_max(phases, x->start + x->phases);
    }
    return phases;
}

gradient_step qkv_gradient_step(const gradient_shape *shape, const qkv_attention_desc *d, int64_t phase, int64_t lane) {
    gradient_step step = {.sweep = -1};
    schedule s = {{0}, {0}};
    for (int64_t i = 0; step.sweep < 0 && i < num_sweeps(shape) && s.free[lane] <= phase; i++) {
        const sweep *x = next_sweep(&s, shape, d, i);
        int64_t at = phase - x->start;
        if (x->lane == lane && at >= 0 && at < x->phases)
            step = (gradient_step){i, at / x->width, x->units.first + at % x->width, at == 0, at == x->phases - 1};
    }
    return step;
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
    int64_t group = shape->scores.group;
    for (int64_t block = 0; block < shape->key_blocks; block++) {
        qkv_gradient_choose_keys(&t, block);
        qkv_gradient_load_keys(&t);
        qkv_gradient_open_sums(&t);
        for (int64_t h = 0; h < group; h++)
            sweep_queries(&t, t.rows.kv_head * group + h, 0, desc->forward.seq_q);
        qkv_gradient_close_sums(&t);
    }
}

static void sweep_unit(const qkv_kernels *kernels, const gradient_shape *shape, const qkv_attention_backward_desc *desc,
                       void *workspace, int64_t phase, int64_t lane, int32_t worker) {
    gradient_step step = qkv_gradient_step(shape, &desc->forward, phase, lane);
    if (step.sweep < 0)
        return;
    gradient_task t;
    qkv_gradient_begin(&t, kernels, shape, desc, workspace, lane, worker);
    qkv_gradient_choose_head(&t, step.sweep / shape->key_blocks);
    qkv_gradient_choose_keys(&t, step.sweep % shape->key_blocks);
    if (step.first) {
        qkv_gradient_load_keys(&t);
        qkv_gradient_open_sums(&t);
    }
    int64_t first = step.unit * shape->unit_rows, group = shape->scores.group;
    if (step.head < group)
        sweep_queries(&t, t.rows.kv_head * group + step.head, first,
                      qkv_min(first + shape->unit_rows, desc->forward.seq_q));
    if (step.last)
        qkv_gradient_close_sums(&t);
}

enum stage { STATISTICS, SWEEP, BIAS, SINK };

static int32_t stages(const gradient_shape *shape, const qkv_attention_backward_desc *desc, enum stage list[4]) {
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
    enum stage list[4];
    stages(&shape, d, list);
    int32_t stage = qkv_stage_of_phase(plan, &phase);
    switch (list[stage]) {
    case STATISTICS: qkv_gradient_statistics(plan->kernels, &shape, d, workspace, index, worker); break;
    case SWEEP:
        if (shape.lanes == 0)
            sweep_head(plan->kernels, &shape, d, workspace, index, worker);
        else
            sweep_unit(plan->kernels, &shape, d, workspace, phase, index, worker);
        break;
    case BIAS: qkv_gradient_bias(plan->kernels, &shape, d, workspace, index, worker); break;
    default: qkv_gradient_sink(&shape, d, workspace, index, plan->kernels); break;
    }
}

/* -------------------------------------------------------------------------------------------------------- plan */

/* Whether to run a wavefront, and of which units. It pays where whole heads would leave workers idle. */
static void cut_wavefront(gradient_shape *shape, const qkv_attention_desc *d, int32_t max_workers) {
    enum { MOST_SWEEPS = 4096, MOST_PHASES = 1 << 30, MOST_ROWS = 256, ENOUGH_PHASES = 32 };
    int64_t blocks = num_sweeps(shape), workers = max_workers;
    shape->units = 0;
    if (workers == 1 || shape->key_blocks < 2 || shape->rows == 0)
        return;
    /* Compares the shares of the workers' time in use, in percent. */
    int64_t head_slots = qkv_ceil_div(shape->kv_heads, workers) * workers;
    int64_t block_slots = qkv_ceil_div(blocks, workers) * workers;
    if (shape->kv_heads * 100 / head_slots + 8 >= blocks * 100 / block_slots)
        return;
    if (blocks > MOST_SWEEPS)
        return;
    shape->lanes = qkv_min(qkv_min(workers, blocks), MAX_LANES);
    /* Units as high as leaves the time to fill and to drain the wavefront short. */
    int64_t enough = ENOUGH_PHASES * shape->lanes;
    for (shape->unit_rows = MOST_ROWS; shape->unit_rows > GRADIENT_ROWS; shape->unit_rows /= 2) {
        shape->units = qkv_ceil_div(d->seq_q, shape->unit_rows);
        if (shape->units >= 4 * shape->lanes && qkv_gradient_phases(shape, d) >= enough)
            break;
    }
    while (qkv_gradient_phases(shape, d) > MOST_PHASES)
        shape->unit_rows *= 2;
    shape->units = qkv_ceil_div(d->seq_q, shape->unit_rows);
}

static qkv_status cut(const qkv_kernels *kernels, const qkv_attention_backward_desc *desc, int32_t max_workers,
                      gradient_shape *shape, size_t *workspace_size) {
    const qkv_attention_desc *d = &desc->forward;
    memset(shape, 0, sizeof *shape);
    qkv_attention_shape *scores = &shape->scores;
    shape->scale = qkv_attention_measure(d, scores);
    shape->kv_heads = d->batch * d->num_kv_heads;
    shape->key_blocks = scores->key_blocks;
    shape->rows = d->batch * d->num_heads * d->seq_q;
    shape->row_chunks = qkv_ceil_div(d->seq_q, GRADIENT_ROWS);
    shape->copies_q = d->q.token != scores->ld_q;
    shape->copies_k = d->k.token != scores->ld_q;
    shape->copies_out = desc->grad_out.token != scores->ld_o;
    if (desc->grad_bias.data && shape->rows > 0 && shape->key_blocks > 0 && !qkv_gradient_bias_is_direct(desc)) {
        shape->bias_queries = desc->grad_bias.query == 0 ? 1 : shape->row_chunks;
        shape->bias_keys = desc->grad_bias.key == 0 ? 1 : shape->key_blocks;
    }
    cut_wavefront(shape, d, max_workers);
    shape->statistics_size = qkv_round_up(3 * shape->rows, QKV_LANES) * (int64_t)sizeof(float);

    /* A block of keys and a block of rows in a few tiles each: no size is near the limits unless a dimension is. */
    int64_t widths[2] = {scores->ld_q + scores->ld_o, 8 * (QKV_KEY_BLOCK + GRADIENT_ROWS)}, unused;
    if (!qkv_product(widths, 2, PTRDIFF_MAX / 64, &unused))
        return QKV_ERROR_OVERFLOW;
    qkv_gradient_scratch(kernels, shape, d);
    int64_t areas[2] = {shape->lane_size + shape->worker_size, max_workers}, scratch;
    if (!qkv_product(areas, 2, PTRDIFF_MAX / 4, &scratch) || shape->statistics_size > PTRDIFF_MAX / 4)
        return QKV_ERROR_OVERFLOW;
    *workspace_size = (size_t)(shape->statistics_size + scratch);
    return QKV_OK;
}

static uint64_t qkv_attention_backward_checksum(const qkv_attention_backward_desc *d) {
    int64_t fields[QKV_ATTENTION_FIELDS + 32];
    size_t n = qkv_attention_fields(&d->forward, fields);
    const int64_t more[] = {
        d->flags, d->reserved, d->grad_out.batch, d->grad_out.head, d->grad_out.token, d->grad_lse.batch,
        d->grad_lse.head, d->grad_lse.token, d->grad_q.batch, d->grad_q.head, d->grad_q.token, d->grad_k.batch,
        d->grad_k.head, d->grad_k.token, d->grad_v.batch, d->grad_v.head, d->grad_v.token, d->grad_bias.batch,
        d->grad_bias.head, d->grad_bias.query, d->grad_bias.key, !!d->grad_lse.data, !!d->grad_q.data,
        !!d->grad_k.data, !!d->grad_v.data, !!d->grad_bias.data, !!d->grad_sinks,
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
    qkv_add_input(o, pairs, "q", d->q, rows, d->head_dim);
    qkv_add_input(o, pairs, "k", d->k, keys, d->head_dim);
    qkv_add_input(o, pairs, "v", d->v, keys, d->head_dim_v);
    qkv_add_input(o, QKV_NEEDED, "out", qkv_as_input(&d->out), rows, d->head_dim_v);
    qkv_add_input(o, QKV_NEEDED | QKV_LSE, "lse", qkv_as_input(&d->lse), rows, 1);
    qkv_attention_options(o, d);
    o->within = QKV_OUTERMOST;
    qkv_add_input(o, QKV_NEEDED, "grad_out", desc->grad_out, rows, d->head_dim_v);
    if (desc->grad_lse.data)
        qkv_add_input(o, QKV_NEEDED, "grad_lse", desc->grad_lse, rows, 1);
    if (desc->grad_q.data)
        qkv_add_output(o, QKV_NEEDED, "grad_q", desc->grad_q, rows, d->head_dim);
    if (desc->grad_k.data)
        qkv_add_output(o, QKV_NEEDED, "grad_k", desc->grad_k, keys, d->head_dim);
    if (desc->grad_v.data)
        qkv_add_output(o, QKV_NEEDED, "grad_v", desc->grad_v, keys, d->head_dim_v);
    qkv_add_matrix_output(o, QKV_NEEDED | QKV_SUMMED, "grad_bias", desc->grad_bias, rows, d->seq_k, 1);
    if (desc->grad_sinks)
        qkv_add_operand(o, QKV_NEEDED | QKV_OUTPUT, "grad_sinks", desc->grad_sinks, sizeof(float), 0, NULL, NULL,
                        d->num_heads);
}

static qkv_status qkv_attention_backward_make_plan(const qkv_ctx *ctx, const qkv_attention_backward_desc *d,
                                                   qkv_plan *plan) {
    gradient_shape shape;
    qkv_status status = cut(ctx->kernels, d, plan->max_workers, &shape, &plan->workspace_size);
    if (status != QKV_OK)
        return status;
    enum stage list[4];
    int32_t num_stages = stages(&shape, d, list);
    int64_t phases = shape.lanes > 0 ? qkv_gradient_phases(&shape, &d->forward) : 1;
    const int64_t num_tasks[] = {d->forward.batch * d->forward.num_heads * shape.row_chunks,
                                 shape.lanes > 0 ? shape.lanes : shape.kv_heads,
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
#include "shell.inc.h"
