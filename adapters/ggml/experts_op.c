/* out[token][slot] = x[token][slot % x->ne[1]] · Wᵀ, W the matrix number ids[token][slot].
 *
 * The rows that chose an expert are gathered, multiplied by its matrix, and written to where they belong: some rows and
 * some columns of a matrix at a time, so that what is gathered stays in the cache. A single row, as of a token that is
 * generated, is read and written where it lies.
 *
 * SPDX-License-Identifier: MIT */
#include "experts_op.h"

#include "blocks.h"
#include "product_op.h"
#include "weights_buffer.h"

#include <stdlib.h>
#include <string.h>

enum { WEIGHTS, X, IDS };

/* Of a piece: more rows gain nothing, more columns of several rows would leave the cache. */
enum { MOST_ROWS = 64, MOST_PANELS = 32 };

/* To read a matrix takes as long as to multiply it by some four rows. */
enum { ROWS_OF_READING = 4 };

/* A row of an op's result. */
struct chosen_row {
    int64_t slot, token;
};

/* Some rows by some columns of an expert's matrix. */
struct expert_piece {
    struct ggml_tensor *op;
    const struct chosen_row *rows;
    qkv_projection_desc desc;
    qkv_plan plan;
    int64_t first_column;
};

bool supports_experts(const struct ggml_tensor *op) {
    return multiplies_rows(op) && op->src[IDS]->type == GGML_TYPE_I32;
}

static const float *row_of_x(const struct ggml_tensor *op, struct chosen_row row) {
    const struct ggml_tensor *x = op->src[X];
    return (const float *)(const void *)((const char *)x->data + (size_t)(row.slot % x->ne[1]) * x->nb[1] +
                                         (size_t)row.token * x->nb[2]);
}

static float *row_of_out(const struct expert_piece *p, struct chosen_row row) {
    char *at = (char *)p->op->data + (size_t)row.slot * p->op->nb[1] + (size_t)row.token * p->op->nb[2];
    return (float *)(void *)at + p->first_column;
}

/* --------------------------------------------------------------------------------------------- who chose which one */

static int32_t expert_of(const struct ggml_tensor *op, struct chosen_row row) {
    const struct ggml_tensor *ids = op->src[IDS];
    return *(const int32_t *)(const void *)((const char *)ids->data + (size_t)row.slot * ids->nb[0] +
                                            (size_t)row.token * ids->nb[1]);
}

static int64_t num_rows(const struct ggml_tensor *op) {
    return op->ne[1] * op->ne[2];
}

static int64_t num_experts(const struct ggml_tensor *op) {
    return op->src[WEIGHTS]->ne[2];
}

/* The rows of an op, those of an expert behind each other, which end at ends[expert]. */
struct choice {
    struct ggml_tensor *op;
    struct chosen_row *rows;
    int64_t *ends;
};

/* False: there is no such expert. */
static bool sort_rows(const struct choice *c) {
    const struct ggml_tensor *op = c->op;
    memset(c->ends, 0, (size_t)num_experts(op) * sizeof *c->ends);
    for (int64_t i = 0; i < num_rows(op); i++) {
        const int32_t expert = expert_of(op, (struct chosen_row){i % op->ne[1], i / op->ne[1]});
        if (expert < 0 || expert >= num_experts(op))
            return false;
        c->ends[expert]++;
    }
    for (int64_t e = 0, before = 0; e < num_experts(op); e++) { /* counts become beginnings, which move to the ends */
        const int64_t count = c->ends[e];
        c->ends[e] = before;
        before += count;
    }
    for (int64_t i = 0; i < num_rows(op); i++) {
        const struct chosen_row row = {i % op->ne[1], i / op->ne[1]};
        c->rows[c->ends[expert_of(op, row)]++] = row;
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------------- the pieces */

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Memory for so many items; what it holds is kept. NULL: there is none, and what there was is gone. */
static void *grow(void *items, int64_t *room, int64_t count, size_t size) {
    if (count <= *room)
        return items;
    void *more = realloc(items, (size_t)count * size);
    if (!more)
        free(items);
    *room = more ? count : 0;
    return more;
}

/* In products of a row by a panel. */
static int64_t work_of(const struct choice *c) {
    int64_t rows = 0;
    for (int64_t e = 0, first = 0; e < num_experts(c->op); first = c->ends[e++])
        rows += c->ends[e] - first + ROWS_OF_READING * divide_up(c->ends[e] - first, MOST_ROWS);
    return rows * num_panels(c->op->src[WEIGHTS]);
}

/* So that a piece is no more work than `share`. */
static int64_t panels_of_piece(const struct ggml_tensor *op, int64_t rows, int64_t share) {
    const int64_t panels = num_panels(op->src[WEIGHTS]), work = panels * (rows + ROWS_OF_READING);
    int64_t pieces = divide_up(work, share);
    if (rows > 1 && pieces < divide_up(panels, MOST_PANELS))
        pieces = divide_up(panels, MOST_PANELS);
    return divide_up(panels, pieces < panels ? pieces : panels);
}

static const char *add_piece(struct experts_state *state, const qkv_ctx *ctx, const struct expert_piece *piece) {
    if (state->num_pieces == state->pieces_room)
        state->pieces = grow(state->pieces, &state->pieces_room, 2 * state->num_pieces + 16, sizeof *state->pieces);
    if (!state->pieces)
        return "out of memory";
    struct expert_piece *p = &state->pieces[state->num_pieces++];
    *p = *piece;
    return qkv_projection_plan(ctx, &p->desc, 1, &p->plan) == QKV_OK ? NULL : "an op that was not claimed";
}

static const char *cut(struct experts_state *state, const qkv_ctx *ctx, const struct choice *c, int64_t share) {
    const char *error = NULL;
    const int64_t panels = num_panels(c->op->src[WEIGHTS]);
    for (int64_t e = 0, row = 0; e < num_experts(c->op); e++) {
        while (row < c->ends[e]) { /* in parts of about the same size */
            const int64_t left = c->ends[e] - row, count = divide_up(left, divide_up(left, MOST_ROWS));
            const int64_t each = panels_of_piece(c->op, count, share);
            for (int64_t first = 0; first < panels && !error; first += each) {
                struct expert_piece p = {.op = c->op, .rows = c->rows + row, .first_column = first * QKV_PANEL};
                p.desc = product_by(c->op->src[WEIGHTS], e, first, each);
                p.desc.batch = 1;
                p.desc.tokens = count;
                p.desc.x.token = p.desc.in_features;
                p.desc.part[0].out.token = p.desc.part[0].out_features;
                error = add_piece(state, ctx, &p);
            }
            row += count;
        }
    }
    return error;
}

/* ----------------------------------------------------------------------------------------------------- running them */

/* Each worker's memory: the workspace of a call, then the rows that are gathered, and what becomes of them. */
struct run {
    struct expert_piece *pieces;
    char *workspace;
    size_t call, x, out;
};

static size_t bytes_of_worker(const struct run *run) {
    return run->call + run->x + run->out;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t whole_lines(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static void add_needs(struct run *run, const struct expert_piece *p) {
    const qkv_projection_desc *d = &p->desc;
    const size_t of_columns = (size_t)d->tokens * sizeof(float);
    run->call = larger(run->call, whole_lines(p->plan.workspace_size));
    if (d->tokens > 1) {
        run->x = larger(run->x, whole_lines(of_columns * (size_t)d->in_features));
        run->out = larger(run->out, whole_lines(of_columns * (size_t)d->part[0].out_features));
    }
}

/* Where a piece reads and writes: a single row in the tensors, several in the memory of a worker. */
static void place(const struct run *run, struct expert_piece *p, char *memory) {
    const bool alone = p->desc.tokens == 1;
    p->desc.x.data = alone ? row_of_x(p->op, p->rows[0]) : (const void *)(memory + run->call);
    p->desc.part[0].out.data = alone ? (void *)row_of_out(p, p->rows[0]) : memory + run->call + run->x;
}

static void run_piece(void *arg, int64_t index, int32_t worker) {
    const struct run *run = arg;
    struct expert_piece *p = &run->pieces[index];
    char *memory = run->workspace + (size_t)worker * bytes_of_worker(run);
    qkv_projection_desc *d = &p->desc;
    place(run, p, memory);
    const size_t x_row = (size_t)d->in_features * sizeof(float);
    const size_t out_row = (size_t)d->part[0].out_features * sizeof(float);
    for (int64_t r = 0; r < d->tokens && d->tokens > 1; r++)
        memcpy(memory + run->call + (size_t)r * x_row, row_of_x(p->op, p->rows[r]), x_row);
    for (int64_t task = 0; task < p->plan.num_tasks[0]; task++)
        qkv_projection_task(&p->plan, d, memory, 0, task, 0);
    for (int64_t r = 0; r < d->tokens && d->tokens > 1; r++)
        memcpy(row_of_out(p, p->rows[r]), memory + run->call + run->x + (size_t)r * out_row, out_row);
}

static const char *run_pieces(struct runner *runner, struct experts_state *state) {
    struct run run = {.pieces = state->pieces};
    for (int64_t i = 0; i < state->num_pieces; i++)
        add_needs(&run, &state->pieces[i]);
    if (!reserve_workspace(runner, (size_t)runner->team.num_threads * bytes_of_worker(&run)))
        return "out of memory";
    run.workspace = runner->workspace;
    for (int64_t i = 0; i < state->num_pieces; i++) {
        struct expert_piece *p = &state->pieces[i];
        place(&run, p, run.workspace);
        const qkv_status status = qkv_projection_check(&p->plan, &p->desc, run.workspace, run.call);
        if (status != QKV_OK)
            return qkv_status_string(status);
    }
    team_for(&runner->team, state->num_pieces, run_piece, &run);
    return NULL;
}

const char *run_experts(struct runner *runner, struct experts_state *state, struct ggml_tensor *const *ops, int count) {
    struct choice choices[MAX_TOGETHER];
    int64_t rows = 0, experts = 0, work = 0;
    for (int i = 0; i < count; i++) {
        if (!is_in_panels(ops[i]->src[WEIGHTS]))
            return "its weights are not in a buffer for weights";
        rows += num_rows(ops[i]);
        experts += num_experts(ops[i]);
    }
    if (rows == 0)
        return NULL;
    state->rows = grow(state->rows, &state->rows_room, rows, sizeof *state->rows);
    state->ends = grow(state->ends, &state->ends_room, experts, sizeof *state->ends);
    if (!state->rows || !state->ends)
        return "out of memory";
    rows = experts = 0;
    for (int i = 0; i < count; i++) {
        choices[i] = (struct choice){ops[i], state->rows + rows, state->ends + experts};
        if (!sort_rows(&choices[i]))
            return "a row chose an expert that there is not";
        rows += num_rows(ops[i]);
        experts += num_experts(ops[i]);
        work += work_of(&choices[i]);
    }
    const int32_t threads = runner->team.num_threads;
    const int64_t share = threads > 1 ? divide_up(work, 4 * threads) : work;
    const char *error = NULL;
    state->num_pieces = 0;
    for (int i = 0; i < count && !error; i++)
        error = cut(state, &runner->ctx, &choices[i], share);
    state->ops += count;
    return error ? error : run_pieces(runner, state);
}

void free_experts_state(struct experts_state *state) {
    free(state->pieces);
    free(state->rows);
    free(state->ends);
}
