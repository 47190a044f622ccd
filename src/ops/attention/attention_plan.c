/* Attention: checking a descriptor and cutting the work into tasks.  SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"
#include "dropout.h"

static bool finite_float(float x) {
    return x - x == 0;
}

void qkv_attention_defaults(qkv_attention_desc *d) {
    if (d->num_kv_heads == 0)
        d->num_kv_heads = d->num_heads;
    if (d->head_dim_v == 0 && !(d->flags & QKV_HEAD_DIM_V))
        d->head_dim_v = d->head_dim;
    /* Packed sequences are one batch; pages are batches. */
    int64_t rows_b = qkv_q_start(d) ? 1 : d->batch, keys_b = qkv_k_start(d) ? 1 : d->batch;
    if (qkv_page_table(d))
        keys_b = d->num_pages;
    int64_t keys = qkv_page_table(d) ? d->page_tokens : d->seq_k;
    if (qkv_keys_in_panels(d))
        d->k.token = 0;
    qkv_settle_input(&d->q, rows_b, d->num_heads, d->seq_q, d->head_dim);
    qkv_settle_input(&d->k, keys_b, d->num_kv_heads, keys, d->head_dim);
    qkv_settle_input(&d->v, keys_b, d->num_kv_heads, keys, d->head_dim_v);
    qkv_settle_output(&d->out, rows_b, d->num_heads, d->seq_q, d->head_dim_v);
    qkv_settle_output(&d->lse, rows_b, d->num_heads, d->seq_q, 1);
    if (QKV_WITH(STORED)) {
        qkv_settle_input(&d->k_scales, keys_b, d->num_kv_heads, keys, 1);
        qkv_settle_input(&d->v_scales, keys_b, d->num_kv_heads, keys, 1);
    }
    if (QKV_WITH(BF16))
        qkv_settle_input(&d->k_means, d->batch, d->num_kv_heads, 1, d->head_dim);
    if (QKV_WITH(MASKS)) {
        qkv_settle_matrix_input(&d->bias, rows_b, d->num_heads, d->seq_q, d->seq_k);
        qkv_settle_matrix_input(&d->keep, rows_b, d->num_heads, d->seq_q, d->seq_k);
        d->key_ranges.batch = qkv_settled(d->key_ranges.batch, rows_b, d->seq_q < 1);
        d->key_ranges.query = qkv_settled(d->key_ranges.query, d->seq_q, rows_b < 1);
    }
    if (QKV_WITH(SCORES)) {
        qkv_settle_matrix_output(&d->probabilities, rows_b, d->num_heads, d->seq_q, d->seq_k);
        qkv_settle_matrix_output(&d->scores, rows_b, d->num_heads, d->seq_q, d->seq_k);
    }
    if (QKV_WITH(MERGE))
        qkv_settle_matrix_output(&d->states, rows_b, d->num_heads, d->seq_q, qkv_ceil_div(d->seq_k, QKV_KEY_BLOCK));
    d->table_stride = qkv_settled(d->table_stride, d->batch, false);
}

static qkv_status qkv_attention_complete(const qkv_attention_desc *desc, qkv_attention_desc *d, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    if (status == QKV_OK)
        qkv_attention_defaults(d);
    return status;
}

/* Types that there are, and channels and strides of whole blocks. */
static qkv_status validate_storage(const qkv_attention_desc *d, qkv_problem *why) {
    if (!QKV_WITH(STORED))
        return QKV_OK;
    const struct {
        const char *field, *tensor;
        int32_t type, most;
        int64_t channels, batch, head, token;
    } stored[] = {
        {"q_type", "q", qkv_q_type(d), QKV_BF16, d->head_dim, d->q.batch, d->q.head, d->q.token},
        {"k_type", "k", qkv_k_type(d), QKV_INT8, d->head_dim, d->k.batch, d->k.head, d->k.token},
        {"v_type", "v", qkv_v_type(d), QKV_INT8, d->head_dim_v, d->v.batch, d->v.head, d->v.token},
        {"out_type", "out", qkv_out_type(d), QKV_BF16, d->head_dim_v, d->out.batch, d->out.head, d->out.token}};
    for (size_t i = 0; i < sizeof stored / sizeof stored[0]; i++) {
        if (stored[i].type < 0 || stored[i].type > stored[i].most)
            return qkv_refuse(why, QKV_ERROR_FLAGS, stored[i].field, -1, "is no type of this tensor (%)",
                              stored[i].type, 0);
        int64_t in_blocks = stored[i].channels | stored[i].batch | stored[i].head | stored[i].token;
        if (stored[i].type == QKV_Q8_0 && in_blocks % QKV_Q8_0_CHANNELS != 0)
            return qkv_refuse(why, QKV_ERROR_SHAPE, stored[i].tensor, -1,
                              "has channels or strides that are no multiple of %, its type's block", QKV_Q8_0_CHANNELS,
                              0);
    }
    return QKV_OK;
}

qkv_status qkv_attention_only_floats(const qkv_attention_desc *d, bool keys, qkv_problem *why) {
    const char *field = qkv_q_type(d)           ? "q_type"
                        : keys && qkv_k_type(d) ? "k_type"
                        : keys && qkv_v_type(d) ? "v_type"
                        : qkv_out_type(d)       ? "out_type"
                                                : NULL;
    return field ? qkv_refuse(why, QKV_ERROR_FLAGS, field, -1, "must be QKV_F32 here", 0, 0) : QKV_OK;
}

qkv_status qkv_attention_only_plain(const qkv_attention_desc *d, qkv_problem *why) {
    const char *field = qkv_q_start(d)      ? "q_start"
                        : qkv_k_start(d)    ? "k_start"
                        : qkv_page_table(d) ? "page_table"
                                            : NULL;
    if (d->k_layout != QKV_KEY_ROWS)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "k_layout", -1, "must be QKV_KEY_ROWS here", 0, 0);
    return field ? qkv_refuse(why, QKV_ERROR_FLAGS, field, -1, "must be NULL here", 0, 0) : QKV_OK;
}

/* Packed sequences and pages. */
static qkv_status validate_layout(const qkv_attention_desc *d, qkv_problem *why) {
    if (!QKV_WITH(PAGES))
        return QKV_OK;
    const struct {
        const char *field;
        int64_t value;
    } sizes[] = {{"page_tokens", d->page_tokens}, {"num_pages", d->num_pages}};
    for (int i = 0; i < 2; i++) {
        if (qkv_check_size(why, sizes[i].field, -1, sizes[i].value) != QKV_OK)
            return why->status;
        if (!qkv_page_table(d) && sizes[i].value != 0)
            return qkv_refuse(why, QKV_ERROR_SHAPE, sizes[i].field, -1, "is % without a page_table", sizes[i].value, 0);
    }
    if (d->k_layout != QKV_KEY_ROWS && d->k_layout != QKV_KEY_PANELS)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "k_layout", -1, "is unknown (%)", d->k_layout, 0);
    if (qkv_keys_in_panels(d) && qkv_k_type(d) == QKV_Q8_0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "k_layout", -1, "must be QKV_KEY_ROWS with QKV_Q8_0", 0, 0);
    if (qkv_keys_in_panels(d) && d->head_dim > INT64_C(1) << 50)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "head_dim", -1, "is too large (%)", d->head_dim, 0);
    if (qkv_keys_in_panels(d) && qkv_k_start(d))
        return qkv_refuse(why, QKV_ERROR_SHAPE, "k_start", -1, "must be NULL with keys in panels", 0, 0);
    if (!qkv_page_table(d))
        return QKV_OK;
    if (qkv_k_start(d))
        return qkv_refuse(why, QKV_ERROR_SHAPE, "k_start", -1, "must be NULL beside page_table", 0, 0);
    if (d->page_tokens == 0 || d->page_tokens % 16 != 0)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "page_tokens", -1, "is %, no multiple of 16", d->page_tokens, 0);
    if (qkv_keys_in_panels(d) && d->page_tokens % QKV_PANEL != 0)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "page_tokens", -1, "is %, not of whole panels", d->page_tokens, 0);
    int64_t pool[4] = {d->num_pages, d->num_kv_heads, d->page_tokens, d->head_dim}, unused;
    if (!qkv_product(pool, 4, INT64_C(1) << 52, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "num_pages * page_tokens", -1, "is too large", 0, 0);
    return QKV_OK;
}

/* Refuses what this build leaves out (../../config.h). */
static qkv_status refuse_left_out(const qkv_attention_desc *d, qkv_problem *why) {
    const char *field = NULL;
    if (!QKV_WITH(STORED))
        field = d->q_type != QKV_F32     ? "q_type"
                : d->k_type != QKV_F32   ? "k_type"
                : d->v_type != QKV_F32   ? "v_type"
                : d->out_type != QKV_F32 ? "out_type"
                                         : field;
    if (!QKV_WITH(PAGES))
        field = d->page_table                 ? "page_table"
                : d->q_start                  ? "q_start"
                : d->k_start                  ? "k_start"
                : d->k_layout != QKV_KEY_ROWS ? "k_layout"
                                              : field;
    if (!QKV_WITH(MASKS))
        field = d->keep.data           ? "keep"
                : d->bias.data         ? "bias"
                : d->key_ranges.data   ? "key_ranges"
                : d->alibi_slopes      ? "alibi_slopes"
                : d->softcap != 0      ? "softcap"
                : d->first_tokens != 0 ? "first_tokens"
                                       : field;
    if (!QKV_WITH(SCORES))
        field = d->scores.data ? "scores" : d->probabilities.data ? "probabilities" : field;
    if (!QKV_WITH(MERGE) && d->states.data)
        field = "states";
    if (!QKV_WITH(DROPOUT) && d->dropout != 0)
        field = "dropout";
    if ((!QKV_WITH(BF16) && d->arithmetic != QKV_ARITHMETIC_F32) ||
        (!QKV_WITH(QUANTIZED) && d->arithmetic == QKV_ARITHMETIC_INT8))
        field = "arithmetic";
    return field ? qkv_refuse(why, QKV_ERROR_LEFT_OUT, field, -1, "is left out of this build", 0, 0) : QKV_OK;
}

static qkv_status validate_options(const qkv_attention_desc *d, qkv_problem *why) {
    const uint32_t known = QKV_LEFT | QKV_RIGHT | QKV_FROM_END | QKV_SCALE | QKV_HEAD_DIM_V;
    if ((d->flags & ~known) != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "flags", -1, "has unknown bits (%)", d->flags & ~known, 0);
    if (d->reserved != 0)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "reserved", -1, "is not 0 (%)", d->reserved, 0);
    if (d->arithmetic < QKV_ARITHMETIC_F32 || d->arithmetic > QKV_ARITHMETIC_BF16)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "arithmetic", -1, "is none of attention (%)", d->arithmetic, 0);
    if (QKV_WITH(BF16) && d->k_means.data && !(qkv_in_int8(d) && qkv_k_type(d) != QKV_INT8))
        return qkv_refuse(why, QKV_ERROR_FLAGS, "k_means", -1,
                          "is for QKV_ARITHMETIC_INT8, and for keys of other types than QKV_INT8", 0, 0);
    if (qkv_check_size(why, "first_tokens", -1, d->first_tokens) != QKV_OK)
        return why->status;
    if (d->scores_stage > QKV_SCORES_MASKED)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "scores_stage", -1, "is unknown (%)", d->scores_stage, 0);
    if (!finite_float(d->scale))
        return qkv_refuse(why, QKV_ERROR_VALUE, "scale", -1, "is NaN or infinite", 0, 0);
    if (!finite_float(qkv_softcap(d)) || qkv_softcap(d) < 0)
        return qkv_refuse(why, QKV_ERROR_VALUE, "softcap", -1,
                          qkv_softcap(d) < 0 ? "is negative" : "is NaN or infinite", 0, 0);
    if (!qkv_is_dropout(d->dropout))
        return qkv_refuse(why, QKV_ERROR_VALUE, "dropout", -1, "is not in [0, 1)", 0, 0);
    if (qkv_wants_states(d) && (d->out.data || d->lse.data || qkv_wants_probabilities(d) || qkv_wants_scores(d)))
        return qkv_refuse(why, QKV_ERROR_SHAPE,
                          d->out.data                  ? "out"
                          : d->lse.data                ? "lse"
                          : qkv_wants_probabilities(d) ? "probabilities"
                                                       : "scores",
                          -1, "must be NULL beside states", 0, 0);
    return QKV_OK;
}

qkv_status qkv_attention_validate(const qkv_attention_desc *d, qkv_problem *why) {
    const struct {
        const char *field;
        int64_t value;
    } sizes[] = {{"batch", d->batch},          {"num_heads", d->num_heads}, {"num_kv_heads", d->num_kv_heads},
                 {"seq_q", d->seq_q},          {"seq_k", d->seq_k},         {"head_dim", d->head_dim},
                 {"head_dim_v", d->head_dim_v}};
    enum { NUM_SIZES = sizeof sizes / sizeof sizes[0] };
    qkv_status status = QKV_OK;
    for (int i = 0; i < NUM_SIZES && status == QKV_OK; i++)
        status = qkv_check_size(why, sizes[i].field, -1, sizes[i].value);
    if (status == QKV_OK && d->num_kv_heads > 0 && d->num_heads % d->num_kv_heads != 0)
        return qkv_refuse(why, QKV_ERROR_HEADS, "num_heads", -1, "is %, no multiple of num_kv_heads (%)", d->num_heads,
                          d->num_kv_heads);
    if (status == QKV_OK)
        status = refuse_left_out(d, why);
    if (status == QKV_OK)
        status = validate_options(d, why);
    if (status == QKV_OK)
        status = validate_storage(d, why);
    if (status == QKV_OK)
        status = validate_layout(d, why);
    if (status != QKV_OK)
        return status;
    /* Everything the tasks count or allocate stays below 2^60, with room for rounding up. */
    int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, 64}, unused;
    int64_t packed[4] = {d->batch, d->num_kv_heads, d->seq_k, d->head_dim};
    int64_t limit = INT64_C(1) << 58;
    for (int i = 0; i < NUM_SIZES; i++) {
        if (sizes[i].value > limit)
            return qkv_refuse(why, QKV_ERROR_OVERFLOW, sizes[i].field, -1, "is too large (%)", sizes[i].value, 0);
    }
    if (!qkv_product(rows, 4, limit, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * num_heads * seq_q", -1, "is too large", 0, 0);
    if (!qkv_product(packed, 4, limit / 64, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * num_kv_heads * seq_k * head_dim", -1, "is too large", 0, 0);
    return QKV_OK;
}

/* fl(1/fl(√fl(head_dim))), the scale that 0 stands for. In integers: head_dim rounded to the 24 bits of a float; of its
 * root more bits than that, the last of which says whether anything follows, rounded once. */
static float default_scale(int64_t head_dim) {
    if (head_dim == 0)
        return 1.0f;
    int exponent = 63 - __builtin_clzll((uint64_t)head_dim);
    const uint64_t all = (uint64_t)head_dim << (63 - exponent), half = UINT64_C(1) << 39, rest = all & (2 * half - 1);
    uint64_t mantissa = all >> 40, root = 0;
    mantissa += rest > half || (rest == half && mantissa % 2 == 1);
    const uint64_t square = mantissa << (35 + exponent % 2); /* from 2⁵⁸ to 2⁶⁰ */
    for (uint64_t bit = UINT64_C(1) << 30; bit > 0; bit >>= 1) {
        if ((root | bit) * (root | bit) <= square)
            root |= bit;
    }
    const float wide = (float)(uint32_t)(root << 1 | (root * root != square));
    return 1 / (wide * qkv_bits_float((uint32_t)(127 + exponent / 2 - 30) << 23));
}

float qkv_attention_measure(const qkv_attention_desc *d, qkv_attention_shape *shape) {
    bool given = d->scale != 0 || d->flags & QKV_SCALE;
    float scale = given ? d->scale : default_scale(d->head_dim);
    shape->group = d->num_kv_heads > 0 ? d->num_heads / d->num_kv_heads : 0;
    shape->key_blocks = qkv_ceil_div(d->seq_k, QKV_KEY_BLOCK);
    shape->ld_q = qkv_round_up(d->head_dim, QKV_LANES);
    shape->ld_o = qkv_round_up(d->head_dim_v, QKV_LANES);
    shape->q_scale = qkv_softcap(d) == 0 ? scale * QKV_LOG2E : scale / qkv_softcap(d);
    shape->cap = qkv_softcap(d) * QKV_LOG2E;
    shape->keep_rows = (d->keep.key == 0 || d->keep.key == 1) && !qkv_has_gap(d) ? 0 : QKV_MAX_ROWS;
    shape->bias_rows = d->bias.key == 0 || d->bias.key == 1 ? 1 : QKV_MAX_ROWS;
    return scale;
}

/* Rows of a task, at most. K and V of a block come from the L2 cache or beyond once for so many rows, whose q and out
 * take a quarter of that cache, or half. */
enum { MAX_BLOCK_ROWS = 1024, USUAL_L2_SIZE = 1 << 20 };

/* Blocks of rows, of equal height and whole tiles, not so high that q and out leave the cache, and enough of them for
 * all workers. */
static void cut_rows(const qkv_ctx *ctx, const qkv_attention_desc *d, int64_t heads, qkv_attention_shape *shape) {
    int64_t tile = ctx->kernels->tile_rows;
    int64_t part = qkv_converts(d) && ctx->kernels->bf16_bytes == 2 ? 2 : 4; /* there packing V is more of the work */
    int64_t cache = (ctx->l2_size > 0 ? ctx->l2_size : USUAL_L2_SIZE) / (part * (int64_t)sizeof(float));
    int64_t high = qkv_max(tile, qkv_min(MAX_BLOCK_ROWS, cache / qkv_max(1, shape->ld_q + shape->ld_o)));
    int64_t blocks = qkv_ceil_div(shape->rows, high);
    if (QKV_WITH(WORKERS) && shape->workers > 1)
        blocks = qkv_max(blocks, qkv_ceil_div(4 * shape->workers, heads));
    shape->block_rows = qkv_round_up(qkv_ceil_div(shape->rows, blocks), tile);
    shape->row_blocks = qkv_ceil_div(shape->rows, shape->block_rows);
    if (qkv_q_start(d)) /* at most: each sequence may end in a block that is not full */
        shape->row_blocks = shape->rows / shape->block_rows + qkv_min(d->batch, d->seq_q);
    shape->num_tasks = heads * shape->row_blocks;
}

/* The most key blocks that n consecutive queries see between them, whatever their positions and kv_len. */
static int64_t most_visible_blocks(const qkv_attention_desc *d, const qkv_attention_shape *shape, int64_t n) {
    if (!(d->flags & QKV_LEFT) || !(d->flags & QKV_RIGHT) || qkv_has_gap(d))
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
    int64_t sizes[3] = {heads, keys, shape->key_bytes}, size;
    bool as_they_are = qkv_keys_in_panels(d) && qkv_k_type(d) == QKV_F32 && !qkv_page_table(d) && !qkv_converts(d);
    if (shape->row_blocks < 2 || as_they_are || qkv_has_gap(d) || !qkv_product(sizes, 3, MAX_SHARED_KEYS, &size))
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
    if (!QKV_WITH(WORKERS) || shape->workers == 1 || shape->num_tasks >= 2 * shape->workers || blocks < 2)
        return QKV_OK;
    if (qkv_wants_states(d) || qkv_wants_probabilities(d) || qkv_wants_scores(d))
        return QKV_OK;
    shape->key_chunks = qkv_min(blocks, qkv_ceil_div(4 * shape->workers, shape->num_tasks));
    shape->state_blocks = blocks;
    int64_t last = shape->rows - (shape->row_blocks - 1) * shape->block_rows;
    int64_t whole[2] = {shape->row_blocks - 1, qkv_attention_state_floats(shape, shape->block_rows)};
    if (!qkv_product(whole, 2, PTRDIFF_MAX / 8, &shape->head_states))
        return QKV_ERROR_OVERFLOW;
    shape->head_states += qkv_attention_state_floats(shape, last);
    int64_t factors[4] = {d->batch * d->num_kv_heads, blocks, shape->head_states, sizeof(float)};
    if (qkv_q_start(d)) {
        factors[0] = shape->num_tasks;
        factors[2] = qkv_attention_state_floats(shape, shape->block_rows);
    }
    return qkv_product(factors, 4, PTRDIFF_MAX / 4, &shape->states_size) ? QKV_OK : QKV_ERROR_OVERFLOW;
}

qkv_status qkv_attention_cut(const qkv_ctx *ctx, const qkv_attention_desc *d, int32_t max_workers,
                             qkv_attention_shape *shape) {
    memset(shape, 0, sizeof *shape);
    if (!qkv_attention_writes(d))
        return QKV_OK;
    int64_t tile = ctx->kernels->tile_rows, heads = (qkv_q_start(d) ? 1 : d->batch) * d->num_kv_heads;
    qkv_attention_measure(d, shape);
    shape->workers = max_workers;
    shape->rows = shape->group * d->seq_q;
    shape->key_bytes = qkv_in_int8(d)   ? qkv_int8_key_bytes(ctx->kernels, d)
                       : qkv_in_bf16(d) ? qkv_bf16_panel_bytes(ctx->kernels, d->head_dim) / QKV_PANEL
                                        : d->head_dim * (int64_t)sizeof(float);
    cut_rows(ctx, d, heads, shape);
    shape->packed_blocks = qkv_q_start(d) ? 0 : shared_key_blocks(d, heads, shape);
    /* V in rows far apart costs a page and a cache set for each; from a few tiles on, one copy is cheaper. */
    shape->copies_values = qkv_v_type(d) == QKV_F32 && !qkv_page_table(d) && !qkv_converts(d) &&
                           d->v.token != shape->ld_o && shape->block_rows >= 4 * tile;
    int64_t keys = qkv_min(QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL));
    int64_t scratch[2] = {shape->block_rows + tile + keys + 2 * QKV_PANEL, shape->ld_q + shape->ld_o + 64}, size;
    if (!qkv_product(scratch, 2, PTRDIFF_MAX / 32, &size))
        return QKV_ERROR_OVERFLOW;
    shape->worker_size = qkv_attention_scratch_size(ctx->kernels, d, shape);
    return cut_keys(d, shape);
}

size_t qkv_attention_fields(const qkv_attention_desc *d, int64_t fields[QKV_ATTENTION_FIELDS]) {
    const int64_t optional = (d->q_offsets ? 1 : 0) | (d->kv_len ? 2 : 0) | (qkv_alibi(d) ? 4 : 0) |
                             (d->sinks ? 8 : 0) | (qkv_bias(d) ? 16 : 0) | (qkv_keep(d) ? 32 : 0) |
                             (qkv_wants_probabilities(d) ? 64 : 0) | (qkv_wants_states(d) ? 128 : 0) |
                             (qkv_wants_scores(d) ? 256 : 0) | (qkv_q_start(d) ? 512 : 0) |
                             (qkv_k_start(d) ? 1024 : 0) | (qkv_page_table(d) ? 2048 : 0) |
                             (qkv_key_ranges(d) ? 4096 : 0) | (d->k_means.data ? 8192 : 0);
    const int64_t values[] = {
        d->batch,
        d->num_heads,
        d->num_kv_heads,
        d->seq_q,
        d->seq_k,
        d->head_dim,
        d->head_dim_v,
        d->q.batch,
        d->q.head,
        d->q.token,
        d->k.batch,
        d->k.head,
        d->k.token,
        d->v.batch,
        d->v.head,
        d->v.token,
        d->out.batch,
        d->out.head,
        d->out.token,
        d->lse.batch,
        d->lse.head,
        d->lse.token,
        qkv_float_field(d->scale),
        qkv_float_field(d->softcap),
        d->flags,
        d->reserved,
        d->left,
        d->right,
        d->q_offset,
        d->bias.batch,
        d->bias.head,
        d->bias.query,
        d->bias.key,
        d->keep.batch,
        d->keep.head,
        d->keep.query,
        d->keep.key,
        d->probabilities.batch,
        d->probabilities.head,
        d->probabilities.query,
        d->probabilities.key,
        d->states.batch,
        d->states.head,
        d->states.query,
        d->states.key,
        d->scores.batch,
        d->scores.head,
        d->scores.query,
        d->scores.key,
        d->scores_stage,
        qkv_float_field(d->dropout),
        qkv_q_type(d) | (int64_t)qkv_k_type(d) << 8 | (int64_t)qkv_v_type(d) << 16 | (int64_t)qkv_out_type(d) << 24,
        d->k_scales.batch,
        d->k_scales.head,
        d->k_scales.token,
        d->v_scales.batch,
        d->v_scales.head,
        d->v_scales.token,
        d->table_stride,
        d->page_tokens,
        d->num_pages,
        d->key_ranges.batch,
        d->key_ranges.query,
        d->k_layout,
        d->first_tokens,
        d->arithmetic,
        d->k_means.batch,
        d->k_means.head,
        optional,
    };
    _Static_assert(sizeof values <= QKV_ATTENTION_FIELDS * sizeof(int64_t), "fields has room");
    memcpy(fields, values, sizeof values);
    return sizeof values / sizeof values[0];
}

void qkv_attention_options(qkv_operands *o, const qkv_attention_desc *d) {
    const int64_t rows[3] = {qkv_q_start(d) ? 1 : d->batch, d->num_heads, d->seq_q};
    const int64_t ranges[2] = {rows[0], rows[2]}, strides[2] = {d->key_ranges.batch, d->key_ranges.query};
    if (qkv_key_ranges(d))
        qkv_add_operand(o, QKV_NEEDED, "key_ranges", qkv_key_ranges(d), sizeof(int64_t), 2, ranges, strides, 2);
    qkv_add_vector(o, QKV_NEEDED, "q_offsets", d->q_offsets, sizeof(int64_t), d->batch);
    if (!qkv_page_table(d) || o->within == QKV_OUTERMOST) /* in a layer these are a cache's, and lie in it */
        qkv_add_vector(o, QKV_NEEDED, "kv_len", d->kv_len, sizeof(int64_t), d->batch);
    qkv_add_vector(o, QKV_NEEDED, "alibi_slopes", qkv_alibi(d), sizeof(float), d->num_heads);
    qkv_add_vector(o, QKV_NEEDED, "sinks", d->sinks, sizeof(float), d->num_heads);
    const int64_t means[3] = {d->batch, d->num_kv_heads, 1};
    if (QKV_WITH(BF16) && d->k_means.data)
        qkv_add_input(o, QKV_NEEDED, "k_means", d->k_means, means, d->head_dim);
    if (qkv_bias(d))
        qkv_add_matrix_input(o, QKV_NEEDED, "bias", d->bias, sizeof(float), rows, d->seq_k);
    if (qkv_keep(d))
        qkv_add_matrix_input(o, QKV_NEEDED, "keep", d->keep, 1, rows, d->seq_k);
}

void qkv_attention_optional_outputs(qkv_operands *o, const qkv_attention_desc *d) {
    const int64_t rows[3] = {qkv_q_start(d) ? 1 : d->batch, d->num_heads, d->seq_q};
    if (d->lse.data)
        qkv_add_output(o, QKV_NEEDED, "lse", d->lse, rows, 1);
    if (qkv_wants_probabilities(d))
        qkv_add_matrix_output(o, QKV_NEEDED, "probabilities", d->probabilities, rows, d->seq_k, 1);
    if (qkv_wants_scores(d))
        qkv_add_matrix_output(o, QKV_NEEDED, "scores", d->scores, rows, d->seq_k, 1);
    if (qkv_wants_states(d))
        qkv_add_matrix_output(o, QKV_NEEDED, "states", d->states, rows, qkv_ceil_div(d->seq_k, QKV_KEY_BLOCK),
                              d->head_dim_v + 2);
}

void qkv_attention_add_keys(qkv_operands *o, const qkv_attention_desc *d, int role) {
    int64_t rows[3] = {qkv_k_start(d) ? 1 : d->batch, d->num_kv_heads, d->seq_k}, channels = d->head_dim;
    qkv_input k = d->k;
    if (qkv_page_table(d)) {
        rows[0] = d->num_pages;
        rows[2] = d->page_tokens;
    }
    if (qkv_keys_in_panels(d)) {
        rows[2] = qkv_ceil_div(rows[2], QKV_PANEL);
        channels = k.token = QKV_PANEL * d->head_dim;
    }
    qkv_add_stored(o, role, "k", k, qkv_k_type(d), rows, channels);
}

static void qkv_attention_operands(qkv_operands *o, const qkv_attention_desc *d) {
    const int64_t rows[3] = {qkv_q_start(d) ? 1 : d->batch, d->num_heads, d->seq_q};
    const int64_t in_tensors[3] = {qkv_k_start(d) ? 1 : d->batch, d->num_kv_heads, d->seq_k};
    const int64_t in_pages[3] = {d->num_pages, d->num_kv_heads, d->page_tokens};
    const int64_t *keys = qkv_page_table(d) ? in_pages : in_tensors;
    int pairs = qkv_attention_writes(d) && d->seq_k > 0 ? QKV_NEEDED : 0;
    /* A task reads its queries before it writes their outputs. */
    qkv_add_stored(o, pairs, "q", d->q, qkv_q_type(d), rows, d->head_dim)->itself = 1;
    qkv_attention_add_keys(o, d, pairs);
    qkv_add_stored(o, pairs, "v", d->v, qkv_v_type(d), keys, d->head_dim_v);
    if (qkv_k_type(d) == QKV_INT8)
        qkv_add_input(o, pairs, "k_scales", d->k_scales, keys, 1);
    if (qkv_v_type(d) == QKV_INT8)
        qkv_add_input(o, pairs, "v_scales", d->v_scales, keys, 1);
    if (!qkv_wants_states(d))
        qkv_add_stored(o, QKV_NEEDED | QKV_OUTPUT, "out", qkv_as_input(&d->out), qkv_out_type(d), rows, d->head_dim_v)
            ->itself = 1;
    qkv_attention_optional_outputs(o, d);
    qkv_attention_options(o, d);
    qkv_add_vector(o, QKV_NEEDED, "q_start", qkv_q_start(d), sizeof(int64_t), d->batch + 1);
    qkv_add_vector(o, QKV_NEEDED, "k_start", qkv_k_start(d), sizeof(int64_t), d->batch + 1);
    const int64_t tables[1] = {d->batch}, table_stride[1] = {d->table_stride};
    if (qkv_page_table(d))
        qkv_add_operand(o, pairs, "page_table", qkv_page_table(d), sizeof(int32_t), 1, tables, table_stride,
                        qkv_ceil_div(d->seq_k, d->page_tokens));
}

static uint64_t qkv_attention_checksum(const qkv_attention_desc *d) {
    int64_t fields[QKV_ATTENTION_FIELDS + 2];
    size_t n = qkv_attention_fields(d, fields);
    fields[n++] = d->lse.data != NULL;
    fields[n++] = qkv_wants_states(d) && d->out.data; /* refused */
    return qkv_checksum(fields, n);
}

static void qkv_attention_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                                  int32_t worker) {
    qkv_attention_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    qkv_attention_execute(plan->kernels, &shape, desc, workspace, phase, index, worker);
}

static qkv_status qkv_attention_make_plan(const qkv_ctx *ctx, const qkv_attention_desc *d, qkv_plan *plan) {
    qkv_attention_shape shape;
    qkv_status status = qkv_attention_cut(ctx, d, plan->max_workers, &shape);
    if (status != QKV_OK)
        return status;
    int64_t scratch[2] = {shape.worker_size, plan->max_workers}, scratch_size;
    if (!qkv_product(scratch, 2, PTRDIFF_MAX / 2, &scratch_size))
        return QKV_ERROR_OVERFLOW;
    plan->workspace_size = (size_t)(shape.packed_size + shape.states_size + scratch_size);
    plan->num_phases = qkv_attention_phases(&shape, plan->num_tasks);
    _Static_assert(sizeof shape <= sizeof plan->geometry, "the plan holds the shape");
    memcpy(plan->geometry, &shape, sizeof shape);
    return QKV_OK;
}

static qkv_status check_starts(const int64_t *start, const char *field, const qkv_attention_desc *d, int64_t tokens,
                               qkv_problem *why) {
    for (int64_t b = 0; b < d->batch; b++) {
        if (start[b] < 0 || start[b + 1] < start[b] || start[b + 1] > tokens)
            return qkv_refuse(why, QKV_ERROR_INDEX, field, (int32_t)b, "and the next are % and %", start[b],
                              start[b + 1]);
    }
    return QKV_OK;
}

/* Packed sequences lie in their tensors, and pages in their pool. */
qkv_status qkv_attention_check_values(const qkv_attention_desc *d, qkv_problem *why) {
    if (qkv_q_start(d) && check_starts(qkv_q_start(d), "q_start[]", d, d->seq_q, why) != QKV_OK)
        return why->status;
    if (qkv_k_start(d) && check_starts(qkv_k_start(d), "k_start[]", d, d->seq_k, why) != QKV_OK)
        return why->status;
    for (int64_t b = 0; qkv_page_table(d) && qkv_attention_writes(d) && b < d->batch; b++) {
        if (qkv_q_start(d) && qkv_q_start(d)[b] == qkv_q_start(d)[b + 1])
            continue;
        const int32_t *pages = qkv_page_table(d) + b * d->table_stride;
        attention_task t;
        qkv_choose_sequence(&t, d, b);
        int64_t first = window_of(&t, qkv_q_start(d) ? qkv_q_start(d)[b] : 0).first;
        if (qkv_wants_scores(d)) /* which don't ask who is visible */
            first = 0;
        int64_t end = first < t.kv_len ? qkv_ceil_div(t.kv_len, d->page_tokens) : 0;
        for (int64_t i = first / d->page_tokens; i < end; i++) {
            if (pages[i] < 0 || pages[i] >= d->num_pages) {
                why->value[2] = d->num_pages;
                return qkv_refuse(why, QKV_ERROR_INDEX, "page_table", -1,
                                  "has page % for sequence %, and num_pages is %", pages[i], b);
            }
        }
    }
    return QKV_OK;
}

#define CHECK_VALUES(operands, d, why) qkv_attention_check_values(d, why)
#define QKV_OP(name) qkv_attention_##name
#define DESC qkv_attention_desc
#define OPERATION QKV_ATTENTION
#include "../shell.inc.h"
