/* Memory for the tensors of a random descriptor, exactly as it describes them.  SPDX-License-Identifier: MIT */
#ifndef QKV_FUZZ_BUFFERS_H
#define QKV_FUZZ_BUFFERS_H

#include "qkv.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sanitizer/asan_interface.h>

static void fail(const char *what) {
    fprintf(stderr, "fuzz_descriptors: %s\n", what);
    abort();
}

/* Random numbers. */
static uint64_t state;

static uint64_t next(void) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return state >> 33;
}

static _Alignas(64) char somewhere[64]; /* optional pointers of a descriptor that has no buffers yet; unreadable */

/* A tensor of a call: where its pointer is kept, and its elements. */
typedef struct tensor {
    char *memory, *before; /* before: what an output held */
    size_t bytes;
    bool out;
    size_t element;
    int64_t size[4], stride[4], run, low;
} tensor;

enum { MOST_BYTES = 1 << 18, MOST_ROWS = 1 << 14 }; /* of a call; of a tensor, also where their stride is 0 */
static tensor tensors[48];
static int num_tensors;
static size_t all_bytes;
static bool too_large;

/* One byte for each byte of the tensor: 1 where an element lies. */
static char *element_map(const tensor *t) {
    char *map = calloc(1, t->bytes + 1);
    for (int64_t a = 0; a < t->size[0]; a++)
        for (int64_t b = 0; b < t->size[1]; b++)
            for (int64_t c = 0; c < t->size[2]; c++)
                for (int64_t e = 0; e < t->size[3]; e++) {
                    int64_t at = a * t->stride[0] + b * t->stride[1] + c * t->stride[2] + e * t->stride[3] - t->low;
                    memset(map + (size_t)at * t->element, 1, (size_t)t->run * t->element);
                }
    return map;
}

static void fill(const tensor *t, int kind) {
    if (t->element == sizeof(float)) {
        for (size_t i = 0; i < t->bytes / sizeof(float); i++) {
            float x = (float)((int64_t)(next() % 4001) - 2000) / 1000;
            uint64_t odd = next() % 256;
            if (kind == 1 && odd < 3)
                x = odd == 0 ? __builtin_nanf("") : odd == 1 ? -__builtin_inff() : __builtin_inff();
            memcpy(t->memory + i * sizeof x, &x, sizeof x);
        }
    } else if (t->element == sizeof(int64_t)) {
        static const int64_t odd[] = {INT64_MIN, INT64_MAX, -1, 0};
        for (size_t i = 0; i < t->bytes / sizeof(int64_t); i++) {
            int64_t x = next() % 16 == 0 ? odd[next() % 4] : (int64_t)(next() % 300);
            memcpy(t->memory + i * sizeof x, &x, sizeof x);
        }
    } else if (t->element > 1) { /* 16 bits, or a block of 32 int8 behind 16 bits */
        for (size_t i = 0; i < t->bytes; i++)
            t->memory[i] = (char)(next() % 256);
        for (size_t i = 0; i < t->bytes; i += t->element) {
            uint16_t half = (uint16_t)((next() % 0x4000) | (next() % 2 << 15));
            if (kind == 1 && next() % 256 < 3)
                half = (uint16_t)next();
            memcpy(t->memory + i, &half, sizeof half);
        }
    } else {
        for (size_t i = 0; i < t->bytes; i++)
            t->memory[i] = (char)(next() % 3);
    }
}

/* Gives a tensor its memory: exactly what it spans, so that the sanitizer sees each byte besides; gaps are poisoned. */
static void *give(bool out, size_t element, int axes, const int64_t *size, const int64_t *stride, int64_t run,
                  int kind) {
    tensor *t = &tensors[num_tensors++];
    *t = (tensor){.out = out, .element = element, .size = {1, 1, 1, 1}, .run = run};
    int64_t high = run, num_rows = 1;
    bool empty = run <= 0;
    for (int i = 0; i < axes; i++)
        empty = empty || size[i] <= 0;
    for (int i = 0; i < axes && !empty; i++) {
        t->size[i] = size[i];
        t->stride[i] = size[i] > 1 ? stride[i] : 0;
        int64_t step;
        if (__builtin_mul_overflow(size[i] - 1, t->stride[i], &step) || step > MOST_BYTES || step < -MOST_BYTES) {
            too_large = true; /* or one that is not looked at, whose strides nobody has checked */
            num_tensors--;
            return NULL;
        }
        *(step < 0 ? &t->low : &high) += step;
        num_rows = size[i] > MOST_ROWS / num_rows ? MOST_ROWS + 1 : num_rows * size[i];
    }
    if (empty) {
        num_tensors--;
        return NULL; /* "pointers may be NULL" */
    }
    if (num_rows > MOST_ROWS || high - t->low > MOST_BYTES ||
        (all_bytes += (size_t)(high - t->low) * element) > MOST_BYTES) {
        too_large = true;
        num_tensors--;
        return NULL;
    }
    t->bytes = (size_t)(high - t->low) * element;
    if (posix_memalign((void **)&t->memory, 64, t->bytes) != 0)
        fail("no memory");
    fill(t, kind);
    char *map = element_map(t);
    if (out) {
        t->before = malloc(t->bytes);
        memcpy(t->before, t->memory, t->bytes);
    } else {
        for (size_t i = 0, end; i < t->bytes; i = end) {
            for (end = i + 1; end < t->bytes && map[end] == map[i]; end++)
                continue;
            if (!map[i])
                __asan_poison_memory_region(t->memory + i, end - i);
        }
    }
    free(map);
    return t->memory - t->low * (int64_t)element;
}

static void *give_rows(bool out, const int64_t *size, int64_t batch, int64_t head, int64_t token, int64_t run,
                       int kind) {
    return give(out, sizeof(float), 3, size, (int64_t[]){batch, head, token}, run, kind);
}

/* The same of stored elements. */
static void *give_stored(bool out, int32_t type, const int64_t *size, int64_t batch, int64_t head, int64_t token,
                         int64_t run, int kind) {
    if (type == QKV_Q8_0)
        return give(out, 34, 3, size, (int64_t[]){batch / 32, head / 32, token / 32}, run / 32, kind);
    const size_t element = type == QKV_F32 ? 4 : type == QKV_INT8 ? 1 : 2;
    return give(out, element, 3, size, (int64_t[]){batch, head, token}, run, kind);
}

#define GIVE_STORED(x, out, type, size, run)                                                                           \
    (x).data = give_stored(out, type, size, (x).batch, (x).head, (x).token, run, kind)
#define GIVE_ROWS(x, out, size, run) (x).data = give_rows(out, size, (x).batch, (x).head, (x).token, run, kind)
#define GIVE_MATRIX(x, out, element, size, run)                                                                        \
    if ((x).data)                                                                                                      \
    (x).data = give(out, element, 4, size, (int64_t[]){(x).batch, (x).head, (x).query, (x).key}, run, kind)
#define GIVE_VECTOR(pointer, out, element, n)                                                                          \
    if (pointer)                                                                                                       \
    (pointer) = give(out, element, 0, NULL, NULL, n, kind)

/* Presence is part of a plan, also of a tensor without elements. */
#define KEEP_PRESENT(pointer, was)                                                                                     \
    if ((was) && !(pointer))                                                                                           \
    (pointer) = (void *)somewhere

/* Packed sequences are one batch, pages are batches. */
static int64_t query_batches(const qkv_attention_desc *d) {
    return d->q_start ? 1 : d->batch;
}

/* Where sequences begin: mostly in order and inside; sums of the tensor's tokens. */
static void fill_starts(int64_t *start, int64_t batch, int64_t tokens) {
    int64_t at = 0;
    for (int64_t b = 0; b <= batch; b++) {
        start[b] = at;
        at += b + 1 >= batch ? tokens - at : (int64_t)(next() % (uint64_t)(tokens - at + 1));
    }
    if (next() % 40 == 0)
        start[next() % (uint64_t)(batch + 1)] = (int64_t)next() - 1000;
}

static void give_layout(qkv_attention_desc *d, int kind) {
    const int64_t rows[2] = {query_batches(d), d->seq_q};
    const int64_t ranges[2] = {d->key_ranges.batch, d->key_ranges.query};
    const qkv_attention_desc was = *d;
    if (d->key_ranges.data)
        d->key_ranges.data = give(false, 8, 2, rows, ranges, 2, kind);
    GIVE_VECTOR(d->q_start, false, 8, d->batch + 1);
    GIVE_VECTOR(d->k_start, false, 8, d->batch + 1);
    if (d->q_start && !too_large)
        fill_starts((int64_t *)(uintptr_t)d->q_start, d->batch, d->seq_q);
    if (d->k_start && !too_large)
        fill_starts((int64_t *)(uintptr_t)d->k_start, d->batch, d->seq_k);
    if (d->page_table) {
        const int64_t pages = (d->seq_k + d->page_tokens - 1) / d->page_tokens;
        d->page_table = give(false, 4, 1, &d->batch, &d->table_stride, pages, kind);
        for (int64_t b = 0; d->page_table && b < d->batch; b++)
            for (int64_t i = 0; i < pages; i++) { /* seldom no page of the pool */
                const int64_t choice = d->num_pages + (next() % 200 == 0 ? 2 : 0);
                int32_t *entry = (int32_t *)(uintptr_t)d->page_table + (d->batch > 1 ? b * d->table_stride : 0) + i;
                *entry = choice > 0 ? (int32_t)(next() % (uint64_t)choice) - (choice > d->num_pages) : -1;
            }
    }
    KEEP_PRESENT(d->key_ranges.data, was.key_ranges.data);
    KEEP_PRESENT(d->page_table, was.page_table);
}

static int64_t kv_heads(const qkv_attention_desc *d) {
    return d->num_kv_heads ? d->num_kv_heads : d->num_heads;
}

static void give_options(qkv_attention_desc *d, bool outputs, int64_t dv, int kind) {
    const int64_t rows[4] = {query_batches(d), d->num_heads, d->seq_q, d->seq_k};
    const int64_t blocks[4] = {query_batches(d), d->num_heads, d->seq_q, (d->seq_k + 255) / 256};
    const qkv_attention_desc was = *d;
    give_layout(d, kind);
    if (outputs && d->lse.data)
        GIVE_ROWS(d->lse, true, rows, 1);
    if (outputs)
        GIVE_MATRIX(d->probabilities, true, 4, rows, 1);
    if (outputs)
        GIVE_MATRIX(d->scores, true, 4, rows, 1);
    GIVE_MATRIX(d->states, true, 4, blocks, dv + 2);
    GIVE_MATRIX(d->bias, false, 4, rows, 1);
    GIVE_MATRIX(d->keep, false, 1, rows, 1);
    GIVE_VECTOR(d->q_offsets, false, 8, d->batch);
    GIVE_VECTOR(d->kv_len, false, 8, d->batch);
    GIVE_VECTOR(d->alibi_slopes, false, 4, d->num_heads);
    GIVE_VECTOR(d->sinks, false, 4, d->num_heads);
    const int64_t means[3] = {d->batch, kv_heads(d), 1};
    if (d->k_means.data)
        GIVE_ROWS(d->k_means, false, means, d->head_dim);
    KEEP_PRESENT(d->lse.data, was.lse.data);
    KEEP_PRESENT(d->probabilities.data, was.probabilities.data);
    KEEP_PRESENT(d->scores.data, was.scores.data);
    KEEP_PRESENT(d->states.data, was.states.data);
    KEEP_PRESENT(d->bias.data, was.bias.data);
    KEEP_PRESENT(d->keep.data, was.keep.data);
    KEEP_PRESENT(d->q_offsets, was.q_offsets);
    KEEP_PRESENT(d->kv_len, was.kv_len);
    KEEP_PRESENT(d->alibi_slopes, was.alibi_slopes);
    KEEP_PRESENT(d->sinks, was.sinks);
    KEEP_PRESENT(d->k_means.data, was.k_means.data);
}

static int64_t dim_v(const qkv_attention_desc *d) {
    return d->head_dim_v || d->flags & QKV_HEAD_DIM_V ? d->head_dim_v : d->head_dim;
}

static int64_t kv_dim(const qkv_layer_desc *d) {
    return d->kv_dim ? d->kv_dim : d->model_dim;
}

/* A gradient of a bias has one element along an axis that it is summed over, also over nothing. */
static void give_bias_grad(qkv_matrix_output *x, const qkv_attention_desc *a, int kind) {
    const int64_t size[4] = {x->batch ? a->batch : 1, x->head ? a->num_heads : 1, x->query ? a->seq_q : 1,
                             x->key ? a->seq_k : 1};
    const void *was = x->data;
    GIVE_MATRIX(*x, true, 4, size, 1);
    KEEP_PRESENT(x->data, was);
}

/* Columns of a packed matrix, of a type. */
static int64_t packed_bytes(int64_t type, int64_t rows, int64_t columns) {
    static const int64_t group[] = {256, 128, 128, 2176, 2048, 1152, 1280, 1408, 1536, 9472, 11520, 13440};
    const int64_t terms = type >= QKV_Q4_K ? 256 : type >= QKV_Q8_0 ? 32 : 1, panels = (columns + 63) / 64;
    const int64_t scales = type == QKV_INT8 && rows > 0 ? panels * 256 : 0;
    return panels * (rows / terms + (rows % terms > 0)) * group[type] + scales;
}

static void *give_packed(int64_t bytes, int kind) {
    return give(false, 4, 0, NULL, NULL, bytes / 4, kind);
}

static void give_attention(qkv_attention_desc *d, int kind) {
    const int64_t rows[3] = {query_batches(d), d->num_heads, d->seq_q};
    const int64_t keys[3] = {d->page_table ? d->num_pages
                             : d->k_start  ? 1
                                           : d->batch,
                             kv_heads(d), d->page_table ? d->page_tokens : d->seq_k};
    GIVE_STORED(d->q, false, d->q_type, rows, d->head_dim);
    if (d->k_layout == QKV_KEY_PANELS) {
        const int64_t panels[3] = {keys[0], keys[1], (keys[2] + 63) / 64};
        d->k.data =
            give_stored(false, d->k_type, panels, d->k.batch, d->k.head, 64 * d->head_dim, 64 * d->head_dim, kind);
    } else {
        GIVE_STORED(d->k, false, d->k_type, keys, d->head_dim);
    }
    GIVE_STORED(d->v, false, d->v_type, keys, dim_v(d));
    if (d->k_type == QKV_INT8)
        GIVE_ROWS(d->k_scales, false, keys, 1);
    if (d->v_type == QKV_INT8)
        GIVE_ROWS(d->v_scales, false, keys, 1);
    if (!d->states.data)
        GIVE_STORED(d->out, true, d->out_type, rows, dim_v(d));
    give_options(d, true, dim_v(d), kind);
}

/* Cosines and sines are any numbers here. */
static void give_rope(qkv_rope *rope, int64_t head_dim, int kind) {
    int64_t pairs = (rope->rotary_dim ? rope->rotary_dim : head_dim) / 2;
    const int64_t rows[1] = {rope->num_positions}, stride[1] = {pairs};
    rope->cos = give(false, 4, 1, rows, stride, pairs, kind);
    rope->sin = give(false, 4, 1, rows, stride, pairs, kind);
}

/* Positions, seldom none of the tables'. */
static const int64_t *give_indices(int axes, const int64_t *sizes, const int64_t *strides, int64_t run, int kind) {
    int64_t *p = give(false, 8, axes, sizes, strides, run, kind);
    const tensor *t = p ? &tensors[num_tensors - 1] : NULL;
    for (size_t i = 0; p && i < t->bytes / 8; i++)
        if (!__asan_address_is_poisoned(t->memory + i * 8))
            memcpy(t->memory + i * 8, &(int64_t){next() % 999 == 0 ? (int64_t)next() : (int64_t)(next() % 60)}, 8);
    return p;
}

static void give_positions(qkv_positions *p, int64_t batch, int64_t tokens, int kind) {
    if (!p->data)
        return;
    p->data = give_indices(2, (int64_t[]){batch, tokens}, (int64_t[]){p->batch, p->token}, 1, kind);
    KEEP_PRESENT(p->data, somewhere);
}

static void give_steps(qkv_projection_desc *d, int64_t i, int kind) {
    qkv_head_steps *s = &d->steps[i];
    const qkv_head_steps was = *s;
    GIVE_VECTOR(s->norm, false, 4, d->part[i].head_dim ? d->part[i].head_dim : d->part[i].out_features);
    if (s->first_positions)
        s->first_positions = give_indices(0, NULL, NULL, d->batch, kind);
    give_positions(&s->positions, d->batch, d->tokens, kind);
    KEEP_PRESENT(s->norm, was.norm);
    KEEP_PRESENT(s->first_positions, was.first_positions);
}

static void give_projection(qkv_projection_desc *d, bool outputs, int kind) {
    const int64_t rows[3] = {d->batch, 1, d->tokens};
    int64_t packed = 0;
    d->rope.cos = d->rope.sin = NULL; /* until a part rotates; a field that may be anything may be one of these */
    for (int64_t i = 0; i < d->num_parts; i++) {
        qkv_projection_part *p = &d->part[i];
        int64_t dim = p->head_dim ? p->head_dim : p->out_features;
        const int64_t out[3] = {d->batch, dim ? p->out_features / dim : 0, d->tokens};
        const void *bias = p->bias;
        packed += packed_bytes(p->type, d->in_features, p->out_features);
        if (!outputs)
            continue;
        GIVE_ROWS(p->out, true, out, dim);
        GIVE_VECTOR(p->bias, false, 4, p->out_features);
        KEEP_PRESENT(p->bias, bias);
        give_steps(d, i, kind);
        if (d->steps[i].rotate && !d->rope.cos)
            give_rope(&d->rope, dim, kind);
    }
    GIVE_ROWS(d->x, false, rows, d->in_features);
    d->packed = give_packed(packed, kind);
}

static void give_layer(qkv_layer_desc *d, bool outputs, int kind) {
    qkv_attention_desc *a = &d->attention;
    const qkv_layer_desc was = *d;
    const int64_t rows[3] = {a->batch, 1, a->seq_q}, keys[3] = {a->batch, 1, a->seq_k};
    int64_t q = a->num_heads * a->head_dim, k = kv_heads(a) * a->head_dim, v = kv_heads(a) * dim_v(a);
    const int64_t of_kv = packed_bytes(d->wk_type, kv_dim(d), k) + packed_bytes(d->wv_type, kv_dim(d), v);
    GIVE_ROWS(d->x, false, rows, d->model_dim);
    if (d->x_kv.data)
        GIVE_ROWS(d->x_kv, false, keys, kv_dim(d));
    if (outputs)
        GIVE_ROWS(d->out, true, rows, d->out_features);
    if (d->w_qkv)
        d->w_qkv = give_packed(packed_bytes(d->wq_type, d->model_dim, q) + (d->w_kv ? 0 : of_kv), kind);
    if (d->w_kv)
        d->w_kv = give_packed(of_kv, kind);
    if (d->w_o)
        d->w_o = give_packed(packed_bytes(d->wo_type, a->num_heads * dim_v(a), d->out_features), kind);
    GIVE_VECTOR(d->bias_q, false, 4, q);
    GIVE_VECTOR(d->bias_k, false, 4, k);
    GIVE_VECTOR(d->bias_v, false, 4, v);
    GIVE_VECTOR(d->bias_o, false, 4, d->out_features);
    GIVE_VECTOR(d->norm_q, false, 4, a->head_dim);
    GIVE_VECTOR(d->norm_k, false, 4, a->head_dim);
    if (d->rope.cos)
        give_rope(&d->rope, a->head_dim, kind);
    give_positions(&d->positions_q, a->batch, a->seq_q, kind);
    give_positions(&d->positions_k, a->batch, a->seq_k, kind);
    KEEP_PRESENT(d->norm_q, was.norm_q);
    KEEP_PRESENT(d->norm_k, was.norm_k);
    KEEP_PRESENT(d->rope.cos, was.rope.cos);
    give_options(a, outputs, dim_v(a), kind);
    KEEP_PRESENT(d->x_kv.data, was.x_kv.data);
    KEEP_PRESENT(d->w_qkv, was.w_qkv);
    KEEP_PRESENT(d->w_kv, was.w_kv);
    KEEP_PRESENT(d->w_o, was.w_o);
    KEEP_PRESENT(d->bias_q, was.bias_q);
    KEEP_PRESENT(d->bias_k, was.bias_k);
    KEEP_PRESENT(d->bias_v, was.bias_v);
    KEEP_PRESENT(d->bias_o, was.bias_o);
}

static void give_grad(qkv_weight_grad *g, int64_t in, int64_t out, int kind) {
    const qkv_weight_grad was = *g;
    int64_t rows = g->layout == QKV_IN_OUT ? in : out, columns = g->layout == QKV_IN_OUT ? out : in;
    if (g->data)
        g->data = give(true, 4, 1, &rows, (int64_t[]){g->stride ? g->stride : columns}, columns, kind);
    GIVE_VECTOR(g->bias, true, 4, out);
    KEEP_PRESENT(g->data, was.data);
    KEEP_PRESENT(g->bias, was.bias);
}

static void put_back(void) {
    for (int i = 0; i < num_tensors; i++) {
        if (tensors[i].out)
            memcpy(tensors[i].memory, tensors[i].before, tensors[i].bytes);
    }
}

static bool is_nan(const char *p, size_t element) {
    uint16_t half;
    float x = 0;
    memcpy(&half, p, sizeof half);
    if (element == sizeof half) /* of either type */
        return (half & 0x7fff) > 0x7c00;
    memcpy(&x, p, sizeof x);
    return x != x;
}

/* Bytes in gaps are as they were; elements are the same words as those of the run before, if there was one. */
static void compare(char *const want[], bool elements) {
    for (int i = 0; i < num_tensors; i++) {
        const tensor *t = &tensors[i];
        if (!t->out)
            continue;
        char *map = element_map(t);
        for (size_t at = 0; at < t->bytes; at += t->element) {
            const char *got = t->memory + at, *other = (map[at] && elements ? want[i] : t->before) + at;
            const bool same = memcmp(got, other, t->element) == 0;
            if (map[at] && elements && !same && !(is_nan(got, t->element) && is_nan(other, t->element)))
                fail("three workers write other bits than one");
            if (!map[at] && !same)
                fail("a byte in a gap was written");
        }
        free(map);
    }
}

static void expect_untouched(void) {
    for (int i = 0; i < num_tensors; i++) {
        if (tensors[i].out && memcmp(tensors[i].memory, tensors[i].before, tensors[i].bytes) != 0)
            fail("a run that is refused has written");
    }
}

#endif
