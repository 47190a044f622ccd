/* What the files of the attention's gradients share.  SPDX-License-Identifier: MIT */
#ifndef QKV_ATTENTION_BACKWARD_H
#define QKV_ATTENTION_BACKWARD_H

#include "attention_task.h"

QKV_INTERNAL_BEGIN

/* dK and dV are sums of chains over so many queries each (docs/numerics.md). */
enum { GRADIENT_ROWS = 64 };

/* How the work is cut. A sweep is all queries of a KV head's group against one block of keys; it is cut into units of
 * unit_rows queries of one head. With lanes = 0 a task does all sweeps of a KV head. Else the sweeps of all KV heads
 * run as a wavefront: some units in each phase, each at least one phase behind the same unit of the key block before.
 * So the key blocks meet a query in ascending order, and the queries a key, as in one thread. */
typedef struct gradient_shape {
    qkv_attention_shape scores; /* group, ld_q, ld_o, q_scale, cap: what computing scores needs */
    int64_t kv_heads;           /* of all batches */
    int64_t key_blocks;
    int64_t lanes, unit_rows, phases;
    int64_t slots;                   /* rooms for a sweep's keys and sums: one for each worker, or some for each lane */
    int64_t rows, row_chunks;        /* queries of all heads and batches; tasks of the first phase for each head */
    int64_t bias_queries, bias_keys; /* tasks of the bias's own phase along these axes; 0: it has none */
    int64_t statistics_size, slot_size, worker_size; /* bytes */
    int64_t copies_q, copies_k, copies_out; /* rows that are far apart, or no floats, are copied to aligned ones */
    float scale;
} gradient_shape;

/* A block of up to GRADIENT_ROWS queries of one head against one block of keys. */
typedef struct gradient_task {
    attention_task rows; /* the queries: query and head, q (scaled), and scratch for computing scores */
    const gradient_shape *shape;
    const qkv_attention_backward_desc *desc;
    bool sums_bias;                               /* dbias is summed here and now */
    const float *row_lse, *row_delta, *row_clean; /* of all rows, see qkv_gradient_statistics */

    /* the key block, in its slot */
    int64_t block, num_keys;
    float *k_panels, *v_panels;
    float *k_copy, *grad_k, *grad_v; /* [QKV_KEY_BLOCK][ld_q], [ld_q], [ld_o] */
    const float *k;
    int64_t ld_k;

    /* the block of queries */
    int64_t head, first_query, num_rows;
    const float *lse, *delta, *clean; /* of its rows */
    const float *q, *grad_out;
    int64_t ld_q, ld_grad_out;
    key_range seen[GRADIENT_ROWS]; /* what they see of the key block */
    uint64_t masked;               /* bit i: but not all of it, as a mask hides keys in between */

    /* scratch of the worker */
    int64_t first_kept;           /* the row that p and ds begin with: 0, or in bfloat16 the first of the tile */
    float *p, *ds;                /* [GRADIENT_ROWS or tile][LD_SCORES]: probabilities; gradients of scores */
    float *visible;               /* the same of logits, for what has to be done exactly */
    float *cap_tanh, *dt;         /* [tile_rows][LD_SCORES] */
    float *factors;               /* the same: dropout's */
    float *dq;                    /* [tile_rows][ld_q] */
    float *scaled_delta, *column; /* [GRADIENT_ROWS], [2·GRADIENT_ROWS] */
    float *q_copy, *out_copy;     /* [GRADIENT_ROWS][ld_q], [ld_o] */
    float *wide;                  /* [GRADIENT_ROWS][max(ld_q, ld_o)]: rows as floats that are stored otherwise */
    float *row_sum;               /* [max(ld_q, ld_o)] */

    /* In bfloat16, operands of products: K of the block in pairs of keys (in its slot), and without what a row does not
     * see; dS of a tile; rows of dO; q and dO, P and dS of the block of queries in pairs of these. So are then the
     * panels of K and V, scaled q, and grad_out, which is out_rows. */
    float *k_pairs, *k_seen, *ds_rows, *out_rows, *q_pairs, *out_pairs, *p_pairs, *ds_pairs;
} gradient_task;

/* Lays out the scratch of a task. Without a wavefront a worker has a slot of its own. */
void qkv_gradient_begin(gradient_task *t, const qkv_kernels *kernels, const gradient_shape *shape,
                        const qkv_attention_backward_desc *desc, void *workspace, int64_t slot, int32_t worker);

typedef struct gradient_schedule gradient_schedule;

/* Fills in slot_size and worker_size. */
void qkv_gradient_scratch(const qkv_kernels *kernels, gradient_shape *shape, const qkv_attention_backward_desc *desc);

/* The schedule that a lane takes from one phase to the next. */
gradient_schedule *qkv_gradient_schedule_of(const gradient_shape *shape, void *workspace, int64_t lane);

/* Chooses a KV head (b·num_kv_heads + head), then one of its blocks of keys. */
void qkv_gradient_choose_head(gradient_task *t, int64_t kv_head);
void qkv_gradient_choose_keys(gradient_task *t, int64_t block);

void qkv_gradient_load_keys(const gradient_task *t);  /* packs K and V */
void qkv_gradient_open_sums(const gradient_task *t);  /* dK and dV: zeros, or what is there */
void qkv_gradient_close_sums(const gradient_task *t); /* stores them */

/* Whether gradients of scores are needed, of which all but dV are made. */
static inline bool qkv_gradient_wants_scores(const qkv_attention_backward_desc *desc) {
    return desc->grad_q.data || desc->grad_k.data || desc->grad_bias.data;
}

/* Whether dbias is summed where scores are at hand, without a phase of its own. False where no query meets a key. */
static inline bool qkv_gradient_bias_is_direct(const qkv_attention_backward_desc *desc) {
    const qkv_attention_desc *d = &desc->forward;
    const qkv_matrix_output *x = &desc->grad_bias;
    bool pairs = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0 && d->seq_k > 0;
    bool crosses = (x->batch == 0 && d->batch > 1) || (x->head == 0 && d->num_heads > 1);
    return pairs && !crosses && !(x->query == 0 && x->key == 0 && d->seq_q > 1 && d->seq_k > 1);
}

/* Names the queries [first, first + n) of a head, n ≤ GRADIENT_ROWS; scales q and copies what is copied. */
void qkv_gradient_name_rows(gradient_task *t, int64_t head, int64_t first, int64_t n);
void qkv_gradient_open_rows(gradient_task *t);

/* Row addresses in the chosen batch. Tensors without channels may be NULL; nothing is read of them. */
float *qkv_gradient_output_row(const gradient_task *t, const qkv_output *x, int64_t head, int64_t token);
const void *qkv_gradient_input_row(const gradient_task *t, const qkv_input *x, int32_t type, int64_t dim, int64_t head,
                                   int64_t token);
/* n of them as floats, `ld` apart: the rows themselves or, where they are no floats, copies in `room`. */
const float *qkv_gradient_float_rows(const gradient_task *t, const qkv_input *x, int32_t type, int64_t dim,
                                     int64_t head, int64_t token, int64_t n, float *room, int64_t *ld);
void qkv_gradient_copy_rows(float *to, int64_t ld, const float *from, int64_t stride, int64_t rows, int64_t n);

/* Floats that so many terms of a panel take. */
static inline int64_t qkv_gradient_panel(const qkv_kernels *kernels, const qkv_attention_desc *d, int64_t terms) {
    return qkv_in_bf16(d) ? qkv_bf16_panel_bytes(kernels, terms) / (int64_t)sizeof(float) : QKV_PANEL * terms;
}

/* Row `row` of p or ds. */
static inline float *qkv_gradient_scores(const gradient_task *t, float *x, int64_t row) {
    return x + (row - t->first_kept) * LD_SCORES;
}

/* Queries [first, first + n) of a head against the loaded block, n ≤ GRADIENT_ROWS; first is a multiple of that. */
void qkv_gradient_rows(gradient_task *t, int64_t head, int64_t first, int64_t n);

/* The same, for dbias alone. */
void qkv_gradient_bias_rows(gradient_task *t, int64_t head, int64_t first, int64_t n);

/* Clears dbias, or takes up what is there, for some queries and keys of a batch and head. An axis along which it is
 * summed has index 0 only, and has that also where there is nothing to sum. */
void qkv_gradient_open_bias(const qkv_attention_backward_desc *desc, int64_t b, int64_t head, key_range queries,
                            key_range keys);

/* -------------------------------------------------------------------------------------------------- in bfloat16 */

/* K of the block in pairs, without those keys that are hidden. */
void qkv_gradient_bf16_pair_keys(const gradient_task *t, key_range keys, const bool *hidden);

/* Makes operands of the block's queries and of grad_out, which are floats. */
void qkv_gradient_bf16_open_rows(gradient_task *t);

/* dQ of n rows from `row` on, from their dS; and of row i of them, from what it sees, as t->visible says. */
void qkv_gradient_bf16_multiply_scores(const gradient_task *t, int64_t row, int64_t n, key_range keys);
void qkv_gradient_bf16_multiply_seen(const gradient_task *t, int64_t row, int64_t i, key_range keys);

/* Keeps P and dS of n rows for the sums over rows: zeros at keys of the block that are not among `keys`. */
void qkv_gradient_bf16_keep_tile(const gradient_task *t, int64_t row, int64_t n, key_range block, key_range keys);

/* dV and dK of some keys, over rows [first, end); and of one key, over the rows that see it, as t->visible says. */
void qkv_gradient_bf16_sum_rows(const gradient_task *t, key_range keys, int64_t first, int64_t end);
void qkv_gradient_bf16_sum_seen(const gradient_task *t, int64_t key);

#if !QKV_WITH(BF16) /* never reached, but named where nothing is optimised */
#define qkv_gradient_bf16_pair_keys(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_gradient_bf16_open_rows(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_gradient_bf16_multiply_scores(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_gradient_bf16_multiply_seen(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_gradient_bf16_keep_tile(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_gradient_bf16_sum_rows(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_gradient_bf16_sum_seen(...) ((void)qkv_absent(0, __VA_ARGS__))
#endif

/* ------------------------------------------------------------------------------------- what crosses key blocks */

/* Task `index` of the first phase: the statistics of some rows of one head,
 *   lse    in base 2; +∞ where the row sees no key, which makes all its probabilities 0
 *   delta  Σ dO·O − dLSE; 0 where the row sees no key
 *   clean  0 if q and dO of the row are finite, else NaN
 * and what later phases add to, dQ and a dbias that has no phase of its own, is cleared or taken up. */
void qkv_gradient_statistics(const qkv_kernels *kernels, const gradient_shape *shape,
                             const qkv_attention_backward_desc *desc, void *workspace, int64_t index, int32_t worker);

/* Tasks of the phase of a dbias that is summed over heads or batches; one of dsink for each head. */
int64_t qkv_gradient_bias_tasks(const gradient_shape *shape, const qkv_attention_backward_desc *desc);
void qkv_gradient_bias(const qkv_kernels *kernels, const gradient_shape *shape, const qkv_attention_backward_desc *desc,
                       void *workspace, int64_t index, int32_t worker);
void qkv_gradient_sink(const gradient_shape *shape, const qkv_attention_backward_desc *desc, const void *workspace,
                       int64_t head, const qkv_kernels *kernels);

/* -------------------------------------------------------------------------------------------------- wavefront */

enum { MAX_LANES = 32, LANE_SLOTS = 2, MAX_OPEN = LANE_SLOTS * MAX_LANES };

/* A sweep under way, or the next of its KV head. A cell is a unit of one head. */
typedef struct gradient_sweep {
    int32_t kv_head, block;
    int32_t slot; /* where its keys and sums are; −1: nowhere yet, or no longer */
    int32_t done; /* cells, of those in order: heads of the group, units of each */
    int64_t left; /* work */
} gradient_sweep;

struct gradient_schedule {
    int64_t first_head; /* that has key blocks not begun; MAX_OPEN heads from it on take part */
    int32_t num_open;
    gradient_sweep open[MAX_OPEN], next[MAX_OPEN]; /* next: [kv_head mod MAX_OPEN] */
};

enum { SCHEDULE_SIZE = (sizeof(gradient_schedule) + 63) / 64 * 64 };

/* What a lane does in a phase. */
typedef struct gradient_step {
    bool sweeps, closes; /* anything; the last of the sweep */
    int64_t kv_head, block, slot;
    int64_t first, end; /* cells */
    key_range units;    /* that a head has for this block */
} gradient_step;

/* How many cells there are; the work of a KV head, in pairs of a query and a key. */
int64_t qkv_gradient_cells(const gradient_shape *shape, const qkv_attention_desc *d);
int64_t qkv_gradient_head_work(const gradient_shape *shape, const qkv_attention_desc *d);

/* The schedule before the first phase; the next phase. Returns the work of its longest step, 0 when all is done. */
void qkv_gradient_start(gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d);
int64_t qkv_gradient_advance(gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d,
                             int64_t lane, gradient_step *own);

QKV_INTERNAL_END

#endif
