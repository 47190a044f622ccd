/* What the files of attention share: a task's rows and scratch, which keys a row may see, key blocks, scores, states.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_ATTENTION_TASK_H
#define QKV_ATTENTION_TASK_H

#include "attention.h"

QKV_INTERNAL_BEGIN

/* Row stride of a tile of scores: rows of exactly 1 KiB would compete for the same lines of the L1 cache. */
enum { LD_SCORES = QKV_KEY_BLOCK + QKV_LANES };

/* Room for the distances between the keys of a block and the queries of a tile. */
enum { DISTANCES = QKV_KEY_BLOCK + 2 * QKV_MAX_ROWS };

/* One task of the attention phase: what it owns, and the scratch of its worker. */
typedef struct attention_task {
    const qkv_kernels *kernels;
    const qkv_attention_shape *shape;
    const qkv_attention_desc *desc;
    int64_t index, b, kv_head, first_row, rows;
    /* Of sequence b: where tensors with queries, and keys and values, have it; and, with k_start, its first key. Packed
     * queries are named by their tokens, and q_offset is so that position_of knows no difference. */
    int64_t query_b, key_b, first_key;
    int64_t kv_len, q_offset;
    int64_t tile;       /* rows taken at once */
    bool copies_values; /* V of a block is copied */
    /* scratch of the worker */
    int64_t *query, *head;        /* [block_rows]: which query and head a row is */
    float *scores;                /* [tile_rows][LD_SCORES] */
    float *block_out;             /* [tile_rows][ld_o]: O_b */
    float *block_max, *block_sum; /* [tile_rows]: m_b, ℓ_b */
    float *q, *out;               /* [block_rows][ld_q] scaled, [block_rows][ld_o]: O */
    float *q_scales, *q_offsets;  /* [block_rows], in 8 bits: what scores are multiplied by, what is added */
    float *max, *sum;             /* [block_rows]: m, ℓ */
    float *distance, *logits;
    float *bias;     /* [bias_rows][QKV_KEY_BLOCK]: gathered, where they are strided */
    uint8_t *keep;   /* [keep_rows][QKV_KEY_BLOCK]: the same */
    uint64_t *shown; /* [tiles]: key blocks that a contiguous mask does not hide; NULL: not looked for */
    float *values;   /* [keys][ld_o]: a copy of a block of V, where that pays */
    float *widened;  /* [keys][ld_o]: a block of V in floats, where it is stored otherwise */
    float *key_scales, *value_scales; /* [QKV_KEY_BLOCK]: those of a block of int8 */
    float *strip;                     /* [QKV_PANEL][ld_q]: some keys in floats, or in 8 bits as operands */
    void *packed;                     /* a block of keys in panels, where the task packs its own */
    const unsigned char *shared_keys; /* the panels of this KV head from its first visible key block on, else */
    int64_t first_shared;             /* that key block */
    /* Where operands are converted: a panel of keys, where the task has few rows; panels of a block of V, where it has
     * more, these without its holes, and without what a single row does not see; two rows of V in floats. Then q and,
     * after the softmax, scores are operands too. */
    void *panel, *pairs, *pairs_filled, *pairs_seen;
    float *two_values;
    float *states; /* of its key blocks from first_state on, where keys are divided */
    int64_t first_state;
} attention_task;

/* Packs a block of keys for all tasks of its KV head. */
void qkv_attention_pack_keys(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                             void *workspace, int64_t index, int32_t worker);

/* Opens block of rows `index`: names its rows and lays out the scratch of its worker. */
void qkv_attention_begin(attention_task *t, const qkv_kernels *kernels, const qkv_attention_shape *shape,
                         const qkv_attention_desc *d, void *workspace, int64_t index, int32_t worker);

/* Scales its queries into the scratch. */
void qkv_attention_scale_queries(const attention_task *t);

/* --------------------------------------------------------------------------------------- positions, visibility */

/* Keys [first, end) that kv_len and the window leave to a query. Neither bound decreases with the query. */
typedef struct key_range {
    int64_t first, end;
} key_range;

/* Positions and window widths beyond 2^61 mean no more than 2^61; so their sums can't overflow. */
static inline int64_t bounded(int64_t x) {
    int64_t limit = INT64_C(1) << 61;
    return x > limit ? limit : x < -limit ? -limit : x;
}

static inline int64_t qkv_batch_kv_len(const qkv_attention_desc *d, int64_t b) {
    int64_t most = qkv_k_start(d) ? qkv_k_start(d)[b + 1] - qkv_k_start(d)[b] : d->seq_k;
    return d->kv_len ? qkv_max(0, qkv_min(most, d->kv_len[b])) : most;
}

static inline int64_t qkv_batch_q_offset(const qkv_attention_desc *d, int64_t b) {
    int64_t offset = bounded(d->q_offsets ? d->q_offsets[b] : d->q_offset);
    if (d->flags & QKV_FROM_END)
        offset += qkv_batch_kv_len(d, b) - (qkv_q_start(d) ? qkv_q_start(d)[b + 1] - qkv_q_start(d)[b] : d->seq_q);
    return offset;
}

/* Whether it is the same for all sequences, and known before a run. */
static inline bool qkv_offset_is_planned(const qkv_attention_desc *d) {
    return !d->q_offsets && !(d->flags & QKV_FROM_END && d->kv_len);
}

/* Makes t one of sequence b, without rows. */
static inline void qkv_choose_sequence(attention_task *t, const qkv_attention_desc *d, int64_t b) {
    t->desc = d;
    t->b = b;
    t->query_b = qkv_q_start(d) ? 0 : b;
    t->key_b = qkv_k_start(d) ? 0 : b;
    t->first_key = qkv_k_start(d) ? qkv_k_start(d)[b] : 0;
    t->kv_len = qkv_batch_kv_len(d, b);
    t->q_offset = qkv_batch_q_offset(d, b) - (qkv_q_start(d) ? qkv_q_start(d)[b] : 0);
}

static inline int64_t position_of(const attention_task *t, int64_t query) {
    return query + t->q_offset;
}

static inline key_range window_of(const attention_task *t, int64_t query) {
    const qkv_attention_desc *d = t->desc;
    int64_t p = position_of(t, query);
    bool left = d->flags & QKV_LEFT && !qkv_has_gap(d); /* what is hidden in the middle, views leave out */
    int64_t first = left ? qkv_min(t->kv_len, qkv_max(0, p - bounded(d->left))) : 0;
    int64_t end = d->flags & QKV_RIGHT ? qkv_min(t->kv_len, p + bounded(d->right) + 1) : t->kv_len;
    return (key_range){first, qkv_max(first, end)};
}

/* And what key_ranges leaves of them. Its bounds may be any. */
static inline key_range visible_keys(const attention_task *t, int64_t query) {
    const qkv_ranges *x = &t->desc->key_ranges;
    key_range keys = window_of(t, query);
    if (x->data) {
        const int64_t *range = x->data + t->query_b * x->batch + query * x->query;
        keys.first = qkv_min(keys.end, qkv_max(keys.first, range[0]));
        keys.end = qkv_max(keys.first, qkv_min(keys.end, range[1]));
    }
    return keys;
}

/* Row (b, head, token) of a tensor. One without channels may be NULL: then somewhere, of which nothing is read. */
static inline const void *qkv_stored_row(const qkv_input *x, int32_t type, int64_t b, int64_t head, int64_t token) {
    static const float somewhere = 0;
    return x->data ? (const unsigned char *)x->data +
                         qkv_stored_bytes(type, b * x->batch + head * x->head + token * x->token)
                   : (const void *)&somewhere;
}

/* What key_ranges leaves to the queries from first to last between them, of what windows leave. */
key_range qkv_union_of_ranges(const attention_task *t, int64_t first, int64_t last, key_range all);

/* All that the queries from first to last see between them. */
static inline key_range visible_to_queries(const attention_task *t, int64_t first, int64_t last) {
    key_range all = {window_of(t, first).first, window_of(t, last).end};
    return qkv_key_ranges(t->desc) ? qkv_union_of_ranges(t, first, last, all) : all;
}

/* Where key `key` of the task's sequence and KV head lies in k or v, and how many from it on, at most up to `end`, lie
 * at the same stride. */
static inline const void *qkv_key_run(const attention_task *t, const qkv_input *x, int32_t type, int64_t key,
                                      int64_t end, int64_t *n) {
    const qkv_attention_desc *d = t->desc;
    *n = end - key;
    if (!qkv_page_table(d))
        return qkv_stored_row(x, type, t->key_b, t->kv_head, t->first_key + key);
    int64_t page = key / d->page_tokens, token = key % d->page_tokens;
    *n = qkv_min(*n, d->page_tokens - token);
    return qkv_stored_row(x, type, qkv_page_table(d)[t->b * d->table_stride + page], t->kv_head, token);
}

/* Where k lies in panels: that of key `key`, and how many keys from it on, at most up to `end`, are in panels that
 * follow each other. */
static inline const void *qkv_key_panel(const attention_task *t, int64_t key, int64_t end, int64_t *n) {
    const qkv_attention_desc *d = t->desc;
    int64_t b = t->key_b, first = key / QKV_PANEL * QKV_PANEL, in_page = first;
    *n = end - key;
    if (qkv_page_table(d)) {
        in_page = first % d->page_tokens;
        b = qkv_page_table(d)[t->b * d->table_stride + first / d->page_tokens];
        *n = qkv_min(*n, first - in_page + d->page_tokens - key);
    }
    return (const unsigned char *)qkv_stored_row(&d->k, qkv_k_type(d), b, t->kv_head, 0) +
           qkv_stored_bytes(qkv_k_type(d), in_page * d->head_dim);
}

static inline key_range visible_to_rows(const attention_task *t, int64_t row, int64_t n) {
    return visible_to_queries(t, t->query[row], t->query[row + n - 1]);
}

/* The part of a range that lies in a key block, counted from the block's first key. */
static inline key_range within_block(key_range keys, int64_t block) {
    int64_t base = block * QKV_KEY_BLOCK;
    int64_t first = qkv_max(0, keys.first - base), end = qkv_min(QKV_KEY_BLOCK, keys.end - base);
    return first < end ? (key_range){first, end} : (key_range){0, 0};
}

/* How many of the rows from `row` to `end` are of its head: row, row + group, … */
static inline size_t rows_of_head(const attention_task *t, int64_t row, int64_t end) {
    return (size_t)qkv_ceil_div(end - row, t->shape->group);
}

/* Key blocks from that of the range's first key up to the end. */
static inline key_range blocks_of(key_range keys) {
    int64_t first = keys.first / QKV_KEY_BLOCK;
    return (key_range){first, keys.first < keys.end ? qkv_ceil_div(keys.end, QKV_KEY_BLOCK) : first};
}

/* Keys of a block, widened to whole lanes. */
static inline key_range whole_lanes(key_range keys) {
    return (key_range){keys.first / QKV_LANES * QKV_LANES, qkv_round_up(keys.end, QKV_LANES)};
}

/* -------------------------------------------------------------------------------------------------- key blocks */

/* What a row sees of a key block: of keys from first to end, counted from the block's first, those that keep, counted
 * likewise, does not hide. NULL: all of them. */
typedef struct row_view {
    key_range keys;
    const uint8_t *keep;
} row_view;

/* Element (b, head of the row, its query, first key of the block) of a matrix with elements of the given size. */
static inline const unsigned char *qkv_matrix_row(const attention_task *t, const qkv_matrix_input *x, int64_t row,
                                                  int64_t block, int64_t element) {
    return (const unsigned char *)x->data + (t->query_b * x->batch + t->head[row] * x->head + t->query[row] * x->query +
                                             block * QKV_KEY_BLOCK * x->key) *
                                                element;
}

/* Copies the given keys of n rows of a matrix, element j of row i to to[i·QKV_KEY_BLOCK + j]. Where the heads of a
 * query share a row, only the first of its rows is copied. */
void qkv_gather_rows(const attention_task *t, const qkv_matrix_input *x, int64_t row, int64_t n, int64_t block,
                     key_range keys, void *to, int64_t element);

/* The views of n rows from `row` on. Returns what they see between them. */
key_range qkv_view_rows(const attention_task *t, int64_t row, int64_t n, int64_t block, row_view *views);

/* For every tile, whether a mask shows its rows anything of these many key blocks from `first` on: bit x of t->shown is
 * block first + x. Most of a mask of packed documents shows nothing; that is seen soonest along the mask's rows, in the
 * order of memory. */
enum { SURVEYED_BLOCKS = 64 };
void qkv_survey_mask(const attention_task *t, int64_t first);

/* A key block as the tiles read it. */
typedef struct key_block {
    int64_t index;
    const void *panels; /* K; NULL: as it lies in memory, since the rows are few */
    key_range keys;     /* those that the task's rows see between them */
    bool odd_scales;    /* a value's scale is infinite or NaN, which a probability of 0 would not hide */
    bool is_stored;     /* V is multiplied as it lies in memory, and v not there until qkv_widen_stored */
    bool paired;        /* where operands are converted: the task's pairs are those of this block */
    const float *v;     /* of key 0 of the block */
    int64_t ld_v;
    /* Keys with a NaN or infinity in V, looked for when a product shows one that its row may not see. If there are any,
     * the task's values are V with zeros in their place. */
    bool searched;
    int16_t num_holes;
    uint8_t hole[QKV_KEY_BLOCK];
    /* What follows: the next block that the task's rows see, or the first of the worker's next task if tasks are handed
     * out in order. Every tile fetches its share: of rows at one stride, or of keys in pages. */
    qkv_soon next_k, next_v;
    attention_task next; /* without rows: whose sequence and KV head it is */
    key_range next_keys;
} key_block;

/* Makes ready what the task's rows need of a block; `all` is what they see of all blocks. */
void qkv_open_key_block(const attention_task *t, key_block *block, int64_t index, key_range all);

/* The scales of keys [first, end) of int8, side by side. */
void qkv_gather_scales(const attention_task *t, const qkv_input *x, int64_t first, int64_t end, float *to);

/* Makes v of a block whose values are used as they are stored. */
void qkv_widen_stored(const attention_task *t, key_block *block);

/* Looks for them; true if there are any. For tasks of more than few_rows rows. */
bool qkv_find_holes(const attention_task *t, key_block *block);

/* Adds those among n rows v, keys `first` … of the block, at most tile_rows, that 0 does not hide. v may be block_out,
 * which is overwritten. */
void qkv_mark_holes(const attention_task *t, key_block *block, const float *v, int64_t ld_v, int64_t first, int64_t n);

/* Keys [first, end) of the task's sequence as floats, from `to` on. */
void qkv_widen_keys(const attention_task *t, const qkv_input *x, int32_t type, int64_t channels, int64_t first,
                    int64_t end, float *to, int64_t ld);

/* Packs keys [first, end) of the task's sequence, at most a panel of them, from its column `column` on; columns before
 * it become anything. Of keys in panels it is the whole panel. strip: as the task's. */
void qkv_pack_keys(const attention_task *t, void *panel, float *strip, int64_t column, int64_t first, int64_t end);

/* The part that begins at first/whole and ends at end/whole. */
static inline qkv_soon part_of(const qkv_soon *soon, int64_t first, int64_t end, int64_t whole) {
    if (!QKV_WITH(PREFETCH))
        return (qkv_soon){0};
    int64_t rows = (int64_t)soon->rows;
    if (rows == 0 || end - first == whole) /* nothing follows, so no address to count from; or it is all */
        return *soon;
    int64_t row = rows * first / whole;
    return (qkv_soon){(const unsigned char *)soon->data + row * soon->stride, soon->stride,
                      (size_t)(rows * end / whole - row), soon->bytes};
}

static inline qkv_soon share_of(const attention_task *t, const qkv_soon *soon, int64_t row, int64_t n) {
    return part_of(soon, row, row + n, t->rows);
}

/* What n rows fetch while they go through `part` of some keys of a block: as much of what follows. */
qkv_soon qkv_soon_keys(const attention_task *t, const key_block *block, int64_t row, int64_t n, key_range part,
                       key_range keys);
qkv_soon qkv_soon_values(const attention_task *t, const key_block *block, int64_t row, int64_t n, key_range part,
                         key_range keys);

/* The values, where there is a block to look ahead from. */
static inline qkv_soon qkv_soon_beside(const attention_task *t, const key_block *ahead, int64_t row, int64_t n,
                                       key_range part, key_range keys) {
    return QKV_WITH(PREFETCH) && ahead ? qkv_soon_values(t, ahead, row, n, part, keys) : (qkv_soon){0};
}

/* The logits of n rows from `row` on against a key block, into t->scores; keys that a row must not see become −inf.
 * `keys` is what the rows see of the block between them; the columns written are it, widened to whole lanes. */
key_range qkv_score_tile(const attention_task *t, int64_t row, int64_t n, const key_block *block, const row_view *views,
                         key_range keys);

/* Its first half, c[i][j] = Σ a[i·lda + x]·panels(j)[x] for n rows, the given columns of a key block, and x < dim … */
void qkv_multiply_panels(const qkv_kernels *kernels, float *c, const float *a, int64_t lda, int64_t n,
                         const float *panels, int64_t dim, key_range columns, const qkv_soon *soon);

/* … the same of n rows of the task and keys of a block as they lie in memory, into t->scores; ahead: whose next values
 * are fetched meanwhile, or NULL … */
void qkv_multiply_keys(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                       const key_block *ahead);

/* … and its second, in place in t->scores: softcap (cap = 0: none), ALiBi, bias, masks. */
void qkv_finish_scores(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                       key_range columns, float cap);

/* The same where the rows' views are known. */
void qkv_finish_views(const attention_task *t, int64_t row, int64_t n, int64_t block, const row_view *views,
                      key_range keys, key_range columns, float cap);

/* The state that n rows have from one key block: m_b, ℓ_b and O_b. */
void qkv_attend_block(const attention_task *t, int64_t row, int64_t n, key_block *block, const row_view *views,
                      key_range keys, float *max, float *sum, float *out);

/* A tile meets a key block: `keys` is what its rows see of it. Empty: the block may not have been opened. */
typedef void qkv_visit(const attention_task *t, int64_t row, int64_t n, key_block *block, const row_view *views,
                       key_range keys);

/* A row of desc->scores. Overwrites t->scores. */
void qkv_attention_write_scores(const attention_task *t, int64_t row);

/* All tiles of the task meet the key blocks from first to end in order. */
void qkv_visit_blocks(const attention_task *t, key_range blocks, qkv_visit *visit);

/* (m, ℓ, O) of n rows, before the first key block. */
void qkv_clear_rows(const attention_task *t, int64_t row, int64_t n);

/* The states of all key blocks, in place of out, as the caller wants them. */
void qkv_attention_write_states(const attention_task *t);

/* Where keys are divided: the states of a chunk of what the task's rows see; all of them folded into (m, ℓ, O). */
void qkv_attention_keep_states(const attention_task *t, key_range blocks);
void qkv_attention_fold_states(const attention_task *t);

/* ------------------------------------------------------------------------- where operands are converted */

/* In bfloat16 (attention_bf16.c): V of a block in pairs of keys; which of it 0 does not hide, and V without these; P·V
 * for n rows from row `from` of the tile on, whose scores have become weights; the same for one row, without what it
 * does not see. */
void qkv_bf16_pair_block(const attention_task *t, void *pairs, const key_block *block);
bool qkv_bf16_find_holes(const attention_task *t, key_block *block);
void qkv_bf16_multiply_values(const attention_task *t, int64_t from, int64_t n, const void *pairs, key_range keys,
                              const qkv_soon *soon, float *out);
void qkv_bf16_sum_visible(const attention_task *t, const key_block *block, key_range keys, key_range columns,
                          float *out);

/* As qkv_multiply_panels, by n rows of A from row `row` on. columns.first is a multiple of QKV_LANES. */
void qkv_bf16_multiply(const qkv_kernels *kernels, float *c, const void *a, int64_t lda, int64_t row, int64_t n,
                       const void *panels, int64_t dim, key_range columns, const qkv_soon *soon);

/* n stored rows as rows `first` … of panels of 64 channels, `size` bytes each, in pairs. */
void qkv_bf16_pair_rows(const qkv_kernels *kernels, void *pairs, int64_t size, const void *from, int64_t stride,
                        int32_t type, int64_t channels, int64_t first, int64_t n);

/* Bytes of so many terms of a panel. */
static inline int64_t qkv_bf16_panel_bytes(const qkv_kernels *kernels, int64_t terms) {
    return QKV_PANEL * qkv_round_up(terms, 2) * kernels->bf16_bytes;
}

/* Bytes of the pairs of a block of V. */
int64_t qkv_bf16_values_size(const qkv_kernels *kernels, const qkv_attention_desc *d);

/* From a row of weights to the next, in terms: they lie where the scores lay. */
static inline int64_t qkv_bf16_ld_weights(const qkv_kernels *kernels) {
    return LD_SCORES * (int64_t)sizeof(float) / kernels->bf16_bytes;
}

/* Scores in 8 bits (attention_int8.c): bytes of a key in a panel; as qkv_pack_keys; rows of q to operands; scores, as
 * by qkv_bf16_multiply. */
int64_t qkv_int8_key_bytes(const qkv_kernels *kernels, const qkv_attention_desc *d);
void qkv_int8_pack_keys(const attention_task *t, void *panel, float *strip, int64_t column, int64_t first, int64_t end);
void qkv_int8_convert_queries(const attention_task *t);
void qkv_int8_multiply(const attention_task *t, float *c, int64_t row, int64_t n, const void *panels, key_range columns,
                       const qkv_soon *soon);

/* Whole pairs of keys: those beside are hidden, but multiplied too. */
static inline key_range whole_pairs(key_range keys) {
    return (key_range){keys.first / 2 * 2, qkv_round_up(keys.end, 2)};
}

/* Functions of what a build leaves out are never reached, but named where nothing is optimised. */
#if !QKV_WITH(BF16)
#define qkv_bf16_pair_block(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_bf16_find_holes(...) qkv_absent(0, __VA_ARGS__)
#define qkv_bf16_multiply_values(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_bf16_sum_visible(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_bf16_multiply(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_bf16_values_size(...) qkv_absent(0, __VA_ARGS__)
#endif
#if !QKV_WITH(BF16) || !QKV_WITH(QUANTIZED)
#define qkv_int8_key_bytes(...) qkv_absent(0, __VA_ARGS__)
#define qkv_int8_pack_keys(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_int8_convert_queries(...) ((void)qkv_absent(0, __VA_ARGS__))
#define qkv_int8_multiply(...) ((void)qkv_absent(0, __VA_ARGS__))
#endif
#if !QKV_WITH(SCORES)
#define qkv_attention_write_scores(...) ((void)qkv_absent(0, __VA_ARGS__))
#endif

QKV_INTERNAL_END

#endif
