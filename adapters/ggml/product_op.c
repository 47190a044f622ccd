/* From ggml's tensors to a descriptor, and running it: dst[n][out] = x[n][in]·Wᵀ, rows that follow each other in up
 * to three axes.
 *
 * ggml's own product rounds x to 8 bits too; qkv's arithmetic for it is QKV_ARITHMETIC_INT8.
 *
 * SPDX-License-Identifier: MIT */
#include "product_op.h"

#include "blocks.h"
#include "weights_buffer.h"

enum { WEIGHTS, X };

/* Up to so many rows all of x is one block of qkv's, and the work is the reading of the weights. */
enum { FEW_ROWS = 32, LARGE_PIECE = 1 << 20 };

/* Whether the numbers of a row follow each other, and rows lie at whole numbers. */
static bool has_rows_of_floats(const struct ggml_tensor *t) {
    return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] % sizeof(float) == 0 &&
           t->nb[2] % sizeof(float) == 0 && t->nb[3] % sizeof(float) == 0;
}

bool multiplies_rows(const struct ggml_tensor *op) {
    const struct ggml_tensor *weights = op->src[WEIGHTS];
    const ggml_backend_buffer_t buffer = weights->buffer;
    /* Hosts try an op before its weights have memory: in an empty buffer, or as a leaf that is no input of a graph. */
    const bool may_be_ours = buffer ? buffer->size == 0 && is_weights_buffer_type(buffer->buft)
                                    : weights->op == GGML_OP_NONE && !(weights->flags & GGML_TENSOR_FLAG_INPUT);
    return (may_be_ours || is_in_panels(weights)) && holds_matrices_of_blocks(weights) &&
           has_rows_of_floats(op->src[X]) && has_rows_of_floats(op);
}

bool supports_product(const struct ggml_tensor *op) {
    return multiplies_rows(op) && op->src[WEIGHTS]->ne[2] == 1;
}

/* Some columns of an op, from a panel on, and their call: for the rows of one index of the last axis. */
struct piece {
    struct ggml_tensor *op;
    qkv_projection_desc desc;
    qkv_plan plan;
    char *workspace;
};

static bool describe(struct piece *p, struct ggml_tensor *op, int64_t first, int64_t panels,
                     const struct runner *runner, int32_t workers) {
    const struct ggml_tensor *x = op->src[X];
    qkv_projection_desc *d = &p->desc;
    p->op = op;
    *d = product_by(op->src[WEIGHTS], 0, first, panels);
    d->batch = x->ne[2];
    d->tokens = x->ne[1];
    d->x = (qkv_input){x->data, .token = (int64_t)(x->nb[1] / sizeof(float)),
                       .batch = (int64_t)(x->nb[2] / sizeof(float))};
    d->part[0].out = (qkv_output){(float *)op->data + first * QKV_PANEL, .token = (int64_t)(op->nb[1] / sizeof(float)),
                                  .batch = (int64_t)(op->nb[2] / sizeof(float))};
    return qkv_projection_plan(&runner->ctx, d, workers, &p->plan) == QKV_OK;
}

static bool reserve_pieces(struct product_state *state, int count) {
    if (count > state->room) {
        free(state->pieces);
        state->pieces = malloc((size_t)count * sizeof *state->pieces);
        state->room = state->pieces ? count : 0;
    }
    return count <= state->room;
}

static bool reserve_workspaces(struct runner *runner, struct piece *pieces, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += pieces[i].plan.workspace_size;
    if (!reserve_workspace(runner, size))
        return false;
    for (int i = 0; i < count; i++) {
        size -= pieces[i].plan.workspace_size;
        pieces[i].workspace = (char *)runner->workspace + size;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------------- many rows */

static const char *run_with_all_threads(struct runner *runner, struct product_state *state, struct ggml_tensor *op) {
    if (!reserve_pieces(state, 1))
        return "out of memory";
    struct piece *p = state->pieces;
    if (!describe(p, op, 0, num_panels(op->src[WEIGHTS]), runner, runner->team.num_threads))
        return "an op that was not claimed";
    if (!reserve_workspaces(runner, p, 1))
        return "out of memory";
    for (int64_t i = 0; i < op->ne[3]; i++) {
        p->desc.x.data = (const char *)op->src[X]->data + (size_t)i * op->src[X]->nb[3];
        p->desc.part[0].out.data = (float *)(void *)((char *)op->data + (size_t)i * op->nb[3]);
        const qkv_status status = qkv_projection_run_parallel(&p->plan, &p->desc, p->workspace, p->plan.workspace_size,
                                                              team_for, &runner->team);
        if (status != QKV_OK)
            return qkv_status_string(status);
    }
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------- few rows */

/* Of an op: how many panels there are, and how large one is. */
struct share {
    int64_t panels, bytes;
};

/* Divides the panels of all ops into as many pieces of the same size as shall be, or a few more, as a piece is of one
 * op. -1: not these ops. */
static int cut(const struct runner *runner, struct product_state *state, struct ggml_tensor *const *ops,
               const struct share *shares, int count, int64_t pieces, int64_t bytes) {
    int made = 0;
    int64_t done = 0; /* bytes */
    for (int i = 0; i < count; i++) {
        const int64_t panels = shares[i].panels, of_panel = shares[i].bytes;
        for (int64_t first = 0; first < panels;) {
            const int64_t number = (done + of_panel / 2) * pieces / bytes; /* of the piece that this panel is in */
            const int64_t end = ((number + 1) * bytes + pieces - 1) / pieces;
            int64_t n = (end - done + of_panel / 2) / of_panel;
            n = n < 1 ? 1 : n > panels - first ? panels - first : n;
            if (!describe(&state->pieces[made++], ops[i], first, n, runner, 1))
                return -1;
            first += n;
            done += n * of_panel;
        }
    }
    return made;
}

static void run_piece(void *arg, int64_t index, int32_t worker) {
    (void)worker; /* each piece has a workspace of its own, for one */
    const struct piece *p = (const struct piece *)arg + index;
    for (int64_t task = 0; task < p->plan.num_tasks[0]; task++)
        qkv_projection_task(&p->plan, &p->desc, p->workspace, 0, task, 0);
}

/* The threads begin and end once for all of the ops, and each piece's task makes x in 8 bits anew: so there are no more
 * pieces than threads where the weights are small. */
static const char *run_together(struct runner *runner, struct product_state *state, struct ggml_tensor *const *ops,
                                int count) {
    struct share shares[MAX_TOGETHER];
    int64_t bytes = 0, panels = 0;
    for (int i = 0; i < count; i++) {
        const struct ggml_tensor *weights = ops[i]->src[WEIGHTS];
        shares[i] = (struct share){num_panels(weights), (int64_t)bytes_of_panel(weights)};
        panels += shares[i].panels;
        bytes += shares[i].panels * shares[i].bytes;
    }
    const int64_t threads = runner->team.num_threads;
    int64_t pieces = threads * (threads > 1 && bytes > threads * LARGE_PIECE ? 4 : 1);
    if (pieces > panels)
        pieces = panels;
    if (!reserve_pieces(state, (int)pieces + 2 * count))
        return "out of memory";
    const int made = cut(runner, state, ops, shares, count, pieces, bytes);
    if (made < 0)
        return "an op that was not claimed";
    if (!reserve_workspaces(runner, state->pieces, made))
        return "out of memory";
    for (int i = 0; i < made; i++) {
        const struct piece *p = &state->pieces[i];
        const qkv_status status = qkv_projection_check(&p->plan, &p->desc, p->workspace, p->plan.workspace_size);
        if (status != QKV_OK)
            return qkv_status_string(status);
    }
    team_for(&runner->team, made, run_piece, state->pieces);
    return NULL;
}

const char *run_products(struct runner *runner, struct product_state *state, struct ggml_tensor *const *ops,
                         int count) {
    bool few = true;
    for (int i = 0; i < count; i++) {
        if (!is_in_panels(ops[i]->src[WEIGHTS]))
            return "its weights are not in a buffer for weights";
        few = few && ops[i]->ne[3] == 1 && ops[i]->ne[1] * ops[i]->ne[2] <= FEW_ROWS;
    }
    state->ops += count;
    if (few)
        return run_together(runner, state, ops, count);
    const char *error = NULL;
    for (int i = 0; i < count && !error; i++)
        error = run_with_all_threads(runner, state, ops[i]);
    return error;
}

void free_product_state(struct product_state *state) {
    free(state->pieces);
}
