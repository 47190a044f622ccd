/* A KV cache as an array of tokens for each sequence, and pages as numbers: what the tests compare the library's with.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_CACHE_MODEL_H
#define QKV_TESTS_CACHE_MODEL_H

#include "cache_rows.h"
#include "harness.h"

#include <math.h>
#include <string.h>

#include "ref/storage.h"

enum { MOST_SEQUENCES = 5, MOST_TOKENS = 700, MOST_PAGES = MOST_TOKENS / QKV_CACHE_PAGE + 1 };

typedef struct model {
    qkv_cache_desc d; /* complete */
    unsigned char *block;
    size_t bytes;
    int64_t length[MOST_SEQUENCES], limit[MOST_SEQUENCES]; /* limit: queries have not needed tokens before it */
    uint64_t token[MOST_SEQUENCES][MOST_TOKENS];           /* the number that its K and V are drawn from */
    int page[MOST_SEQUENCES][MOST_PAGES];                  /* 0: none */
    int num_ids;
    qt_kind kind;
    float factor; /* of all K and V */
    bool steps;   /* extended by at most a page at a time */
} model;

static inline int64_t pages(int64_t tokens) {
    return (tokens + QKV_CACHE_PAGE - 1) / QKV_CACHE_PAGE;
}

/* K or V of a token and head. */
static inline void draw_row(const model *m, uint64_t token, int is_value, int64_t head, float *x) {
    qt_rng rng = {token, (uint64_t)(2 * head + is_value) << 32};
    const int64_t n = is_value ? m->d.head_dim_v : m->d.head_dim;
    qt_fill(&rng, x, (size_t)n, m->kind);
    for (int64_t c = 0; c < n; c++)
        x[c] *= m->factor;
}

/* Pages of the pool that are in use. */
static inline int64_t used_pages(const model *m) {
    int64_t n = 0;
    for (int64_t s = 0; s < m->d.num_sequences; s++)
        for (int64_t i = 0; i < MOST_PAGES; i++) {
            bool seen = m->page[s][i] == 0;
            for (int64_t o = 0; o <= s && !seen; o++)
                for (int64_t j = 0; j < (o < s ? MOST_PAGES : i) && !seen; j++)
                    seen = m->page[o][j] == m->page[s][i];
            n += !seen;
        }
    return n;
}

static inline bool is_shared(const model *m, int64_t s, int64_t i) {
    for (int64_t o = 0; o < m->d.num_sequences; o++)
        if (o != s && m->page[o][i] == m->page[s][i])
            return true;
    return false;
}

/* Says what must happen; changes the model only where it succeeds. */
static inline qkv_status model_extend(model *m, int64_t s, int64_t n, uint64_t first_token) {
    if (n < 0)
        return QKV_ERROR_NEGATIVE;
    if (n > m->d.max_tokens - m->length[s])
        return QKV_ERROR_CAPACITY;
    if (n == 0)
        return QKV_OK;
    int before[MOST_PAGES];
    memcpy(before, m->page[s], sizeof before);
    const int64_t old = m->length[s], limit = old + 1 - m->d.window;
    for (int64_t i = 0; m->d.window > 0 && i < pages(old); i++) {
        bool leaves = true;
        for (int64_t j = i * QKV_CACHE_PAGE; j < (i + 1) * QKV_CACHE_PAGE; j++)
            leaves = leaves && j < limit && j >= m->d.first_tokens;
        if (leaves)
            m->page[s][i] = 0;
    }
    if (old % QKV_CACHE_PAGE != 0 && is_shared(m, s, old / QKV_CACHE_PAGE))
        m->page[s][old / QKV_CACHE_PAGE] = ++m->num_ids;
    for (int64_t i = pages(old); i < pages(old + n); i++)
        m->page[s][i] = ++m->num_ids;
    if (used_pages(m) > m->d.num_pages) {
        memcpy(m->page[s], before, sizeof before);
        return QKV_ERROR_CAPACITY;
    }
    for (int64_t j = old; j < old + n; j++)
        m->token[s][j] = first_token + (uint64_t)(j - old);
    m->length[s] = old + n;
    m->limit[s] = limit;
    return QKV_OK;
}

static inline qkv_status model_truncate(model *m, int64_t s, int64_t length) {
    if (length < 0)
        return QKV_ERROR_NEGATIVE;
    if (length > m->length[s])
        return QKV_ERROR_CAPACITY;
    for (int64_t j = 0; j < length && m->d.window > 0; j++) { /* what a query there sees */
        if ((j < m->d.first_tokens || j >= length + 1 - m->d.window) && m->page[s][j / QKV_CACHE_PAGE] == 0)
            return QKV_ERROR_CAPACITY;
    }
    if (length % QKV_CACHE_PAGE != 0 && m->page[s][length / QKV_CACHE_PAGE] == 0)
        return QKV_ERROR_CAPACITY;
    for (int64_t i = pages(length); i < MOST_PAGES; i++)
        m->page[s][i] = 0;
    m->length[s] = length;
    return QKV_OK;
}

static inline void model_fork(model *m, int64_t from, int64_t to) {
    memcpy(m->page[to], m->page[from], sizeof m->page[to]);
    memcpy(m->token[to], m->token[from], sizeof m->token[to]);
    m->length[to] = m->length[from];
    m->limit[to] = m->limit[from];
}

/* The scale and integers that a row has to become. */
static inline float int8_row(const float *x, int64_t n, int8_t *to) {
    float amax = 0;
    bool finite = true;
    for (int64_t c = 0; c < n; c++) {
        finite = finite && isfinite(x[c]);
        amax = fabsf(x[c]) > amax ? fabsf(x[c]) : amax;
        to[c] = 0;
    }
    if (!finite || amax < 0x1p-100f)
        return finite ? 0 : NAN;
    volatile float scale = amax / 127.0f, inverse = 127.0f / amax;
    for (int64_t c = 0; c < n; c++) {
        volatile float y = x[c] * inverse;
        const float r = rintf(y);
        to[c] = (int8_t)(r > 127 ? 127 : r < -127 ? -127 : r);
        QT_EXPECT(fabs((double)scale * to[c] - (double)x[c]) <= 0.5001 * (double)scale, "%a is off", (double)x[c]);
    }
    return scale;
}

static inline bool same_half(uint16_t want, uint16_t got, uint16_t infinity) {
    return want == got || ((want & 0x7fff) > infinity && (got & 0x7fff) > infinity);
}

/* One token's K or V of a head, in a page, is what it has to be. */
static inline void expect_row(const model *m, const qkv_cache_view *c, int32_t page, int64_t s, int64_t j, int is_value,
                              int64_t head) {
    const int type = is_value ? m->d.v_type : m->d.k_type;
    const int64_t n = is_value ? m->d.head_dim_v : m->d.head_dim, t = j % QKV_CACHE_PAGE;
    const int64_t at = page * m->d.num_kv_heads + head, step = is_value ? 1 : QKV_CACHE_PAGE;
    const int64_t first = at * QKV_CACHE_PAGE * n + (is_value ? t * n : t);
    const unsigned char *pool = is_value ? c->v : c->k;
    float x[64];
    int8_t integers[64];
    draw_row(m, m->token[s][j], is_value, head, x);
    if (type == QKV_INT8) {
        const float scale = int8_row(x, n, integers);
        const float got = (is_value ? c->v_scales : c->k_scales)[at * QKV_CACHE_PAGE + t];
        QT_EXPECT(qt_same(scale, got, 0), "sequence %d token %d: the scale is %a, not %a", (int)s, (int)j, (double)got,
                  (double)scale);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t e = first + i * step;
        bool same;
        if (type == QKV_F32) {
            same = qt_same(x[i], ((const float *)(const void *)pool)[e], 0);
        } else if (type == QKV_INT8) {
            same = integers[i] == ((const int8_t *)pool)[e];
        } else {
            const uint16_t got = ((const uint16_t *)(const void *)pool)[e];
            same =
                type == QKV_F16 ? same_half(qkv_to_f16(x[i]), got, 0x7c00) : same_half(qkv_to_bf16(x[i]), got, 0x7f80);
        }
        QT_EXPECT(same, "sequence %d token %d, %s of head %d, channel %d", (int)s, (int)j, is_value ? "V" : "K",
                  (int)head, (int)i);
    }
    qt_count_words((uint64_t)n);
}

/* Lengths, free pages, and every token that a query after the last extension sees, or whose page is still there. */
static inline void expect_model(const model *m, bool contents) {
    qkv_cache_view c;
    int64_t free;
    assert_int_equal(qkv_cache_check(m->block, m->bytes), QKV_OK);
    assert_int_equal(qkv_cache_open(m->block, &c), QKV_OK);
    assert_int_equal(qkv_cache_free_pages(m->block, &free), QKV_OK);
    assert_int_equal(free, m->d.num_pages - used_pages(m));
    for (int64_t s = 0; s < m->d.num_sequences; s++) {
        int64_t length;
        assert_int_equal(qkv_cache_length(m->block, s, &length), QKV_OK);
        assert_int_equal(length, m->length[s]);
        for (int64_t j = 0; j < length; j++) {
            const bool seen = m->d.window == 0 || j >= m->limit[s] || j < m->d.first_tokens;
            QT_EXPECT(!seen || m->page[s][j / QKV_CACHE_PAGE] != 0, "a token that is seen was released");
            if (!contents || m->page[s][j / QKV_CACHE_PAGE] == 0)
                continue;
            const int32_t page = c.tables[s * c.table_stride + j / QKV_CACHE_PAGE];
            for (int64_t h = 0; h < m->d.num_kv_heads; h++) {
                expect_row(m, &c, page, s, j, 0, h);
                expect_row(m, &c, page, s, j, 1, h);
            }
        }
    }
}

static inline void draw_model(qt_rng *rng, model *m) {
    static const int32_t types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};
    static const qt_kind kinds[] = {QT_NORMAL, QT_SPRINKLED, QT_WIDE, QT_SUBNORMAL, QT_HUGE};
    memset(m, 0, sizeof *m);
    qkv_cache_desc *d = &m->d;
    *d = (qkv_cache_desc){.size = sizeof *d,
                          .num_sequences = qt_range(rng, 1, MOST_SEQUENCES),
                          .max_tokens = qt_range(rng, 1, MOST_TOKENS),
                          .num_kv_heads = qt_range(rng, 1, 3),
                          .head_dim = qt_range(rng, 1, 20)};
    d->head_dim_v = qt_chance(rng, 50) ? 0 : qt_range(rng, 1, 20);
    d->k_type = types[qt_range(rng, 0, 3)];
    d->v_type = types[qt_range(rng, 0, 3)];
    d->num_pages = qt_chance(rng, 40) ? 0 : qt_range(rng, 1, 25);
    if (qt_chance(rng, 50)) {
        d->window = qt_chance(rng, 20) ? qt_range(rng, 1, 3) : qt_range(rng, 1, 300);
        d->first_tokens = qt_chance(rng, 50) ? 0 : qt_range(rng, 1, 140);
    }
    m->steps = qt_chance(rng, 50);
    m->kind = kinds[qt_range(rng, 0, 4)];
    m->factor = qt_chance(rng, 70) ? 1 : qt_chance(rng, 50) ? 0x1p-100f : 0x1p-115f;
    assert_int_equal(qkv_cache_size(d, &m->bytes), QKV_OK);
    m->block = qt_alloc(m->bytes, 64, QT_TAIL);
    assert_int_equal(qkv_cache_init(d, m->block, m->bytes), QKV_OK);
    qt_describe("sequences=%d max_tokens=%d pages=%d heads=%d dims=%d,%d types=%d,%d window=%d first=%d %s*%g",
                (int)d->num_sequences, (int)d->max_tokens, (int)d->num_pages, (int)d->num_kv_heads, (int)d->head_dim,
                (int)d->head_dim_v, d->k_type, d->v_type, (int)d->window, (int)d->first_tokens, qt_kind_name(m->kind),
                (double)m->factor);
    assert_int_equal(qkv_cache_query(m->block, d), QKV_OK);
}

/* n tokens of K or V, from this number on, with strides of any order, gaps and signs. */
static inline qkv_input draw_tokens(qt_rng *rng, const model *m, uint64_t first, int64_t n, int is_value) {
    const int64_t dim = is_value ? m->d.head_dim_v : m->d.head_dim, heads = m->d.num_kv_heads;
    const int64_t row = dim + (qt_chance(rng, 30) ? qt_range(rng, 1, 5) : 0);
    const bool heads_first = qt_chance(rng, 50), backwards = qt_chance(rng, 20);
    qkv_input x = {NULL, 77, heads_first ? n * row : row, heads_first ? row : heads * row};
    const size_t floats = (size_t)(n > 0 ? (heads * n - 1) * row + dim : 0);
    float *data = qt_floats(floats, qt_place(rng)) + (backwards && n > 0 ? (n - 1) * x.token : 0);
    x.token = backwards ? -x.token : x.token;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t t = 0; t < n; t++)
            draw_row(m, first + (uint64_t)t, is_value, h, data + h * x.head + t * x.token);
    x.data = data;
    return x;
}

#endif
