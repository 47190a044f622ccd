/* Y = X·W + bias: blocked matrix product over packed panels, with the columns of each part scattered to heads.
 *
 * A task takes a block of rows and some panels. For each panel the product is summed in a scratch tile, 128 terms at a
 * time: that is where the arithmetic cuts its chains, and 128 rows of a panel (32 KiB) stay in the L1 cache while all
 * rows of the block pass over them. Meanwhile the next 128, which follow in memory, are fetched: the weights come from
 * beyond the L2 cache, and the first rows to meet them would wait.
 *
 * Steps on heads need whole ones: a part that has any is cut after as many panels as hold whole heads, and these make
 * one tile.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "../cache/cache.h"
#include "../ops.h"

/* Rows of a block: the scratch tile (192 × 64 floats) and a block of X stay in the L2 cache. Fewer, where a tile is
 * more than WIDE_TILE panels wide. */
enum { MAX_BLOCK_TOKENS = 192, WIDE_TILE = 4 };

/* So many blocks of 32 terms of rows in 8 bits or bfloat16, and a phase that makes them for all tasks pays. */
enum { SHARED_BLOCKS = 512 };

/* Panels of a tile: those of whole heads, at most all of the part, where the heads have steps. */
static int64_t tile_panels(const qkv_projection_desc *d, int64_t i) {
    const qkv_projection_part *part = &d->part[i];
    if (!qkv_has_head_steps(&d->steps[i]) || part->out_features == 0)
        return 1;
    return qkv_min(qkv_head_panels(part->head_dim), qkv_ceil_div(part->out_features, QKV_PANEL));
}

static int64_t widest_tile(const qkv_projection_desc *d) {
    int64_t widest = 1;
    for (int64_t i = 0; i < d->num_parts; i++)
        widest = qkv_max(widest, tile_panels(d, i));
    return widest;
}

/* head_dim of the first part that rotates; -1: none does. */
static int64_t first_rotated(const qkv_projection_desc *d) {
    for (int64_t i = 0; i < qkv_min(d->num_parts, QKV_MAX_PARTS); i++) {
        if (qkv_rotates(&d->steps[i]))
            return d->part[i].head_dim;
    }
    return -1;
}

void qkv_projection_defaults(qkv_projection_desc *d) {
    qkv_settle_input(&d->x, d->batch, 1, d->tokens, d->in_features);
    for (int64_t i = 0; i < qkv_min(d->num_parts, QKV_MAX_PARTS); i++) {
        qkv_projection_part *part = &d->part[i];
        if (part->head_dim == 0)
            part->head_dim = part->out_features;
        qkv_settle_output(&part->out, d->batch, qkv_part_heads(part), d->tokens, part->head_dim);
    }
    if (d->rope.rotary_dim == 0 && first_rotated(d) > 0)
        d->rope.rotary_dim = first_rotated(d);
}

static qkv_status qkv_projection_complete(const qkv_projection_desc *desc, qkv_projection_desc *d, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    if (status == QKV_OK)
        qkv_projection_defaults(d);
    return status;
}

static qkv_status validate_part(const qkv_projection_part *part, int32_t i, qkv_problem *why) {
    if (qkv_check_size(why, "part[].out_features", i, part->out_features) != QKV_OK ||
        qkv_check_size(why, "part[].head_dim", i, part->head_dim) != QKV_OK)
        return why->status;
    if (part->head_dim > 0 && part->out_features % part->head_dim != 0)
        return qkv_refuse(why, QKV_ERROR_HEADS, "part[].out_features", i, "is %, no multiple of head_dim (%)",
                          part->out_features, part->head_dim);
    if (part->out_features > INT64_MAX / 8)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "part[].out_features", i, "is too large (%)", part->out_features, 0);
    return QKV_OK;
}

static qkv_status validate_steps(const qkv_projection_desc *d, int32_t i, qkv_problem *why) {
    const qkv_head_steps *steps = &d->steps[i];
    if (!QKV_WITH(ROPE) && (steps->norm || steps->rotate))
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, steps->norm ? "steps[].norm" : "steps[].rotate", i,
                          "is left out of this build", 0, 0);
    if (!QKV_WITH(CACHE) && steps->store)
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, "steps[].store", i, "is left out of this build", 0, 0);
    if (steps->rotate > 1)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "steps[].rotate", i, "is %, neither 0 nor 1", steps->rotate, 0);
    if (steps->store < 0 || steps->store > QKV_STORE_V)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "steps[].store", i, "is %, neither 0 nor K nor V", steps->store, 0);
    for (int32_t other = 0; steps->store && other < i; other++) {
        if (d->steps[other].store == steps->store)
            return qkv_refuse(why, QKV_ERROR_SHAPE, "steps[].store", i, "is %, as another part's", steps->store, 0);
    }
    if (steps->first_positions && qkv_projection_stores(d))
        return qkv_refuse(why, QKV_ERROR_SHAPE, "steps[].first_positions", i, "must be NULL with a cache", 0, 0);
    if (!(steps->norm_epsilon >= 0 && steps->norm_epsilon <= FLT_MAX))
        return qkv_refuse(why, QKV_ERROR_VALUE, "steps[].norm_epsilon", i, "is negative or no number", 0, 0);
    if (qkv_has_head_steps(steps) && d->part[i].head_dim > QKV_MAX_STEPS_DIM)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "part[].head_dim", i, "is %, but at most % with steps",
                          d->part[i].head_dim, QKV_MAX_STEPS_DIM);
    return qkv_rotates(steps) ? qkv_check_rope(&d->rope, d->part[i].head_dim, why) : QKV_OK;
}

qkv_status qkv_projection_validate(const qkv_projection_desc *d, qkv_problem *why) {
    if (qkv_check_size(why, "batch", -1, d->batch) != QKV_OK ||
        qkv_check_size(why, "tokens", -1, d->tokens) != QKV_OK ||
        qkv_check_size(why, "in_features", -1, d->in_features) != QKV_OK)
        return why->status;
    if (d->num_parts < 1 || d->num_parts > QKV_MAX_PARTS)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "num_parts", -1, "is %, not 1 to %", d->num_parts, QKV_MAX_PARTS);
    int64_t panels = 0, bytes = 0;
    for (int32_t i = 0; i < d->num_parts; i++) {
        const qkv_projection_part *part = &d->part[i];
        if (validate_part(part, i, why) != QKV_OK || validate_steps(d, i, why) != QKV_OK ||
            qkv_check_weights(part->type, d->in_features, part->out_features, "part[].type", i,
                              "is %, whose blocks don't divide in_features (%)", &bytes, why) != QKV_OK ||
            qkv_check_arithmetic(d->arithmetic, part->type, why) != QKV_OK)
            return why->status;
        panels += qkv_ceil_div(part->out_features, QKV_PANEL);
    }
    int64_t tasks[3] = {d->batch, d->tokens, panels}, unused;
    if (!qkv_product(tasks, 3, INT64_MAX / 2, &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "batch * tokens * out_features", -1, "is too large", 0, 0);
    return QKV_OK;
}

static int64_t packed_bytes(const qkv_projection_desc *d) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < d->num_parts; i++)
        bytes += qkv_part_bytes(d->part[i].type, d->in_features, d->part[i].out_features);
    return bytes;
}

static void qkv_projection_operands(qkv_operands *o, const qkv_projection_desc *d) {
    const int64_t rows[3] = {d->batch, 1, d->tokens};
    bool columns = false, rotated = false;
    for (int64_t i = 0; i < d->num_parts; i++) {
        const qkv_projection_part *part = &d->part[i];
        int64_t heads = qkv_part_heads(part);
        const int64_t out[3] = {d->batch, heads, d->tokens};
        bool used = d->batch > 0 && d->tokens > 0 && part->out_features > 0;
        columns = columns || used;
        if (!qkv_stores(&d->steps[i]) || part->out.data)
            qkv_add_output(o, QKV_NEEDED, "part[].out", part->out, out, part->head_dim)->index = (uint8_t)i;
        if (part->bias)
            qkv_add_operand(o, used ? QKV_NEEDED : 0, "part[].bias", part->bias, sizeof(float), 0, NULL, NULL,
                            part->out_features)
                ->index = (uint8_t)i;
        const qkv_head_steps *steps = &d->steps[i];
        int role = used ? QKV_NEEDED : 0;
        if (qkv_norm(steps))
            qkv_add_operand(o, role, "steps[].norm", steps->norm, sizeof(float), 0, NULL, NULL, part->head_dim)->index =
                (uint8_t)i;
        if (!qkv_rotates(steps))
            continue;
        rotated = rotated || used;
        if (steps->first_positions)
            qkv_add_operand(o, role, "steps[].first_positions", steps->first_positions, sizeof(int64_t), 0, NULL, NULL,
                            d->batch)
                ->index = (uint8_t)i;
        qkv_add_positions(o, role, "steps[].positions", &steps->positions, d->batch, d->tokens, (int32_t)i);
    }
    if (first_rotated(d) >= 0)
        qkv_add_rope(o, rotated ? QKV_NEEDED : 0, &d->rope);
    qkv_add_input(o, columns ? QKV_NEEDED : 0, "x", d->x, rows, d->in_features);
    qkv_add_packed(o, columns ? QKV_NEEDED : 0, "packed", d->packed, packed_bytes(d));
}

/* Whether a batch begins where the tokens of the one before it end. Strides of what has no elements may be any. */
static bool follow_each_other(const qkv_projection_desc *d, int64_t batch, int64_t token) {
    int64_t end;
    return d->tokens == 1 || (!__builtin_mul_overflow(token, d->tokens, &end) && batch == end);
}

/* Whether the tokens of all batches lie at one stride: then batches are just more tokens. */
static bool batches_join(const qkv_projection_desc *d) {
    bool join = d->batch > 1 && follow_each_other(d, d->x.batch, d->x.token);
    for (int64_t i = 0; i < d->num_parts; i++)
        join = join && follow_each_other(d, d->part[i].out.batch, d->part[i].out.token);
    return join;
}

/* Bytes of 32 terms of a row in 8 bits, or in bfloat16. */
static int64_t bytes_of_terms(const qkv_projection_desc *d) {
    return qkv_weights_in_int8(d) ? (int64_t)sizeof(qkv_terms) : QKV_BLOCK_TERMS * (int64_t)sizeof(float);
}

/* Bytes of blocks of such rows, or more than a workspace may have. */
static int64_t converted_size(const qkv_projection_desc *d, int64_t blocks, int64_t rows) {
    const int64_t factors[4] = {qkv_ceil_div(d->in_features, QKV_BLOCK_TERMS), blocks, rows, bytes_of_terms(d)};
    int64_t size;
    return qkv_product(factors, 4, QKV_MOST_WORKSPACE, &size) ? qkv_round_up(size, 64) : 2 * QKV_MOST_WORKSPACE;
}

/* Whether some weights are not multiplied as they lie. */
static bool widens(const qkv_projection_desc *d) {
    bool any = false;
    for (int64_t i = 0; i < d->num_parts; i++)
        any = any || ((QKV_WITH(STORED) || QKV_WITH(QUANTIZED)) && d->part[i].type != QKV_F32);
    return any;
}

/* Rows of a panel that are widened at a time, as kernels round them up. */
static int64_t widened_rows(const qkv_projection_desc *d) {
    return qkv_min(QKV_CHAIN, qkv_round_up(d->in_features, QKV_BLOCK_TERMS));
}

void qkv_projection_cut(const qkv_kernels *kernels, const qkv_projection_desc *d, int32_t max_workers,
                        qkv_projection_shape *shape) {
    memset(shape, 0, sizeof *shape);
    shape->batch = d->batch;
    shape->tokens = d->tokens;
    shape->x_token = d->x.token;
    bool by_batch = d->tokens == 1;
    for (int64_t i = 0; i < d->num_parts; i++) {
        shape->panels += qkv_ceil_div(d->part[i].out_features, QKV_PANEL);
        shape->out_token[i] = d->part[i].out.token;
    }
    if (shape->batch == 0 || shape->tokens == 0 || shape->panels == 0)
        return; /* sizes next to a size of 0 may be any: their products are not looked at */
    if (batches_join(d)) {
        shape->batch = 1;
        shape->tokens = d->batch * d->tokens;
        if (by_batch) {
            shape->x_token = d->x.batch;
            for (int64_t i = 0; i < d->num_parts; i++)
                shape->out_token[i] = d->part[i].out.batch;
        }
    }
    /* Blocks of equal height, whole tiles; then enough groups of panels to keep all workers busy. */
    int64_t tile = widest_tile(d), most_rows = MAX_BLOCK_TOKENS;
    if (tile > WIDE_TILE)
        most_rows = qkv_max(WIDE_TILE * MAX_BLOCK_TOKENS / tile, kernels->tile_rows);
    int64_t blocks = qkv_ceil_div(shape->tokens, most_rows);
    shape->block_rows = qkv_round_up(qkv_ceil_div(shape->tokens, blocks), kernels->tile_rows);
    shape->row_blocks = qkv_ceil_div(shape->tokens, shape->block_rows);
    int64_t wanted = 1;
    if (QKV_WITH(WORKERS) && max_workers > 1)
        wanted = qkv_ceil_div(4 * (int64_t)max_workers, shape->batch * shape->row_blocks);
    shape->task_panels = qkv_round_up(qkv_ceil_div(shape->panels, qkv_min(wanted, shape->panels)), tile);
    shape->panel_groups = qkv_ceil_div(shape->panels, shape->task_panels);
    shape->num_tasks = shape->batch * shape->row_blocks * shape->panel_groups;
    /* A worker's scratch. */
    shape->at = shape->block_rows * tile * QKV_PANEL * (int64_t)sizeof(float);
    shape->widened = shape->at;
    if (first_rotated(d) >= 0)
        shape->widened += qkv_round_up(shape->block_rows * (int64_t)sizeof(ptrdiff_t), 64);
    shape->converted = shape->widened;
    if (qkv_weights_in_bf16(d) || (!qkv_converts_rows(d) && widens(d)))
        shape->converted += (widened_rows(d) + kernels->few_rows) * QKV_PANEL * (int64_t)sizeof(float);
    shape->worker_size = shape->converted;
    if (!qkv_converts_rows(d))
        return;
    const int64_t of_row = qkv_ceil_div(d->in_features, QKV_BLOCK_TERMS), all = shape->batch * shape->row_blocks;
    if (shape->panel_groups == 1 || shape->block_rows * of_row < SHARED_BLOCKS) {
        shape->worker_size += converted_size(d, 1, shape->block_rows);
        return;
    }
    shape->shared_size = shape->workers = converted_size(d, all, shape->block_rows);
    shape->k_chunks = qkv_min(of_row, qkv_ceil_div(4 * (int64_t)max_workers, all));
    shape->convert_tasks = all * shape->k_chunks;
}

/* Rows of a finished tile to their heads: columns [first, first + n) of the part, row t at out + t·token. */
static void store(const qkv_kernels *kernels, const qkv_projection_part *part, float *out, int64_t token,
                  const float *tile, int64_t rows, int64_t first, int64_t n) {
    while (n > 0) {
        int64_t head = first / part->head_dim, channel = first % part->head_dim;
        int64_t width = qkv_min(n, part->head_dim - channel);
        float *to = out + head * part->out.head + channel;
        kernels->add_bias(to, token, tile, QKV_PANEL, part->bias ? part->bias + first : NULL, (size_t)rows,
                          (size_t)width);
        tile += width;
        first += width;
        n -= width;
    }
}

/* Panels of a part up to which a task goes whose share ends `panels` after the part's first one: whole heads. */
static int64_t whole_tiles(const qkv_projection_desc *d, int64_t i, int64_t panels) {
    int64_t tile = tile_panels(d, i), all = qkv_ceil_div(d->part[i].out_features, QKV_PANEL);
    return panels <= 0 ? 0 : qkv_min(tile == 1 ? panels : qkv_round_up(panels, tile), all);
}

/* What the products of a task share. */
typedef struct task_rows {
    const qkv_kernels *kernels;
    const float *x;
    int64_t x_token, rows, in_features;
    float *widened, *sums; /* [widened_rows][64], [few_rows][64] */
    int64_t arithmetic;
    const void *converted; /* x in the arithmetic, unless that is f32: see convert_rows */
} task_rows;

/* X·W of a panel, `columns` of it. follows: another panel lies behind this one and comes next. */
static void multiply(const task_rows *t, float *tile, int64_t ld, int type, const unsigned char *panel, size_t columns,
                     bool follows) {
    const qkv_kernels *kernels = t->kernels;
    const int64_t rows = t->rows;
    if (QKV_WITH(QUANTIZED) && t->arithmetic == QKV_ARITHMETIC_INT8) {
        kernels->gemm_weights(tile, ld, t->converted, rows, panel, type, (size_t)rows, columns, (size_t)t->in_features);
        return;
    }
    const bool bf16 = QKV_WITH(BF16) && t->arithmetic == QKV_ARITHMETIC_BF16;
    const bool few = QKV_WITH(STORED) && !bf16 && rows <= kernels->few_rows && (type == QKV_F16 || type == QKV_BF16);
    /* Bytes of QKV_CHAIN terms, of which two are whole groups of any type. */
    const int64_t chain = (qkv_panel_bytes(type, 4 * QKV_CHAIN) - qkv_panel_bytes(type, 2 * QKV_CHAIN)) / 2;
    int64_t k = 0;
    do { /* also once without any term, which gives +0 */
        const int64_t terms = qkv_min(QKV_CHAIN, t->in_features - k), bytes = chain * terms / QKV_CHAIN;
        const unsigned char *from = panel + k / QKV_CHAIN * chain;
        const float *x = t->x + k;
        /* With few rows the weights are read one after the other as fast as memory gives them. */
        const bool goes_on = follows || k + terms < t->in_features;
        const bool ahead = QKV_WITH(PREFETCH) && goes_on && 2 * rows >= kernels->tile_rows;
        const qkv_soon next = {from + bytes, QKV_WORD_ROW, (size_t)(bytes / QKV_WORD_ROW), QKV_WORD_ROW};
        const qkv_soon *soon = ahead ? &next : NULL;
        if (bf16) {
            kernels->weights_bf16(t->widened, panel, type, (size_t)k, (size_t)terms);
            kernels->gemm_bf16(tile, ld, t->converted, qkv_round_up(t->in_features, QKV_BLOCK_TERMS), (size_t)k,
                               t->widened, (size_t)rows, columns, (size_t)terms, k > 0, soon);
        } else if (few) {
            kernels->gemm_stored(k > 0 ? t->sums : tile, k > 0 ? QKV_PANEL : ld, x, t->x_token, from,
                                 QKV_PANEL * (ptrdiff_t)sizeof(uint16_t), type, (size_t)rows, columns, (size_t)terms, 0,
                                 soon);
            if (k > 0)
                kernels->add(tile, ld, t->sums, QKV_PANEL, (size_t)rows, columns);
        } else {
            const float *weights = (const float *)(const void *)from;
            if ((QKV_WITH(STORED) || QKV_WITH(QUANTIZED)) && type != QKV_F32 && terms > 0) {
                kernels->widen_weights(t->widened, panel, type, (size_t)k, (size_t)terms);
                weights = t->widened;
            }
            kernels->gemm(tile, ld, x, t->x_token, weights, QKV_PANEL, QKV_PANEL, (size_t)rows, columns, (size_t)terms,
                          k > 0, soon);
        }
        k += QKV_CHAIN;
    } while (k < t->in_features);
}

/* Terms [first, first + n) of rows to 8 bits, [⌈in_features / 32⌉][rows] terms, or to bfloat16, [rows][in_features] as
 * rows_bf16 stores them, in_features rounded up to whole blocks. first is a multiple of 32. */
static void convert_rows(const qkv_kernels *kernels, const qkv_projection_desc *d, void *to, const float *x,
                         int64_t x_token, int64_t rows, int64_t first, int64_t n) {
    if (n <= 0)
        return;
    if (qkv_weights_in_int8(d))
        kernels->quantize_rows((qkv_terms *)to + first / QKV_BLOCK_TERMS * rows, rows, x + first, x_token, (size_t)rows,
                               (size_t)n);
    else if (qkv_weights_in_bf16(d))
        kernels->rows_bf16(to, qkv_round_up(d->in_features, QKV_BLOCK_TERMS), (size_t)first, x + first, x_token,
                           (size_t)rows, (size_t)n);
}

/* Block of rows number `block` of all batches, converted, of which it has so many bytes in the workspace. */
static void *shared_rows(const qkv_projection_shape *shape, const qkv_projection_desc *d, void *workspace,
                         int64_t block) {
    int64_t blocks = qkv_ceil_div(d->in_features, QKV_BLOCK_TERMS);
    return (unsigned char *)workspace + shape->shared + block * blocks * shape->block_rows * bytes_of_terms(d);
}

void qkv_projection_convert(const qkv_kernels *kernels, const qkv_projection_shape *shape, const qkv_projection_desc *d,
                            void *workspace, int64_t index) {
    int64_t chunk = index % shape->k_chunks, block = index / shape->k_chunks;
    int64_t b = block / shape->row_blocks, row = block % shape->row_blocks * shape->block_rows;
    int64_t blocks = qkv_ceil_div(d->in_features, QKV_BLOCK_TERMS);
    int64_t terms = qkv_ceil_div(blocks, shape->k_chunks) * QKV_BLOCK_TERMS;
    const float *x = (const float *)d->x.data + b * d->x.batch + row * shape->x_token;
    convert_rows(kernels, d, shared_rows(shape, d, workspace, block), x, shape->x_token,
                 qkv_min(shape->block_rows, shape->tokens - row), chunk * terms,
                 qkv_min(terms, d->in_features - chunk * terms));
}

void qkv_projection_execute(const qkv_kernels *kernels, const qkv_projection_shape *shape, const qkv_projection_desc *d,
                            void *workspace, int64_t index, int32_t worker) {
    unsigned char *scratch = (unsigned char *)workspace + shape->workers + worker * shape->worker_size;
    float *tile = (float *)(void *)scratch;
    int64_t group = index % shape->panel_groups, block = index / shape->panel_groups;
    int64_t b = block / shape->row_blocks, row = block % shape->row_blocks * shape->block_rows;
    int64_t rows = qkv_min(shape->block_rows, shape->tokens - row);
    int64_t first_panel = group * shape->task_panels;
    int64_t end_panel = qkv_min(first_panel + shape->task_panels, shape->panels);
    /* Without an inner dimension x and the weights may be NULL, and strides any: nothing is read. */
    bool empty = d->in_features == 0;
    task_rows t = {.kernels = kernels,
                   .x = tile,
                   .rows = rows,
                   .in_features = d->in_features,
                   .widened = (float *)(void *)(scratch + shape->widened),
                   .arithmetic = empty ? QKV_ARITHMETIC_F32 : d->arithmetic};
    t.sums = t.widened + widened_rows(d) * QKV_PANEL;
    if (!empty) {
        t.x_token = shape->x_token;
        t.x = (const float *)d->x.data + b * d->x.batch + row * t.x_token;
    }
    if (qkv_converts_rows(d) && shape->convert_tasks > 0) {
        t.converted = shared_rows(shape, d, workspace, block);
    } else {
        void *converted = scratch + shape->converted;
        if (qkv_converts_rows(d) && !empty)
            convert_rows(kernels, d, converted, t.x, t.x_token, rows, 0, d->in_features);
        t.converted = converted;
    }
    const unsigned char *packed = empty ? scratch : d->packed; /* of part i */

    qkv_cache_view opened, *cache = NULL;
    if (qkv_projection_stores(d) && qkv_cache_open(d->cache, &opened) == QKV_OK)
        cache = &opened;
    int64_t part_panel = 0; /* the first panel of part i */
    for (int64_t i = 0; i < d->num_parts; i++) {
        const qkv_projection_part *part = &d->part[i];
        const int64_t part_panels = qkv_ceil_div(part->out_features, QKV_PANEL);
        const int64_t panel_bytes = qkv_panel_bytes(part->type, d->in_features);
        bool steps = qkv_has_head_steps(&d->steps[i]);
        const qkv_head_steps steps_of_part = qkv_projection_steps(d, i, cache);
        int64_t panel = whole_tiles(d, i, first_panel - part_panel);
        int64_t end = whole_tiles(d, i, end_panel - part_panel);
        int64_t of_tile = tile_panels(d, i), ld = of_tile * QKV_PANEL;
        float *out = part->out.data;
        if (out)
            out += b * part->out.batch + row * shape->out_token[i];
        for (; panel < end; panel++) {
            /* Of the part's last panel the columns that exist, up to whole vectors of 8: the others are zero. */
            int64_t first = panel * QKV_PANEL, width = qkv_min(QKV_PANEL, part->out_features - first);
            int64_t in_tile = panel % of_tile;
            multiply(&t, tile + in_tile * QKV_PANEL, ld, (int)part->type, packed + panel * panel_bytes,
                     (size_t)qkv_round_up(width, 8), part_panel + panel + 1 < end_panel);
            if (!steps) {
                store(kernels, part, out, shape->out_token[i], tile, rows, first, width);
            } else if (in_tile + 1 == of_tile || panel + 1 == part_panels) {
                int64_t first_column = first - in_tile * QKV_PANEL;
                const qkv_head_rows heads = {.tile = tile,
                                             .ld = ld,
                                             .b = b,
                                             .t = row,
                                             .rows = rows,
                                             .first_head = first_column / part->head_dim,
                                             .heads = (first + width - first_column) / part->head_dim,
                                             .at = (ptrdiff_t *)(void *)(scratch + shape->at),
                                             .steps = &steps_of_part,
                                             .cache = qkv_stores(&d->steps[i]) ? cache : NULL};
                qkv_projection_finish_heads(kernels, d, i, &heads, out, shape->out_token[i]);
            }
        }
        part_panel += part_panels;
        packed += part_panels * panel_bytes;
    }
}

static uint64_t qkv_projection_checksum(const qkv_projection_desc *d) {
    int64_t fields[7 + (8 + QKV_STEPS_FIELDS) * QKV_MAX_PARTS + QKV_ROPE_FIELDS] = {
        d->batch, d->tokens, d->in_features, d->num_parts, d->x.batch, d->x.token, d->arithmetic};
    size_t n = 7;
    for (int64_t i = 0; i < qkv_min(d->num_parts, QKV_MAX_PARTS); i++) {
        const qkv_projection_part *part = &d->part[i];
        fields[n++] = part->out_features;
        fields[n++] = part->head_dim;
        fields[n++] = part->out.batch;
        fields[n++] = part->out.head;
        fields[n++] = part->out.token;
        fields[n++] = part->bias != NULL;
        fields[n++] = qkv_stores(&d->steps[i]) && part->out.data;
        fields[n++] = part->type;
        qkv_steps_fields(&d->steps[i], fields + n);
        n += QKV_STEPS_FIELDS;
    }
    if (first_rotated(d) >= 0) {
        qkv_rope_fields(&d->rope, fields + n);
        n += QKV_ROPE_FIELDS;
    }
    return qkv_checksum(fields, n);
}

/* How large the cache is, is known when a run has opened it: then all are listed anew with it. */
static qkv_status check_cache_overlap(qkv_operands *o, const qkv_projection_desc *d, int64_t bytes, qkv_problem *why) {
    o->count = 0;
    qkv_projection_operands(o, d);
    qkv_add_packed(o, QKV_NEEDED | QKV_OUTPUT, "cache", d->cache, bytes);
    return qkv_check_pointers(o, why);
}

qkv_status qkv_projection_check_values(const qkv_projection_desc *d, qkv_cache_view *cache, qkv_problem *why) {
    static const char *const names[3] = {"steps[].first_position", "steps[].first_positions", "steps[].positions"};
    bool stores = qkv_projection_stores(d) && d->batch > 0 && d->tokens > 0;
    qkv_status status = QKV_OK;
#if QKV_WITH(CACHE)
    if (stores)
        status = qkv_check_stored_parts(d, cache, why);
#endif
    if (!stores)
        cache->bytes = 0;
    for (int32_t i = 0; status == QKV_OK && i < d->num_parts; i++) {
        const qkv_head_steps steps = qkv_projection_steps(d, i, stores ? cache : NULL);
        if (qkv_rotates(&steps) && d->part[i].out_features > 0)
            status = qkv_check_positions(&steps, &d->rope, d->batch, d->tokens, names, i, why);
    }
    return status;
}

static qkv_status check_projection_values(qkv_operands *o, const qkv_projection_desc *d, qkv_problem *why) {
    qkv_cache_view cache;
    qkv_status status = qkv_projection_check_values(d, &cache, why);
    return status == QKV_OK && cache.bytes > 0 ? check_cache_overlap(o, d, cache.bytes, why) : status;
}

static void qkv_projection_run_one(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase,
                                   int64_t index, int32_t worker) {
    qkv_projection_shape shape;
    memcpy(&shape, plan->geometry, sizeof shape);
    if (phase + 1 < plan->num_phases)
        qkv_projection_convert(plan->kernels, &shape, desc, workspace, index);
    else
        qkv_projection_execute(plan->kernels, &shape, desc, workspace, index, worker);
}

static qkv_status qkv_projection_make_plan(const qkv_ctx *ctx, const qkv_projection_desc *d, qkv_plan *plan) {
    qkv_projection_shape shape;
    qkv_projection_cut(ctx->kernels, d, plan->max_workers, &shape);
    const int64_t factors[2] = {shape.worker_size, plan->max_workers};
    int64_t size;
    if (!qkv_product(factors, 2, QKV_MOST_WORKSPACE, &size) || shape.shared_size > QKV_MOST_WORKSPACE)
        return QKV_ERROR_OVERFLOW;
    plan->workspace_size = (size_t)(shape.shared_size + size);
    if (shape.convert_tasks > 0)
        plan->num_tasks[plan->num_phases++] = shape.convert_tasks;
    plan->num_tasks[plan->num_phases++] = shape.num_tasks;
    _Static_assert(sizeof shape <= sizeof plan->geometry, "the plan holds the shape");
    memcpy(plan->geometry, &shape, sizeof shape);
    return QKV_OK;
}

#define CHECK_VALUES check_projection_values
#define QKV_OP(name) qkv_projection_##name
#define DESC qkv_projection_desc
#define OPERATION QKV_PROJECTION
#include "../shell.inc.h"
