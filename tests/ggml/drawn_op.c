/* Draws calls of FLASH_ATTN_EXT and computes them in double.  SPDX-License-Identifier: MIT */
#include "drawn_op.h"

#include "host.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double uniform(uint64_t *seed) {
    return (double)(next(seed) >> 11) * 0x1p-53;
}

static bool one_in(uint64_t *seed, int64_t n) {
    return below(seed, n) == 0;
}

struct shape draw_shape(uint64_t *seed) {
    static const int64_t dims[] = {32, 64, 64, 96, 128, 128, 192, 256};
    static const enum ggml_type types[] = {GGML_TYPE_F16, GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0};
    struct shape s = {.head_dim = dims[below(seed, 8)],
                      .kv_heads = 1 + below(seed, 3),
                      .group = 1 + below(seed, 4),
                      .queries = one_in(seed, 3) ? 1 : 1 + below(seed, 100),
                      .batch = 1 + below(seed, 3)};
    s.keys = s.queries + below(seed, 700);
    s.head_dim_v = one_in(seed, 4) ? dims[below(seed, 8)] : s.head_dim;
    s.k_type = types[below(seed, 5)];
    s.v_type = one_in(seed, 4) ? types[below(seed, 5)] : s.k_type;
    s.mask = (enum mask_kind)below(seed, NUM_MASK_KINDS);
    s.mask_of_each_sequence = one_in(seed, 2);
    s.token_major = one_in(seed, 2);
    s.sinks = one_in(seed, 4);
    s.softcap = one_in(seed, 5) ? 10 : 0;
    s.max_bias = s.mask != NO_MASK && one_in(seed, 5) ? 8 : 0;
    if (one_in(seed, 12)) { /* latent attention */
        s.head_dim = 576, s.head_dim_v = 512, s.kv_heads = 1, s.v_in_k = true;
        s.v_type = s.k_type;
    }
    return s;
}

void print_shape(const struct shape *s) {
    static const char *const masks[] = {"none", "causal", "window", "padded", "numbers", "two sequences"};
    printf("k %s v %s, dims %d %d, heads %d x %d, queries %d, keys %d, batch %d, mask %s%s%s%s%s, alibi %g, cap %g\n",
           ggml_type_name(s->k_type), ggml_type_name(s->v_type), (int)s->head_dim, (int)s->head_dim_v, (int)s->kv_heads,
           (int)s->group, (int)s->queries, (int)s->keys, (int)s->batch, masks[s->mask],
           s->mask_of_each_sequence ? " each" : "", s->token_major ? ", token-major" : "", s->v_in_k ? ", v in k" : "",
           s->sinks ? ", sinks" : "", (double)s->max_bias, (double)s->softcap);
}

static void fill(struct ggml_tensor *t, double from, double to, uint64_t *seed) {
    const int64_t n = ggml_nelements(t);
    float *numbers = malloc((size_t)n * sizeof *numbers);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (float)(from + (to - from) * uniform(seed));
    if (t->type == GGML_TYPE_F32)
        memcpy(t->data, numbers, (size_t)n * sizeof *numbers);
    else
        ggml_quantize_chunk(t->type, numbers, t->data, 0, n / t->ne[0], t->ne[0], NULL);
    free(numbers);
}

/* Whether a key is hidden, or the number that is added. */
static float mask_number(enum mask_kind kind, int64_t i, int64_t j, int64_t queries, int64_t keys, int64_t batch,
                         uint64_t *seed) {
    const int64_t p = i + keys - queries;
    bool visible = true;
    switch (kind) {
    case CAUSAL: visible = j <= p; break;
    case WINDOW: visible = j <= p && j > p - 20 - 5 * batch; break;
    case PADDED: visible = j < keys - 11 - 9 * batch; break;
    case TWO_SEQUENCES: visible = j <= p && (j + i) % 2 == 0; break;
    case NUMBERS: return uniform(seed) < 0.1 ? -INFINITY : (float)(2 * uniform(seed) - 1);
    default: break;
    }
    return visible ? 0 : -INFINITY;
}

void fill_mask(struct drawn_op *d, enum mask_kind kind, uint64_t *seed) {
    const struct ggml_tensor *m = d->mask;
    for (int64_t b = 0; b < m->ne[3]; b++)
        for (int64_t i = 0; i < m->ne[1]; i++)
            for (int64_t j = 0; j < m->ne[0]; j++) {
                const float x = mask_number(kind, i, j, d->shape.queries, d->shape.keys, b, seed);
                ((ggml_fp16_t *)m->data)[(b * m->ne[1] + i) * m->ne[0] + j] = ggml_fp32_to_fp16(
                    d->shape.max_bias > 0 && x == 0 ? -(float)llabs(i + d->shape.keys - d->shape.queries - j) : x);
            }
}

/* As a cache holds K and V: [sequence][head][token] or [sequence][token][head], with room for more tokens. */
static struct ggml_tensor *cache_of(struct drawn_op *d, enum ggml_type type, int64_t dim, struct ggml_tensor **all) {
    const struct shape *s = &d->shape;
    const int64_t room = s->keys + 3;
    *all = s->token_major ? ggml_new_tensor_4d(d->context, type, dim, s->kv_heads, room, s->batch)
                          : ggml_new_tensor_4d(d->context, type, dim, room, s->kv_heads, s->batch);
    const struct ggml_tensor *t = *all;
    return ggml_view_4d(d->context, *all, dim, s->keys, s->kv_heads, s->batch, t->nb[s->token_major ? 2 : 1],
                        t->nb[s->token_major ? 1 : 2], t->nb[3], 0);
}

struct drawn_op make_op(const struct shape *s, uint64_t *seed, ggml_backend_t cpu) {
    struct drawn_op d = {.shape = *s};
    d.context = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    struct ggml_tensor *all_q, *all_k, *all_v = NULL;
    const int64_t heads = s->kv_heads * s->group;
    all_q = ggml_new_tensor_4d(d.context, GGML_TYPE_F32, s->head_dim, heads, s->queries, s->batch);
    d.q = ggml_permute(d.context, all_q, 0, 2, 1, 3);
    d.k = cache_of(&d, s->k_type, s->head_dim, &all_k);
    d.v = s->v_in_k
              ? ggml_view_4d(d.context, d.k, s->head_dim_v, s->keys, 1, s->batch, d.k->nb[1], d.k->nb[2], d.k->nb[3], 0)
              : cache_of(&d, s->v_type, s->head_dim_v, &all_v);
    if (s->mask != NO_MASK) /* with room for more queries, which older versions want */
        d.mask = ggml_new_tensor_4d(d.context, GGML_TYPE_F16, s->keys, (s->queries + 63) / 64 * 64, 1,
                                    s->mask_of_each_sequence ? s->batch : 1);
    if (s->sinks)
        d.sinks = ggml_new_tensor_1d(d.context, GGML_TYPE_F32, heads);
    d.op =
        ggml_flash_attn_ext(d.context, d.q, d.k, d.v, d.mask, 1 / sqrtf((float)s->head_dim), s->max_bias, s->softcap);
    if (s->sinks)
        d.op->src[4] = d.sinks;
    d.graph = ggml_new_graph(d.context);
    ggml_build_forward_expand(d.graph, d.op);
    d.buffer = ggml_backend_alloc_ctx_tensors(d.context, cpu);
    fill(all_q, -3, 3, seed);
    fill(all_k, -3, 3, seed);
    if (all_v)
        fill(all_v, -1, 2, seed);
    if (d.mask)
        fill_mask(&d, s->mask, seed);
    if (d.sinks)
        fill(d.sinks, -2, 6, seed);
    return d;
}

void free_op(struct drawn_op *d) {
    ggml_backend_buffer_free(d->buffer);
    ggml_free(d->context);
}

static void row_of(const struct ggml_tensor *t, int64_t token, int64_t head, int64_t batch, float *row) {
    const char *data =
        (const char *)t->data + token * (int64_t)t->nb[1] + head * (int64_t)t->nb[2] + batch * (int64_t)t->nb[3];
    if (t->type == GGML_TYPE_F32)
        memcpy(row, data, (size_t)t->ne[0] * sizeof *row);
    else
        ggml_get_type_traits(t->type)->to_float(data, row, t->ne[0]);
}

/* As the authors of ALiBi, the slopes of other numbers of heads than powers of two between them. */
static double slope(const struct drawn_op *d, int64_t head) {
    const int64_t heads = d->q->ne[2], power = (int64_t)1 << (int)floor(log2((double)heads));
    if (d->shape.max_bias == 0)
        return 1;
    return head < power ? pow(pow(2, -(double)d->shape.max_bias / (double)power), (double)(head + 1))
                        : pow(pow(2, -(double)d->shape.max_bias / 2 / (double)power), (double)(2 * (head - power) + 1));
}

static double number_at(const struct ggml_tensor *mask, int64_t i, int64_t j, int64_t b) {
    if (!mask)
        return 0;
    const char *row = (const char *)mask->data + i * (int64_t)mask->nb[1] + b % mask->ne[3] * (int64_t)mask->nb[3];
    return (double)ggml_fp16_to_fp32(((const ggml_fp16_t *)row)[j]);
}

static void attend_row(const struct drawn_op *d, int64_t b, int64_t h, int64_t i, double *out) {
    const struct shape *s = &d->shape;
    float q[576], row[576];
    double *logits = malloc((size_t)s->keys * sizeof *logits), largest = -INFINITY, sum = 0;
    row_of(d->q, i, h, b, q);
    for (int64_t j = 0; j < s->keys; j++) {
        const double number = number_at(d->mask, i, j, b);
        double x = 0;
        row_of(d->k, j, h / s->group, b, row);
        for (int64_t c = 0; c < s->head_dim; c++)
            x += (double)q[c] * (double)row[c];
        x /= sqrt((double)s->head_dim);
        if (s->softcap > 0)
            x = (double)s->softcap * tanh(x / (double)s->softcap);
        logits[j] = isinf(number) ? -INFINITY : x + slope(d, h) * number;
        largest = fmax(largest, logits[j]);
    }
    if (d->sinks)
        largest = fmax(largest, (double)((const float *)d->sinks->data)[h]);
    for (int64_t c = 0; c < s->head_dim_v; c++)
        out[c] = 0;
    for (int64_t j = 0; j < s->keys; j++) {
        if (isinf(logits[j]))
            continue;
        const double p = exp(logits[j] - largest);
        sum += p;
        row_of(d->v, j, h / s->group, b, row);
        for (int64_t c = 0; c < s->head_dim_v; c++)
            out[c] += p * (double)row[c];
    }
    if (d->sinks)
        sum += exp((double)((const float *)d->sinks->data)[h] - largest);
    for (int64_t c = 0; c < s->head_dim_v && sum > 0; c++)
        out[c] /= sum;
    free(logits);
}

void attend_in_double(const struct drawn_op *d, double *out) {
    for (int64_t b = 0; b < d->shape.batch; b++)
        for (int64_t i = 0; i < d->shape.queries; i++)
            for (int64_t h = 0; h < d->q->ne[2]; h++, out += d->shape.head_dim_v)
                attend_row(d, b, h, i, out);
}

double relative_error(const struct drawn_op *d, const double *exact) {
    const float *found = d->op->data;
    double errors = 0, squares = 0;
    for (int64_t n = ggml_nelements(d->op), i = 0; i < n; i++) {
        errors += ((double)found[i] - exact[i]) * ((double)found[i] - exact[i]);
        squares += exact[i] * exact[i];
    }
    return squares > 0 ? sqrt(errors / squares) : sqrt(errors);
}
