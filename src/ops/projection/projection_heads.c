/* What a projection does with whole heads: bias, QK-norm, RoPE; then to where they go, tensors or a KV cache.
 *
 * A few rows at a time, so that they pass through all steps in the L1 cache.
 *
 * SPDX-License-Identifier: MIT */
#include "../attention/attention.h"
#include "../cache/cache.h"

/* 1/√x of a positive float: the root rounded to float, then the quotient. */
static float inverse_root(float x) {
    if (!(x > 0 && x <= FLT_MAX))
        return 1 / x; /* of 0, infinity and NaN */
    /* Brought near 1 by a power of 4: few steps of Newton's iteration. A root of 24 bits lies too far from what is half
     * way between two floats for the iteration's error to matter. */
    double wide = (double)x, factor = 1;
    for (; wide < 0x1p-16; factor *= 0x1p-8)
        wide *= 0x1p16;
    for (; wide > 0x1p16; factor *= 0x1p8)
        wide *= 0x1p-16;
    for (; wide < 0.5; factor *= 0.5)
        wide *= 4;
    for (; wide > 2; factor *= 2)
        wide *= 0.25;
    return 1 / (float)(qkv_square_root(wide) * factor);
}

void qkv_inverse_rms(const qkv_kernels *kernels, const float *x, int64_t ld, int64_t rows, int64_t head_dim,
                     float epsilon, float *factors) {
    kernels->row_dots(factors, x, ld, x, ld, (size_t)rows, (size_t)head_dim);
    for (int64_t r = 0; r < rows; r++) {
        float mean = factors[r] / (float)head_dim;
        factors[r] = inverse_root(mean + epsilon);
    }
}

/* Of token 0 of batch b; -1 for one that no number is. */
static int64_t first_of(const qkv_head_steps *steps, int64_t b) {
    int64_t first = steps->first_position;
    if (steps->first_positions && __builtin_add_overflow(steps->first_positions[b], first, &first))
        return -1;
    return first;
}

void qkv_find_positions(const qkv_head_steps *steps, const qkv_rope *rope, int64_t b, int64_t t, int64_t tokens,
                        int64_t rows, ptrdiff_t *at) {
    int64_t pairs = rope->rotary_dim / 2;
    b += t / tokens;
    t %= tokens;
    for (int64_t r = 0; r < rows; r++) {
        int64_t position;
        if (steps->positions.data)
            position = steps->positions.data[b * steps->positions.batch + t * steps->positions.token];
        else
            position = first_of(steps, b) + t;
        at[r] = (ptrdiff_t)(position * pairs);
        if (++t == tokens) {
            b++;
            t = 0;
        }
    }
}

void qkv_apply_head_steps(const qkv_kernels *kernels, const qkv_head_steps *steps, const qkv_rope *rope, float *x,
                          int64_t ld, const ptrdiff_t *at, int64_t rows, int64_t head_dim) {
    float factors[QKV_MAX_ROWS];
    for (int64_t r = 0; r < rows; r += QKV_MAX_ROWS, x += QKV_MAX_ROWS * ld) {
        int64_t n = qkv_min(QKV_MAX_ROWS, rows - r);
        if (qkv_norm(steps)) {
            qkv_inverse_rms(kernels, x, ld, n, head_dim, steps->norm_epsilon, factors);
            kernels->scale(x, ld, x, ld, factors, (size_t)n, (size_t)head_dim);
            kernels->scale_columns(x, ld, (size_t)n, (size_t)head_dim, steps->norm);
        }
        if (qkv_rotates(steps))
            kernels->rotate(x, ld, rope->cos, rope->sin, at + r, (size_t)n, (size_t)(rope->rotary_dim / 2),
                            rope->layout == QKV_ROPE_INTERLEAVED, 0);
    }
}

/* n rows of a head from token t on, which may be of several batches, to the ends of their sequences. */
static void store_rows(const qkv_kernels *kernels, const qkv_projection_desc *d, const qkv_head_rows *rows,
                       int64_t head, int64_t t, int64_t n, const float *x) {
    int64_t b = rows->b + t / d->tokens, count;
    for (t %= d->tokens; n > 0; n -= count, x += count * rows->ld, b++, t = 0) {
        int64_t sequence = d->first_sequence + b;
        count = qkv_min(n, d->tokens - t);
        qkv_cache_write(kernels, rows->cache, sequence, rows->steps->store == QKV_STORE_V, head,
                        rows->cache->lengths[sequence] - d->tokens + t, count, x, rows->ld);
    }
}

qkv_head_steps qkv_projection_steps(const qkv_projection_desc *d, int64_t i, const qkv_cache_view *cache) {
    qkv_head_steps steps = d->steps[i];
    if (steps.first_positions) /* in place of first_position */
        steps.first_position = 0;
    if (cache) {
        steps.first_positions = cache->lengths + d->first_sequence;
        if (__builtin_sub_overflow(steps.first_position, d->tokens, &steps.first_position))
            steps.first_position = INT64_MIN; /* which leads to none */
    }
    return steps;
}

void qkv_projection_finish_heads(const qkv_kernels *kernels, const qkv_projection_desc *d, int64_t part,
                                 const qkv_head_rows *rows, float *out, int64_t token) {
    const qkv_projection_part *p = &d->part[part];
    const qkv_head_steps *steps = rows->steps;
    const float *bias = p->bias ? p->bias + rows->first_head * p->head_dim : NULL;
    if (qkv_rotates(steps))
        qkv_find_positions(steps, &d->rope, rows->b, rows->t, d->tokens, rows->rows, rows->at);
    if (out)
        out += rows->first_head * p->out.head;
    for (int64_t r = 0; r < rows->rows; r += QKV_MAX_ROWS) {
        int64_t n = qkv_min(QKV_MAX_ROWS, rows->rows - r);
        for (int64_t h = 0; h < rows->heads; h++) {
            float *x = rows->tile + r * rows->ld + h * p->head_dim;
            if (bias) /* one row for all */
                kernels->add(x, rows->ld, bias + h * p->head_dim, 0, (size_t)n, (size_t)p->head_dim);
            qkv_apply_head_steps(kernels, steps, &d->rope, x, rows->ld, rows->at + r, n, p->head_dim);
            if (rows->cache)
                store_rows(kernels, d, rows, rows->first_head + h, rows->t + r, n, x);
            if (out)
                kernels->add_bias(out + r * token + h * p->out.head, token, x, rows->ld, NULL, (size_t)n,
                                  (size_t)p->head_dim);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- checks */

bool qkv_projection_stores(const qkv_projection_desc *d) {
    bool stores = false;
    for (int64_t i = 0; i < qkv_min(d->num_parts, QKV_MAX_PARTS); i++)
        stores = stores || qkv_stores(&d->steps[i]) != 0;
    return stores;
}

#if QKV_WITH(CACHE)
/* Room for the tokens of every batch in heads of the parts' shape. */
qkv_status qkv_check_stored_parts(const qkv_projection_desc *d, qkv_cache_view *cache, qkv_problem *why) {
    qkv_status status = qkv_cache_open(d->cache, cache);
    if (status != QKV_OK)
        return qkv_refuse(why, status, "cache", -1, "can't be used", 0, 0);
    const qkv_cache_desc *c = &cache->desc;
    for (int32_t i = 0; i < d->num_parts; i++) {
        const qkv_projection_part *part = &d->part[i];
        int64_t dim = d->steps[i].store == QKV_STORE_K ? c->head_dim : c->head_dim_v;
        bool other = part->head_dim != dim || (dim > 0 && qkv_part_heads(part) != c->num_kv_heads);
        if (d->steps[i].store != 0 && other)
            return qkv_refuse(why, QKV_ERROR_CACHE, "part[].head_dim", i,
                              "is %, with other heads than the cache's of %", part->head_dim, dim);
    }
    if (d->first_sequence < 0 || d->first_sequence > c->num_sequences ||
        d->batch > c->num_sequences - d->first_sequence)
        return qkv_refuse(why, QKV_ERROR_INDEX, "first_sequence", -1, "is %, of % sequences", d->first_sequence,
                          c->num_sequences);
    for (int64_t b = 0; b < d->batch; b++) {
        int64_t length, first_page;
        status = qkv_cache_sequence(cache, d->first_sequence + b, &length, &first_page);
        if (status != QKV_OK)
            return qkv_refuse(why, status, "cache", -1, "is damaged", 0, 0);
        if (length < d->tokens)
            return qkv_refuse(why, QKV_ERROR_CACHE, "cache", -1, "has % tokens, fewer than %", length, d->tokens);
        const int32_t *table = cache->tables + (d->first_sequence + b) * cache->table_stride;
        for (int64_t i = (length - d->tokens) / QKV_CACHE_PAGE; i < qkv_ceil_div(length, QKV_CACHE_PAGE); i++) {
            bool released = i >= cache->kept_pages && i < first_page;
            if (released || table[i] < 0 || table[i] >= c->num_pages || cache->references[table[i]] != 1)
                return qkv_refuse(why, QKV_ERROR_CACHE, "cache", -1, "has no room of the sequence's own for % tokens",
                                  d->tokens, 0);
        }
    }
    return QKV_OK;
}

#endif

qkv_status qkv_check_rope(const qkv_rope *rope, int64_t head_dim, qkv_problem *why) {
    int64_t floats[2] = {rope->num_positions, rope->rotary_dim}, unused;
    if (qkv_check_size(why, "rope.num_positions", -1, rope->num_positions) != QKV_OK ||
        qkv_check_size(why, "rope.rotary_dim", -1, rope->rotary_dim) != QKV_OK)
        return why->status;
    if (rope->rotary_dim % 2 != 0)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "rope.rotary_dim", -1, "is odd (%)", rope->rotary_dim, 0);
    if (rope->rotary_dim > head_dim)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "rope.rotary_dim", -1, "is %, but head_dim is %", rope->rotary_dim,
                          head_dim);
    if (rope->layout != QKV_ROPE_HALF && rope->layout != QKV_ROPE_INTERLEAVED)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "rope.layout", -1, "is %, no layout", rope->layout, 0);
    if (!qkv_product(floats, 2, PTRDIFF_MAX / (int64_t)sizeof(float), &unused))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "rope.num_positions", -1, "is too large (%)", rope->num_positions,
                          0);
    return QKV_OK;
}

qkv_status qkv_check_positions(const qkv_head_steps *steps, const qkv_rope *rope, int64_t batch, int64_t tokens,
                               const char *const names[3], int32_t index, qkv_problem *why) {
    static const char *const text = "leads to position %, but rope.num_positions is %";
    int64_t end = rope->num_positions;
    const qkv_positions *any = &steps->positions;
    for (int64_t b = 0; b < (any->data ? batch : 0); b++) {
        for (int64_t t = 0; t < tokens; t++) {
            int64_t position = any->data[b * any->batch + t * any->token];
            if (position < 0 || position >= end)
                return qkv_refuse(why, QKV_ERROR_INDEX, names[2], index, text, position, end);
        }
    }
    int64_t firsts = any->data || tokens == 0 ? 0 : steps->first_positions ? batch : qkv_min(batch, 1);
    for (int64_t b = 0; b < firsts; b++) {
        int64_t first = first_of(steps, b), last;
        if (first < 0 || __builtin_add_overflow(first, tokens - 1, &last) || last >= end)
            return qkv_refuse(why, QKV_ERROR_INDEX, names[steps->first_positions ? 1 : 0], index, text,
                              first < 0 || first >= end ? first : end, end);
    }
    return QKV_OK;
}

void qkv_add_rope(qkv_operands *o, int role, const qkv_rope *rope) {
    int64_t rows[1] = {rope->num_positions}, stride[1] = {rope->rotary_dim / 2};
    qkv_add_operand(o, role, "rope.cos", rope->cos, sizeof(float), 1, rows, stride, rope->rotary_dim / 2);
    qkv_add_operand(o, role, "rope.sin", rope->sin, sizeof(float), 1, rows, stride, rope->rotary_dim / 2);
}

void qkv_add_positions(qkv_operands *o, int role, const char *field, const qkv_positions *positions, int64_t batch,
                       int64_t tokens, int32_t index) {
    const int64_t sizes[2] = {batch, tokens}, strides[2] = {positions->batch, positions->token};
    if (positions->data)
        qkv_add_operand(o, role, field, positions->data, sizeof(int64_t), 2, sizes, strides, 1)->index = (uint8_t)index;
}

void qkv_rope_fields(const qkv_rope *rope, int64_t fields[QKV_ROPE_FIELDS]) {
    fields[0] = rope->num_positions;
    fields[1] = rope->rotary_dim;
    fields[2] = rope->layout;
}

void qkv_steps_fields(const qkv_head_steps *steps, int64_t fields[QKV_STEPS_FIELDS]) {
    fields[0] = steps->norm != NULL;
    fields[1] = qkv_float_field(steps->norm_epsilon);
    fields[2] = steps->rotate;
    fields[3] = steps->first_position;
    fields[4] = steps->first_positions != NULL;
    fields[5] = steps->positions.data != NULL;
    fields[6] = steps->positions.batch;
    fields[7] = steps->positions.token;
    fields[8] = steps->store;
}
