/* Gradients of Y = X·W + bias: dX = dY·Wᵀ, dW = Xᵀ·dY, dbias = Σ dY.
 *
 * Three phases. The first packs W's panels once more, transposed, which are then to dX what W's are to Y. The second
 * sums dX in blocks of rows, part after part, in chains of 128 columns. The third sums dW and dbias in blocks, in
 * chains of 128 tokens, all batches being one run of tokens. Rows are gathered to where they are aligned: whatever the
 * strides, the products see the same few layouts.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "../../ref/scalar.h"
#include "../ops.h"

#if QKV_WITH(BACKWARD)

typedef qkv_projection_backward_desc gradient_desc;

/* A task's tile of dX: rows × columns; of dW: rows × columns, in the layout of the result. */
enum { X_ROWS = 192, X_COLUMNS = 256, W_ROWS = 192, W_COLUMNS = 256 };

typedef struct projection_grad_shape {
    int64_t rows;                     /* tokens of all batches */
    int64_t in_panels, out_features;  /* out_features: of all parts */
    int64_t row_blocks, panel_groups; /* of dX */
    int64_t w_rows, w_columns;        /* of a tile of dW */
    int64_t w_tasks[QKV_MAX_PARTS];   /* tiles of each part */
    int64_t packed_size, worker_size; /* bytes */
} projection_grad_shape;

static bool wants_x(const gradient_desc *d) {
    return d->grad_x.data != NULL;
}

static bool wants_part(const gradient_desc *d, int64_t i) {
    return d->grad[i].data || d->grad[i].bias;
}

static int64_t grad_stride(const gradient_desc *d, int64_t i) {
    const qkv_weight_grad *g = &d->grad[i];
    if (g->stride != 0)
        return g->stride;
    return g->layout == QKV_IN_OUT ? d->forward.part[i].out_features : d->forward.in_features;
}

static uint32_t all_gradients(const gradient_desc *d) {
    return QKV_ACCUMULATE_X |
           (QKV_ACCUMULATE_PART(qkv_max(0, qkv_min(d->forward.num_parts, QKV_MAX_PARTS))) - QKV_ACCUMULATE_PART(0));
}

static qkv_status qkv_projection_backward_complete(const gradient_desc *desc, gradient_desc *d, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    if (status != QKV_OK)
        return status;
    qkv_enter(why, "forward.");
    status = qkv_import_inner(&d->forward.size, sizeof d->forward, desc->size - offsetof(gradient_desc, forward), why);
    if (status != QKV_OK)
        return status;
    qkv_leave(why);
    qkv_projection_defaults(&d->forward);
    d->flags = qkv_accumulated(d->flags, all_gradients(d));
    const qkv_projection_desc *f = &d->forward;
    qkv_settle_output(&d->grad_x, f->batch, 1, f->tokens, f->in_features);
    for (int64_t i = 0; i < qkv_min(f->num_parts, QKV_MAX_PARTS); i++)
        qkv_settle_input(&d->grad_out[i], f->batch, qkv_part_heads(&f->part[i]), f->tokens, f->part[i].head_dim);
    return QKV_OK;
}

static qkv_status qkv_projection_backward_validate(const gradient_desc *d, qkv_problem *why) {
    const qkv_projection_desc *f = &d->forward;
    qkv_enter(why, "forward.");
    qkv_status status = qkv_projection_validate(f, why);
    if (status != QKV_OK)
        return status;
    for (int32_t i = 0; i < f->num_parts; i++) {
        if (qkv_has_head_steps(&f->steps[i]))
            return qkv_refuse(why, QKV_ERROR_FLAGS,
                              f->steps[i].norm     ? "steps[].norm"
                              : f->steps[i].rotate ? "steps[].rotate"
                                                   : "steps[].store",
                              i, "has no gradient here", 0, 0);
        if (f->part[i].type != QKV_F32)
            return qkv_refuse(why, QKV_ERROR_FLAGS, "part[].type", i, "is %, but gradients take floats",
                              f->part[i].type, 0);
    }
    int64_t out = 0, limit = INT64_C(1) << 58, unused;
    for (int64_t i = 0; i < f->num_parts; i++)
        out += f->part[i].out_features;
    int64_t rows[3] = {f->batch, f->tokens, QKV_PANEL};
    if (f->in_features > limit)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "in_features", -1, "is too large (%)", f->in_features, 0);
    if (!qkv_product(rows, 3, limit, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * tokens", -1, "is too large", 0, 0);
    int64_t transposed[2] = {qkv_round_up(f->in_features, QKV_PANEL), out};
    if (!qkv_product(transposed, 2, limit, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "in_features * out_features", -1, "is too large", 0, 0);
    qkv_leave(why);
    if ((d->flags & ~(QKV_ACCUMULATE | all_gradients(d))) != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "flags", -1, "has unknown bits (%)",
                          d->flags & ~(QKV_ACCUMULATE | all_gradients(d)), 0);
    if (d->reserved != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "reserved", -1, "is not 0 (%)", d->reserved, 0);
    for (int32_t i = 0; i < f->num_parts; i++) {
        if (d->grad[i].layout != QKV_IN_OUT && d->grad[i].layout != QKV_OUT_IN)
            return qkv_refuse(why, QKV_ERROR_FLAGS, "grad[].layout", i, "is %, no layout", d->grad[i].layout, 0);
    }
    return QKV_OK;
}

/* ------------------------------------------------------------------------------------------------------ gather */

typedef struct token_index {
    int64_t b, t;
} token_index;

static token_index token_of(const gradient_desc *d, int64_t row) {
    return (token_index){row / d->forward.tokens, row % d->forward.tokens};
}

static token_index next_token(const gradient_desc *d, token_index at) {
    return at.t + 1 < d->forward.tokens ? (token_index){at.b, at.t + 1} : (token_index){at.b + 1, 0};
}

/* Columns [first, first + n) of one token of dY, heads side by side. */
static void gather_heads(const gradient_desc *d, int64_t part, token_index at, float *to, int64_t first, int64_t n) {
    const qkv_input *g = &d->grad_out[part];
    int64_t dim = d->forward.part[part].head_dim;
    const float *from = (const float *)g->data + at.b * g->batch + at.t * g->token;
    while (n > 0) {
        int64_t channel = first % dim, width = qkv_min(n, dim - channel);
        memcpy(to, from + first / dim * g->head + channel, (size_t)width * sizeof(float));
        to += width;
        first += width;
        n -= width;
    }
}

static void gather_x(const gradient_desc *d, token_index at, float *to, int64_t first, int64_t n) {
    const qkv_input *x = &d->forward.x;
    memcpy(to, (const float *)x->data + at.b * x->batch + at.t * x->token + first, (size_t)n * sizeof(float));
}

/* ---------------------------------------------------------------------------------------------------------- dX */

/* Panel `index` of Wᵀ, [out_features][64]: columns of W become rows. */
static void transpose_panel(const qkv_kernels *kernels, const projection_grad_shape *shape, const gradient_desc *d,
                            float *workspace, int64_t index) {
    const qkv_projection_desc *f = &d->forward;
    float *to = workspace + index * shape->out_features * QKV_PANEL;
    const float *panel = (const float *)f->packed + index * QKV_PANEL * QKV_PANEL; /* rows of W */
    int64_t rows = qkv_min(QKV_PANEL, f->in_features - index * QKV_PANEL);
    for (int64_t i = 0; i < f->num_parts; i++) {
        for (int64_t c = 0; c < f->part[i].out_features; c += QKV_PANEL, panel += f->in_features * QKV_PANEL) {
            int64_t n = qkv_min(QKV_PANEL, f->part[i].out_features - c);
            kernels->pack(to, panel, QKV_PANEL, (size_t)rows, (size_t)n);
            to += n * QKV_PANEL;
        }
    }
}

static float *x_row(const gradient_desc *d, token_index at) {
    return (float *)d->grad_x.data + at.b * d->grad_x.batch + at.t * d->grad_x.token;
}

static void differentiate_x(const qkv_kernels *kernels, const projection_grad_shape *shape, const gradient_desc *d,
                            const float *panels, float *scratch, int64_t index) {
    const qkv_projection_desc *f = &d->forward;
    int64_t row = index / shape->panel_groups * X_ROWS, rows = qkv_min(X_ROWS, shape->rows - row);
    int64_t group_panels = qkv_ceil_div(shape->in_panels, shape->panel_groups);
    int64_t first = index % shape->panel_groups * group_panels;
    int64_t end = qkv_min(first + group_panels, shape->in_panels), column = first * QKV_PANEL;
    int64_t width = qkv_min(end * QKV_PANEL, f->in_features) - column;
    if (first >= end)
        return;
    float *tile = scratch, *a = scratch + X_ROWS * X_COLUMNS;
    bool accumulate = d->flags & QKV_ACCUMULATE_X;
    memset(tile, 0, (size_t)(rows * X_COLUMNS) * sizeof(float));
    token_index at = token_of(d, row);
    for (int64_t i = 0; accumulate && i < rows; i++, at = next_token(d, at))
        memcpy(tile + i * X_COLUMNS, x_row(d, at) + column, (size_t)width * sizeof(float));
    int64_t from = 0; /* the first column of the part */
    for (int64_t part = 0; part < f->num_parts; from += f->part[part++].out_features) {
        for (int64_t c = 0; c < f->part[part].out_features; c += QKV_CHAIN) {
            int64_t terms = qkv_min(QKV_CHAIN, f->part[part].out_features - c);
            at = token_of(d, row);
            for (int64_t i = 0; i < rows; i++, at = next_token(d, at))
                gather_heads(d, part, at, a + i * QKV_CHAIN, c, terms);
            for (int64_t p = first; p < end; p++)
                kernels->gemm(tile + (p - first) * QKV_PANEL, X_COLUMNS, a, QKV_CHAIN,
                              panels + (p * shape->out_features + from + c) * QKV_PANEL, QKV_PANEL, QKV_PANEL,
                              (size_t)rows, QKV_PANEL, (size_t)terms, 1, NULL);
        }
    }
    at = token_of(d, row);
    for (int64_t i = 0; i < rows; i++, at = next_token(d, at))
        qkv_scale_row(kernels, x_row(d, at) + column, tile + i * X_COLUMNS, 1.0f, (size_t)width);
}

/* ---------------------------------------------------------------------------------------------------------- dW */

/* A tile of dW in the layout of the result: its rows are columns of `a`, its columns those of `b`. */
typedef struct weight_tile {
    int64_t part, row, rows, column, columns;
    bool in_out, weights;    /* weights: dW is wanted, not the bias alone */
    float *sums, *bias_sums; /* [rows][W_COLUMNS], [max(W_ROWS, W_COLUMNS)] */
    float *a, *b;            /* [QKV_CHAIN][W_ROWS]; panels [QKV_CHAIN][64] */
} weight_tile;

static float *result_row(const gradient_desc *d, const weight_tile *w, int64_t i) {
    return d->grad[w->part].data + (w->row + i) * grad_stride(d, w->part) + w->column;
}

/* One token's part of one operand: of X if `in`, else of dY. */
static void gather_operand(const gradient_desc *d, const weight_tile *w, bool in, token_index at, float *to,
                           int64_t first, int64_t n) {
    if (in)
        gather_x(d, at, to, first, n);
    else
        gather_heads(d, w->part, at, to, first, n);
}

/* The bias takes part in the tiles at the edge of dW: which columns of dY, and whether they are those of `a`. */
static bool sums_bias(const gradient_desc *d, const weight_tile *w) {
    return d->grad[w->part].bias && (w->in_out ? w->row : w->column) == 0;
}

static void sum_tokens(const qkv_kernels *kernels, const gradient_desc *d, const weight_tile *w, int64_t row,
                       int64_t n) {
    const float one = 1;
    bool bias = sums_bias(d, w);
    token_index at = token_of(d, row);
    for (int64_t x = 0; x < n; x++, at = next_token(d, at)) {
        if (w->weights || !w->in_out)
            gather_operand(d, w, w->in_out, at, w->a + x * W_ROWS, w->row, w->rows);
        for (int64_t c = 0; (w->weights || w->in_out) && c < w->columns; c += QKV_PANEL)
            gather_operand(d, w, !w->in_out, at, w->b + c * QKV_CHAIN + x * QKV_PANEL, w->column + c,
                           qkv_min(QKV_PANEL, w->columns - c));
    }
    for (int64_t c = 0; w->weights && c < w->columns; c += QKV_PANEL)
        kernels->gemm_t(w->sums + c, W_COLUMNS, w->a, W_ROWS, w->b + c * QKV_CHAIN, QKV_PANEL, (size_t)w->rows,
                        (size_t)qkv_min(QKV_PANEL, w->columns - c), (size_t)n, 1);
    if (bias && !w->in_out)
        kernels->gemm_t(w->bias_sums, W_ROWS, &one, 0, w->a, W_ROWS, 1, (size_t)w->rows, (size_t)n, 1);
    for (int64_t c = 0; bias && w->in_out && c < w->columns; c += QKV_PANEL)
        kernels->gemm_t(w->bias_sums + c, W_COLUMNS, &one, 0, w->b + c * QKV_CHAIN, QKV_PANEL, 1,
                        (size_t)qkv_min(QKV_PANEL, w->columns - c), (size_t)n, 1);
}

static void differentiate_weights(const qkv_kernels *kernels, const projection_grad_shape *shape,
                                  const gradient_desc *d, float *scratch, int64_t index) {
    const qkv_projection_desc *f = &d->forward;
    weight_tile w = {.sums = scratch};
    while (index >= shape->w_tasks[w.part])
        index -= shape->w_tasks[w.part++];
    const qkv_weight_grad *g = &d->grad[w.part];
    w.in_out = g->layout == QKV_IN_OUT;
    w.bias_sums = w.sums + W_ROWS * W_COLUMNS;
    w.a = w.bias_sums + W_COLUMNS;
    w.b = w.a + QKV_CHAIN * W_ROWS;
    int64_t out = f->part[w.part].out_features, in = g->data ? f->in_features : 0;
    w.weights = in > 0;
    int64_t all_rows = w.in_out ? in : out, all_columns = w.in_out ? out : in;
    int64_t across = qkv_max(1, qkv_ceil_div(all_columns, shape->w_columns));
    w.row = index / across * shape->w_rows;
    w.rows = qkv_min(shape->w_rows, all_rows - w.row);
    w.column = index % across * shape->w_columns;
    w.columns = qkv_min(shape->w_columns, all_columns - w.column);
    bool accumulate = d->flags & QKV_ACCUMULATE_PART(w.part), bias = sums_bias(d, &w);
    float *bias_result = bias ? g->bias + (w.in_out ? w.column : w.row) : NULL;
    size_t bias_bytes = (size_t)(w.in_out ? w.columns : w.rows) * sizeof(float);
    memset(w.sums, 0, (W_ROWS + 1) * W_COLUMNS * sizeof(float));
    for (int64_t i = 0; accumulate && w.weights && i < w.rows; i++)
        memcpy(w.sums + i * W_COLUMNS, result_row(d, &w, i), (size_t)w.columns * sizeof(float));
    if (accumulate && bias)
        memcpy(w.bias_sums, bias_result, bias_bytes);
    for (int64_t row = 0; row < shape->rows; row += QKV_CHAIN)
        sum_tokens(kernels, d, &w, row, qkv_min(QKV_CHAIN, shape->rows - row));
    for (int64_t i = 0; w.weights && i < w.rows; i++)
        qkv_scale_row(kernels, result_row(d, &w, i), w.sums + i * W_COLUMNS, 1.0f, (size_t)w.columns);
    if (bias)
        qkv_scale_row(kernels, bias_result, w.bias_sums, 1.0f, bias_bytes / sizeof(float));
}

/* -------------------------------------------------------------------------------------------------------- plan */

static int64_t weight_tiles(const projection_grad_shape *shape, const gradient_desc *d, int64_t i) {
    int64_t out = d->forward.part[i].out_features, in = d->grad[i].data ? d->forward.in_features : 0;
    if (out == 0 || (in == 0 && !d->grad[i].bias))
        return 0;
    bool in_out = d->grad[i].layout == QKV_IN_OUT;
    int64_t down = qkv_ceil_div(in_out ? in : out, shape->w_rows);
    int64_t across = qkv_ceil_div(in_out ? out : in, shape->w_columns);
    return qkv_max(1, down) * qkv_max(1, across); /* also without inputs a bias has its gradient */
}

static int64_t cut_weights(projection_grad_shape *shape, const gradient_desc *d) {
    int64_t tasks = 0;
    for (int64_t i = 0; i < d->forward.num_parts; i++)
        tasks += shape->w_tasks[i] = weight_tiles(shape, d, i);
    return tasks;
}

static int64_t cut_projection(const gradient_desc *d, int32_t max_workers, projection_grad_shape *shape) {
    const qkv_projection_desc *f = &d->forward;
    memset(shape, 0, sizeof *shape);
    shape->rows = f->batch * f->tokens;
    for (int64_t i = 0; i < f->num_parts; i++)
        shape->out_features += f->part[i].out_features;
    int64_t wanted = 4 * (int64_t)max_workers;
    if (wants_x(d) && shape->rows > 0) {
        shape->in_panels = qkv_ceil_div(f->in_features, QKV_PANEL);
        shape->row_blocks = qkv_ceil_div(shape->rows, X_ROWS);
        shape->panel_groups = qkv_ceil_div(shape->in_panels, X_COLUMNS / QKV_PANEL);
        if (max_workers > 1 && shape->in_panels > 0)
            shape->panel_groups =
                qkv_max(shape->panel_groups, qkv_min(shape->in_panels, qkv_ceil_div(wanted, shape->row_blocks)));
        shape->packed_size = shape->in_panels * shape->out_features * QKV_PANEL * (int64_t)sizeof(float);
    }
    shape->w_rows = W_ROWS;
    shape->w_columns = W_COLUMNS;
    int64_t tasks = cut_weights(shape, d);
    while (max_workers > 1 && tasks < wanted && shape->w_columns > QKV_PANEL) {
        shape->w_columns /= 2;
        shape->w_rows /= 2;
        tasks = cut_weights(shape, d);
    }
    int64_t x_size = shape->row_blocks > 0 ? X_ROWS * (X_COLUMNS + QKV_CHAIN) : 0;
    int64_t w_size = tasks > 0 ? (W_ROWS + 1) * W_COLUMNS + QKV_CHAIN * (W_ROWS + W_COLUMNS) : 0;
    shape->worker_size = qkv_max(x_size, w_size) * (int64_t)sizeof(float);
    return tasks;
}

enum projection_stage { TRANSPOSE, INPUT_GRADIENT, WEIGHTS };

static int32_t projection_stages(const gradient_desc *d, enum projection_stage list[3]) {
    int32_t n = 0;
    bool weights = false;
    if (wants_x(d)) {
        list[n++] = TRANSPOSE;
        list[n++] = INPUT_GRADIENT;
    }
    for (int64_t i = 0; i < d->forward.num_parts; i++)
        weights = weights || wants_part(d, i);
    if (weights)
        list[n++] = WEIGHTS;
    return n;
}

static void qkv_projection_backward_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase,
                                            int64_t index, int32_t worker) {
    projection_grad_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    enum projection_stage list[3];
    projection_stages(desc, list);
    unsigned char *scratch = (unsigned char *)workspace + shape.packed_size + worker * shape.worker_size;
    float *own = (float *)(void *)scratch;
    switch (list[phase]) {
    case TRANSPOSE: transpose_panel(plan->kernels, &shape, desc, workspace, index); break;
    case INPUT_GRADIENT: differentiate_x(plan->kernels, &shape, desc, workspace, own, index); break;
    default: differentiate_weights(plan->kernels, &shape, desc, own, index); break;
    }
}

static uint64_t qkv_projection_backward_checksum(const gradient_desc *d) {
    const qkv_projection_desc *f = &d->forward;
    int64_t fields[12 + (10 + QKV_STEPS_FIELDS) * QKV_MAX_PARTS] = {
        f->batch, f->tokens,   f->in_features, f->num_parts,    f->x.batch,      f->x.token,
        d->flags, d->reserved, wants_x(d),     d->grad_x.batch, d->grad_x.token, f->arithmetic};
    size_t n = 12;
    for (int64_t i = 0; i < qkv_min(f->num_parts, QKV_MAX_PARTS); i++) {
        const qkv_weight_grad *g = &d->grad[i];
        const int64_t more[] = {f->part[i].out_features,
                                f->part[i].head_dim,
                                d->grad_out[i].batch,
                                d->grad_out[i].head,
                                d->grad_out[i].token,
                                g->stride,
                                g->layout,
                                !!g->data,
                                !!g->bias,
                                f->part[i].type};
        memcpy(fields + n, more, sizeof more);
        n += sizeof more / sizeof more[0];
        qkv_steps_fields(&f->steps[i], fields + n);
        n += QKV_STEPS_FIELDS;
    }
    return qkv_checksum(fields, n);
}

static void qkv_projection_backward_operands(qkv_operands *o, const gradient_desc *d) {
    const qkv_projection_desc *f = &d->forward;
    const int64_t rows[3] = {f->batch, 1, f->tokens};
    bool tokens = f->batch > 0 && f->tokens > 0, in = f->in_features > 0, weights = false;
    int64_t packed = 0; /* bytes */
    for (int64_t i = 0; i < f->num_parts; i++) {
        const qkv_weight_grad *g = &d->grad[i];
        int64_t columns = f->part[i].out_features, head_dim = f->part[i].head_dim;
        const int64_t out[3] = {f->batch, head_dim > 0 ? columns / head_dim : 0, f->tokens};
        bool used = (in && (wants_x(d) || g->data)) || g->bias;
        qkv_add_input(o, used ? QKV_NEEDED : 0, "grad_out[]", d->grad_out[i], out, head_dim)->index = (uint8_t)i;
        qkv_add_weight_grad(o, "grad[]", "grad[].bias", g, f->in_features, columns, (uint8_t)i);
        weights = weights || (columns > 0 && g->data);
        packed += qkv_part_bytes(QKV_F32, f->in_features, columns);
    }
    if (wants_x(d))
        qkv_add_output(o, QKV_NEEDED, "grad_x", d->grad_x, rows, f->in_features);
    o->within = QKV_IN_FORWARD;
    qkv_add_input(o, weights ? QKV_NEEDED : 0, "x", f->x, rows, f->in_features);
    qkv_add_packed(o, tokens && wants_x(d) ? QKV_NEEDED : 0, "packed", f->packed, packed);
}

static qkv_status qkv_projection_backward_make_plan(const qkv_ctx *ctx, const gradient_desc *d, qkv_plan *plan) {
    (void)ctx;
    projection_grad_shape shape;
    int64_t weight_tasks = cut_projection(d, plan->max_workers, &shape);
    int64_t areas[2] = {shape.worker_size, plan->max_workers}, scratch;
    if (!qkv_product(areas, 2, PTRDIFF_MAX / 4, &scratch) || shape.packed_size > PTRDIFF_MAX / 4)
        return QKV_ERROR_OVERFLOW;
    enum projection_stage list[3];
    const int64_t num_tasks[] = {shape.out_features > 0 ? shape.in_panels : 0, shape.row_blocks * shape.panel_groups,
                                 weight_tasks};
    plan->workspace_size = (size_t)(shape.packed_size + scratch);
    plan->num_phases = projection_stages(d, list);
    for (int32_t i = 0; i < plan->num_phases; i++)
        plan->num_tasks[i] = num_tasks[list[i]];
    _Static_assert(sizeof shape <= sizeof plan->geometry, "the plan holds the shape");
    memcpy(plan->geometry, &shape, sizeof shape);
    return QKV_OK;
}

#define QKV_OP(name) qkv_projection_backward_##name
#define DESC qkv_projection_backward_desc
#define OPERATION QKV_PROJECTION_BACKWARD
#include "../shell.inc.h"

#endif
