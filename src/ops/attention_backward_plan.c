/* Attention backward: checking a descriptor and cutting the work into tasks, whole KV heads or a wavefront.
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

bool qkv_gradient_bias_sizes(const qkv_attention_desc *d, const qkv_matrix_output *x, int64_t sizes[4]) {
    const int64_t all[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
    const int64_t strides[4] = {x->batch, x->head, x->query, x->key};
    bool any = true;
    for (int i = 0; i < 4; i++) {
        sizes[i] = strides[i] == 0 ? 1 : all[i];
        any = any && sizes[i] > 0;
    }
    return any;
}

static qkv_status attention_backward_prepare(const qkv_attention_backward_desc *desc, qkv_attention_backward_desc *d) {
    qkv_status status = qkv_import(d, sizeof *d, desc);
    if (status != QKV_OK)
        return status;
    qkv_attention_desc *a = &d->forward;
    status = qkv_attention_prepare(&desc->forward, a);
    if (status != QKV_OK)
        return status;
    if ((d->flags & ~QKV_ACCUMULATE) != 0 || d->reserved != 0)
        return QKV_ERROR_FLAGS;
    if (a->states.data)
        return QKV_ERROR_SHAPE;
    /* What is counted stays small also where another size is 0. */
    int64_t heads[2] = {a->batch, a->num_heads}, kv_heads[2] = {a->batch, a->num_kv_heads}, unused;
    int64_t values[4] = {a->batch, a->num_kv_heads, a->seq_k, qkv_max(1, a->head_dim_v)}, limit = INT64_C(1) << 52;
    if (!qkv_product(heads, 2, limit, &unused) || !qkv_product(kv_heads, 2, limit, &unused) ||
        !qkv_product(values, 4, limit, &unused))
        return QKV_ERROR_OVERFLOW;
    int64_t bias[4];
    qkv_gradient_bias_sizes(a, &d->grad_bias, bias);
    const struct {
        bool used;
        int64_t sizes[4], strides[4];
    } tensors[] = {
        {true, {a->batch, a->num_heads, a->seq_q, a->head_dim_v},
         {d->grad_out.batch, d->grad_out.head, d->grad_out.token, 1}},
        {d->grad_lse.data, {a->batch, a->num_heads, a->seq_q, 1},
         {d->grad_lse.batch, d->grad_lse.head, d->grad_lse.token, 1}},
        {d->grad_q.data, {a->batch, a->num_heads, a->seq_q, a->head_dim},
         {d->grad_q.batch, d->grad_q.head, d->grad_q.token, 1}},
        {d->grad_k.data, {a->batch, a->num_kv_heads, a->seq_k, a->head_dim},
         {d->grad_k.batch, d->grad_k.head, d->grad_k.token, 1}},
        {d->grad_v.data, {a->batch, a->num_kv_heads, a->seq_k, a->head_dim_v},
         {d->grad_v.batch, d->grad_v.head, d->grad_v.token, 1}},
        {d->grad_bias.data, {bias[0], bias[1], bias[2], bias[3]},
         {d->grad_bias.batch, d->grad_bias.head, d->grad_bias.query, d->grad_bias.key}},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        if (tensors[i].used && !qkv_fits(sizeof(float), tensors[i].sizes, tensors[i].strides, 4))
            return QKV_ERROR_OVERFLOW;
    }
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
    bool sums_rows = (desc->grad_q.data && d->head_dim > 0) ||
                     (desc->grad_bias.data && qkv_gradient_bias_is_direct(desc));
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

static void attention_backward_execute(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase,
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
    shape->copies_q = d->q.token != scores->ld_q;
    shape->copies_k = desc->grad_q.data && (d->k.token != scores->ld_q || d->keep.data || d->bias.data);
    shape->copies_out = desc->grad_out.token != scores->ld_o;
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

static uint64_t attention_backward_checksum(const qkv_attention_backward_desc *d) {
    int64_t fields[96];
    size_t n = qkv_attention_fields(&d->forward, fields);
    const int64_t more[] = {
        d->flags, d->grad_out.batch, d->grad_out.head, d->grad_out.token, d->grad_lse.batch, d->grad_lse.head,
        d->grad_lse.token, d->grad_q.batch, d->grad_q.head, d->grad_q.token, d->grad_k.batch, d->grad_k.head,
        d->grad_k.token, d->grad_v.batch, d->grad_v.head, d->grad_v.token, d->grad_bias.batch, d->grad_bias.head,
        d->grad_bias.query, d->grad_bias.key, !!d->forward.q_offsets, !!d->grad_q.data, !!d->grad_k.data,
        !!d->grad_v.data, !!d->grad_bias.data, !!d->grad_sinks,
    };
    _Static_assert(sizeof more + 64 * sizeof(int64_t) <= sizeof fields, "fields has room");
    memcpy(fields + n, more, sizeof more);
    return qkv_checksum(fields, n + sizeof more / sizeof more[0]);
}

static void add_tensors(qkv_pointers *pointers, const qkv_attention_backward_desc *desc) {
    const qkv_attention_desc *d = &desc->forward;
    bool rows = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0, out = rows && d->head_dim_v > 0;
    int64_t bias[4];
    bool pairs = rows && d->seq_k > 0, keys = d->batch > 0 && d->num_kv_heads > 0 && d->seq_k > 0;
    qkv_add_input(pointers, d->q.data, sizeof(float), pairs && d->head_dim > 0);
    qkv_add_input(pointers, d->k.data, sizeof(float), pairs && d->head_dim > 0);
    qkv_add_input(pointers, d->v.data, sizeof(float), pairs && d->head_dim_v > 0);
    qkv_add_input(pointers, d->out.data, sizeof(float), out);
    qkv_add_input(pointers, desc->grad_out.data, sizeof(float), out);
    qkv_add_input(pointers, d->lse.data, sizeof(float), rows);
    qkv_add_input(pointers, desc->grad_lse.data, sizeof(float), rows && desc->grad_lse.data);
    qkv_add_output(pointers, desc->grad_q.data, sizeof(float), rows && d->head_dim > 0 && desc->grad_q.data);
    qkv_add_output(pointers, desc->grad_k.data, sizeof(float), keys && d->head_dim > 0 && desc->grad_k.data);
    qkv_add_output(pointers, desc->grad_v.data, sizeof(float), keys && d->head_dim_v > 0 && desc->grad_v.data);
    qkv_add_output(pointers, desc->grad_bias.data, sizeof(float),
                   desc->grad_bias.data && qkv_gradient_bias_sizes(d, &desc->grad_bias, bias));
    qkv_add_output(pointers, desc->grad_sinks, sizeof(float), desc->grad_sinks && d->num_heads > 0);
    qkv_attention_desc options = *d; /* without what the forward wrote */
    options.lse.data = options.probabilities.data = options.scores.data = NULL;
    qkv_attention_add_options(pointers, &options);
}

static qkv_status attention_backward_check_call(const qkv_plan *plan, const qkv_attention_backward_desc *desc,
                                                const void *workspace, size_t workspace_size,
                                                qkv_attention_backward_desc *d) {
    if (!plan)
        return QKV_ERROR_NULL;
    qkv_status status = attention_backward_prepare(desc, d);
    if (status != QKV_OK)
        return status;
    if (plan->operation != QKV_ATTENTION_BACKWARD || plan->checksum != attention_backward_checksum(d))
        return QKV_ERROR_PLAN;
    if (d->forward.batch > 0 && d->forward.num_heads > 0 && d->forward.seq_q > 0 && !d->forward.lse.data)
        return QKV_ERROR_LSE;
    qkv_pointers pointers = {0};
    add_tensors(&pointers, d);
    status = qkv_check_pointers(&pointers);
    return status != QKV_OK ? status : qkv_check_workspace(plan, workspace, workspace_size);
}

qkv_status qkv_attention_backward_plan(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc,
                                       int32_t max_workers, qkv_plan *plan) {
    if (!ctx || !plan)
        return QKV_ERROR_NULL;
    qkv_attention_backward_desc d;
    qkv_status status = attention_backward_prepare(desc, &d);
    if (status != QKV_OK)
        return status;
    if (max_workers < 1)
        return QKV_ERROR_WORKERS;
    gradient_shape shape;
    size_t workspace_size;
    status = cut_gradient(ctx->kernels, &d, max_workers, &shape, &workspace_size);
    if (status != QKV_OK)
        return status;
    enum gradient_stage list[4];
    int32_t num_stages = gradient_stages(&shape, &d, list);
    int64_t phases = shape.lanes > 0 ? shape.phases : 1;
    bool sweeps = wants_sweeps(&shape, &d), clears = d.grad_q.data && d.forward.head_dim > 0;
    bool rows = sweeps || clears || shape.bias_queries > 0 || d.grad_sinks;
    const int64_t num_tasks[] = {rows ? d.forward.batch * d.forward.num_heads * shape.row_chunks : 0,
                                 shape.lanes > 0 ? shape.lanes : sweeps ? shape.kv_heads : 0,
                                 shape.bias_queries > 0 ? qkv_gradient_bias_tasks(&shape, &d) : 0, d.forward.num_heads};
    qkv_plan p = {.workspace_size = workspace_size,
                  .num_phases = num_stages - 1 + (int32_t)phases,
                  .max_workers = max_workers,
                  .more_phases = {[SWEEP] = (int32_t)phases - 1},
                  .kernels = ctx->kernels,
                  .operation = QKV_ATTENTION_BACKWARD,
                  .checksum = attention_backward_checksum(&d)};
    for (int32_t i = 0; i < num_stages; i++)
        p.num_tasks[i] = num_tasks[list[i]];
    _Static_assert(sizeof shape <= sizeof p.geometry, "the plan holds the shape");
    memcpy(p.geometry, &shape, sizeof shape);
    *plan = p;
    return QKV_OK;
}

#define QKV_OP(name) qkv_attention_backward_##name
#define LOCAL(name) attention_backward_##name
#define PREPARE attention_backward_prepare
#include "shell.inc.h"
