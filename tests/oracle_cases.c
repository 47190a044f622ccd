/* Random descriptors in guarded memory. See oracle_cases.h.  SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int64_t one_of(qt_rng *rng, const int64_t *from, size_t n) {
    return from[qt_range(rng, 0, (int64_t)n - 1)];
}

int64_t case_layout(qt_rng *rng, int rank, const int64_t *size, int64_t channels, bool broadcast, int64_t *stride,
                    int64_t *origin) {
    int order[QT_MAX_RANK] = {0};
    for (int i = 0; i < rank; i++) { /* a random permutation, or half of the time the usual order */
        const int64_t at = qt_range(rng, 0, i);
        order[i] = order[at];
        order[at] = i;
    }
    if (qt_chance(rng, 50))
        for (int i = 0; i < rank; i++)
            order[i] = rank - 1 - i;
    const bool gaps = qt_chance(rng, 50), signs = qt_chance(rng, 25), zeros = broadcast && qt_chance(rng, 20);
    int64_t unit = channels, span = channels;
    *origin = 0;
    for (int i = 0; i < rank; i++) {
        const int d = order[i];
        int64_t step = unit + (gaps && qt_chance(rng, 50) ? qt_range(rng, 1, 7) : 0);
        if (zeros && qt_chance(rng, 50))
            step = 0;
        else
            unit = step * (size[d] > 0 ? size[d] : 1);
        const int64_t reach = size[d] > 1 ? step * (size[d] - 1) : 0;
        span += reach;
        if (signs && qt_chance(rng, 50)) {
            *origin += reach;
            step = -step;
        }
        stride[d] = step;
    }
    for (int d = 0; d < rank; d++)
        if (size[d] == 0)
            return *origin = 0;
    return channels == 0 ? (*origin = 0) : span;
}

float *case_floats(qt_rng *rng, int64_t n) {
    return qt_floats((size_t)n, qt_place(rng));
}

float *case_normal(qt_rng *rng, int64_t n) {
    float *x = case_floats(rng, n);
    qt_fill(rng, x, (size_t)n, QT_NORMAL);
    return x;
}

qkv_input case_input(qt_rng *rng, int64_t batch, int64_t heads, int64_t tokens, int64_t channels, bool broadcast) {
    const int64_t size[3] = {batch, heads, tokens};
    int64_t stride[3], origin;
    const int64_t n = case_layout(rng, 3, size, channels, broadcast, stride, &origin);
    float *data = case_normal(rng, n);
    return (qkv_input){data + origin, stride[0], stride[1], stride[2]};
}

qkv_output case_output(qt_rng *rng, int64_t batch, int64_t heads, int64_t tokens, int64_t channels) {
    const int64_t size[3] = {batch, heads, tokens};
    int64_t stride[3], origin;
    const int64_t n = case_layout(rng, 3, size, channels, false, stride, &origin);
    return (qkv_output){case_floats(rng, n) + origin, stride[0], stride[1], stride[2]};
}

int64_t case_size(qt_rng *rng, int64_t most) {
    static const int64_t edges[] = {6, 12, 16, 32, 64, 128, 256, 512};
    int64_t n;
    switch (qt_range(rng, 0, 5)) {
    case 0:
    case 1: n = one_of(rng, edges, sizeof edges / sizeof *edges) + qt_range(rng, -1, 1); break;
    case 2: n = qt_range(rng, 0, most); break;
    case 3: n = qt_range(rng, 0, 4); break;
    default: n = qt_range(rng, 1, 90);
    }
    return n < most ? n : most;
}

/* ----------------------------------------------------------------------------------------------------- attention */

static void draw_sizes(qt_rng *rng, int64_t work, qkv_attention_desc *d, attention_case *c) {
    static const int64_t dims[] = {1, 2, 8, 16, 31, 32, 33, 40, 64, 64, 64, 65, 80, 96, 128, 129, 192, 256, 257};
    d->batch = qt_chance(rng, 3) ? 0 : qt_range(rng, 1, 3);
    c->kv_heads = qt_chance(rng, 2) ? 0 : qt_range(rng, 1, 3);
    d->num_heads = c->kv_heads * (qt_chance(rng, 50) ? 1 : qt_range(rng, 1, 5));
    d->num_kv_heads = d->num_heads == c->kv_heads && qt_chance(rng, 50) ? 0 : c->kv_heads;
    d->seq_k = case_size(rng, 600);
    d->seq_q = qt_chance(rng, 30) ? d->seq_k : qt_chance(rng, 20) ? 1 : case_size(rng, 600);
    d->head_dim = qt_chance(rng, 60) ? one_of(rng, dims, sizeof dims / sizeof *dims) : qt_range(rng, 1, 260);
    if (qt_chance(rng, 1))
        d->head_dim = 0;
    d->head_dim_v = qt_chance(rng, 60) ? 0 : qt_range(rng, qt_chance(rng, 5) ? 0 : 1, 260);
    if (qt_chance(rng, 10))
        d->head_dim_v = d->head_dim;
    c->dv = d->head_dim_v ? d->head_dim_v : d->head_dim;
    while (d->batch * d->num_heads * d->seq_q * d->seq_k * (d->head_dim + c->dv) > work) {
        const int64_t group = c->kv_heads > 0 ? d->num_heads / c->kv_heads : 1;
        if (d->batch > 1)
            d->batch--;
        else if (c->kv_heads > 1 && d->num_kv_heads != 0)
            d->num_heads = --c->kv_heads * group, d->num_kv_heads = c->kv_heads;
        else if (c->kv_heads > 1)
            d->num_heads = --c->kv_heads;
        else if (group > 2)
            d->num_heads = 2 * c->kv_heads;
        else if (d->seq_q > 1)
            d->seq_q = (d->seq_q + 1) / 2;
        else
            d->seq_k = d->seq_k / 2;
    }
}

/* Q, K and V: three tensors, or one row of the packed projection for each token. */
static void draw_tensors(qt_rng *rng, qkv_attention_desc *d, const attention_case *c) {
    const int64_t hq = d->num_heads, hkv = c->kv_heads, dk = d->head_dim, dv = c->dv;
    if (d->seq_q == d->seq_k && d->seq_q > 0 && hq > 0 && d->batch > 0 && dk > 0 && dv > 0 && qt_chance(rng, 40)) {
        const int64_t row = (hq + hkv) * dk + hkv * dv + (qt_chance(rng, 30) ? qt_range(rng, 1, 9) : 0);
        const int64_t n = row * d->seq_q * d->batch;
        float *x = case_floats(rng, n);
        qt_fill(rng, x, (size_t)n, QT_NORMAL);
        d->q = (qkv_input){x, row * d->seq_q, dk, row};
        d->k = (qkv_input){x + hq * dk, row * d->seq_q, dk, row};
        d->v = (qkv_input){x + (hq + hkv) * dk, row * d->seq_q, dv, row};
        return;
    }
    d->q = case_input(rng, d->batch, hq, d->seq_q, dk, true);
    d->k = case_input(rng, d->batch, hkv, d->seq_k, dk, true);
    d->v = case_input(rng, d->batch, hkv, d->seq_k, dv, true);
}

float *case_row(const qkv_input *in, int64_t b, int64_t h, int64_t t) {
    return (float *)(uintptr_t)in->data + b * in->batch + h * in->head + t * in->token;
}

bool case_is_shared(const qkv_input *in, int64_t batch, int64_t heads, int64_t tokens) {
    return (in->batch == 0 && batch > 1) || (in->head == 0 && heads > 1) || (in->token == 0 && tokens > 1);
}

typedef struct change {
    float factor, shift;
    bool round, same_rows;
} change;

static void change_tensor(const qkv_input *in, int64_t batch, int64_t heads, int64_t tokens, int64_t channels,
                          change how) {
    if (case_is_shared(in, batch, heads, tokens) && !how.same_rows)
        return;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < tokens; t++) {
                float *x = case_row(in, b, h, t);
                const float *first = case_row(in, b, h, 0);
                for (int64_t i = 0; i < channels; i++) {
                    x[i] = how.same_rows ? first[i] : x[i] * how.factor + how.shift;
                    if (how.round)
                        x[i] = (float)(int)(x[i] * 2);
                }
            }
}

static void draw_data(qt_rng *rng, const qkv_attention_desc *d, attention_case *c) {
    c->data = qt_chance(rng, 40) ? CASE_NORMAL : (case_data)qt_range(rng, 0, CASE_NUM_DATA - 1);
    const change peaky = {.factor = 8}, shifted = {.factor = 1e4f, .shift = 1e4f}, same = {.same_rows = true},
                 ties = {.factor = 1, .round = true};
    if (c->data == CASE_PEAKY)
        change_tensor(&d->q, d->batch, d->num_heads, d->seq_q, d->head_dim, peaky);
    if (c->data == CASE_SHIFTED)
        change_tensor(&d->v, d->batch, c->kv_heads, d->seq_k, c->dv, shifted);
    if (c->data == CASE_EQUAL_KEYS)
        change_tensor(&d->k, d->batch, c->kv_heads, d->seq_k, d->head_dim, same);
    if (c->data == CASE_TIES) {
        change_tensor(&d->q, d->batch, d->num_heads, d->seq_q, d->head_dim, ties);
        change_tensor(&d->k, d->batch, c->kv_heads, d->seq_k, d->head_dim, ties);
    }
    if (c->data == CASE_WIDE)
        for (int64_t b = 0; b < d->batch; b++)
            for (int64_t h = 0; h < c->kv_heads; h++)
                for (int64_t t = 0; t < d->seq_k; t++)
                    qt_fill(rng, case_row(&d->v, b, h, t), (size_t)c->dv, QT_WIDE);
}

static qkv_matrix_input draw_matrix(qt_rng *rng, const qkv_attention_desc *d, size_t element, int64_t *count,
                                    void **memory) {
    const int64_t size[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
    int64_t stride[4], origin;
    *count = case_layout(rng, 4, size, 1, true, stride, &origin);
    *memory = qt_alloc((size_t)*count * element, element, qt_place(rng));
    return (qkv_matrix_input){(char *)*memory + origin * (int64_t)element, stride[0], stride[1], stride[2], stride[3]};
}

static void draw_bias(qt_rng *rng, qkv_attention_desc *d, attention_case *c) {
    int64_t n;
    void *memory;
    d->bias = draw_matrix(rng, d, sizeof(float), &n, &memory);
    const int hidden = qt_chance(rng, 50) ? 0 : (int)qt_range(rng, 0, 100), least = qt_chance(rng, 80) ? 0 : 30;
    c->ordinary = c->ordinary && least == 0;
    float *x = memory;
    for (int64_t i = 0; i < n; i++)
        x[i] = qt_chance(rng, hidden) ? -INFINITY : qt_chance(rng, least) ? -FLT_MAX : 3 * qt_normal(rng);
}

static void draw_keep(qt_rng *rng, qkv_attention_desc *d) {
    int64_t n;
    void *memory;
    d->keep = draw_matrix(rng, d, 1, &n, &memory);
    const int density = (int)qt_range(rng, qt_chance(rng, 70) ? 30 : 0, 100);
    const int64_t run = qt_chance(rng, 50) ? 1 : qt_range(rng, 1, 300); /* whole tiles and blocks hidden */
    uint8_t *x = memory;
    for (int64_t i = 0; i < n; i++)
        x[i] = i % run != 0 ? x[i - 1] : qt_chance(rng, density) ? (uint8_t)qt_range(rng, 1, 255) : 0;
}

static int64_t *draw_integers(qt_rng *rng, int64_t n, int64_t low, int64_t high) {
    int64_t *x = qt_alloc((size_t)n * sizeof *x, sizeof *x, qt_place(rng));
    for (int64_t i = 0; i < n; i++)
        x[i] = qt_range(rng, low, high);
    return x;
}

static void draw_window(qt_rng *rng, qkv_attention_desc *d) {
    const int64_t sk = d->seq_k, sq = d->seq_q;
    d->flags = (qt_chance(rng, 45) ? QKV_RIGHT : 0) | (qt_chance(rng, 25) ? QKV_LEFT : 0);
    d->right = qt_chance(rng, 60) ? 0 : qt_range(rng, -3, sk / 2 + 2);
    d->left = qt_chance(rng, 10) ? 0 : qt_range(rng, -2, sk + 2);
    if (qt_chance(rng, 4))
        d->right = qt_chance(rng, 50) ? INT64_MAX : INT64_MIN;
    if (qt_chance(rng, 4))
        d->left = qt_chance(rng, 50) ? INT64_MAX : INT64_MIN;
    if (qt_chance(rng, 50))
        d->q_offset = qt_chance(rng, 70) ? sk - sq : qt_range(rng, -sq - 5, sk + 5);
    if (qt_chance(rng, 25))
        d->q_offsets = draw_integers(rng, d->batch, qt_chance(rng, 70) ? -5 : -sq - 5, sk + 5);
    if (qt_chance(rng, 30))
        d->kv_len = draw_integers(rng, d->batch, qt_chance(rng, 80) ? sk / 2 : -2, sk + 3);
}

static void draw_logits(qt_rng *rng, qkv_attention_desc *d, attention_case *c) {
    static const float scales[] = {1, -1, 0.125f, -0.3f, 3, 1e-3f, 1e-20f, 1e-38f, 1e20f, -1e30f, 1e38f};
    c->ordinary = d->head_dim > 0;
    if (qt_chance(rng, 30)) {
        d->scale = scales[qt_range(rng, 0, 10)];
        c->ordinary = c->ordinary && fabsf(d->scale) <= 1;
    }
    if (c->data == CASE_TIES && qt_chance(rng, 70))
        d->scale = 0.0625f;
    if (qt_chance(rng, 25))
        d->softcap = qt_chance(rng, 90) ? qt_uniform(rng, 0.5f, 60) : qt_chance(rng, 50) ? 1e-3f : 1e30f;
    if (qt_chance(rng, 20)) {
        float *slopes = case_floats(rng, d->num_heads);
        const bool steep = qt_chance(rng, 10);
        for (int64_t h = 0; h < d->num_heads; h++)
            slopes[h] = steep ? 100 * qt_normal(rng) : qt_uniform(rng, -0.3f, 0.6f);
        c->ordinary = c->ordinary && !steep;
        d->alibi_slopes = slopes;
    }
    if (qt_chance(rng, 20)) {
        float *sinks = case_floats(rng, d->num_heads);
        const bool least = qt_chance(rng, 5);
        for (int64_t h = 0; h < d->num_heads; h++)
            sinks[h] = qt_chance(rng, 20) ? -INFINITY : least ? -FLT_MAX : 4 * qt_normal(rng);
        c->ordinary = c->ordinary && !least;
        d->sinks = sinks;
    }
}

static void draw_dropout(qt_rng *rng, qkv_attention_desc *d) {
    static const float rates[] = {0.1f, 0.5f, 0.9f, 1e-3f, 1e-12f, 0x1.fffffep-1f};
    d->dropout = qt_chance(rng, 60) ? qt_uniform(rng, 0.01f, 0.7f) : rates[qt_range(rng, 0, 5)];
    d->dropout_seed = qt_u64(rng);
    d->dropout_offset = qt_chance(rng, 50) ? qt_u64(rng) : UINT64_C(0xffffffff) - (uint64_t)qt_range(rng, 0, 3);
}

const char *const case_data_name[CASE_NUM_DATA] = {"normal", "peaky", "shifted v", "equal keys", "ties", "wide v"};

static void describe(const attention_case *c) {
    const qkv_attention_desc *d = &c->desc;
    char window[120] = "";
    if (d->flags & QKV_LEFT)
        snprintf(window, sizeof window, " left=%" PRId64, d->left);
    if (d->flags & QKV_RIGHT)
        snprintf(window + strlen(window), sizeof window - strlen(window), " right=%" PRId64, d->right);
    qt_describe("B=%" PRId64 " H=%" PRId64 ":%" PRId64 " S=%" PRId64 "x%" PRId64 " D=%" PRId64 ",%" PRId64 " q[%" PRId64
                " %" PRId64 " %" PRId64 "] %s scale=%g softcap=%g%s q_offset=%" PRId64
                " dropout=%g stage=%u%s%s%s%s%s%s%s%s%s",
                d->batch, d->num_heads, d->num_kv_heads, d->seq_q, d->seq_k, d->head_dim, d->head_dim_v, d->q.batch,
                d->q.head, d->q.token, case_data_name[c->data], (double)d->scale, (double)d->softcap, window,
                d->q_offset, (double)d->dropout, d->scores.data ? d->scores_stage : 99,
                d->arithmetic == QKV_ARITHMETIC_BF16 ? " bf16"
                : d->k_means.data                    ? " int8 k_means"
                : d->arithmetic                      ? " int8"
                                                     : "",
                d->q_offsets ? " q_offsets" : "", d->kv_len ? " kv_len" : "", d->alibi_slopes ? " alibi" : "",
                d->sinks ? " sinks" : "", d->bias.data ? " bias" : "", d->keep.data ? " keep" : "",
                d->lse.data ? " lse" : "", d->probabilities.data ? " probabilities" : "");
}

void case_draw_arithmetic(qt_rng *rng, qkv_attention_desc *d) {
    d->arithmetic = qt_chance(rng, 65)   ? QKV_ARITHMETIC_F32
                    : qt_chance(rng, 50) ? QKV_ARITHMETIC_BF16
                                         : QKV_ARITHMETIC_INT8;
    if (d->arithmetic == QKV_ARITHMETIC_INT8 && d->k_type != QKV_INT8 && qt_chance(rng, 40)) /* any numbers will do */
        d->k_means = case_input(rng, d->batch, d->num_kv_heads ? d->num_kv_heads : d->num_heads, 1, d->head_dim, true);
}

void case_attention(qt_rng *rng, int64_t work, attention_case *c) {
    *c = (attention_case){.desc = {.size = sizeof c->desc}};
    qkv_attention_desc *d = &c->desc;
    draw_sizes(rng, work, d, c);
    draw_tensors(rng, d, c);
    draw_data(rng, d, c);
    draw_window(rng, d);
    draw_logits(rng, d, c);
    if (qt_chance(rng, 25))
        draw_bias(rng, d, c);
    if (qt_chance(rng, 30))
        draw_keep(rng, d);
    if (qt_chance(rng, 20))
        draw_dropout(rng, d);
    case_draw_arithmetic(rng, d);
    d->out = case_output(rng, d->batch, d->num_heads, d->seq_q, c->dv);
    if (qt_chance(rng, 70))
        d->lse = case_output(rng, d->batch, d->num_heads, d->seq_q, 1);
    if (qt_chance(rng, 30)) {
        const int64_t size[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
        int64_t s[4], origin;
        const int64_t n = case_layout(rng, 4, size, 1, false, s, &origin);
        d->probabilities = (qkv_matrix_output){case_floats(rng, n) + origin, s[0], s[1], s[2], s[3]};
    }
    if (qt_chance(rng, 15)) {
        const int64_t size[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
        int64_t s[4], origin;
        const int64_t n = case_layout(rng, 4, size, 1, false, s, &origin);
        d->scores = (qkv_matrix_output){case_floats(rng, n) + origin, s[0], s[1], s[2], s[3]};
        d->scores_stage = (uint32_t)qt_range(rng, 0, 2);
    }
    describe(c);
}

static void poison_row(qt_rng *rng, const qkv_input *in, int64_t b, int64_t h, int64_t t, int64_t channels) {
    float *x = case_row(in, b, h, t);
    for (int64_t i = 0; i < channels; i++)
        x[i] = qt_chance(rng, 30) ? INFINITY : qt_chance(rng, 30) ? -INFINITY : NAN;
}

void case_poison_invisible(qt_rng *rng, const attention_case *c) {
    const qkv_attention_desc *d = &c->desc;
    if (case_is_shared(&d->k, d->batch, c->kv_heads, d->seq_k) ||
        case_is_shared(&d->v, d->batch, c->kv_heads, d->seq_k))
        return;
    const int64_t group = c->kv_heads > 0 ? d->num_heads / c->kv_heads : 1;
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t kv = 0; kv < c->kv_heads; kv++)
            for (int64_t j = 0; j < d->seq_k; j++) {
                bool seen = false;
                for (int64_t h = kv * group; h < (kv + 1) * group && !seen; h++)
                    for (int64_t i = 0; i < d->seq_q && !seen; i++)
                        seen = oracle_sees(d, b, h, i, j) != 0;
                if (!seen) {
                    poison_row(rng, &d->k, b, kv, j, d->head_dim);
                    poison_row(rng, &d->v, b, kv, j, c->dv);
                }
            }
}

void case_plain(qt_rng *rng, attention_case *c, int64_t batch, int64_t heads, int64_t kv_heads, int64_t seq_q,
                int64_t seq_k, int64_t head_dim, int64_t head_dim_v) {
    const int64_t sizes[3][3] = {{heads, seq_q, head_dim}, {kv_heads, seq_k, head_dim}, {kv_heads, seq_k, head_dim_v}};
    qkv_input in[3];
    for (int i = 0; i < 3; i++) {
        const int64_t h = sizes[i][0], t = sizes[i][1], n = sizes[i][2];
        float *x = case_floats(rng, batch * t * h * n);
        qt_fill(rng, x, (size_t)(batch * t * h * n), QT_NORMAL);
        in[i] = (qkv_input){x, t * h * n, n, h * n};
    }
    *c = (attention_case){.kv_heads = kv_heads, .dv = head_dim_v, .ordinary = true};
    c->desc = (qkv_attention_desc){.size = sizeof c->desc,
                                   .batch = batch,
                                   .num_heads = heads,
                                   .num_kv_heads = kv_heads,
                                   .seq_q = seq_q,
                                   .seq_k = seq_k,
                                   .head_dim = head_dim,
                                   .head_dim_v = head_dim_v,
                                   .q = in[0],
                                   .k = in[1],
                                   .v = in[2]};
    float *out = case_floats(rng, batch * seq_q * heads * head_dim_v), *lse = case_floats(rng, batch * heads * seq_q);
    c->desc.out = (qkv_output){out, seq_q * heads * head_dim_v, head_dim_v, heads * head_dim_v};
    c->desc.lse = (qkv_output){lse, heads * seq_q, seq_q, 1};
}

float *case_add_probabilities(qt_rng *rng, attention_case *c) {
    const qkv_attention_desc *d = &c->desc;
    const int64_t head = d->seq_q * d->seq_k;
    float *p = case_floats(rng, d->batch * d->num_heads * head);
    c->desc.probabilities = (qkv_matrix_output){p, d->num_heads * head, head, d->seq_k, 1};
    return p;
}

void case_protect(const qkv_attention_desc *d) {
    const void *inputs[] = {d->q.data,    d->k.data, d->v.data,       d->bias.data, d->keep.data,
                            d->q_offsets, d->kv_len, d->alibi_slopes, d->sinks};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (inputs[i])
            qt_read_only(inputs[i]);
}
