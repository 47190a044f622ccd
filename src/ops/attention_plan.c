/* Attention: checking a descriptor and cutting the work into tasks.  SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"
#include "dropout.h"

static bool finite_float(float x) {
    return x - x == 0;
}

static qkv_status check_strides(const qkv_attention_desc *d) {
    int64_t q_sizes[4] = {d->batch, d->num_heads, d->seq_q, d->head_dim};
    int64_t k_sizes[4] = {d->batch, d->num_kv_heads, d->seq_k, d->head_dim};
    int64_t v_sizes[4] = {d->batch, d->num_kv_heads, d->seq_k, d->head_dim_v};
    int64_t out_sizes[4] = {d->batch, d->num_heads, d->seq_q, d->head_dim_v};
    int64_t pair_sizes[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
    int64_t state_sizes[5] = {d->batch, d->num_heads, d->seq_q, qkv_ceil_div(d->seq_k, QKV_KEY_BLOCK),
                              d->head_dim_v + 2};
    const struct {
        bool used;
        const int64_t *sizes;
        int64_t batch, head, token, last;
        size_t element;
    } tensors[] = {
        {true, q_sizes, d->q.batch, d->q.head, d->q.token, 1, 4},
        {true, k_sizes, d->k.batch, d->k.head, d->k.token, 1, 4},
        {true, v_sizes, d->v.batch, d->v.head, d->v.token, 1, 4},
        {true, out_sizes, d->out.batch, d->out.head, d->out.token, 1, 4},
        {d->lse.data, out_sizes, d->lse.batch, d->lse.head, d->lse.token, 0, 4},
        {d->bias.data, pair_sizes, d->bias.batch, d->bias.head, d->bias.query, d->bias.key, 4},
        {d->keep.data, pair_sizes, d->keep.batch, d->keep.head, d->keep.query, d->keep.key, 1},
        {d->probabilities.data, pair_sizes, d->probabilities.batch, d->probabilities.head, d->probabilities.query,
         d->probabilities.key, 4},
        {d->scores.data, pair_sizes, d->scores.batch, d->scores.head, d->scores.query, d->scores.key, 4},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        int64_t strides[4] = {tensors[i].batch, tensors[i].head, tensors[i].token, tensors[i].last};
        if (tensors[i].used && !qkv_fits(tensors[i].element, tensors[i].sizes, strides, 4))
            return QKV_ERROR_OVERFLOW;
    }
    int64_t state_strides[5] = {d->states.batch, d->states.head, d->states.query, d->states.key, 1};
    if (d->states.data && !qkv_fits(sizeof(float), state_sizes, state_strides, 5))
        return QKV_ERROR_OVERFLOW;
    return QKV_OK;
}

/* A copy of the descriptor with the sizes that 0 stands for. */
static qkv_status complete(const qkv_attention_desc *desc, qkv_attention_desc *d) {
    qkv_status status = qkv_import(d, sizeof *d, desc);
    if (status != QKV_OK)
        return status;
    if (d->num_kv_heads == 0)
        d->num_kv_heads = d->num_heads;
    if (d->head_dim_v == 0)
        d->head_dim_v = d->head_dim;
    return QKV_OK;
}

static qkv_status validate(const qkv_attention_desc *d) {
    int64_t sizes[7] = {d->batch, d->num_heads,  d->num_kv_heads, d->seq_q,
                        d->seq_k, d->head_dim, d->head_dim_v};
    if (!qkv_not_negative(sizes, 7))
        return QKV_ERROR_NEGATIVE;
    if (d->num_kv_heads > 0 && d->num_heads % d->num_kv_heads != 0)
        return QKV_ERROR_HEADS;
    if ((d->flags & ~(QKV_LEFT | QKV_RIGHT)) != 0 || d->reserved != 0 || d->scores_stage > QKV_SCORES_MASKED)
        return QKV_ERROR_FLAGS;
    if (!finite_float(d->scale) || !finite_float(d->softcap) || d->softcap < 0 || !qkv_is_dropout(d->dropout))
        return QKV_ERROR_VALUE;
    if (d->states.data && (d->out.data || d->lse.data || d->probabilities.data || d->scores.data))
        return QKV_ERROR_SHAPE;
    /* Everything the tasks count or allocate stays below 2^60, with room for rounding up. */
    int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, 64}, unused;
    int64_t packed[4] = {d->batch, d->num_kv_heads, d->seq_k, d->head_dim};
    int64_t limit = INT64_C(1) << 58;
    for (size_t i = 0; i < 7; i++) {
        if (sizes[i] > limit)
            return QKV_ERROR_OVERFLOW;
    }
    if (!qkv_product(rows, 4, limit, &unused) || !qkv_product(packed, 4, limit / 64, &unused))
        return QKV_ERROR_OVERFLOW;
    return check_strides(d);
}

qkv_status qkv_attention_prepare(const qkv_attention_desc *desc, qkv_attention_desc *d) {
    qkv_status status = complete(desc, d);
    return status != QKV_OK ? status : validate(d);
}

/* fl(1/fl(√head_dim)), the scale that 0 stands for. The root in double, rounded, is the float's root correctly rounded:
 * no float's root lies within an ulp of double of a rounding boundary. */
static float default_scale(int64_t head_dim) {
    return head_dim == 0 ? 1.0f : 1 / (float)qkv_square_root((float)head_dim);
}

float qkv_attention_measure(const qkv_attention_desc *d, qkv_attention_shape *shape) {
    float scale = d->scale == 0 ? default_scale(d->head_dim) : d->scale;
    shape->group = d->num_kv_heads > 0 ? d->num_heads / d->num_kv_heads : 0;
    shape->key_blocks = qkv_ceil_div(d->seq_k, QKV_KEY_BLOCK);
    shape->ld_q = qkv_round_up(d->head_dim, QKV_LANES);
    shape->ld_o = qkv_round_up(d->head_dim_v, QKV_LANES);
    shape->q_scale = d->softcap == 0 ? scale * QKV_LOG2E : scale / d->softcap;
    shape->cap = d->softcap * QKV_LOG2E;
    shape->keep_rows = d->keep.key == 0 || d->keep.key == 1 ? 0 : QKV_MAX_ROWS;
    shape->bias_rows = d->bias.key == 0 || d->bias.key == 1 ? 1 : QKV_MAX_ROWS;
    return scale;
}

/* Rows of a task, at most. K and V of a block come from the L2 cache or beyond once for so many rows, whose q and out
 * take a quarter of that cache. */
enum { MAX_BLOCK_ROWS = 1024, USUAL_L2_SIZE = 1 << 20 };

/* Blocks of rows, of equal height and whole tiles, not so high that q and out leave the cache, and enough of them for
 * all workers. */
static void cut_rows(const qkv_ctx *ctx, int64_t heads, qkv_attention_shape *shape) {
    int64_t tile = ctx->kernels->tile_rows;
    int64_t cache = (ctx->l2_size > 0 ? ctx->l2_size : USUAL_L2_SIZE) / (4 * (int64_t)sizeof(float));
    int64_t high = qkv_max(tile, qkv_min(MAX_BLOCK_ROWS, cache / qkv_max(1, shape->ld_q + shape->ld_o)));
    int64_t blocks = qkv_ceil_div(shape->rows, high);
    if (shape->workers > 1)
        blocks = qkv_max(blocks, qkv_ceil_div(4 * shape->workers, heads));
    shape->block_rows = qkv_round_up(qkv_ceil_div(shape->rows, blocks), tile);
    shape->row_blocks = qkv_ceil_div(shape->rows, shape->block_rows);
    shape->num_tasks = heads * shape->row_blocks;
}

/* The most key blocks that n consecutive queries see between them, whatever their positions and kv_len. */
static int64_t most_visible_blocks(const qkv_attention_desc *d, const qkv_attention_shape *shape, int64_t n) {
    if (!(d->flags & QKV_LEFT) || !(d->flags & QKV_RIGHT))
        return shape->key_blocks;
    int64_t span = bounded(d->left) + bounded(d->right) + n; /* begins anywhere in a block */
    return span < 1 ? 0 : qkv_min(shape->key_blocks, (span + QKV_KEY_BLOCK - 2) / QKV_KEY_BLOCK + 1);
}

/* Panels of all heads up to this size are packed once for all tasks. Beyond, each task packs what it sees, block by
 * block, which costs the more time the fewer its rows are, but no memory that grows with the keys. */
enum { MAX_SHARED_KEYS = 64 << 20 };

static int64_t shared_key_blocks(const qkv_attention_desc *d, int64_t heads, qkv_attention_shape *shape) {
    int64_t blocks = most_visible_blocks(d, shape, d->seq_q);
    int64_t keys = qkv_min(blocks * QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL));
    int64_t sizes[4] = {heads, keys, d->head_dim, sizeof(float)}, size;
    if (shape->row_blocks < 2 || !qkv_product(sizes, 4, MAX_SHARED_KEYS, &size))
        return 0;
    shape->packed_size = size;
    return blocks;
}

/* If blocks of rows are too few for all workers, the keys are divided too. Their states are kept until the end: of less
 * than 2·workers·tile_rows rows, as there were more blocks otherwise. */
static qkv_status cut_keys(const qkv_attention_desc *d, qkv_attention_shape *shape) {
    int64_t queries = qkv_min(d->seq_q, (shape->block_rows - 1) / shape->group + 2);
    int64_t blocks = most_visible_blocks(d, shape, queries);
    shape->key_chunks = 1;
    if (shape->workers == 1 || shape->num_tasks >= 2 * shape->workers || blocks < 2 || d->states.data ||
        d->probabilities.data || d->scores.data)
        return QKV_OK;
    shape->key_chunks = qkv_min(blocks, qkv_ceil_div(4 * shape->workers, shape->num_tasks));
    shape->state_blocks = blocks;
    int64_t last = shape->rows - (shape->row_blocks - 1) * shape->block_rows;
    int64_t whole[2] = {shape->row_blocks - 1, qkv_attention_state_floats(shape, shape->block_rows)};
    if (!qkv_product(whole, 2, PTRDIFF_MAX / 8, &shape->head_states))
        return QKV_ERROR_OVERFLOW;
    shape->head_states += qkv_attention_state_floats(shape, last);
    int64_t factors[4] = {d->batch * d->num_kv_heads, blocks, shape->head_states, sizeof(float)};
    return qkv_product(factors, 4, PTRDIFF_MAX / 4, &shape->states_size) ? QKV_OK : QKV_ERROR_OVERFLOW;
}

qkv_status qkv_attention_cut(const qkv_ctx *ctx, const qkv_attention_desc *d, int32_t max_workers,
                             qkv_attention_shape *shape) {
    memset(shape, 0, sizeof *shape);
    if (d->batch == 0 || d->num_heads == 0 || d->seq_q == 0)
        return QKV_OK;
    int64_t tile = ctx->kernels->tile_rows, heads = d->batch * d->num_kv_heads;
    qkv_attention_measure(d, shape);
    shape->workers = max_workers;
    shape->rows = shape->group * d->seq_q;
    cut_rows(ctx, heads, shape);
    shape->packed_blocks = shared_key_blocks(d, heads, shape);
    /* V in rows far apart costs a page and a cache set for each; from a few tiles on, one copy is cheaper. */
    shape->copies_values = d->v.token != shape->ld_o && shape->block_rows >= 4 * tile;
    int64_t keys = qkv_min(QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL));
    int64_t scratch[2] = {shape->block_rows + tile + keys, shape->ld_q + shape->ld_o + 64}, size;
    if (!qkv_product(scratch, 2, PTRDIFF_MAX / 8, &size))
        return QKV_ERROR_OVERFLOW;
    shape->worker_size = qkv_attention_scratch_size(ctx->kernels, d, shape);
    return cut_keys(d, shape);
}

/* Everything a run may not change. */
size_t qkv_attention_fields(const qkv_attention_desc *d, int64_t fields[64]) {
    const int64_t values[] = {
        d->batch, d->num_heads, d->num_kv_heads, d->seq_q, d->seq_k, d->head_dim, d->head_dim_v,
        d->q.batch, d->q.head, d->q.token, d->k.batch, d->k.head, d->k.token, d->v.batch, d->v.head, d->v.token,
        d->out.batch, d->out.head, d->out.token, d->lse.batch, d->lse.head, d->lse.token,
        d->probabilities.data != NULL, d->states.data != NULL,
        qkv_float_field(d->scale), qkv_float_field(d->softcap), d->flags, d->left, d->right, d->q_offset,
        d->bias.batch, d->bias.head, d->bias.query, d->bias.key,
        d->keep.batch, d->keep.head, d->keep.query, d->keep.key,
        d->probabilities.batch, d->probabilities.head, d->probabilities.query, d->probabilities.key,
        d->states.batch, d->states.head, d->states.query, d->states.key, qkv_float_field(d->dropout),
        d->scores.data != NULL, d->scores.batch, d->scores.head, d->scores.query, d->scores.key, d->scores_stage,
    };
    _Static_assert(sizeof values <= 64 * sizeof(int64_t), "fields has room");
    memcpy(fields, values, sizeof values);
    return sizeof values / sizeof values[0];
}

void qkv_attention_add_options(qkv_pointers *pointers, const qkv_attention_desc *d) {
    bool rows = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0;
    qkv_add_output(pointers, d->lse.data, sizeof(float), rows && d->lse.data);
    qkv_add_output(pointers, d->probabilities.data, sizeof(float), rows && d->seq_k > 0 && d->probabilities.data);
    qkv_add_output(pointers, d->scores.data, sizeof(float), rows && d->seq_k > 0 && d->scores.data);
    qkv_add_output(pointers, d->states.data, sizeof(float), rows && d->seq_k > 0 && d->states.data);
    qkv_add_input(pointers, d->q_offsets, sizeof(int64_t), d->q_offsets);
    qkv_add_input(pointers, d->kv_len, sizeof(int64_t), d->kv_len);
    qkv_add_input(pointers, d->alibi_slopes, sizeof(float), d->alibi_slopes);
    qkv_add_input(pointers, d->sinks, sizeof(float), d->sinks);
    qkv_add_input(pointers, d->bias.data, sizeof(float), d->bias.data);
    qkv_add_input(pointers, d->keep.data, 1, d->keep.data);
}

/* Of what a run may not change and all else that validate looks at. */
static uint64_t attention_checksum(const qkv_attention_desc *d) {
    int64_t fields[68];
    size_t n = qkv_attention_fields(d, fields);
    const int64_t more[] = {d->lse.data != NULL, d->bias.data != NULL, d->keep.data != NULL, d->reserved};
    memcpy(fields + n, more, sizeof more);
    return qkv_checksum(fields, n + sizeof more / sizeof more[0]);
}

static void attention_execute(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                              int32_t worker) {
    qkv_attention_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    qkv_attention_execute(plan->kernels, &shape, desc, workspace, phase, index, worker);
}

static qkv_status attention_check_call(const qkv_plan *plan, const qkv_attention_desc *desc, const void *workspace,
                                       size_t workspace_size, qkv_attention_desc *d) {
    if (!plan)
        return QKV_ERROR_NULL;
    qkv_status status = complete(desc, d);
    if (status != QKV_OK)
        return status;
    /* equal ones have been validated */
    if (plan->operation != QKV_ATTENTION || plan->checksum != attention_checksum(d)) {
        status = validate(d);
        return status != QKV_OK ? status : QKV_ERROR_PLAN;
    }
    bool rows = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0;
    bool pairs = rows && d->seq_k > 0;
    qkv_pointers pointers = {0};
    qkv_add_input(&pointers, d->q.data, sizeof(float), pairs && d->head_dim > 0);
    qkv_add_input(&pointers, d->k.data, sizeof(float), pairs && d->head_dim > 0);
    qkv_add_input(&pointers, d->v.data, sizeof(float), pairs && d->head_dim_v > 0);
    qkv_add_output(&pointers, d->out.data, sizeof(float), rows && d->head_dim_v > 0 && !d->states.data);
    qkv_attention_add_options(&pointers, d);
    status = qkv_check_pointers(&pointers);
    return status != QKV_OK ? status : qkv_check_workspace(plan, workspace, workspace_size);
}

qkv_status qkv_attention_plan(const qkv_ctx *ctx, const qkv_attention_desc *desc, int32_t max_workers,
                              qkv_plan *plan) {
    if (!ctx || !plan)
        return QKV_ERROR_NULL;
    qkv_attention_desc d;
    qkv_status status = qkv_attention_prepare(desc, &d);
    if (status != QKV_OK)
        return status;
    if (max_workers < 1)
        return QKV_ERROR_WORKERS;
    qkv_attention_shape shape;
    status = qkv_attention_cut(ctx, &d, max_workers, &shape);
    if (status != QKV_OK)
        return status;
    int64_t scratch[2] = {shape.worker_size, max_workers}, scratch_size;
    if (!qkv_product(scratch, 2, PTRDIFF_MAX / 2, &scratch_size))
        return QKV_ERROR_OVERFLOW;
    qkv_plan p = {.workspace_size = (size_t)(shape.packed_size + shape.states_size + scratch_size),
                  .max_workers = max_workers,
                  .kernels = ctx->kernels,
                  .operation = QKV_ATTENTION,
                  .checksum = attention_checksum(&d)};
    p.num_phases = qkv_attention_phases(&shape, p.num_tasks);
    _Static_assert(sizeof shape <= sizeof p.geometry, "the plan holds the shape");
    memcpy(p.geometry, &shape, sizeof shape);
    *plan = p;
    return QKV_OK;
}

#define QKV_OP(name) qkv_attention_##name
#define LOCAL(name) attention_##name
#define PREPARE qkv_attention_prepare
#include "shell.inc.h"
