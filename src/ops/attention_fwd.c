/* Attention forward: softmax(Q·Kᵀ)·V without ever holding the matrix of scores.
 *
 * The work is cut three times. A task owns a block of rows, a row being one query of one head; the heads that share a
 * KV head are rows of the same block, so their keys are read once. A task passes over the keys in blocks of 256. Within
 * a key block it takes its rows a tile at a time (as many as the CPU keeps in registers) through
 *
 *   scores   S  = Q·Kᵀ            256 columns, which stay in the L1 cache
 *   softmax  m_b = max S,  P = exp2(S − m_b),  ℓ_b = Σ P
 *   output   O_b = P·V
 *   fold     (m, ℓ, O) ← (m, ℓ, O) ⊕ (m_b, ℓ_b, O_b)
 *
 * where ⊕ brings both sides to the larger maximum before it adds: that is all of flash attention. At the end out = O/ℓ.
 * Logits are kept in base 2: the factor log2 e is part of the scale of Q.
 *
 * Keys that a row must not see get the score −inf and so the weight +0. The product P·V still multiplies their V by
 * it, which is harmless unless V holds an infinity or NaN there; as 0·∞ leaves a NaN behind, a row with a NaN at its
 * end is done once more by a loop that skips.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention.h"

/* Row stride of a tile of scores: rows of exactly 1 KiB would compete for the same lines of the L1 cache. */
enum { LD_SCORES = QKV_KEY_BLOCK + QKV_LANES };

typedef struct task {
    const qkv_kernels *kernels;
    const qkv_attention_shape *shape;
    const qkv_attention_desc *desc;
    int64_t b, kv_head, first_row, rows;
    int64_t kv_len, q_offset; /* of batch b */
    /* scratch of the worker */
    int64_t *query, *head;         /* [block_rows]: which query and head a row is */
    float *scores;                 /* [tile_rows][LD_SCORES] */
    float *block_out;              /* [tile_rows][ld_o]: O_b */
    float *block_max, *block_sum;  /* [tile_rows]: m_b, ℓ_b */
    float *q, *out;                /* [block_rows][ld_q] scaled, [block_rows][ld_o]: O */
    float *max, *sum;              /* [block_rows]: m, ℓ */
    float *distance, *bias, *logits;
    uint8_t *keep;
    float *values;                 /* [QKV_KEY_BLOCK][ld_o]: a copy of a block of V, where that pays */
    float *packed;                 /* a block of keys in panels, where the task packs its own */
    const float *shared_keys;      /* the panels of this KV head, else */
} task;

/* ---------------------------------------------------------------------------------------------------- scratch */

enum { DISTANCES = QKV_KEY_BLOCK + 2 * QKV_MAX_ROWS };

/* Hands out the parts of a worker's scratch; with base = NULL it only counts. */
static int64_t lay_out(task *t, float *base, const qkv_kernels *kernels, const qkv_attention_shape *shape) {
    int64_t used = 0, int64_floats = sizeof(int64_t) / sizeof(float);
    float *keep = NULL, *query = NULL, *head = NULL;
    const struct {
        float **part;
        int64_t floats;
    } parts[] = {
        {&t->scores, kernels->tile_rows * LD_SCORES},
        {&t->block_out, kernels->tile_rows * shape->ld_o},
        {&t->block_max, QKV_MAX_ROWS},
        {&t->block_sum, QKV_MAX_ROWS},
        {&t->q, shape->block_rows * shape->ld_q},
        {&t->out, shape->block_rows * shape->ld_o},
        {&t->max, shape->block_rows},
        {&t->sum, shape->block_rows},
        {&t->distance, DISTANCES},
        {&t->bias, QKV_KEY_BLOCK},
        {&t->logits, QKV_KEY_BLOCK},
        {&keep, QKV_KEY_BLOCK / (int64_t)sizeof(float)},
        {&query, shape->block_rows * int64_floats},
        {&head, shape->block_rows * int64_floats},
        {&t->values, shape->copies_values ? QKV_KEY_BLOCK * shape->ld_o : 0},
        {&t->packed, 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base)
            *parts[i].part = base + used;
        used += qkv_round_up(parts[i].floats, QKV_LANES);
    }
    t->keep = (uint8_t *)keep;
    t->query = (int64_t *)(void *)query;
    t->head = (int64_t *)(void *)head;
    return used * (int64_t)sizeof(float);
}

int64_t qkv_attention_scratch_size(const qkv_kernels *kernels, const qkv_attention_shape *shape) {
    task unused;
    return lay_out(&unused, NULL, kernels, shape);
}

/* --------------------------------------------------------------------------------------- positions, visibility */

/* Positions and window widths beyond 2^61 mean no more than 2^61; so their sums can't overflow. */
static int64_t bounded(int64_t x) {
    int64_t limit = INT64_C(1) << 61;
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* The rows of a KV head: first the heads of its group for query 0, then those for query 1, … */
static int64_t query_of_row(const qkv_attention_shape *shape, int64_t row) {
    return row / shape->group;
}

static void name_rows(const task *t) {
    int64_t group = t->shape->group, query = query_of_row(t->shape, t->first_row), head = t->first_row % group;
    for (int64_t row = 0; row < t->rows; row++) {
        t->query[row] = query;
        t->head[row] = t->kv_head * group + head;
        if (++head == group) {
            head = 0;
            query++;
        }
    }
}

static int64_t position_of(const task *t, int64_t query) {
    return query + t->q_offset;
}

/* Keys [first, end) that kv_len and the window leave to a query. Neither bound decreases with the query. */
typedef struct key_range {
    int64_t first, end;
} key_range;

static key_range visible_keys(const task *t, int64_t query) {
    const qkv_attention_desc *d = t->desc;
    int64_t p = position_of(t, query);
    int64_t first = d->flags & QKV_LEFT ? qkv_min(t->kv_len, qkv_max(0, p - bounded(d->left))) : 0;
    int64_t end = d->flags & QKV_RIGHT ? qkv_min(t->kv_len, p + bounded(d->right) + 1) : t->kv_len;
    return (key_range){first, qkv_max(first, end)};
}

/* All that the queries from first to last see between them. */
static key_range visible_to_queries(const task *t, int64_t first, int64_t last) {
    return (key_range){visible_keys(t, first).first, visible_keys(t, last).end};
}

static key_range visible_to_rows(const task *t, int64_t row, int64_t n) {
    return visible_to_queries(t, t->query[row], t->query[row + n - 1]);
}

/* The part of a range that lies in a key block, counted from the block's first key. */
static key_range within_block(key_range keys, int64_t block) {
    int64_t base = block * QKV_KEY_BLOCK;
    int64_t first = qkv_max(0, keys.first - base), end = qkv_min(QKV_KEY_BLOCK, keys.end - base);
    return first < end ? (key_range){first, end} : (key_range){0, 0};
}

static int64_t batch_kv_len(const qkv_attention_desc *d, int64_t b) {
    return d->kv_len ? qkv_max(0, qkv_min(d->seq_k, d->kv_len[b])) : d->seq_k;
}

static int64_t batch_q_offset(const qkv_attention_desc *d, int64_t b) {
    return bounded(d->q_offsets ? d->q_offsets[b] : d->q_offset);
}

/* -------------------------------------------------------------------------------------------------- K in panels */

/* Packs the panels of a key block that hold the keys [0, end) of it. */
static void pack_block(const qkv_kernels *kernels, const qkv_attention_desc *d, float *panels, int64_t b,
                       int64_t kv_head, int64_t block, key_range keys) {
    const float *k = (const float *)d->k.data + b * d->k.batch + kv_head * d->k.head;
    for (int64_t j = keys.first / QKV_PANEL * QKV_PANEL; j < keys.end; j += QKV_PANEL)
        kernels->pack(panels + j * d->head_dim, k + (block * QKV_KEY_BLOCK + j) * d->k.token, d->k.token,
                      (size_t)qkv_min(QKV_PANEL, keys.end - j), (size_t)d->head_dim);
}

/* Floats of all panels of one KV head. */
static int64_t head_panels(const qkv_attention_desc *d) {
    return qkv_round_up(d->seq_k, QKV_PANEL) * d->head_dim;
}

void qkv_attention_pack_keys(const qkv_kernels *kernels, const qkv_attention_shape *shape,
                             const qkv_attention_desc *d, void *workspace, int64_t index) {
    int64_t block = index % shape->key_blocks, head = index / shape->key_blocks;
    int64_t b = head / d->num_kv_heads;
    task all = {.desc = d, .shape = shape, .kv_len = batch_kv_len(d, b), .q_offset = batch_q_offset(d, b)};
    key_range keys = within_block(visible_to_queries(&all, 0, d->seq_q - 1), block);
    float *panels = (float *)workspace + head * head_panels(d) + block * QKV_KEY_BLOCK * d->head_dim;
    pack_block(kernels, d, panels, b, head % d->num_kv_heads, block, keys);
}

/* A key block as the tiles read it. */
typedef struct key_block {
    int64_t index;
    const float *panels;   /* K */
    const float *v;        /* of key 0 of the block */
    int64_t ld_v;
} key_block;

/* Makes ready what the task's rows need of a block, which is no more than the given keys. */
static key_block open_block(const task *t, int64_t index, key_range keys) {
    const qkv_attention_desc *d = t->desc;
    const qkv_input *v = &d->v;
    key_block block = {.index = index, .ld_v = v->token};
    if (keys.first == keys.end)
        return block;
    if (t->shared_keys) {
        block.panels = t->shared_keys + index * QKV_KEY_BLOCK * d->head_dim;
    } else {
        pack_block(t->kernels, d, t->packed, t->b, t->kv_head, index, keys);
        block.panels = t->packed;
    }
    block.v = (const float *)v->data + t->b * v->batch + t->kv_head * v->head + index * QKV_KEY_BLOCK * v->token;
    if (t->shape->copies_values) {
        size_t bytes = (size_t)d->head_dim_v * sizeof(float);
        for (int64_t j = keys.first; j < keys.end; j++)
            memcpy(t->values + j * t->shape->ld_o, block.v + j * v->token, bytes);
        block.v = t->values;
        block.ld_v = t->shape->ld_o;
    }
    return block;
}

/* ------------------------------------------------------------------------------------------------------- scores */

/* (float)(j − p) for every key of the range and every row of the tile. The rows' positions ascend, so one array of
 * distances serves them all: row i starts distance_start(…, i) into it. */
static void fill_distances(const task *t, int64_t row, int64_t n, int64_t block, key_range keys) {
    int64_t last = position_of(t, t->query[row + n - 1]), spread = last - position_of(t, t->query[row]);
    int64_t start = block * QKV_KEY_BLOCK + keys.first - last;
    for (int64_t x = 0; x < keys.end - keys.first + spread; x++)
        t->distance[x] = (float)(start + x);
}

static int64_t distance_start(const task *t, int64_t row, int64_t n, int64_t i) {
    return t->query[row + n - 1] - t->query[row + i];
}

/* Element (b, head of the row, its query, first key of the block) of a matrix with elements of the given size. */
static const unsigned char *matrix_row(const task *t, const qkv_matrix_input *x, int64_t row, int64_t block,
                                       int64_t element_size) {
    return (const unsigned char *)x->data + (t->b * x->batch + t->head[row] * x->head + t->query[row] * x->query +
                                             block * QKV_KEY_BLOCK * x->key) * element_size;
}

static const float *bias_row(const task *t, int64_t row, int64_t block, key_range keys) {
    const qkv_matrix_input *x = &t->desc->bias;
    const float *from = (const float *)(const void *)matrix_row(t, x, row, block, sizeof(float));
    if (x->key == 1)
        return from + keys.first;
    for (int64_t j = keys.first; j < keys.end; j++)
        t->bias[j] = from[j * x->key];
    return t->bias + keys.first;
}

static const uint8_t *keep_row(const task *t, int64_t row, int64_t block, key_range keys) {
    const qkv_matrix_input *x = &t->desc->keep;
    const uint8_t *from = matrix_row(t, x, row, block, 1);
    if (x->key == 1)
        return from + keys.first;
    for (int64_t j = keys.first; j < keys.end; j++)
        t->keep[j] = from[j * x->key];
    return t->keep + keys.first;
}

static void fill(float *x, int64_t first, int64_t end, float value) {
    for (int64_t j = first; j < end; j++)
        x[j] = value;
}

/* What scores besides q·k and the range of keys. */
static bool has_logit_steps(const qkv_attention_desc *d) {
    return d->softcap != 0 || d->alibi_slopes || d->bias.data || d->keep.data;
}

/* The logits of n rows from `row` on against a key block, into t->scores; keys that a row must not see become −inf.
 * `keys` is what the rows see of the block between them; the columns written are it, widened to whole lanes. */
static key_range score_tile(const task *t, int64_t row, int64_t n, const key_block *block, key_range keys) {
    const qkv_attention_desc *d = t->desc;
    const qkv_kernels *kernels = t->kernels;
    key_range columns = {keys.first / QKV_LANES * QKV_LANES, qkv_round_up(keys.end, QKV_LANES)};
    const float *q = t->q + row * t->shape->ld_q;
    for (int64_t j = columns.first; j < columns.end;) {
        int64_t in_panel = j % QKV_PANEL;
        int64_t width = qkv_min(QKV_PANEL - in_panel, columns.end - j);
        const float *panel = block->panels + (j - in_panel) * d->head_dim + in_panel;
        int64_t c = 0;
        do {
            kernels->gemm(t->scores + j, LD_SCORES, q + c, t->shape->ld_q, panel + c * QKV_PANEL, QKV_PANEL, (size_t)n,
                          (size_t)width, (size_t)qkv_min(QKV_CHAIN, d->head_dim - c), c > 0, NULL);
            c += QKV_CHAIN;
        } while (c < d->head_dim);
        j += width;
    }

    bool steps = has_logit_steps(d);
    if (d->alibi_slopes)
        fill_distances(t, row, n, block->index, keys);
    for (int64_t i = 0; i < n; i++) {
        float *scores = t->scores + i * LD_SCORES;
        key_range seen = within_block(visible_keys(t, t->query[row + i]), block->index);
        if (steps && seen.first < seen.end) {
            qkv_logit_steps s = {.cap = t->shape->cap};
            if (d->alibi_slopes) {
                s.slope = d->alibi_slopes[t->head[row + i]] * QKV_LOG2E;
                s.distance = t->distance + distance_start(t, row, n, i) + (seen.first - keys.first);
            }
            s.bias = d->bias.data ? bias_row(t, row + i, block->index, seen) : NULL;
            s.keep = d->keep.data ? keep_row(t, row + i, block->index, seen) : NULL;
            kernels->logits(scores + seen.first, (size_t)(seen.end - seen.first), &s);
        }
        if (seen.first == seen.end)
            seen = (key_range){columns.end, columns.end};
        fill(scores, columns.first, seen.first, QKV_MINUS_INFINITY);
        fill(scores, seen.end, columns.end, QKV_MINUS_INFINITY);
    }
    return columns;
}

/* ------------------------------------------------------------------------------------------------ one key block */

/* The state that n rows have from one key block: m_b, ℓ_b and O_b. */
static void attend_block(const task *t, int64_t row, int64_t n, const key_block *block, key_range keys, float *max,
                         float *sum, float *out) {
    const qkv_kernels *kernels = t->kernels;
    key_range columns = score_tile(t, row, n, block, keys);
    kernels->softmax(t->scores + columns.first, LD_SCORES, (size_t)n, (size_t)(columns.end - columns.first), max, sum);
    kernels->gemm(out, t->shape->ld_o, t->scores + keys.first, LD_SCORES, block->v + keys.first * block->ld_v,
                  block->ld_v, (size_t)n, (size_t)t->desc->head_dim_v, (size_t)(keys.end - keys.first), 0, NULL);
}

/* The same for one row, into block_max, block_sum and block_out, by a loop that skips what the row does not see. */
static void attend_block_exactly(const task *t, int64_t row, const key_block *block, key_range keys) {
    const qkv_kernels *kernels = t->kernels;
    key_range columns = score_tile(t, row, 1, block, keys);
    size_t width = (size_t)(columns.end - columns.first);
    memcpy(t->logits + columns.first, t->scores + columns.first, width * sizeof(float));
    kernels->softmax(t->scores + columns.first, LD_SCORES, 1, width, t->block_max, t->block_sum);
    kernels->sum_visible(t->block_out, t->scores + keys.first, t->logits + keys.first,
                         block->v + keys.first * block->ld_v, block->ld_v, (size_t)(keys.end - keys.first),
                         (size_t)t->desc->head_dim_v);
}

static void fold_rows(const task *t, int64_t row, int64_t n) {
    t->kernels->fold(t->max + row, t->sum + row, t->out + row * t->shape->ld_o, t->shape->ld_o, t->block_max,
                     t->block_sum, t->block_out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
}

static void clear_rows(const task *t, int64_t row, int64_t n) {
    fill(t->max, row, row + n, -FLT_MAX);
    fill(t->sum, row, row + n, 0.0f);
    memset(t->out + row * t->shape->ld_o, 0, (size_t)(n * t->shape->ld_o) * sizeof(float));
}

/* All rows of the task against every key block that any of them sees. The first block of a tile is its state: there is
 * nothing yet to fold it into. */
static void attend(const task *t) {
    key_range all = visible_to_rows(t, 0, t->rows);
    for (int64_t index = all.first / QKV_KEY_BLOCK; index * QKV_KEY_BLOCK < all.end; index++) {
        key_block block = open_block(t, index, within_block(all, index));
        for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
            int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
            key_range seen = visible_to_rows(t, row, n), keys = within_block(seen, index);
            if (keys.first == keys.end)
                continue;
            if (index == seen.first / QKV_KEY_BLOCK) {
                attend_block(t, row, n, &block, keys, t->max + row, t->sum + row, t->out + row * t->shape->ld_o);
            } else {
                attend_block(t, row, n, &block, keys, t->block_max, t->block_sum, t->block_out);
                fold_rows(t, row, n);
            }
        }
    }
    for (int64_t row = 0; row < t->rows; row++) {
        key_range seen = visible_keys(t, t->query[row]);
        if (seen.first == seen.end)
            clear_rows(t, row, 1);
    }
}

/* Does a row again that has met a NaN or infinity in V, perhaps at a key it does not see. */
static void attend_row_exactly(const task *t, int64_t row) {
    key_range all = visible_to_rows(t, row, 1);
    clear_rows(t, row, 1);
    for (int64_t index = all.first / QKV_KEY_BLOCK; index * QKV_KEY_BLOCK < all.end; index++) {
        key_range keys = within_block(all, index);
        key_block block = open_block(t, index, keys);
        attend_block_exactly(t, row, &block, keys);
        fold_rows(t, row, 1);
    }
}

/* ------------------------------------------------------------------------------------------------------ outputs */

/* A row's address in a tensor. */
static float *output_row(const task *t, const qkv_output *x, int64_t row) {
    return (float *)x->data + t->b * x->batch + t->head[row] * x->head + t->query[row] * x->token;
}

/* The sink is one more state, (sink, 1, 0), folded last. */
static void fold_sinks(const task *t, int64_t row, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        qkv_single_state(t->desc->sinks[t->head[row + i]], &t->block_max[i], &t->block_sum[i]);
    memset(t->block_out, 0, (size_t)(n * t->shape->ld_o) * sizeof(float));
    fold_rows(t, row, n);
}

static void write_probabilities(const task *t, int64_t row, float inverse) {
    const qkv_matrix_output *x = &t->desc->probabilities;
    float *to = (float *)x->data + t->b * x->batch + t->head[row] * x->head + t->query[row] * x->query;
    key_range all = visible_to_rows(t, row, 1);
    for (int64_t index = 0; index < t->shape->key_blocks; index++) {
        int64_t end = qkv_min(QKV_KEY_BLOCK, t->desc->seq_k - index * QKV_KEY_BLOCK);
        key_range keys = within_block(all, index);
        if (keys.first < keys.end) {
            key_block block = open_block(t, index, keys);
            score_tile(t, row, 1, &block, keys);
            for (int64_t j = keys.first; j < keys.end; j++)
                t->logits[j] = t->scores[j] - t->max[row];
            t->kernels->exp2(t->logits + keys.first, (size_t)(keys.end - keys.first));
        }
        for (int64_t j = 0; j < end; j++, to += x->key) {
            bool seen = j >= keys.first && j < keys.end && t->scores[j] != QKV_MINUS_INFINITY;
            *to = seen ? t->logits[j] * inverse : 0.0f;
        }
    }
}

static void finish(const task *t) {
    const qkv_attention_desc *d = t->desc;
    for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
        int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
        uint32_t nan = t->kernels->nan_rows(t->out + row * t->shape->ld_o, t->shape->ld_o, (size_t)n,
                                            (size_t)d->head_dim_v);
        for (int64_t i = 0; nan >> i != 0; i++) {
            if (nan >> i & 1 && t->sum[row + i] == t->sum[row + i])
                attend_row_exactly(t, row + i);
        }
        if (d->sinks)
            fold_sinks(t, row, n);
        for (int64_t i = row; i < row + n; i++) {
            float inverse = qkv_inverse_sum(t->sum[i]);
            if (d->head_dim_v > 0)
                t->kernels->scale(output_row(t, &d->out, i), t->out + i * t->shape->ld_o, inverse,
                                  (size_t)d->head_dim_v);
            if (d->probabilities.data)
                write_probabilities(t, i, inverse);
        }
    }
    for (int64_t row = 0; d->lse.data && row < t->rows; row++)
        *output_row(t, &d->lse, row) = qkv_log_sum_exp(t->kernels, t->max[row], t->sum[row]);
}

static void write_state(const task *t, int64_t row, int64_t block, float max, float sum, const float *out) {
    const qkv_matrix_output *x = &t->desc->states;
    float *state = (float *)x->data + t->b * x->batch + t->head[row] * x->head + t->query[row] * x->query +
                   block * x->key;
    int64_t n = t->desc->head_dim_v;
    t->kernels->scale(state, out, 1.0f, (size_t)n);
    state[n] = sum == sum ? max + 0.0f : sum;
    state[n + 1] = sum;
}

static void write_empty_states(const task *t, int64_t row, int64_t n, int64_t block) {
    memset(t->block_out, 0, (size_t)t->shape->ld_o * sizeof(float));
    for (int64_t i = row; i < row + n; i++)
        write_state(t, i, block, -FLT_MAX, 0.0f, t->block_out);
}

/* The states of n rows and a key block; keys is what they see of it. */
static void write_tile_states(const task *t, int64_t row, int64_t n, const key_block *block, key_range keys) {
    attend_block(t, row, n, block, keys, t->block_max, t->block_sum, t->block_out);
    uint32_t again = t->kernels->nan_rows(t->block_out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
    for (int64_t i = 0; i < n; i++)
        write_state(t, row + i, block->index, t->block_max[i], t->block_sum[i], t->block_out + i * t->shape->ld_o);
    for (int64_t i = row; again != 0; i++, again >>= 1) {
        key_range seen = within_block(visible_to_rows(t, i, 1), block->index);
        if (!(again & 1))
            continue;
        if (seen.first == seen.end) {
            write_empty_states(t, i, 1, block->index);
            continue;
        }
        attend_block_exactly(t, i, block, seen);
        write_state(t, i, block->index, t->block_max[0], t->block_sum[0], t->block_out);
    }
}

/* The states of all key blocks in place of out: see qkv.h. */
static void write_states(const task *t) {
    key_range all = visible_to_rows(t, 0, t->rows);
    for (int64_t index = 0; index < t->shape->key_blocks; index++) {
        key_block block = open_block(t, index, within_block(all, index));
        for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
            int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
            key_range keys = within_block(visible_to_rows(t, row, n), index);
            if (keys.first < keys.end)
                write_tile_states(t, row, n, &block, keys);
            else
                write_empty_states(t, row, n, index);
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- task */

static void scale_queries(const task *t) {
    const qkv_input *q = &t->desc->q;
    for (int64_t row = 0; row < t->rows; row++) {
        const float *from = (const float *)q->data + t->b * q->batch + t->head[row] * q->head +
                            t->query[row] * q->token;
        t->kernels->scale(t->q + row * t->shape->ld_q, from, t->shape->q_scale, (size_t)t->desc->head_dim);
    }
}

void qkv_attention_execute(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                           void *workspace, int64_t index, int32_t worker) {
    int64_t head = index / shape->row_blocks, row_block = index % shape->row_blocks;
    unsigned char *scratch = (unsigned char *)workspace + shape->packed_size + worker * shape->worker_size;
    task t = {
        .kernels = kernels,
        .shape = shape,
        .desc = d,
        .b = head / d->num_kv_heads,
        .kv_head = head % d->num_kv_heads,
        .first_row = row_block * shape->block_rows,
        .rows = qkv_min(shape->block_rows, shape->rows - row_block * shape->block_rows),
        .shared_keys = shape->pack_tasks > 0 ? (const float *)workspace + head * head_panels(d) : NULL,
    };
    t.kv_len = batch_kv_len(d, t.b);
    t.q_offset = batch_q_offset(d, t.b);
    lay_out(&t, (float *)(void *)scratch, kernels, shape);
    name_rows(&t);

    if (d->seq_k > 0 && d->head_dim > 0)
        scale_queries(&t);
    if (d->states.data) {
        write_states(&t);
        return;
    }
    attend(&t);
    finish(&t);
}
