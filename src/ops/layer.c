/* A whole attention layer: projection, attention, projection, one after the other over one workspace. In
 * cross-attention
 * K and V are projected from tokens of their own, in the same phase as Q.
 *
 * Q, K and V are kept head by head ([batch][head][token][channel]), so that attention reads them in long runs; the
 * heads' outputs token by token, as the output projection wants its rows.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention.h"
#include "layer.h"

typedef struct layer_shape {
    qkv_projection_shape in, in_kv, out;
    qkv_attention_shape attention;
    layer_tensors tensors;
    int64_t scratch; /* as tensors */
} layer_shape;

qkv_status qkv_layer_prepare(const qkv_layer_desc *desc, qkv_layer_desc *d) {
    qkv_status status = qkv_import(d, sizeof *d, desc);
    if (status != QKV_OK)
        return status;
    qkv_attention_desc *a = &d->attention;
    status = qkv_attention_prepare(&desc->attention, a);
    if (status != QKV_OK)
        return status;
    if (d->model_dim < 0 || d->out_features < 0 || d->kv_dim < 0)
        return QKV_ERROR_NEGATIVE;
    if (d->kv_dim == 0)
        d->kv_dim = d->model_dim;
    if (d->w_kv ? !d->x_kv.data || !d->w_qkv : d->kv_dim != d->model_dim)
        return QKV_ERROR_SHAPE;
    if ((a->seq_q != a->seq_k && !d->x_kv.data) || a->q.data || a->k.data || a->v.data || a->out.data || a->states.data)
        return QKV_ERROR_SHAPE;
    int64_t columns[3] = {a->num_heads, qkv_max(a->head_dim, a->head_dim_v), 8}, unused;
    int64_t elements[4] = {a->batch, qkv_max(a->seq_q, a->seq_k), a->num_heads, qkv_max(a->head_dim, a->head_dim_v)};
    if (!qkv_product(columns, 3, INT64_MAX, &unused) || !qkv_product(elements, 4, PTRDIFF_MAX / 64, &unused))
        return QKV_ERROR_OVERFLOW;
    int64_t packed[2] = {qkv_round_up(a->num_heads * a->head_dim, QKV_PANEL), d->model_dim};
    if (!qkv_product(packed, 2, PTRDIFF_MAX / (int64_t)sizeof(float), &unused))
        return QKV_ERROR_OVERFLOW;
    bool raw = !d->w_qkv;
    if (raw && (a->head_dim != d->model_dim || a->head_dim_v != d->model_dim || d->bias_q || d->bias_k || d->bias_v ||
                (a->num_kv_heads != a->num_heads && a->num_kv_heads != 1)))
        return QKV_ERROR_SHAPE;
    if (!d->w_o && (d->out_features != a->num_heads * a->head_dim_v || d->bias_o))
        return QKV_ERROR_SHAPE;
    return QKV_OK;
}

bool qkv_layer_attends(const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    bool rows = a->batch > 0 && a->seq_q > 0 && a->num_heads > 0;
    return rows && ((a->head_dim_v > 0 && d->out_features > 0) || a->lse.data || a->probabilities.data ||
                    a->scores.data);
}

qkv_output qkv_layer_heads(int64_t tokens, int64_t heads, int64_t head_dim, float *data) {
    return (qkv_output){data, heads * tokens * head_dim, tokens * head_dim, head_dim};
}

static qkv_projection_desc layer_projection(const qkv_attention_desc *a, const qkv_input *x, int64_t tokens,
                                            int64_t in_features, const void *packed, int64_t num_parts) {
    return (qkv_projection_desc){.size = sizeof(qkv_projection_desc), .batch = a->batch, .tokens = tokens,
                                 .in_features = in_features, .num_parts = num_parts, .x = *x, .packed = packed};
}

static qkv_projection_part layer_part(int64_t tokens, int64_t heads, int64_t head_dim, const float *bias, float *data) {
    return (qkv_projection_part){.out_features = heads * head_dim, .head_dim = head_dim, .bias = bias,
                                 .out = qkv_layer_heads(tokens, heads, head_dim, data)};
}

/* Wk and Wv: a matrix of their own, or the panels behind those of Wq. */
static const void *packed_keys(const qkv_layer_desc *d) {
    int64_t columns = d->attention.num_heads * d->attention.head_dim;
    return d->w_kv ? d->w_kv : (const float *)d->w_qkv + qkv_round_up(columns, QKV_PANEL) * d->model_dim;
}

static void connect_projections(const qkv_layer_desc *d, const layer_tensors *tensors, float *base,
                                layer_calls *calls) {
    const qkv_attention_desc *a = &d->attention;
    int64_t keys = a->seq_k, kv_heads = a->num_kv_heads;
    const qkv_projection_part k = layer_part(keys, kv_heads, a->head_dim, d->bias_k, base ? base + tensors->k : NULL);
    const qkv_projection_part v = layer_part(keys, kv_heads, a->head_dim_v, d->bias_v, base ? base + tensors->v : NULL);
    qkv_projection_desc *in = &calls->in;
    *in = layer_projection(a, &d->x, a->seq_q, d->model_dim, d->w_qkv, d->x_kv.data ? 1 : 3);
    in->part[0] = layer_part(a->seq_q, a->num_heads, a->head_dim, d->bias_q, base ? base + tensors->q : NULL);
    if (d->x_kv.data) {
        calls->in_kv = layer_projection(a, &d->x_kv, keys, d->kv_dim, packed_keys(d), 2);
        calls->in_kv.part[0] = k;
        calls->in_kv.part[1] = v;
    } else {
        in->part[1] = k;
        in->part[2] = v;
    }
    calls->attention.q = qkv_as_input(&in->part[0].out);
    calls->attention.k = qkv_as_input(&k.out);
    calls->attention.v = qkv_as_input(&v.out);
}

void qkv_layer_connect(const qkv_layer_desc *d, const layer_tensors *tensors, float *base, layer_calls *calls) {
    const qkv_attention_desc *a = &d->attention;
    memset(calls, 0, sizeof *calls);
    calls->attention = *a;
    qkv_attention_desc *attention = &calls->attention;
    if (d->w_qkv) {
        connect_projections(d, tensors, base, calls);
    } else {
        attention->q = d->x;
        attention->k = attention->v = d->x_kv.data ? d->x_kv : d->x;
        attention->q.head = attention->k.head = attention->v.head = 0; /* every head sees the whole embedding */
    }
    attention->out = d->out;
    attention->out.head = a->head_dim_v;
    if (d->w_o) {
        int64_t width = a->num_heads * a->head_dim_v;
        attention->out = (qkv_output){base ? base + tensors->heads : NULL, a->seq_q * width, a->head_dim_v, width};
        const qkv_input from = qkv_as_input(&attention->out);
        calls->out = layer_projection(a, &from, a->seq_q, width, d->w_o, 1);
        calls->out.part[0] = (qkv_projection_part){
            .out_features = d->out_features, .head_dim = d->out_features, .bias = d->bias_o, .out = d->out};
    }
}

/* Checks the operations with all that only they know, and cuts them. */
static qkv_status cut_layer(const qkv_ctx *ctx, const qkv_layer_desc *d, int32_t max_workers, layer_shape *shape,
                            size_t *workspace_size) {
    const qkv_kernels *kernels = ctx->kernels;
    const qkv_attention_desc *a = &d->attention;
    memset(shape, 0, sizeof *shape);
    int64_t tokens = a->batch * a->seq_q, keys = a->batch * a->seq_k, used = 0;
    const struct {
        int64_t *offset, floats;
        bool wanted;
    } tensors[] = {
        {&shape->tensors.q, tokens * a->num_heads * a->head_dim, d->w_qkv},
        {&shape->tensors.k, keys * a->num_kv_heads * a->head_dim, d->w_qkv},
        {&shape->tensors.v, keys * a->num_kv_heads * a->head_dim_v, d->w_qkv},
        {&shape->tensors.heads, tokens * a->num_heads * a->head_dim_v, d->w_o},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        *tensors[i].offset = used;
        used += tensors[i].wanted ? qkv_round_up(tensors[i].floats, QKV_LANES) : 0;
    }
    shape->scratch = used;

    layer_calls calls;
    qkv_layer_connect(d, &shape->tensors, NULL, &calls);
    qkv_projection_desc projection;
    qkv_attention_desc attention;
    qkv_status status = QKV_OK;
    if (d->w_qkv && (status = qkv_projection_prepare(&calls.in, &projection)) == QKV_OK)
        qkv_projection_cut(kernels, &projection, max_workers, &shape->in);
    if (status == QKV_OK && d->w_qkv && d->x_kv.data &&
        (status = qkv_projection_prepare(&calls.in_kv, &projection)) == QKV_OK && tokens > 0)
        qkv_projection_cut(kernels, &projection, max_workers, &shape->in_kv);
    if (status == QKV_OK && (status = qkv_attention_prepare(&calls.attention, &attention)) == QKV_OK)
        status = qkv_attention_cut(ctx, &attention, max_workers, &shape->attention);
    if (status == QKV_OK && d->w_o && (status = qkv_projection_prepare(&calls.out, &projection)) == QKV_OK)
        qkv_projection_cut(kernels, &projection, max_workers, &shape->out);
    if (status != QKV_OK)
        return status;

    /* Tasks of both run side by side: a worker has one place. */
    shape->in.worker_size = shape->in_kv.worker_size = qkv_max(shape->in.worker_size, shape->in_kv.worker_size);
    int64_t worker = qkv_max(shape->in.worker_size, qkv_max(shape->out.worker_size, shape->attention.worker_size));
    int64_t factors[2] = {worker, max_workers}, scratch;
    int64_t kept = used * (int64_t)sizeof(float);
    if (!qkv_product(factors, 2, PTRDIFF_MAX / 4, &scratch))
        return QKV_ERROR_OVERFLOW;
    *workspace_size = (size_t)kept + (size_t)(shape->attention.packed_size + shape->attention.states_size) +
                      (size_t)scratch;
    return QKV_OK;
}

static void layer_execute(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                          int32_t worker) {
    const qkv_layer_desc *d = desc;
    layer_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    layer_calls calls;
    qkv_layer_connect(d, &shape.tensors, workspace, &calls);
    void *scratch = workspace ? (float *)workspace + shape.scratch : NULL;
    int64_t unused[3];
    phase -= d->w_qkv ? 1 : 0;
    if (phase < 0 && index < shape.in.num_tasks)
        qkv_projection_execute(plan->kernels, &shape.in, &calls.in, scratch, index, worker);
    else if (phase < 0)
        qkv_projection_execute(plan->kernels, &shape.in_kv, &calls.in_kv, scratch, index - shape.in.num_tasks, worker);
    else if (phase < qkv_attention_phases(&shape.attention, unused))
        qkv_attention_execute(plan->kernels, &shape.attention, &calls.attention, scratch, phase, index, worker);
    else
        qkv_projection_execute(plan->kernels, &shape.out, &calls.out, scratch, index, worker);
}

static uint64_t layer_checksum(const qkv_layer_desc *d) {
    int64_t fields[80];
    size_t n = qkv_attention_fields(&d->attention, fields);
    const int64_t more[] = {d->model_dim, d->out_features, d->x.batch, d->x.token, d->out.batch, d->out.token,
                            !!d->w_qkv, !!d->w_o, d->kv_dim, d->x_kv.batch, d->x_kv.token, !!d->x_kv.data, !!d->w_kv};
    memcpy(fields + n, more, sizeof more);
    return qkv_checksum(fields, n + sizeof more / sizeof more[0]);
}

static qkv_status layer_check_call(const qkv_plan *plan, const qkv_layer_desc *desc, const void *workspace,
                                   size_t workspace_size, qkv_layer_desc *d) {
    if (!plan)
        return QKV_ERROR_NULL;
    qkv_status status = qkv_layer_prepare(desc, d);
    if (status != QKV_OK)
        return status;
    if (plan->operation != QKV_LAYER || plan->checksum != layer_checksum(d))
        return QKV_ERROR_PLAN;
    const qkv_attention_desc *a = &d->attention;
    bool tokens = a->batch > 0 && a->seq_q > 0, used = qkv_layer_attends(d) && d->model_dim > 0;
    qkv_pointers pointers = {0};
    bool keys = qkv_layer_attends(d) && a->seq_k > 0 && d->kv_dim > 0;
    qkv_add_input(&pointers, d->x.data, sizeof(float), used);
    qkv_add_input(&pointers, d->x_kv.data, sizeof(float), keys && d->x_kv.data);
    qkv_add_input(&pointers, d->w_qkv, 64, used && d->w_qkv);
    qkv_add_input(&pointers, d->w_kv, 64, keys && d->w_kv);
    qkv_add_input(&pointers, d->bias_q, sizeof(float), d->bias_q);
    qkv_add_input(&pointers, d->bias_k, sizeof(float), d->bias_k);
    qkv_add_input(&pointers, d->bias_v, sizeof(float), d->bias_v);
    qkv_add_input(&pointers, d->w_o, 64, d->w_o);
    qkv_add_input(&pointers, d->bias_o, sizeof(float), d->bias_o);
    qkv_add_output(&pointers, d->out.data, sizeof(float), tokens && d->out_features > 0);
    qkv_attention_add_options(&pointers, a);
    status = qkv_check_pointers(&pointers);
    return status != QKV_OK ? status : qkv_check_workspace(plan, workspace, workspace_size);
}

qkv_status qkv_layer_plan(const qkv_ctx *ctx, const qkv_layer_desc *desc, int32_t max_workers, qkv_plan *plan) {
    if (!ctx || !plan)
        return QKV_ERROR_NULL;
    qkv_layer_desc d;
    qkv_status status = qkv_layer_prepare(desc, &d);
    if (status != QKV_OK)
        return status;
    if (max_workers < 1)
        return QKV_ERROR_WORKERS;
    layer_shape shape;
    size_t workspace_size;
    status = cut_layer(ctx, &d, max_workers, &shape, &workspace_size);
    if (status != QKV_OK)
        return status;
    qkv_plan p = {.workspace_size = workspace_size,
                  .max_workers = max_workers,
                  .kernels = ctx->kernels,
                  .operation = QKV_LAYER,
                  .checksum = layer_checksum(&d)};
    if (d.w_qkv)
        p.num_tasks[p.num_phases++] = shape.in.num_tasks + shape.in_kv.num_tasks;
    p.num_phases += qkv_attention_phases(&shape.attention, p.num_tasks + p.num_phases);
    if (!qkv_layer_attends(&d))
        memset(p.num_tasks, 0, sizeof p.num_tasks);
    if (d.w_o)
        p.num_tasks[p.num_phases++] = shape.out.num_tasks;
    _Static_assert(sizeof shape <= sizeof p.geometry, "the plan holds the shape");
    memcpy(p.geometry, &shape, sizeof shape);
    *plan = p;
    return QKV_OK;
}

#define QKV_OP(name) qkv_layer_##name
#define LOCAL(name) layer_##name
#define PREPARE qkv_layer_prepare
#include "shell.inc.h"
