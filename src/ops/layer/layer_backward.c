/* Gradients of a whole layer: its forward once more, up to the heads' outputs, then the gradients of its operations
 * from the last to the first, all through the library's own functions over one workspace.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "layer_backward.h"

#if QKV_WITH(BACKWARD) && QKV_WITH(LAYER)

/* One operation's descriptor. */
typedef union inner_call {
    qkv_projection_desc projection;
    qkv_attention_desc attention;
    qkv_projection_backward_desc projection_backward;
    qkv_attention_backward_desc attention_backward;
} inner_call;

static bool wants(const qkv_weight_grad *g) {
    return g->data || g->bias;
}

static bool wants_q(const qkv_layer_backward_desc *d) {
    return d->grad_x.data || wants(&d->grad_q) || d->grad_norm_q;
}

/* Whether the gradient of what K and V come from is wanted. */
static bool wants_x_kv(const qkv_layer_backward_desc *d) {
    return d->forward.x_kv.data ? d->grad_x_kv.data : d->grad_x.data;
}

static bool wants_k(const qkv_layer_backward_desc *d) {
    return wants_x_kv(d) || wants(&d->grad_k) || d->grad_norm_k;
}

bool qkv_layer_wants_heads(const qkv_layer_backward_desc *d, bool keys) {
    return keys ? wants_k(d) : wants_q(d);
}

static bool wants_v(const qkv_layer_backward_desc *d) {
    return wants_x_kv(d) || wants(&d->grad_v);
}

static bool wants_attention(const qkv_layer_backward_desc *d) {
    return wants_q(d) || wants_k(d) || wants_v(d) || d->grad_bias.data || d->grad_sinks;
}

static bool wants_operation(const qkv_layer_backward_desc *d, enum operation operation) {
    const qkv_attention_desc *a = &d->forward.attention;
    bool weights_out = d->forward.w_o && wants(&d->grad_o), attention = wants_attention(d);
    bool keys = wants_k(d) || wants_v(d), input = wants_q(d) || keys, cross = d->forward.x_kv.data;
    bool rows = a->batch > 0 && a->seq_q > 0 && a->num_heads > 0;
    bool norm = d->forward.norm_q || d->forward.norm_k, steps = norm || d->forward.rope.cos;
    bool heads = weights_out && d->grad_o.data && a->head_dim_v > 0 && d->forward.out_features > 0;
    switch (operation) {
    case PROJECT: return d->forward.w_qkv && rows && (heads || attention);
    case PROJECT_KV: return d->forward.w_qkv && cross && rows && (heads || attention);
    case STEPS: return norm && rows && (heads || attention);
    case ATTEND: return rows && (heads || attention);
    case HEADS: return d->forward.w_o && attention;
    case WEIGHTS_OUT: return weights_out;
    case ATTENTION: return attention;
    case STEPS_BACK: return steps && (wants_q(d) || wants_k(d));
    case NORM_WEIGHTS: return d->grad_norm_q || d->grad_norm_k;
    case INPUT: return d->forward.w_qkv && (cross ? wants_q(d) : input);
    case INPUT_KV: return d->forward.w_qkv && cross && keys;
    default: return !d->forward.w_qkv && (d->grad_x.data || d->grad_x_kv.data);
    }
}

enum {
    LAYER_GRADIENTS = QKV_ACCUMULATE_Q | QKV_ACCUMULATE_K | QKV_ACCUMULATE_V | QKV_ACCUMULATE_O | QKV_ACCUMULATE_BIAS |
                      QKV_ACCUMULATE_SINKS | QKV_ACCUMULATE_X | QKV_ACCUMULATE_X_KV
};

static qkv_status qkv_layer_backward_complete(const qkv_layer_backward_desc *desc, qkv_layer_backward_desc *d,
                                              qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    if (status != QKV_OK)
        return status;
    size_t size = d->forward.size;
    qkv_enter(why, "forward.");
    status = qkv_import_inner(&d->forward.size, sizeof d->forward,
                              desc->size - offsetof(qkv_layer_backward_desc, forward), why);
    if (status == QKV_OK)
        status = qkv_layer_complete_inner(&d->forward, size, why);
    if (status != QKV_OK)
        return status;
    qkv_leave(why);
    d->flags = qkv_accumulated(d->flags, LAYER_GRADIENTS);
    const qkv_attention_desc *a = &d->forward.attention;
    qkv_settle_input(&d->grad_out, a->batch, 1, a->seq_q, d->forward.out_features);
    qkv_settle_output(&d->grad_x, a->batch, 1, a->seq_q, d->forward.model_dim);
    qkv_settle_output(&d->grad_x_kv, a->batch, 1, a->seq_k, d->forward.kv_dim);
    qkv_settle_bias_gradient(&d->grad_bias, a);
    return QKV_OK;
}

static qkv_status qkv_layer_backward_validate(const qkv_layer_backward_desc *d, qkv_problem *why) {
    qkv_enter(why, "forward.");
    qkv_status status = qkv_layer_validate(&d->forward, why);
    if (status != QKV_OK)
        return status;
    if (d->forward.cache)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "cache", -1, "must be NULL in gradients", 0, 0);
    const int64_t arithmetic = d->forward.attention.arithmetic;
    if (arithmetic != QKV_ARITHMETIC_F32 && arithmetic != QKV_ARITHMETIC_BF16)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "attention.arithmetic", -1, "is none of gradients (%)", arithmetic, 0);
    if (d->forward.attention.first_tokens != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "attention.first_tokens", -1, "must be 0 in gradients", 0, 0);
    const qkv_layer_desc *f = &d->forward;
    const char *type = f->wq_type      ? "wq_type"
                       : f->wk_type    ? "wk_type"
                       : f->wv_type    ? "wv_type"
                       : f->wo_type    ? "wo_type"
                       : f->arithmetic ? "arithmetic"
                                       : NULL;
    if (type)
        return qkv_refuse(why, QKV_ERROR_FLAGS, type, -1, "is not 0, but gradients take weights in floats", 0, 0);
    qkv_leave(why);
    if ((d->flags & ~(uint32_t)(QKV_ACCUMULATE | LAYER_GRADIENTS)) != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "flags", -1, "has unknown bits (%)",
                          d->flags & ~(uint32_t)(QKV_ACCUMULATE | LAYER_GRADIENTS), 0);
    if (d->reserved != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "reserved", -1, "is not 0 (%)", d->reserved, 0);
    const struct {
        const char *field;
        const qkv_weight_grad *grad;
        const void *weights;
    } grads[] = {{"grad_q", &d->grad_q, d->forward.w_qkv},
                 {"grad_k", &d->grad_k, d->forward.w_qkv},
                 {"grad_v", &d->grad_v, d->forward.w_qkv},
                 {"grad_o", &d->grad_o, d->forward.w_o}};
    for (size_t i = 0; i < sizeof grads / sizeof grads[0]; i++) {
        const qkv_weight_grad *g = grads[i].grad;
        if (!grads[i].weights && wants(g))
            return qkv_refuse(why, QKV_ERROR_SHAPE, grads[i].field, -1,
                              i < 3 ? "must be NULL without forward.w_qkv" : "must be NULL without forward.w_o", 0, 0);
        if (g->layout != QKV_IN_OUT && g->layout != QKV_OUT_IN)
            return qkv_refuse(why, QKV_ERROR_FLAGS, grads[i].field, -1, "has layout %, which is none", g->layout, 0);
    }
    if ((d->grad_norm_q && !d->forward.norm_q) || (d->grad_norm_k && !d->forward.norm_k))
        return qkv_refuse(why, QKV_ERROR_SHAPE, d->grad_norm_q && !d->forward.norm_q ? "grad_norm_q" : "grad_norm_k",
                          -1, "must be NULL without the weights in forward", 0, 0);
    if (d->grad_x_kv.data && !d->forward.x_kv.data)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "grad_x_kv", -1, "must be NULL without forward.x_kv", 0, 0);
    return QKV_OK;
}

/* While a plan is made there is no workspace, but which tensors there are is part of the plans of the operations. */
static float *place(float *base, int64_t offset) {
    static const float somewhere = 0;
    return base ? base + offset : (float *)(uintptr_t)&somewhere;
}

/* The attention of the forward, which leaves out and lse in the workspace. */
static void connect_attention(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, float *base,
                              layer_calls *calls) {
    qkv_attention_desc *a = &calls->attention;
    qkv_layer_connect(&d->forward, &shape->tensors, base, calls);
    int64_t width = a->num_heads * a->head_dim_v;
    a->out = (qkv_output){place(base, shape->tensors.heads), a->seq_q * width, a->head_dim_v, width};
    a->lse = (qkv_output){place(base, shape->lse), a->num_heads * a->seq_q, a->seq_q, 1};
    a->probabilities.data = a->scores.data = NULL;
    qkv_projection_desc *k = d->forward.x_kv.data ? &calls->in_kv : &calls->in;
    int key_part = d->forward.x_kv.data ? 0 : 1;
    if (d->forward.norm_q) {
        calls->in.part[0].out.data = place(base, shape->plain_q);
        calls->in.steps[0] = (qkv_head_steps){0};
    }
    if (d->forward.norm_k) {
        k->part[key_part].out.data = place(base, shape->plain_k);
        k->steps[key_part] = (qkv_head_steps){0};
    }
}

/* dQ, dK and dV. */
static void place_gradients(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, float *base,
                            qkv_output grads[3]) {
    const qkv_attention_desc *a = &d->forward.attention;
    grads[0] = qkv_layer_heads(a->seq_q, a->num_heads, a->head_dim, wants_q(d) ? place(base, shape->grad_q) : NULL);
    grads[1] = qkv_layer_heads(a->seq_k, a->num_kv_heads, a->head_dim, wants_k(d) ? place(base, shape->grad_k) : NULL);
    grads[2] =
        qkv_layer_heads(a->seq_k, a->num_kv_heads, a->head_dim_v, wants_v(d) ? place(base, shape->grad_v) : NULL);
}

static QKV_NOINLINE void connect_gradients(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, float *base,
                                           const layer_calls *calls, qkv_attention_backward_desc *g) {
    const qkv_attention_desc *a = &calls->attention;
    const uint32_t flags = d->flags & (QKV_ACCUMULATE_BIAS | QKV_ACCUMULATE_SINKS);
    *g = (qkv_attention_backward_desc){.size = sizeof *g, .flags = flags, .forward = *a};
    g->grad_out = d->grad_out;
    g->grad_out.head = a->head_dim_v;
    if (d->forward.w_o)
        g->grad_out = (qkv_input){place(base, shape->grad_heads), a->out.batch, a->out.head, a->out.token};
    qkv_output grads[3];
    place_gradients(d, shape, base, grads);
    g->grad_q = grads[0];
    g->grad_k = grads[1];
    g->grad_v = grads[2];
    g->grad_bias = d->grad_bias;
    g->grad_sinks = d->grad_sinks;
}

static QKV_NOINLINE void connect_output(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, float *base,
                                        enum operation operation, const layer_calls *calls,
                                        qkv_projection_backward_desc *g) {
    const qkv_attention_desc *a = &calls->attention;
    *g = (qkv_projection_backward_desc){.size = sizeof *g, .forward = calls->out};
    g->forward.x = qkv_as_input(&a->out);
    g->forward.part[0].out = (qkv_output){0};
    g->grad_out[0] = d->grad_out;
    if (operation == HEADS) {
        g->grad_x = (qkv_output){place(base, shape->grad_heads), a->out.batch, 0, a->out.token};
    } else {
        g->flags = d->flags & QKV_ACCUMULATE_O ? QKV_ACCUMULATE_PART(0) : 0;
        g->grad[0] = d->grad_o;
    }
}

/* Of Q, K and V from x, or in cross-attention of Q from x (INPUT), of K and V from x_kv (INPUT_KV). */
static QKV_NOINLINE void connect_input(const qkv_layer_backward_desc *d, enum operation operation,
                                       const layer_calls *calls, const qkv_output outs[3],
                                       qkv_projection_backward_desc *g) {
    bool keys = operation == INPUT_KV;
    bool add = d->flags & (keys ? QKV_ACCUMULATE_X_KV : QKV_ACCUMULATE_X);
    *g = (qkv_projection_backward_desc){.size = sizeof *g,
                                        .flags = add ? QKV_ACCUMULATE_X : 0,
                                        .grad_x = keys ? d->grad_x_kv : d->grad_x,
                                        .forward = keys ? calls->in_kv : calls->in};
    const uint32_t bits[3] = {QKV_ACCUMULATE_Q, QKV_ACCUMULATE_K, QKV_ACCUMULATE_V};
    const qkv_weight_grad grads[3] = {d->grad_q, d->grad_k, d->grad_v};
    memset(g->forward.steps, 0, sizeof g->forward.steps); /* they have been undone */
    for (int i = 0, part = keys ? 1 : 0; i < g->forward.num_parts; i++, part++) {
        g->flags |= d->flags & bits[part] ? QKV_ACCUMULATE_PART(i) : 0;
        g->grad[i] = grads[part];
        g->grad_out[i] = qkv_as_input(&outs[part]);
    }
}

/* The descriptor of an operation that is one of the library's own. */
static void connect(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, float *base,
                    enum operation operation, inner_call *c) {
    layer_calls calls;
    connect_attention(d, shape, base, &calls);
    qkv_output gradients[3];
    switch (operation) {
    case PROJECT: c->projection = calls.in; break;
    case PROJECT_KV: c->projection = calls.in_kv; break;
    case ATTEND: c->attention = calls.attention; break;
    case ATTENTION: connect_gradients(d, shape, base, &calls, &c->attention_backward); break;
    case INPUT:
    case INPUT_KV:
        place_gradients(d, shape, base, gradients);
        connect_input(d, operation, &calls, gradients, &c->projection_backward);
        break;
    default: connect_output(d, shape, base, operation, &calls, &c->projection_backward); break;
    }
}

/* --------------------------------------------------------------------------------------------------------- SUM */

/* Floats of dQ, dK and dV. */
static int64_t q_floats(const qkv_attention_desc *a, int64_t dim) {
    return a->batch * a->num_heads * a->seq_q * dim;
}

static int64_t kv_floats(const qkv_attention_desc *a, int64_t dim) {
    return a->batch * a->num_kv_heads * a->seq_k * dim;
}

/* What of raw attention's gradients goes into an x: dQ (part 0), dK and dV. */
typedef struct raw_sum {
    const qkv_output *to;
    bool accumulate;
    int64_t tokens, chunks; /* chunks: tasks */
    int first_part, end_part;
} raw_sum;

static raw_sum raw_sum_of(const qkv_layer_backward_desc *d, bool keys) {
    const qkv_attention_desc *a = &d->forward.attention;
    raw_sum s = {.to = &d->grad_x,
                 .accumulate = d->flags & QKV_ACCUMULATE_X,
                 .tokens = a->seq_q,
                 .end_part = d->forward.x_kv.data ? 1 : 3};
    if (keys)
        s = (raw_sum){.to = &d->grad_x_kv,
                      .accumulate = d->flags & QKV_ACCUMULATE_X_KV,
                      .tokens = a->seq_k,
                      .first_part = 1,
                      .end_part = 3};
    s.chunks = s.to->data && d->forward.model_dim > 0 ? a->batch * qkv_ceil_div(s.tokens, SUM_ROWS) : 0;
    return s;
}

/* dX of raw attention: Σ dQ over the heads, then Σ dK, then Σ dV over the KV heads. */
static void sum(const qkv_kernels *kernels, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                float *base, int64_t index) {
    const qkv_attention_desc *a = &d->forward.attention;
    raw_sum s = raw_sum_of(d, false);
    if (index >= s.chunks) {
        index -= s.chunks;
        s = raw_sum_of(d, true);
    }
    int64_t chunks = qkv_ceil_div(s.tokens, SUM_ROWS), b = index / chunks, first = index % chunks * SUM_ROWS;
    size_t rows = (size_t)qkv_min(SUM_ROWS, s.tokens - first), dim = (size_t)d->forward.model_dim;
    const int64_t offset[3] = {shape->grad_q, shape->grad_k, shape->grad_v};
    const int64_t heads[3] = {a->num_heads, a->num_kv_heads, a->num_kv_heads};
    float *to = (float *)s.to->data + b * s.to->batch + first * s.to->token;
    for (size_t i = 0; i < rows; i++) {
        float *row = to + (int64_t)i * s.to->token;
        if (s.accumulate)
            qkv_scale_row(kernels, row, row, 1.0f, dim);
        else
            memset(row, 0, dim * sizeof(float));
    }
    for (int part = s.first_part; part < s.end_part; part++) {
        for (int64_t h = 0; h < heads[part]; h++) {
            int64_t at = ((b * heads[part] + h) * s.tokens + first) * (int64_t)dim;
            kernels->add(to, s.to->token, base + offset[part] + at, (int64_t)dim, rows, dim);
        }
    }
}

/* -------------------------------------------------------------------------------------------------------- plan */

static qkv_status plan_operation(const qkv_ctx *ctx, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                                 enum operation operation, int32_t max_workers, qkv_plan *plan) {
    if (operation == SUM) {
        int64_t chunks = raw_sum_of(d, false).chunks + raw_sum_of(d, true).chunks;
        *plan = (qkv_plan){.num_phases = 1, .num_tasks = {chunks}};
        return QKV_OK;
    }
    if (operation == STEPS || operation == STEPS_BACK || operation == NORM_WEIGHTS) {
        const layer_heads q = qkv_layer_heads_of(d, shape, false), k = qkv_layer_heads_of(d, shape, true);
        bool steps = operation == STEPS, norm = operation == NORM_WEIGHTS, back = wants_operation(d, ATTEND);
        int64_t tasks = steps ? (q.steps.norm ? q.tasks : 0) + (k.steps.norm ? k.tasks : 0) : q.tasks + k.tasks;
        *plan = (qkv_plan){.num_phases = 1, .num_tasks = {norm ? 2 : steps || back ? tasks : 0}};
        plan->workspace_size = (size_t)(operation == STEPS_BACK ? max_workers * qkv_layer_steps_scratch(d) : 0);
        return QKV_OK;
    }
    inner_call c;
    connect(d, shape, NULL, operation, &c);
    switch (operation) {
    case PROJECT:
    case PROJECT_KV: return qkv_projection_plan(ctx, &c.projection, max_workers, plan);
    case ATTEND: return qkv_attention_plan(ctx, &c.attention, max_workers, plan);
    case ATTENTION: return qkv_attention_backward_plan(ctx, &c.attention_backward, max_workers, plan);
    default: return qkv_projection_backward_plan(ctx, &c.projection_backward, max_workers, plan);
    }
}

static void run_task(const qkv_plan *plan, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                     enum operation operation, float *base, int32_t phase, int64_t index, int32_t worker) {
    void *scratch = base ? base + shape->scratch : NULL;
    inner_call c;
    connect(d, shape, base, operation, &c);
    switch (operation) {
    case PROJECT:
    case PROJECT_KV: qkv_projection_task(plan, &c.projection, scratch, phase, index, worker); break;
    case ATTEND: qkv_attention_task(plan, &c.attention, scratch, phase, index, worker); break;
    case ATTENTION: qkv_attention_backward_task(plan, &c.attention_backward, scratch, phase, index, worker); break;
    default: qkv_projection_backward_task(plan, &c.projection_backward, scratch, phase, index, worker); break;
    }
}

/* The operations' own plans don't fit into this one; they are made anew, which costs little beside a task. */
static void qkv_layer_backward_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase,
                                       int64_t index, int32_t worker) {
    const qkv_layer_backward_desc *d = desc;
    layer_grad_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    int operation = 0;
    while (phase >= shape.phases[operation])
        phase -= (int32_t)shape.phases[operation++];
    if (operation == SUM) {
        sum(plan->kernels, d, &shape, workspace, index);
    } else if (operation == STEPS) {
        qkv_layer_apply_steps(plan->kernels, d, &shape, workspace, index);
    } else if (operation == STEPS_BACK) {
        qkv_layer_differentiate_steps(plan->kernels, d, &shape, workspace, index, worker);
    } else if (operation == NORM_WEIGHTS) {
        qkv_layer_sum_norm(plan->kernels, d, &shape, workspace, index);
    } else {
        const qkv_ctx ctx = {.kernels = plan->kernels,
                             .l1d_size = shape.cache_sizes[0],
                             .l2_size = shape.cache_sizes[1],
                             .l3_size = shape.cache_sizes[2]};
        qkv_plan inner;
        if (plan_operation(&ctx, d, &shape, (enum operation)operation, plan->max_workers, &inner) == QKV_OK)
            run_task(&inner, d, &shape, (enum operation)operation, workspace, phase, index, worker);
    }
}

static void place_tensors(const qkv_layer_backward_desc *d, layer_grad_shape *shape) {
    const qkv_attention_desc *a = &d->forward.attention;
    int64_t q = q_floats(a, a->head_dim), k = kv_floats(a, a->head_dim), v = kv_floats(a, a->head_dim_v);
    int64_t out = q_floats(a, a->head_dim_v);
    bool attend = wants_operation(d, ATTEND), project = wants_operation(d, PROJECT);
    int64_t row = qkv_layer_norm_floats(a->head_dim);
    int64_t q_sums = a->batch * a->num_heads * qkv_ceil_div(a->seq_q, SUM_ROWS) * row;
    int64_t k_sums = a->batch * a->num_kv_heads * qkv_ceil_div(a->seq_k, SUM_ROWS) * row;
    const struct {
        int64_t *offset, floats;
        bool wanted;
    } tensors[] = {
        {&shape->tensors.q, q, project},
        {&shape->tensors.k, k, project},
        {&shape->tensors.v, v, project},
        {&shape->tensors.heads, out, attend},
        {&shape->lse, a->batch * a->num_heads * a->seq_q, attend},
        {&shape->grad_heads, out, wants_operation(d, HEADS)},
        {&shape->grad_q, q, wants_q(d)},
        {&shape->grad_k, k, wants_k(d)},
        {&shape->grad_v, v, wants_v(d)},
        {&shape->plain_q, q, project && d->forward.norm_q},
        {&shape->plain_k, k, project && d->forward.norm_k},
        {&shape->norm_q, q_sums, d->grad_norm_q},
        {&shape->norm_k, k_sums, d->grad_norm_k},
    };
    int64_t used = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        *tensors[i].offset = used;
        used += tensors[i].wanted ? qkv_round_up(tensors[i].floats, QKV_LANES) : 0;
    }
    shape->scratch = used;
}

static uint64_t qkv_layer_backward_checksum(const qkv_layer_backward_desc *d) {
    const qkv_layer_desc *f = &d->forward;
    const qkv_attention_desc *a = &f->attention;
    const qkv_weight_grad *g[4] = {&d->grad_q, &d->grad_k, &d->grad_v, &d->grad_o};
    int64_t fields[QKV_ATTENTION_FIELDS + 58 + QKV_LAYER_STEPS_FIELDS];
    size_t n = qkv_attention_fields(a, fields);
    const int64_t more[] = {
        d->flags,          d->reserved,         f->model_dim,       f->out_features,
        f->x.batch,        f->x.token,          !!f->w_qkv,         !!f->w_o,
        !!f->bias_q,       !!f->bias_k,         !!f->bias_v,        !!f->bias_o,
        d->grad_out.batch, d->grad_out.token,   d->grad_x.batch,    d->grad_x.token,
        !!d->grad_x.data,  d->grad_bias.batch,  d->grad_bias.head,  d->grad_bias.query,
        d->grad_bias.key,  !!d->grad_bias.data, !!d->grad_sinks,    a->q.data || a->k.data || a->v.data || a->out.data,
        f->kv_dim,         f->x_kv.batch,       f->x_kv.token,      !!f->x_kv.data,
        !!f->w_kv,         d->grad_x_kv.batch,  d->grad_x_kv.token, !!d->grad_x_kv.data,
        !!d->grad_norm_q,  !!d->grad_norm_k,    f->wq_type,         f->wk_type,
        f->wv_type,        f->wo_type,          f->arithmetic};
    _Static_assert(sizeof more / sizeof more[0] + 16 <= 58, "fields has room");
    memcpy(fields + n, more, sizeof more);
    n += sizeof more / sizeof more[0];
    for (int i = 0; i < 4; i++) {
        const int64_t grad[4] = {g[i]->stride, g[i]->layout, !!g[i]->data, !!g[i]->bias};
        memcpy(fields + n, grad, sizeof grad);
        n += 4;
    }
    qkv_layer_steps_fields(f, fields + n);
    return qkv_checksum(fields, n + QKV_LAYER_STEPS_FIELDS);
}

static qkv_status check_gradient_values(const qkv_layer_backward_desc *d, qkv_problem *why) {
    bool steps = wants_operation(d, PROJECT) || wants_operation(d, STEPS_BACK);
    qkv_enter(why, "forward.");
    qkv_status status = steps ? qkv_layer_check_positions(&d->forward, why) : QKV_OK;
    if (status == QKV_OK)
        qkv_leave(why);
    return status;
}

static void qkv_layer_backward_operands(qkv_operands *o, const qkv_layer_backward_desc *d) {
    const qkv_layer_desc *f = &d->forward;
    const qkv_attention_desc *a = &f->attention;
    const int64_t rows[3] = {a->batch, 1, a->seq_q}, keys[3] = {a->batch, 1, a->seq_k};
    int64_t q = a->num_heads * a->head_dim, k = a->num_kv_heads * a->head_dim, v = a->num_kv_heads * a->head_dim_v;
    bool q_weights = d->grad_q.data && q > 0, kv_weights = (d->grad_k.data && k > 0) || (d->grad_v.data && v > 0);
    bool attends = wants_operation(d, ATTEND), cross = f->x_kv.data;
    int used = attends ? QKV_NEEDED : 0, packed = wants_attention(d) || attends ? QKV_NEEDED : 0;
    int x = attends || q_weights || (kv_weights && !cross) ? QKV_NEEDED : 0;
    int x_kv = attends || kv_weights ? QKV_NEEDED : 0;
    qkv_add_input(o, QKV_NEEDED, "grad_out", d->grad_out, rows, f->out_features);
    if (d->grad_x.data)
        qkv_add_output(o, QKV_NEEDED, "grad_x", d->grad_x, rows, f->model_dim);
    if (d->grad_x_kv.data)
        qkv_add_output(o, QKV_NEEDED, "grad_x_kv", d->grad_x_kv, keys, f->kv_dim);
    qkv_add_weight_grad(o, "grad_q", "grad_q.bias", &d->grad_q, f->model_dim, q, 0);
    qkv_add_weight_grad(o, "grad_k", "grad_k.bias", &d->grad_k, f->kv_dim, k, 0);
    qkv_add_weight_grad(o, "grad_v", "grad_v.bias", &d->grad_v, f->kv_dim, v, 0);
    qkv_add_weight_grad(o, "grad_o", "grad_o.bias", &d->grad_o, a->num_heads * a->head_dim_v, f->out_features, 0);
    if (d->grad_bias.data)
        qkv_gradient_add_bias(o, a, &d->grad_bias);
    if (d->grad_sinks)
        qkv_add_operand(o, QKV_NEEDED | QKV_OUTPUT, "grad_sinks", d->grad_sinks, sizeof(float), 0, NULL, NULL,
                        a->num_heads);
    if (d->grad_norm_q)
        qkv_add_operand(o, QKV_NEEDED | QKV_OUTPUT, "grad_norm_q", d->grad_norm_q, sizeof(float), 0, NULL, NULL,
                        a->head_dim);
    if (d->grad_norm_k)
        qkv_add_operand(o, QKV_NEEDED | QKV_OUTPUT, "grad_norm_k", d->grad_norm_k, sizeof(float), 0, NULL, NULL,
                        a->head_dim);
    o->within = QKV_IN_FORWARD;
    qkv_layer_steps_operands(o, used, f);
    qkv_add_input(o, x, "x", f->x, rows, f->model_dim);
    if (cross)
        qkv_add_input(o, x_kv, "x_kv", f->x_kv, keys, f->kv_dim);
    qkv_add_packed(o, packed, "w_qkv", f->w_qkv, qkv_layer_packed_qkv(f));
    qkv_add_packed(o, packed, "w_kv", f->w_kv, qkv_layer_packed_kv(f));
    qkv_add_vector(o, used, "bias_q", f->bias_q, sizeof(float), q);
    qkv_add_vector(o, used, "bias_k", f->bias_k, sizeof(float), k);
    qkv_add_vector(o, used, "bias_v", f->bias_v, sizeof(float), v);
    qkv_add_packed(o, packed, "w_o", f->w_o, qkv_layer_packed_o(f));
    o->within = QKV_IN_FORWARD_ATTENTION;
    qkv_attention_options(o, a);
}

/* Appends the stages of an operation to the plan's. */
static qkv_status append_stages(qkv_plan *plan, int32_t *stage, const qkv_plan *inner) {
    for (int32_t i = 0, phase = 0; phase < inner->num_phases; phase += 1 + inner->more_phases[i++]) {
        if (*stage == QKV_MAX_STAGES)
            return QKV_ERROR_OVERFLOW;
        plan->num_tasks[*stage] = inner->num_tasks[i];
        plan->more_phases[(*stage)++] = inner->more_phases[i];
    }
    plan->num_phases += inner->num_phases;
    return QKV_OK;
}

static qkv_status qkv_layer_backward_make_plan(const qkv_ctx *ctx, const qkv_layer_backward_desc *d, qkv_plan *plan) {
    layer_grad_shape shape = {.cache_sizes = {ctx->l1d_size, ctx->l2_size, ctx->l3_size}};
    place_tensors(d, &shape);
    size_t scratch = 0;
    int32_t stage = 0;
    for (int operation = 0; operation < NUM_OPERATIONS; operation++) {
        qkv_plan inner;
        if (!wants_operation(d, (enum operation)operation))
            continue;
        qkv_status status = plan_operation(ctx, d, &shape, (enum operation)operation, plan->max_workers, &inner);
        if (status == QKV_OK)
            status = append_stages(plan, &stage, &inner);
        if (status != QKV_OK)
            return status;
        shape.phases[operation] = inner.num_phases;
        scratch = inner.workspace_size > scratch ? inner.workspace_size : scratch;
    }
    if (scratch > PTRDIFF_MAX / 4 || shape.scratch > PTRDIFF_MAX / 4 / (int64_t)sizeof(float))
        return QKV_ERROR_OVERFLOW;
    plan->workspace_size = (size_t)shape.scratch * sizeof(float) + scratch;
    _Static_assert(sizeof shape <= sizeof plan->geometry, "the plan holds the shape");
    memcpy(plan->geometry, &shape, sizeof shape);
    return QKV_OK;
}

#define CHECK_VALUES(operands, d, why) check_gradient_values(d, why)
#define QKV_OP(name) qkv_layer_backward_##name
#define DESC qkv_layer_backward_desc
#define OPERATION QKV_LAYER_BACKWARD
#include "../shell.inc.h"

#endif
