/* A sequence of 600 tokens in each type of K and V, with the words expected of every one: those of its row of one
 * causal prefill over plain tensors by the reference. 600 tokens go through three blocks of keys and ten panels.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_POSITIONS_H
#define QKV_TESTS_POSITIONS_H

#include "cache_model.h"
#include "oracle_cases.h"

enum { TOKENS = 600, HEADS = 4, KV = 2, WIDEST = 64, ROOM = 80, SLOTS = 4, NUM_SEQUENCES = 5 };

/* Tokens as [token][head][channel], and the words expected of them. */
typedef struct sequence {
    const char *name;
    int32_t type;
    int64_t dim, dv, window, first_tokens;
    bool ready;
    float *k, *v;                      /* what an append is given: what is stored, except where it rounds to int8 */
    qkv_attention_desc rows, windowed; /* plain tensors of the type, causal, without and with a window */
    float q[TOKENS * HEADS * WIDEST];
    float floats[2][TOKENS * KV * WIDEST], scales[2][TOKENS * KV];
    unsigned char stored[2][TOKENS * KV * WIDEST * 4];
    struct {
        float out[TOKENS * HEADS * WIDEST], lse[TOKENS * HEADS];
    } want, want_windowed;
} sequence;

static sequence sequences[NUM_SEQUENCES] = {
    {.name = "f32", .type = QKV_F32, .dim = 40, .dv = 64, .window = 130, .first_tokens = 5},
    {.name = "f16", .type = QKV_F16, .dim = 64, .dv = 40, .window = 64, .first_tokens = 70},
    {.name = "bf16", .type = QKV_BF16, .dim = 64, .dv = 64, .window = 100},
    {.name = "Q8_0", .type = QKV_Q8_0, .dim = 64, .dv = 32, .window = 200, .first_tokens = 130},
    {.name = "int8", .type = QKV_INT8, .dim = 40, .dv = 64, .window = 65, .first_tokens = 1},
};

/* What others hold: a NaN in every type. */
static float nothing[(TOKENS + ROOM) * KV * WIDEST];

static const qt_pool one_thread = {1, 0};

static inline bool is_slow(const qt_set *set) {
    return qt_quick() || strcmp(set->name, "ref") == 0 || strcmp(set->name, "portable") == 0;
}

/* Every position; where that is slow, those beside the edges of panels, and every 61st. */
static inline bool is_tried(const qt_set *set, int64_t i) {
    return !is_slow(set) || i % 61 == 7 || (i + 1) % 64 < 2;
}

static inline int64_t draw_chunk(qt_rng *rng, int64_t first, int64_t most) {
    const int64_t n = qt_range(rng, 1, qt_chance(rng, 40) ? 9 : most);
    return n < TOKENS - first ? n : TOKENS - first;
}

static inline int64_t channels(const sequence *s, int is_value) {
    return is_value ? s->dv : s->dim;
}

/* ------------------------------------------------------------------------------------------------ one sequence */

/* Stores a row; x becomes what it means, but stays for int8. Returns the scale of int8. */
static inline float store_row(qt_rng *rng, int type, float *x, int64_t n, unsigned char *to) {
    if (type == QKV_INT8)
        return int8_row(x, n, (int8_t *)to);
    uint16_t scale = 0; /* of a block of Q8_0 */
    for (int64_t c = 0; c < n; c++) {
        unsigned char *at = to + (type == QKV_Q8_0 ? c / 32 * 34 : qkv_stored_bytes(type, c));
        if (type == QKV_F32) {
            memcpy(at, &x[c], 4);
        } else if (type == QKV_Q8_0) {
            scale = c % 32 ? scale : qkv_to_f16(qt_uniform(rng, 0.01f, 0.03f));
            memcpy(at, &scale, 2);
            at[2 + c % 32] = (unsigned char)qt_range(rng, 0, 255);
            x[c] = qkv_from_f16(scale) * (float)(int8_t)at[2 + c % 32];
        } else {
            const uint16_t half = type == QKV_F16 ? qkv_to_f16(x[c]) : qkv_to_bf16(x[c]);
            memcpy(at, &half, 2);
            x[c] = type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
        }
    }
    return 0;
}

static inline qkv_input input_of(const void *data, int64_t heads, int64_t n) {
    return (qkv_input){data, TOKENS * heads * n, n, heads * n};
}

static inline void prefill_by_reference(const sequence *s, const qkv_attention_desc *rows, float *out, float *lse) {
    qkv_attention_desc d = *rows;
    const qkv_ctx reference = case_reference();
    if (s->type != QKV_INT8) {
        d.k.data = s->k;
        d.v.data = s->v;
        d.k_type = d.v_type = QKV_F32;
    }
    d.seq_q = TOKENS;
    d.q.data = s->q;
    d.out = (qkv_output){out, 0, s->dv, HEADS * s->dv};
    d.lse = (qkv_output){lse, 0, 1, HEADS};
    case_run_attention(&reference, &d, 0, 0);
}

static inline const sequence *get_sequence(uint64_t index) {
    sequence *s = &sequences[index];
    if (s->ready)
        return s;
    qt_rng rng = qt_stream(s->name);
    qt_fill(&rng, s->q, sizeof s->q / 4, QT_NORMAL);
    for (int x = 0; x < 2; x++) {
        const int64_t n = channels(s, x);
        qt_fill(&rng, s->floats[x], (size_t)(TOKENS * KV * n), QT_NORMAL);
        for (int64_t r = 0; r < TOKENS * KV; r++)
            s->scales[x][r] =
                store_row(&rng, s->type, s->floats[x] + r * n, n, s->stored[x] + qkv_stored_bytes(s->type, r * n));
    }
    s->k = s->floats[0];
    s->v = s->floats[1];
    s->rows = (qkv_attention_desc){.size = sizeof s->rows,
                                   .batch = 1,
                                   .num_heads = HEADS,
                                   .num_kv_heads = KV,
                                   .seq_k = TOKENS,
                                   .head_dim = s->dim,
                                   .head_dim_v = s->dv,
                                   .flags = QKV_RIGHT,
                                   .q = input_of(NULL, HEADS, s->dim),
                                   .k = input_of(s->stored[0], KV, s->dim),
                                   .v = input_of(s->stored[1], KV, s->dv),
                                   .k_type = s->type,
                                   .v_type = s->type,
                                   .k_scales = input_of(s->scales[0], KV, 1),
                                   .v_scales = input_of(s->scales[1], KV, 1)};
    s->windowed = s->rows;
    s->windowed.flags |= QKV_LEFT;
    s->windowed.left = s->window - 1;
    s->windowed.first_tokens = s->first_tokens;
    prefill_by_reference(s, &s->rows, s->want.out, s->want.lse);
    prefill_by_reference(s, &s->windowed, s->want_windowed.out, s->want_windowed.lse);
    memset(nothing, 0xff, sizeof nothing);
    s->ready = true;
    return s;
}

/* The sequence of a case; NULL: it is not wanted. */
static inline const sequence *draw_sequence(uint64_t index, qt_rng *rng) {
    const uint64_t i = index % NUM_SEQUENCES;
    return qt_case(index, rng) && (!qt_emulated() || i == 1 || i == 4) ? get_sequence(i) : NULL;
}

/* ------------------------------------------------------------------------------------------- calls and their words */

static struct {
    _Alignas(64) unsigned char workspace[8 << 20];
    float q[SLOTS * TOKENS * HEADS * WIDEST], out[SLOTS * TOKENS * HEADS * WIDEST], lse[SLOTS * TOKENS * HEADS];
} call;

static inline void run(const qt_set *set, qkv_attention_desc *d, int64_t rows, qt_pool pool) {
    d->out = (qkv_output){call.out, d->seq_q * HEADS * d->head_dim_v, d->head_dim_v, HEADS * d->head_dim_v};
    d->lse = (qkv_output){call.lse, d->seq_q * HEADS, 1, HEADS};
    memset(call.out, 0xff, (size_t)(rows * HEADS * d->head_dim_v) * 4);
    memset(call.lse, 0xff, (size_t)(rows * HEADS) * 4);
    qkv_plan plan;
    qkv_status status = qkv_attention_plan(&set->ctx, d, pool.threads, &plan);
    QT_EXPECT(status == QKV_OK, "plan: %s", qkv_status_string(status));
    status = qkv_attention_run_parallel(&plan, d, call.workspace, sizeof call.workspace, qt_parallel_for, &pool);
    QT_EXPECT(status == QKV_OK, "run: %s", qkv_status_string(status));
}

/* Rows from `row` on of the call are n tokens from `first` on. */
static inline void expect_rows(const sequence *s, const qkv_attention_desc *d, int64_t row, int64_t first, int64_t n) {
    const float *out = d->flags & QKV_LEFT ? s->want_windowed.out : s->want.out;
    const float *lse = d->flags & QKV_LEFT ? s->want_windowed.lse : s->want.lse;
    const int64_t wide = HEADS * s->dv;
    qt_expect_words("out", out + first * wide, call.out + row * wide, (size_t)(n * wide), 0);
    qt_expect_words("lse", lse + first * HEADS, call.lse + row * HEADS, (size_t)(n * HEADS), 0);
}

static inline void put_queries(const sequence *s, int64_t row, int64_t first, int64_t n) {
    const int64_t wide = HEADS * s->dim;
    memcpy(call.q + row * wide, s->q + first * wide, (size_t)(n * wide) * 4);
}

/* A call for n tokens, with the keys up to its last: as they are (a cache knows how many), or as a tensor that ends
 * there, or as one that goes on. */
static inline void expect_tokens(const qt_set *set, const sequence *s, const qkv_attention_desc *layout, int64_t first,
                                 int64_t n, qt_pool pool) {
    qkv_attention_desc d = *layout;
    const int64_t keys = first + n;
    qt_describe("%s: tokens %d … %d, %d threads", s->name, (int)first, (int)(keys - 1), (int)pool.threads);
    d.seq_q = n;
    d.q.data = s->q + first * HEADS * s->dim;
    if (!d.kv_len && keys % 2) {
        d.seq_k = keys;
        d.q_offset = first;
    } else {
        d.flags |= QKV_FROM_END;
        d.kv_len = d.kv_len ? d.kv_len : &keys;
    }
    run(set, &d, n, pool);
    expect_rows(s, &d, 0, first, n);
}

static inline void expect_decoding(const qt_set *set, const sequence *s, const qkv_attention_desc *layout) {
    for (int64_t i = 0; i < TOKENS; i++)
        if (is_tried(set, i))
            expect_tokens(set, s, layout, i, 1, one_thread);
}

static inline void expect_chunks(const qt_set *set, qt_rng *rng, const sequence *s, const qkv_attention_desc *layout,
                                 qt_pool pool) {
    for (int64_t first = 0, n; first < TOKENS; first += n) {
        n = draw_chunk(rng, first, 200);
        if (!is_slow(set) || (n < 100 && qt_chance(rng, 15)))
            expect_tokens(set, s, layout, first, n, pool);
    }
}

#endif
