/* A whole attention layer: projection, attention, projection, one after the other over one workspace. In
 * cross-attention K and V are projected from tokens of their own, in the same phase as Q.
 *
 * Q, K and V are kept head by head ([batch][head][token][channel]), so that attention reads them in long runs; the
 * heads' outputs token by token, as the output projection wants its rows.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "../attention/attention.h"
#include "../cache/cache.h"
#include "layer.h"

#if QKV_WITH(LAYER)

typedef struct layer_shape {
    qkv_projection_shape in, in_kv, out;
    qkv_attention_shape attention;
    layer_tensors tensors;
    int64_t scratch; /* as tensors */
} layer_shape;

qkv_status qkv_layer_complete_inner(qkv_layer_desc *d, size_t size, qkv_problem *why) {
    qkv_enter(why, "attention.");
    qkv_status status =
        qkv_import_inner(&d->attention.size, sizeof d->attention, size - offsetof(qkv_layer_desc, attention), why);
    if (status != QKV_OK)
        return status;
    if (d->cache && qkv_layer_attach_cache(d, why) != QKV_OK)
        return why->status;
    qkv_leave(why);
    qkv_attention_defaults(&d->attention);
    if (d->kv_dim == 0)
        d->kv_dim = d->model_dim;
    if (d->rope.cos && d->rope.rotary_dim == 0)
        d->rope.rotary_dim = d->attention.head_dim;
    const qkv_attention_desc *a = &d->attention;
    qkv_settle_input(&d->x, a->batch, 1, a->seq_q, d->model_dim);
    qkv_settle_input(&d->x_kv, a->batch, 1, a->seq_k, d->kv_dim);
    qkv_settle_output(&d->out, a->batch, 1, a->seq_q, d->out_features);
    return QKV_OK;
}

static qkv_status qkv_layer_complete(const qkv_layer_desc *desc, qkv_layer_desc *d, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    return status != QKV_OK ? status : qkv_layer_complete_inner(d, desc->size, why);
}

/* The first pointer that the layer brings itself and the descriptor must not. */
static const char *foreign_pointer(const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    return a->q.data                ? "attention.q"
           : a->k.data && !d->cache ? "attention.k"
           : a->v.data && !d->cache ? "attention.v"
           : a->out.data            ? "attention.out"
           : a->states.data         ? "attention.states"
                                    : NULL;
}

/* Keys and values from tokens of their own. */
static qkv_status validate_cross(const qkv_layer_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->attention;
    if (d->cache && (d->x_kv.data || !d->w_qkv))
        return qkv_refuse(why, QKV_ERROR_SHAPE, d->w_qkv ? "x_kv" : "w_qkv", -1,
                          d->w_qkv ? "must be NULL with a cache" : "is needed with a cache", 0, 0);
    if (!d->cache && !d->x_kv.data && a->seq_q != a->seq_k)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "attention.seq_k", -1, "is %, but without x_kv it is seq_q (%)",
                          a->seq_k, a->seq_q);
    if (d->w_kv && (!d->x_kv.data || !d->w_qkv))
        return qkv_refuse(why, QKV_ERROR_SHAPE, "w_kv", -1, "must be NULL without x_kv and w_qkv", 0, 0);
    if (!d->w_kv && d->kv_dim != d->model_dim)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "kv_dim", -1, "is %, but without w_kv it is model_dim (%)", d->kv_dim,
                          d->model_dim);
    return QKV_OK;
}

/* QK-norm and RoPE. */
static qkv_status validate_head_steps(const qkv_layer_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->attention;
    if (d->reserved != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "reserved", -1, "is not 0 (%)", d->reserved, 0);
    if (!(d->norm_epsilon >= 0 && d->norm_epsilon <= FLT_MAX))
        return qkv_refuse(why, QKV_ERROR_VALUE, "norm_epsilon", -1, "is negative or no number", 0, 0);
    const char *field = d->norm_q ? "norm_q" : d->norm_k ? "norm_k" : d->rope.cos ? "rope.cos" : NULL;
    if (!QKV_WITH(ROPE) && field)
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, field, -1, "is left out of this build", 0, 0);
    if (!d->w_qkv && field)
        return qkv_refuse(why, QKV_ERROR_SHAPE, field, -1, "must be NULL without w_qkv", 0, 0);
    bool lengths = a->kv_len || a->q_offsets;
    if (d->rope.cos && !d->cache && a->flags & QKV_FROM_END && lengths && !d->positions_q.data)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "positions_q", -1,
                          "is needed with rope and QKV_FROM_END beside kv_len or q_offsets", 0, 0);
    int64_t widest = d->cache ? qkv_max(a->head_dim, a->head_dim_v) : a->head_dim;
    if ((field || d->cache) && widest > QKV_MAX_STEPS_DIM)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "attention.head_dim", -1,
                          "is %, but at most % with QK-norm, RoPE or a cache", widest, QKV_MAX_STEPS_DIM);
    return d->rope.cos ? qkv_check_rope(&d->rope, a->head_dim, why) : QKV_OK;
}

static qkv_status validate_raw(const qkv_layer_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->attention;
    if (a->head_dim != d->model_dim || a->head_dim_v != d->model_dim)
        return qkv_refuse(why, QKV_ERROR_SHAPE,
                          a->head_dim != d->model_dim ? "attention.head_dim" : "attention.head_dim_v", -1,
                          "is %, but without w_qkv it is model_dim (%)",
                          a->head_dim != d->model_dim ? a->head_dim : a->head_dim_v, d->model_dim);
    if (d->bias_q || d->bias_k || d->bias_v)
        return qkv_refuse(why, QKV_ERROR_SHAPE,
                          d->bias_q   ? "bias_q"
                          : d->bias_k ? "bias_k"
                                      : "bias_v",
                          -1, "must be NULL without w_qkv", 0, 0);
    if (a->num_kv_heads != a->num_heads && a->num_kv_heads != 1)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "attention.num_kv_heads", -1,
                          "is %, but without w_qkv it is num_heads (%) or 1", a->num_kv_heads, a->num_heads);
    return QKV_OK;
}

/* How the weights are packed, of those that are there. */
static qkv_status validate_types(const qkv_layer_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->attention;
    const int64_t kv_in = d->w_kv ? d->kv_dim : d->model_dim;
    static const char *const inputs = "is %, whose blocks don't divide model_dim (%)";
    static const char *const kv_inputs = "is %, whose blocks don't divide kv_dim (%)";
    static const char *const heads = "is %, whose blocks don't divide num_heads * head_dim_v (%)";
    const struct {
        const char *field, *blocks;
        const void *weights;
        int64_t type, in, out;
    } parts[] = {
        {"wq_type", inputs, d->w_qkv, d->wq_type, d->model_dim, a->num_heads * a->head_dim},
        {"wk_type", d->w_kv ? kv_inputs : inputs, d->w_qkv, d->wk_type, kv_in, a->num_kv_heads * a->head_dim},
        {"wv_type", d->w_kv ? kv_inputs : inputs, d->w_qkv, d->wv_type, kv_in, a->num_kv_heads * a->head_dim_v},
        {"wo_type", heads, d->w_o, d->wo_type, a->num_heads * a->head_dim_v, d->out_features},
    };
    int64_t bytes = 0;
    if (qkv_check_arithmetic(d->arithmetic, QKV_INT8, why) != QKV_OK)
        return why->status;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (!parts[i].weights && parts[i].type != 0)
            return qkv_refuse(why, QKV_ERROR_SHAPE, parts[i].field, -1,
                              i < 3 ? "must be 0 without w_qkv" : "must be 0 without w_o", 0, 0);
        if (parts[i].weights && (qkv_check_weights(parts[i].type, parts[i].in, parts[i].out, parts[i].field, -1,
                                                   parts[i].blocks, &bytes, why) != QKV_OK ||
                                 qkv_check_arithmetic(d->arithmetic, parts[i].type, why) != QKV_OK))
            return why->status;
    }
    return QKV_OK;
}

qkv_status qkv_layer_validate(const qkv_layer_desc *d, qkv_problem *why) {
    const qkv_attention_desc *a = &d->attention;
    qkv_enter(why, "attention.");
    qkv_status status = qkv_attention_validate(a, why);
    if (status == QKV_OK && !d->cache)
        status = qkv_attention_only_plain(a, why);
    if (status == QKV_OK)
        status = qkv_attention_only_floats(a, !d->cache, why);
    if (status != QKV_OK)
        return status;
    qkv_leave(why);
    if (qkv_check_size(why, "model_dim", -1, d->model_dim) != QKV_OK ||
        qkv_check_size(why, "out_features", -1, d->out_features) != QKV_OK ||
        qkv_check_size(why, "kv_dim", -1, d->kv_dim) != QKV_OK)
        return why->status;
    if (foreign_pointer(d))
        return qkv_refuse(why, QKV_ERROR_SHAPE, foreign_pointer(d), -1, "must stay NULL", 0, 0);
    if (validate_cross(d, why) != QKV_OK || validate_head_steps(d, why) != QKV_OK)
        return why->status;
    int64_t limit = INT64_C(1) << 58, unused;
    const struct {
        const char *field;
        int64_t value;
    } widths[] = {{"model_dim", d->model_dim}, {"out_features", d->out_features}, {"kv_dim", d->kv_dim}};
    for (int i = 0; i < 3; i++) {
        if (widths[i].value > limit)
            return qkv_refuse(why, QKV_ERROR_OVERFLOW, widths[i].field, -1, "is too large (%)", widths[i].value, 0);
    }
    /* What is counted stays small also where another size is 0. */
    int64_t dim = qkv_max(1, qkv_max(a->head_dim, a->head_dim_v)), most = qkv_max(1, qkv_max(a->seq_q, a->seq_k));
    int64_t columns[3] = {qkv_max(1, a->num_heads), dim, 8};
    int64_t elements[4] = {qkv_max(1, a->batch), most, columns[0], dim};
    if (!qkv_product(columns, 3, INT64_MAX, &unused) || !qkv_product(elements, 4, PTRDIFF_MAX / 64, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "attention.batch * seq_q * num_heads * head_dim", -1, "is too large",
                          0, 0);
    int64_t in[2] = {qkv_max(d->model_dim, d->kv_dim), 3 * (columns[0] * columns[1] + QKV_PANEL)};
    int64_t out[2] = {d->out_features + QKV_PANEL, columns[0] * columns[1]};
    if ((d->w_qkv && !qkv_product(in, 2, PTRDIFF_MAX / 8, &unused)) ||
        (d->w_o && !qkv_product(out, 2, PTRDIFF_MAX / 8, &unused)))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, d->w_qkv ? "model_dim or out_features" : "out_features", -1,
                          "is too large for the heads", 0, 0);
    if ((!d->w_qkv && validate_raw(d, why) != QKV_OK) || validate_types(d, why) != QKV_OK)
        return why->status;
    if (!d->w_o && d->out_features != a->num_heads * a->head_dim_v)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "out_features", -1,
                          "is %, but without w_o it is num_heads * head_dim_v (%)", d->out_features,
                          a->num_heads * a->head_dim_v);
    if (!d->w_o && d->bias_o)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "bias_o", -1, "must be NULL without w_o", 0, 0);
    return QKV_OK;
}

/* Of Wk and Wv. */
static int64_t kv_bytes(const qkv_layer_desc *d, int64_t in_features) {
    const qkv_attention_desc *a = &d->attention;
    return qkv_part_bytes(d->wk_type, in_features, a->num_kv_heads * a->head_dim) +
           qkv_part_bytes(d->wv_type, in_features, a->num_kv_heads * a->head_dim_v);
}

static int64_t q_bytes(const qkv_layer_desc *d) {
    return qkv_part_bytes(d->wq_type, d->model_dim, d->attention.num_heads * d->attention.head_dim);
}

int64_t qkv_layer_packed_qkv(const qkv_layer_desc *d) {
    return d->w_qkv ? q_bytes(d) + (d->w_kv ? 0 : kv_bytes(d, d->model_dim)) : 0;
}

int64_t qkv_layer_packed_kv(const qkv_layer_desc *d) {
    return d->w_kv ? kv_bytes(d, d->kv_dim) : 0;
}

int64_t qkv_layer_packed_o(const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    return d->w_o ? qkv_part_bytes(d->wo_type, a->num_heads * a->head_dim_v, d->out_features) : 0;
}

bool qkv_layer_attends(const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    bool rows = a->batch > 0 && a->seq_q > 0 && a->num_heads > 0;
    return rows && (d->cache || (a->head_dim_v > 0 && d->out_features > 0) || a->lse.data || a->probabilities.data ||
                    a->scores.data);
}

qkv_output qkv_layer_heads(int64_t tokens, int64_t heads, int64_t head_dim, float *data) {
    return (qkv_output){data, heads * tokens * head_dim, tokens * head_dim, head_dim};
}

/* clang-format off */
static qkv_projection_desc layer_projection(const qkv_layer_desc *d, const qkv_input *x, int64_t tokens,
                                            int64_t in_features, const void *packed, int64_t num_parts) {
    return (qkv_projection_desc){.size = sizeof(qkv_projection_desc), .batch = d->attention.batch, .tokens = tokens,
                                 .in_features = in_features, .num_parts = num_parts, .x = *x, .packed = packed,
                                 .arithmetic = d->arithmetic};
}

static qkv_projection_part layer_part(int64_t tokens, int64_t heads, int64_t head_dim, const float *bias, int64_t type,
                                      float *data) {
    return (qkv_projection_part){.out_features = heads * head_dim, .head_dim = head_dim, .bias = bias, .type = type,
                                 .out = qkv_layer_heads(tokens, heads, head_dim, data)};
}

/* Wk and Wv: a matrix of their own, or the panels behind those of Wq. */
static const void *packed_keys(const qkv_layer_desc *d) {
    const uintptr_t behind = (uintptr_t)d->w_qkv + (uintptr_t)q_bytes(d); /* as a number: a plan has any address */
    return d->w_kv ? d->w_kv : (const void *)behind;
}

qkv_head_steps qkv_layer_steps(const qkv_layer_desc *d, bool keys) {
    const qkv_attention_desc *a = &d->attention;
    int64_t end = a->flags & QKV_FROM_END && !d->cache ? a->seq_k - a->seq_q : 0, first; /* a cache brings its own */
    if (__builtin_add_overflow(end, a->q_offsets ? 0 : a->q_offset, &first))
        first = -1; /* which is none */
    qkv_head_steps steps = {.norm = d->norm_q, .norm_epsilon = d->norm_epsilon, .rotate = d->rope.cos != NULL,
                            .first_position = first, .first_positions = a->q_offsets,
                            .positions = d->positions_q};
    if (keys)
        steps = (qkv_head_steps){.norm = d->norm_k, .norm_epsilon = d->norm_epsilon, .rotate = d->rope.cos != NULL,
                                 .positions = d->positions_k};
    return steps;
}
/* clang-format on */

static void connect_projections(const qkv_layer_desc *d, const layer_tensors *tensors, float *base,
                                layer_calls *calls) {
    const qkv_attention_desc *a = &d->attention;
    int64_t keys = d->cache ? a->seq_q : a->seq_k, kv_heads = a->num_kv_heads;
    const qkv_projection_part k =
        layer_part(keys, kv_heads, a->head_dim, d->bias_k, d->wk_type, base ? base + tensors->k : NULL);
    const qkv_projection_part v =
        layer_part(keys, kv_heads, a->head_dim_v, d->bias_v, d->wv_type, base ? base + tensors->v : NULL);
    qkv_projection_desc *in = &calls->in;
    *in = layer_projection(d, &d->x, a->seq_q, d->model_dim, d->w_qkv, d->x_kv.data ? 1 : 3);
    in->part[0] =
        layer_part(a->seq_q, a->num_heads, a->head_dim, d->bias_q, d->wq_type, base ? base + tensors->q : NULL);
    in->steps[0] = qkv_layer_steps(d, false);
    in->rope = d->rope;
    if (d->x_kv.data) {
        calls->in_kv = layer_projection(d, &d->x_kv, keys, d->kv_dim, packed_keys(d), 2);
        calls->in_kv.part[0] = k;
        calls->in_kv.part[1] = v;
        calls->in_kv.steps[0] = qkv_layer_steps(d, true);
        calls->in_kv.rope = d->rope;
    } else {
        in->steps[1] = qkv_layer_steps(d, true);
        in->part[1] = k;
        in->part[2] = v;
    }
    calls->attention.q = qkv_as_input(&in->part[0].out);
    if (d->cache) {
        in->cache = d->cache;
        in->first_sequence = d->first_sequence;
        in->part[1].out.data = in->part[2].out.data = NULL;
        in->steps[1].store = QKV_STORE_K;
        in->steps[2].store = QKV_STORE_V;
        return;
    }
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
        calls->out = layer_projection(d, &from, a->seq_q, width, d->w_o, 1);
        calls->out.part[0] = (qkv_projection_part){.out_features = d->out_features,
                                                   .head_dim = d->out_features,
                                                   .bias = d->bias_o,
                                                   .out = d->out,
                                                   .type = d->wo_type};
    }
}

/* By themselves, as descriptors need much stack. runs: whether it has anything to do. */
static QKV_NOINLINE qkv_status cut_projection_of(const qkv_kernels *kernels, const qkv_projection_desc *desc,
                                                 int32_t max_workers, bool runs, qkv_projection_shape *shape) {
    qkv_projection_desc d;
    qkv_problem unused = {0};
    qkv_status status = qkv_projection_prepare(desc, &d, &unused);
    if (status == QKV_OK && runs)
        qkv_projection_cut(kernels, &d, max_workers, shape);
    return status;
}

static QKV_NOINLINE qkv_status cut_attention_of(const qkv_ctx *ctx, const qkv_attention_desc *desc, int32_t max_workers,
                                                qkv_attention_shape *shape) {
    qkv_attention_desc d;
    qkv_problem unused = {0};
    qkv_status status = qkv_attention_prepare(desc, &d, &unused);
    return status != QKV_OK ? status : qkv_attention_cut(ctx, &d, max_workers, shape);
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
        {&shape->tensors.k, keys * a->num_kv_heads * a->head_dim, d->w_qkv && !d->cache},
        {&shape->tensors.v, keys * a->num_kv_heads * a->head_dim_v, d->w_qkv && !d->cache},
        {&shape->tensors.heads, tokens * a->num_heads * a->head_dim_v, d->w_o},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        *tensors[i].offset = used;
        used += tensors[i].wanted ? qkv_round_up(tensors[i].floats, QKV_LANES) : 0;
    }
    shape->scratch = used;

    layer_calls calls;
    qkv_layer_connect(d, &shape->tensors, NULL, &calls);
    qkv_status status = QKV_OK;
    if (d->w_qkv)
        status = cut_projection_of(kernels, &calls.in, max_workers, true, &shape->in);
    if (status == QKV_OK && d->w_qkv && d->x_kv.data)
        status = cut_projection_of(kernels, &calls.in_kv, max_workers, tokens > 0, &shape->in_kv);
    if (status == QKV_OK)
        status = cut_attention_of(ctx, &calls.attention, max_workers, &shape->attention);
    if (status == QKV_OK && d->w_o)
        status = cut_projection_of(kernels, &calls.out, max_workers, true, &shape->out);
    if (status != QKV_OK)
        return status;

    /* Tasks of both run side by side: a worker has one place, behind what the tasks of each share. */
    shape->in.worker_size = shape->in_kv.worker_size = qkv_max(shape->in.worker_size, shape->in_kv.worker_size);
    shape->in_kv.shared = shape->in.shared_size;
    shape->in.workers = shape->in_kv.workers = shape->in.shared_size + shape->in_kv.shared_size;
    const int64_t workers[3] = {shape->in.worker_size, shape->attention.worker_size, shape->out.worker_size};
    const int64_t shared[3] = {shape->in.workers, shape->attention.packed_size + shape->attention.states_size,
                               shape->out.workers};
    int64_t scratch = 0;
    for (int i = 0; i < 3; i++) {
        int64_t factors[2] = {workers[i], max_workers}, size;
        if (shared[i] > QKV_MOST_WORKSPACE || !qkv_product(factors, 2, QKV_MOST_WORKSPACE, &size))
            return QKV_ERROR_OVERFLOW;
        scratch = qkv_max(scratch, shared[i] + size);
    }
    *workspace_size = (size_t)used * sizeof(float) + (size_t)scratch;
    return QKV_OK;
}

/* Of the first phase, if there is that one. */
static int64_t convert_tasks_in(const layer_shape *shape) {
    return shape->in.convert_tasks + shape->in_kv.convert_tasks;
}

static void qkv_layer_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                              int32_t worker) {
    const qkv_layer_desc *d = desc;
    layer_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    layer_calls calls;
    qkv_layer_connect(d, &shape.tensors, workspace, &calls);
    void *scratch = workspace ? (float *)workspace + shape.scratch : NULL;
    int64_t unused[3];
    if (d->w_qkv && convert_tasks_in(&shape) > 0 && phase-- == 0) {
        bool first = index < shape.in.convert_tasks;
        qkv_projection_convert(plan->kernels, first ? &shape.in : &shape.in_kv, first ? &calls.in : &calls.in_kv,
                               scratch, first ? index : index - shape.in.convert_tasks);
        return;
    }
    phase -= d->w_qkv ? 1 : 0;
    int32_t of_attention = qkv_attention_phases(&shape.attention, unused);
    if (phase < 0 && index < shape.in.num_tasks)
        qkv_projection_execute(plan->kernels, &shape.in, &calls.in, scratch, index, worker);
    else if (phase < 0)
        qkv_projection_execute(plan->kernels, &shape.in_kv, &calls.in_kv, scratch, index - shape.in.num_tasks, worker);
    else if (phase < of_attention)
        qkv_attention_execute(plan->kernels, &shape.attention, &calls.attention, scratch, phase, index, worker);
    else if (phase == of_attention && shape.out.convert_tasks > 0)
        qkv_projection_convert(plan->kernels, &shape.out, &calls.out, scratch, index);
    else
        qkv_projection_execute(plan->kernels, &shape.out, &calls.out, scratch, index, worker);
}

static uint64_t qkv_layer_checksum(const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    int64_t fields[QKV_ATTENTION_FIELDS + 25 + QKV_LAYER_STEPS_FIELDS];
    size_t n = qkv_attention_fields(a, fields);
    /* clang-format off */
    const int64_t more[] = {d->model_dim, d->out_features, d->x.batch, d->x.token, d->out.batch, d->out.token,
                            !!d->w_qkv, !!d->w_o, !!d->bias_q, !!d->bias_k, !!d->bias_v, !!d->bias_o, !!a->lse.data,
                            foreign_pointer(d) != NULL, d->kv_dim, d->x_kv.batch, d->x_kv.token, !!d->x_kv.data,
                            !!d->w_kv, !!d->cache, d->wq_type, d->wk_type, d->wv_type, d->wo_type, d->arithmetic};
    /* clang-format on */
    _Static_assert(sizeof more == 25 * sizeof(int64_t), "fields has room");
    memcpy(fields + n, more, sizeof more);
    n += sizeof more / sizeof more[0];
    qkv_layer_steps_fields(d, fields + n);
    return qkv_checksum(fields, n + QKV_LAYER_STEPS_FIELDS);
}

void qkv_layer_steps_fields(const qkv_layer_desc *d, int64_t fields[QKV_LAYER_STEPS_FIELDS]) {
    const int64_t own[] = {d->norm_q != NULL,    d->norm_k != NULL,    qkv_float_field(d->norm_epsilon),
                           d->reserved,          d->rope.cos != NULL,  d->positions_q.data != NULL,
                           d->positions_q.batch, d->positions_q.token, d->positions_k.data != NULL,
                           d->positions_k.batch, d->positions_k.token};
    _Static_assert(sizeof own == (QKV_LAYER_STEPS_FIELDS - QKV_ROPE_FIELDS) * sizeof(int64_t), "all are there");
    memcpy(fields, own, sizeof own);
    const qkv_rope none = {0};
    qkv_rope_fields(d->rope.cos ? &d->rope : &none, fields + sizeof own / sizeof own[0]);
}

void qkv_layer_steps_operands(qkv_operands *o, int role, const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    qkv_add_vector(o, role, "norm_q", d->norm_q, sizeof(float), a->head_dim);
    qkv_add_vector(o, role, "norm_k", d->norm_k, sizeof(float), a->head_dim);
    if (!d->rope.cos)
        return;
    qkv_add_rope(o, role, &d->rope);
    qkv_add_positions(o, role, "positions_q", &d->positions_q, a->batch, a->seq_q, -1);
    qkv_add_positions(o, role, "positions_k", &d->positions_k, a->batch, d->cache ? a->seq_q : a->seq_k, -1);
}

qkv_status qkv_layer_check_positions(const qkv_layer_desc *d, qkv_problem *why) {
    static const char *const q_names[3] = {"attention.q_offset", "attention.q_offsets", "positions_q"};
    static const char *const k_names[3] = {"attention.seq_k", "attention.seq_k", "positions_k"};
    const qkv_attention_desc *a = &d->attention;
    const qkv_head_steps q = qkv_layer_steps(d, false), k = qkv_layer_steps(d, true);
    qkv_status status = d->rope.cos && a->head_dim > 0
                            ? qkv_check_positions(&q, &d->rope, a->batch, a->seq_q, q_names, -1, why)
                            : QKV_OK;
    if (status == QKV_OK && d->rope.cos && a->head_dim > 0 && a->num_kv_heads > 0)
        status = qkv_check_positions(&k, &d->rope, a->batch, a->seq_k, k_names, -1, why);
    return status;
}

/* What a run finds in the cache: room, positions, pages. */
static QKV_NOINLINE qkv_status check_cached(const qkv_layer_desc *d, qkv_problem *why) {
    const layer_tensors unused = {0};
    layer_calls calls;
    qkv_cache_view cache;
    qkv_layer_connect(d, &unused, NULL, &calls);
    qkv_status status = qkv_projection_check_values(&calls.in, &cache, why);
    return status == QKV_OK ? qkv_attention_check_values(&calls.attention, why) : status;
}

static qkv_status check_layer_values(const qkv_layer_desc *d, qkv_problem *why) {
    if (!qkv_layer_attends(d))
        return QKV_OK;
    return d->cache ? check_cached(d, why) : qkv_layer_check_positions(d, why);
}

static void qkv_layer_operands(qkv_operands *o, const qkv_layer_desc *d) {
    const qkv_attention_desc *a = &d->attention;
    const int64_t rows[3] = {a->batch, 1, a->seq_q}, keys[3] = {a->batch, 1, a->seq_k};
    int in = qkv_layer_attends(d) ? QKV_NEEDED : 0;
    /* Projected, x is read in a phase before the others. */
    qkv_add_input(o, in, "x", d->x, rows, d->model_dim)->itself = d->w_qkv ? 1 : 0;
    if (d->x_kv.data)
        qkv_add_input(o, in, "x_kv", d->x_kv, keys, d->kv_dim);
    qkv_add_packed(o, in, "w_qkv", d->w_qkv, qkv_layer_packed_qkv(d));
    qkv_add_packed(o, in, "w_kv", d->w_kv, qkv_layer_packed_kv(d));
    qkv_add_vector(o, in, "bias_q", d->bias_q, sizeof(float), a->num_heads * a->head_dim);
    qkv_add_vector(o, in, "bias_k", d->bias_k, sizeof(float), a->num_kv_heads * a->head_dim);
    qkv_add_vector(o, in, "bias_v", d->bias_v, sizeof(float), a->num_kv_heads * a->head_dim_v);
    qkv_layer_steps_operands(o, in, d);
    qkv_add_packed(o, QKV_NEEDED, "w_o", d->w_o, qkv_layer_packed_o(d));
    qkv_add_vector(o, QKV_NEEDED, "bias_o", d->bias_o, sizeof(float), d->out_features);
    qkv_add_output(o, QKV_NEEDED, "out", d->out, rows, d->out_features)->itself = d->w_qkv ? 1 : 0;
    qkv_cache_view cache;
    if (d->cache && qkv_cache_open(d->cache, &cache) == QKV_OK)
        qkv_add_packed(o, QKV_NEEDED | QKV_OUTPUT, "cache", d->cache, cache.bytes);
    o->within = QKV_IN_ATTENTION;
    qkv_attention_optional_outputs(o, a);
    qkv_attention_options(o, a);
}

static QKV_NOINLINE qkv_status qkv_layer_make_plan(const qkv_ctx *ctx, const qkv_layer_desc *d, qkv_plan *plan) {
    layer_shape shape;
    qkv_status status = cut_layer(ctx, d, plan->max_workers, &shape, &plan->workspace_size);
    if (status != QKV_OK)
        return status;
    if (d->w_qkv && convert_tasks_in(&shape) > 0)
        plan->num_tasks[plan->num_phases++] = convert_tasks_in(&shape);
    if (d->w_qkv)
        plan->num_tasks[plan->num_phases++] = shape.in.num_tasks + shape.in_kv.num_tasks;
    plan->num_phases += qkv_attention_phases(&shape.attention, plan->num_tasks + plan->num_phases);
    if (!qkv_layer_attends(d))
        memset(plan->num_tasks, 0, sizeof plan->num_tasks);
    if (d->w_o && shape.out.convert_tasks > 0)
        plan->num_tasks[plan->num_phases++] = shape.out.convert_tasks;
    if (d->w_o)
        plan->num_tasks[plan->num_phases++] = shape.out.num_tasks;
    _Static_assert(sizeof shape <= sizeof plan->geometry, "the plan holds the shape");
    memcpy(plan->geometry, &shape, sizeof shape);
    return QKV_OK;
}

#define CHECK_VALUES(operands, d, why) check_layer_values(d, why)
#define QKV_OP(name) qkv_layer_##name
#define DESC qkv_layer_desc
#define OPERATION QKV_LAYER
#include "../shell.inc.h"

#endif
