/* The two passes over the ring: the attention, and its gradients.
 *
 * Forward: a unit brings its queries and (O, m, ℓ), the state of what it has seen so far. Each rank computes the states
 * of its own key blocks and folds them into that, in order. The first rank it visits has the first keys, so the order
 * is that of one machine.
 *
 * Backward: a unit brings queries, dO, out and lse, and dQ of what it has seen so far, to which each rank adds its
 * blocks' share, in order. At a rank units come in the order of queries, and it adds what they give to its dK and dV.
 * One machine sums those over the heads of a group outermost, so the heads of a group travel one after the other.
 *
 * SPDX-License-Identifier: MIT */
#include "passes.h"
#include "ledger.h"
#include "messages.h"
#include "support.h"

#include <signal.h>
#include <string.h>

/* Blocks whose states are there at one time. */
enum { STATES = 4 };

struct visit {
    struct shard *shard;
    int64_t groups;
    const struct accident *accident;
    int64_t step;
};

static const struct problem *problem_of(const struct visit *v) {
    return &v->shard->sharding->problem;
}

static int64_t groups_of_backward(const struct problem *p) {
    return p->heads / p->kv_heads;
}

/* The rank's own row of a tensor for row i of a unit and number h of the heads that it brings. */
static float *own_row(const struct visit *v, const struct unit *u, float *tensor, int64_t dim, int64_t i, int64_t h) {
    const struct problem *p = problem_of(v);
    int64_t row = u->first_row - v->shard->t.first_row + i;
    return tensor + (row * p->heads + head_of(v->groups, u->group, h)) * dim;
}

/* Returns where the record goes on. */
static float *copy_to_record(const struct visit *v, const struct unit *u, float *record, float *tensor, int64_t dim) {
    int64_t heads = heads_together(problem_of(v), v->groups);
    for (int64_t i = 0; i < u->rows; i++) {
        for (int64_t h = 0; h < heads; h++, record += dim)
            memcpy(record, own_row(v, u, tensor, dim, i, h), (size_t)dim * sizeof(float));
    }
    return record;
}

/* ----------------------------------------------------------------------------------------------------- forward */

static void pack_queries(void *arg, const struct unit *u, float *inputs) {
    const struct visit *v = arg;
    copy_to_record(v, u, inputs, v->shard->t.q, problem_of(v)->dim);
}

/* States in a scratch [part][row][head]: part 0 is what has been folded before. */
static void fold(struct visit *v, const struct unit *u, int64_t first_part, int64_t end_part, float *state) {
    const struct problem *p = problem_of(v);
    int64_t floats = p->dim_v + 2, row = p->heads * floats, part = u->rows * row;
    qkv_merge_desc m = {.size = sizeof m,
                        .batch = 1,
                        .num_heads = p->heads,
                        .seq_q = u->rows,
                        .head_dim_v = p->dim_v,
                        .num_parts = end_part - first_part,
                        .states = {v->shard->states + first_part * part, 0, floats, row, part},
                        .state = rows_out(state, p->heads, floats)};
    run_merge(v->shard, &m);
}

static void attend(void *arg, const struct unit *u, float *inputs, float *state, int is_first) {
    struct visit *v = arg;
    struct shard *s = v->shard;
    const struct problem *p = problem_of(v);
    int64_t floats = p->dim_v + 2, row = p->heads * floats, part = u->rows * row;
    struct unit seen = part_at(s->sharding, u, my_rank);
    if (v->accident->rank == my_rank && v->accident->step == v->step++)
        raise((int)v->accident->signal);
    for (int64_t block = seen.first_block, n; block < seen.end_block; block += n, is_first = 0) {
        n = seen.end_block - block < STATES ? seen.end_block - block : STATES;
        int64_t key = block * QKV_KEY_BLOCK, keys = s->t.first_key + s->t.keys - key;
        qkv_attention_desc d =
            describe(s, 1, 0, u->first_row, u->rows, key, keys < n * QKV_KEY_BLOCK ? keys : n * QKV_KEY_BLOCK);
        d.q = rows_in(inputs, p->heads, p->dim);
        d.k = rows_in(s->t.k + (key - s->t.first_key) * p->kv_heads * p->dim, p->kv_heads, p->dim);
        d.v = rows_in(s->t.v + (key - s->t.first_key) * p->kv_heads * p->dim_v, p->kv_heads, p->dim_v);
        d.states = (qkv_matrix_output){s->states + part, 0, floats, row, part};
        run_attention(s, &d);
        if (!is_first)
            memcpy(s->states, state, (size_t)part * sizeof(float));
        fold(v, u, is_first ? 1 : 0, n + 1, state);
    }
}

/* The whole state becomes out and lse; the sinks come in here, last. */
static void finish(void *arg, const struct unit *u, const float *state) {
    struct visit *v = arg;
    struct shard *s = v->shard;
    const struct problem *p = problem_of(v);
    int64_t floats = p->dim_v + 2, at = (u->first_row - s->t.first_row) * p->heads;
    qkv_merge_desc m = {.size = sizeof m,
                        .batch = 1,
                        .num_heads = p->heads,
                        .seq_q = u->rows,
                        .head_dim_v = p->dim_v,
                        .num_parts = 1,
                        .states = {state, 0, floats, p->heads * floats, 0},
                        .sinks = s->sinks,
                        .out = rows_out(s->t.out + at * p->dim_v, p->heads, p->dim_v),
                        .lse = rows_out(s->t.lse + at, p->heads, 1)};
    run_merge(s, &m);
}

static struct pass forward_pass(const struct sharding *sharding) {
    const struct problem *p = &sharding->problem;
    return (struct pass){.sharding = sharding,
                         .groups = 1,
                         .inputs = p->heads * p->dim,
                         .results = p->heads * (p->dim_v + 2),
                         .pack = pack_queries,
                         .work = attend,
                         .unpack = finish};
}

struct pass_report run_forward(struct shard *s, int slots, const struct accident *accident) {
    const struct problem *p = &s->sharding->problem;
    struct visit v = {s, 1, accident, 0};
    struct pass pass = forward_pass(s->sharding);
    pass.arg = &v;
    pass.slots = slots;
    s->states = take_floats((STATES + 1) * p->chunk_rows * p->heads * (p->dim_v + 2));
    struct pass_report report = run_pass(&pass);
    release_floats(s->states);
    s->states = NULL;
    return report;
}

/* ---------------------------------------------------------------------------------------------------- backward */

static void pack_gradients(void *arg, const struct unit *u, float *inputs) {
    const struct visit *v = arg;
    const struct tensors *t = &v->shard->t;
    const struct problem *p = problem_of(v);
    inputs = copy_to_record(v, u, inputs, t->q, p->dim);
    inputs = copy_to_record(v, u, inputs, t->grad_out, p->dim_v);
    inputs = copy_to_record(v, u, inputs, t->out, p->dim_v);
    copy_to_record(v, u, inputs, t->lse, 1);
}

static void differentiate(void *arg, const struct unit *u, float *inputs, float *grad_q, int is_first) {
    struct visit *v = arg;
    struct shard *s = v->shard;
    const struct problem *p = problem_of(v);
    const struct tensors *t = &s->t;
    int64_t heads = heads_together(p, v->groups), n = u->rows * heads;
    struct unit seen = part_at(s->sharding, u, my_rank);
    int64_t first = seen.first_block * QKV_KEY_BLOCK, end = seen.end_block * QKV_KEY_BLOCK;
    end = end < t->first_key + t->keys ? end : t->first_key + t->keys;
    float *k = t->k + (first - t->first_key) * p->kv_heads * p->dim, *grad_k = t->grad_k + (k - t->k);
    float *val = t->v + (first - t->first_key) * p->kv_heads * p->dim_v, *grad_v = t->grad_v + (val - t->v);
    float *grad_out = inputs + n * p->dim, *out = grad_out + n * p->dim_v, *lse = out + n * p->dim_v;
    qkv_attention_backward_desc d = {.size = sizeof d,
                                     .flags = QKV_ACCUMULATE_K | QKV_ACCUMULATE_V | (is_first ? 0 : QKV_ACCUMULATE_Q),
                                     .grad_out = rows_in(grad_out, heads, p->dim_v),
                                     .grad_q = rows_out(grad_q, heads, p->dim),
                                     .grad_k = rows_out(grad_k, p->kv_heads, p->dim),
                                     .grad_v = rows_out(grad_v, p->kv_heads, p->dim_v),
                                     .forward =
                                         describe(s, v->groups, u->group, u->first_row, u->rows, first, end - first)};
    d.forward.q = rows_in(inputs, heads, p->dim);
    d.forward.k = rows_in(k, p->kv_heads, p->dim);
    d.forward.v = rows_in(val, p->kv_heads, p->dim_v);
    d.forward.out = rows_out(out, heads, p->dim_v);
    d.forward.lse = rows_out(lse, heads, 1);
    run_gradients(s, &d);
}

static void keep_query_gradient(void *arg, const struct unit *u, const float *grad_q) {
    const struct visit *v = arg;
    int64_t dim = problem_of(v)->dim, heads = heads_together(problem_of(v), v->groups);
    for (int64_t i = 0; i < u->rows; i++) {
        for (int64_t h = 0; h < heads; h++, grad_q += dim)
            memcpy(own_row(v, u, v->shard->t.grad_q, dim, i, h), grad_q, (size_t)dim * sizeof(float));
    }
}

/* dsink is a sum over queries in order, which needs no keys: from rank to rank goes one float a head. */
static void sum_sinks(struct shard *s) {
    const struct problem *p = &s->sharding->problem;
    const struct tensors *t = &s->t;
    size_t bytes = (size_t)p->heads * sizeof(float);
    if (my_rank > 0)
        receive_now(s->grad_sinks, bytes, my_rank - 1, A_TENSOR);
    if (t->rows > 0) {
        qkv_attention_backward_desc d = {.size = sizeof d,
                                         .flags = QKV_ACCUMULATE_SINKS,
                                         .grad_sinks = s->grad_sinks,
                                         .grad_out = rows_in(t->grad_out, p->heads, p->dim_v),
                                         .forward = describe(s, 1, 0, t->first_row, t->rows, 0, 0)};
        d.forward.out = rows_out(t->out, p->heads, p->dim_v);
        d.forward.lse = rows_out(t->lse, p->heads, 1);
        run_gradients(s, &d);
    }
    if (my_rank + 1 < num_ranks)
        send_now(s->grad_sinks, bytes, my_rank + 1, A_TENSOR);
}

static struct pass backward_pass(const struct sharding *sharding) {
    const struct problem *p = &sharding->problem;
    return (struct pass){.sharding = sharding,
                         .groups = groups_of_backward(p),
                         .inputs = p->kv_heads * (p->dim + 2 * p->dim_v + 1),
                         .results = p->kv_heads * p->dim,
                         .pack = pack_gradients,
                         .work = differentiate,
                         .unpack = keep_query_gradient};
}

struct pass_report run_backward(struct shard *s, int slots) {
    struct visit v = {.shard = s, .groups = groups_of_backward(&s->sharding->problem)};
    struct pass pass = backward_pass(s->sharding);
    pass.arg = &v;
    pass.slots = slots;
    struct pass_report report = run_pass(&pass);
    if (s->sinks)
        sum_sinks(s);
    return report;
}

static int64_t bytes_of(struct pass pass) {
    return bytes_to_move(pass.sharding, pass.groups, pass.inputs, pass.results);
}

int64_t forward_bytes(const struct sharding *sharding) {
    return bytes_of(forward_pass(sharding));
}

int64_t backward_bytes(const struct sharding *sharding) {
    return bytes_of(backward_pass(sharding));
}
