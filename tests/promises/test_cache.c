/* The KV cache is an array of tokens for each sequence: whatever is appended, shared, truncated and released, in every
 * type and kernel set, at any address.
 *
 * SPDX-License-Identifier: MIT */
#include "cache_model.h"
#include "oracle_cases.h"

/* Extends as a projection does: its own head and some tokens in each call. */
static void extend_and_store(const qt_set *set, qt_rng *rng, const model *m, int64_t s, int64_t n, qkv_input k,
                             qkv_input v) {
    const int64_t at = m->length[s];
    for (int64_t t = 0; t < n;) {
        const int64_t some = qt_range(rng, 1, n - t);
        for (int64_t h = m->d.num_kv_heads; h-- > 0;) {
            store_rows(set->kernels, m->block, s, 1, h, at + t, some, (const float *)v.data + h * v.head + t * v.token,
                       v.token);
            store_rows(set->kernels, m->block, s, 0, h, at + t, some, (const float *)k.data + h * k.head + t * k.token,
                       k.token);
        }
        t += some;
    }
}

static void grow(const qt_set *set, qt_rng *rng, model *m, int64_t s, uint64_t number) {
    const int64_t room = m->d.max_tokens - m->length[s];
    int64_t n = qt_chance(rng, 50) ? 1 : qt_range(rng, 0, m->steps ? 64 : 200);
    n = qt_chance(rng, 10) ? 64 : qt_chance(rng, 5) ? room : qt_chance(rng, 2) ? room + 1 : n;
    n = m->steps && n > 64 && n <= room ? 64 : n;
    if (qt_chance(rng, 2))
        n = qt_chance(rng, 50) ? -1 : INT64_MAX;
    const bool absurd = n < 0 || n > MOST_TOKENS;
    const qkv_input k = draw_tokens(rng, m, number, absurd ? 0 : n, 0);
    const qkv_input v = draw_tokens(rng, m, number, absurd ? 0 : n, 1);
    const int64_t old = m->length[s];
    const bool in_two = qt_chance(rng, 40);
    const qkv_status want = model_extend(m, s, n, number);
    const qkv_status got =
        in_two ? qkv_cache_extend(m->block, s, n) : qkv_cache_append(&set->ctx, m->block, s, n, k, v);
    QT_EXPECT(want == got, "sequence %d of %d tokens, %d more: want \"%s\", got \"%s\"", (int)s, (int)old, (int)n,
              qkv_status_string(want), qkv_status_string(got));
    if (got == QKV_OK && in_two) {
        m->length[s] = old;
        extend_and_store(set, rng, m, s, n, k, v);
        m->length[s] = old + n;
    }
}

static void step(const qt_set *set, qt_rng *rng, model *m, uint64_t number) {
    const int64_t s = qt_range(rng, 0, m->d.num_sequences - 1);
    const int64_t what = qt_range(rng, 0, 9);
    if (what < 6) {
        grow(set, rng, m, s, number);
    } else if (what < 8) {
        int64_t length = qt_chance(rng, 50) ? m->length[s] - qt_range(rng, 0, 70) : qt_range(rng, 0, m->length[s] + 2);
        length = qt_chance(rng, 20) ? 0 : length;
        int64_t hole = m->length[s] / QKV_CACHE_PAGE; /* the first that the window still sees, and its neighbours */
        while (hole > 0 && m->page[s][hole - 1] != 0)
            hole--;
        if (hole > 0 && qt_chance(rng, 50))
            length = hole * QKV_CACHE_PAGE + m->d.window - 1 + qt_range(rng, -1, 1);
        const qkv_status want = model_truncate(m, s, length), got = qkv_cache_truncate(m->block, s, length);
        QT_EXPECT(want == got, "sequence %d to %d tokens: want \"%s\", got \"%s\"", (int)s, (int)length,
                  qkv_status_string(want), qkv_status_string(got));
    } else {
        const int64_t from = qt_range(rng, 0, m->d.num_sequences - 1);
        model_fork(m, from, s);
        assert_int_equal(qkv_cache_fork(m->block, from, s), QKV_OK);
    }
}

static void move(model *m) {
    unsigned char *other = qt_alloc(m->bytes, 64, QT_TAIL);
    memcpy(other, m->block, m->bytes);
    memset(m->block, 0xff, m->bytes);
    m->block = other;
}

static void test_cache_is_an_array_of_tokens(const qt_set *set) {
    for (uint64_t i = 0; i < (qt_quick() ? 30 : 150); i++) {
        qt_rng rng;
        model m;
        if (!qt_case(i, &rng))
            continue;
        draw_model(&rng, &m);
        const int steps = (int)qt_range(&rng, 5, 60);
        for (int n = 0; n < steps; n++) {
            step(set, &rng, &m, 1000 * (i * 100 + (uint64_t)n));
            expect_model(&m, n % 8 == 0 || n == steps - 1);
            if (qt_chance(&rng, 4))
                move(&m);
        }
    }
}

/* Everything that is refused leaves the block as it was. */
static void test_refusals_write_nothing(void) {
    const qt_set *set = qt_get_set(0);
    for (uint64_t i = 0; i < (qt_quick() ? 20 : 100); i++) {
        qt_rng rng;
        model m;
        if (!qt_case(i, &rng))
            continue;
        do
            draw_model(&rng, &m);
        while (m.d.num_pages > 12);
        unsigned char *before = qt_alloc(m.bytes, 64, QT_TAIL);
        int refused = 0;
        for (int n = 0; n < 200 && refused < 15; n++) {
            const int64_t s = qt_range(&rng, 0, m.d.num_sequences - 1), more = qt_range(&rng, 1, 150);
            memcpy(before, m.block, m.bytes);
            if (qt_chance(&rng, 20)) {
                const int64_t from = qt_range(&rng, 0, m.d.num_sequences - 1);
                model_fork(&m, from, s);
                assert_int_equal(qkv_cache_fork(m.block, from, s), QKV_OK);
                continue;
            }
            qkv_status status;
            if (qt_chance(&rng, 50)) {
                const qkv_input k = draw_tokens(&rng, &m, 1, more, 0), v = draw_tokens(&rng, &m, 1, more, 1);
                status = qkv_cache_append(&set->ctx, m.block, s, more, k, v);
            } else if (qt_chance(&rng, 60)) {
                status = qkv_cache_extend(m.block, s, more);
            } else {
                status = qkv_cache_truncate(m.block, s, qt_range(&rng, -1, m.d.max_tokens + 1));
            }
            if (status != QKV_OK) {
                refused++;
                qt_expect_bytes("a block after a refusal", before, m.block, m.bytes);
            }
            assert_int_equal(qkv_cache_check(m.block, m.bytes), QKV_OK);
        }
        for (int64_t s = -1; s <= m.d.num_sequences; s += m.d.num_sequences + 1) { /* no such sequence */
            const qkv_input none = {NULL, 0, 0, 0};
            int64_t length = 7;
            memcpy(before, m.block, m.bytes);
            assert_int_equal(qkv_cache_extend(m.block, s, 1), QKV_ERROR_INDEX);
            assert_int_equal(qkv_cache_append(&set->ctx, m.block, s, 1, none, none), QKV_ERROR_INDEX);
            assert_int_equal(qkv_cache_truncate(m.block, s, 0), QKV_ERROR_INDEX);
            assert_int_equal(qkv_cache_fork(m.block, s, 0), QKV_ERROR_INDEX);
            assert_int_equal(qkv_cache_fork(m.block, 0, s), QKV_ERROR_INDEX);
            assert_int_equal(qkv_cache_length(m.block, s, &length), QKV_ERROR_INDEX);
            assert_int_equal(length, 7);
            qt_expect_bytes("a block after a refusal", before, m.block, m.bytes);
        }
    }
}

/* The number of pages that 0 stands for is enough for growth by up to 64 tokens, and where a sequence can become long
 * enough not one too many. */
static void test_pages_that_a_window_needs(void) {
    static const int64_t firsts[] = {0, 1, 64, 65, 130};
    for (int64_t window = 1; window <= 200; window++)
        for (int f = 0; f < 5; f++) {
            qkv_cache_desc d = {.size = sizeof d,
                                .num_sequences = 3,
                                .max_tokens = 700,
                                .num_kv_heads = 1,
                                .window = window,
                                .first_tokens = firsts[f]};
            size_t bytes;
            assert_int_equal(qkv_cache_size(&d, &bytes), QKV_OK);
            void *block = qt_alloc(bytes, 64, QT_TAIL);
            assert_int_equal(qkv_cache_init(&d, block, bytes), QKV_OK);
            assert_int_equal(qkv_cache_query(block, &d), QKV_OK);
            int64_t most = 0;
            for (int64_t old = 0; old + 64 <= d.max_tokens; old++) {
                int64_t n = 0;
                for (int64_t i = 0; i < pages(old + 64); i++)
                    n += i * 64 < d.first_tokens || i * 64 + 63 >= old + 1 - window;
                most = n > most ? n : most;
            }
            QT_EXPECT(d.num_pages == 3 * most, "window %d, first %d: %d pages, not %d", (int)window, (int)firsts[f],
                      (int)d.num_pages, (int)(3 * most));
            for (int n = 0; n < 40; n++) /* all three at once */
                for (int64_t s = 0; s < 3; s++) {
                    int64_t length;
                    assert_int_equal(qkv_cache_length(block, s, &length), QKV_OK);
                    const int64_t more = n % 3 == 0 ? 64 : n % 3 == 1 ? 1 : 63;
                    assert_int_equal(qkv_cache_extend(block, s, more),
                                     length + more <= d.max_tokens ? QKV_OK : QKV_ERROR_CAPACITY);
                }
            qt_free_all();
        }
}

/* Memory of the pool is the caller's until a token is stored, and what is stored touches its own bytes only. */
static void test_only_what_is_stored_is_written(const qt_set *set) {
    for (uint64_t i = 0; i < 40; i++) {
        qt_rng rng;
        model m;
        if (!qt_case(i, &rng))
            continue;
        draw_model(&rng, &m);
        qkv_cache_view c;
        assert_int_equal(qkv_cache_open(m.block, &c), QKV_OK);
        const size_t pools = (size_t)(m.block + m.bytes - c.k);
        unsigned char *poison = qt_alloc(pools, 64, QT_TAIL);
        qt_expect_bytes("the pools after init", poison, c.k, pools);
        const int64_t n = qt_range(&rng, 1, m.d.max_tokens < 64 ? m.d.max_tokens : 64), t = qt_range(&rng, 0, n - 1);
        const int64_t h = qt_range(&rng, 0, m.d.num_kv_heads - 1);
        float x[64];
        m.token[0][t] = i;
        draw_row(&m, i, 0, h, x);
        assert_int_equal(qkv_cache_extend(m.block, 0, n), QKV_OK);
        store_rows(set->kernels, m.block, 0, 0, h, t, 1, x, 0);
        expect_row(&m, &c, c.tables[0], 0, t, 0, h);
        const size_t element = (size_t)qkv_stored_bytes(m.d.k_type, 1);
        for (int64_t e = 0; e < m.d.head_dim; e++) { /* put back; then all is as it was */
            const int64_t at = ((c.tables[0] * m.d.num_kv_heads + h) * m.d.head_dim + e) * 64 + t;
            memcpy(c.k + (size_t)at * element, poison + (size_t)at * element, element);
        }
        if (m.d.k_type == QKV_INT8)
            memcpy(&c.k_scales[(c.tables[0] * m.d.num_kv_heads + h) * 64 + t], poison, 4);
        qt_expect_bytes("the pools but for one token", poison, c.k, pools);
    }
}

/* K of a case in integers, as rows in pages of 16 tokens that lie in a pool backwards. */
static attention_case in_pages(const attention_case *c) {
    enum { PAGE = 16 };
    const qkv_attention_desc *d = &c->desc;
    const int64_t kv = c->kv_heads, dim = d->head_dim, pages = (d->seq_k + PAGE - 1) / PAGE, pool = d->batch * pages;
    int8_t *k = qt_alloc((size_t)(pool * kv * PAGE * dim), 1, QT_TAIL);
    float *scales = qt_floats((size_t)(pool * kv * PAGE), QT_TAIL);
    float *v = qt_floats((size_t)(pool * kv * PAGE * c->dv), QT_TAIL);
    int32_t *table = qt_alloc((size_t)pool * sizeof *table, 4, QT_TAIL);
    int *integers = qt_alloc((size_t)dim * sizeof *integers, 4, QT_TAIL);
    for (int64_t i = 0; i < pool; i++)
        table[i] = (int32_t)(pool - 1 - i);
    for (int64_t i = 0; i < d->batch * kv * d->seq_k; i++) {
        const int64_t b = i / d->seq_k / kv, h = i / d->seq_k % kv, j = i % d->seq_k;
        const int64_t at = (table[b * pages + j / PAGE] * kv + h) * PAGE + j % PAGE;
        scales[at] = oracle_to_int8(case_row(&d->k, b, h, j), NULL, dim, integers);
        for (int64_t x = 0; x < dim; x++)
            k[at * dim + x] = (int8_t)integers[x];
        memcpy(v + at * c->dv, case_row(&d->v, b, h, j), (size_t)c->dv * sizeof *v);
    }
    attention_case twin = *c;
    twin.desc.k = (qkv_input){k, kv * PAGE * dim, PAGE * dim, dim};
    twin.desc.v = (qkv_input){v, kv * PAGE * c->dv, PAGE * c->dv, c->dv};
    twin.desc.k_type = QKV_INT8;
    twin.desc.k_scales = (qkv_input){scales, kv * PAGE, PAGE, 1};
    twin.desc.page_table = table;
    twin.desc.table_stride = pages;
    twin.desc.page_tokens = PAGE;
    twin.desc.num_pages = pool;
    return twin;
}

/* Scores in 8 bits make of a key what a cache of such keys has kept of it. */
static void test_keys_of_8_bits_are_those_of_scores_in_8_bits(const qt_set *set) {
    for (uint64_t i = 0; i < (qt_quick() ? 20 : 100); i++) {
        qt_rng rng;
        attention_case c;
        if (!qt_case(i, &rng))
            continue;
        const int64_t kv = qt_range(&rng, 1, 3), queries = qt_chance(&rng, 50) ? 1 : qt_range(&rng, 1, 60);
        case_plain(&rng, &c, qt_range(&rng, 1, 2), kv * qt_range(&rng, 1, 5), kv, queries, qt_range(&rng, 1, 700),
                   qt_range(&rng, 1, 140), qt_range(&rng, 1, 40));
        qkv_attention_desc *d = &c.desc;
        d->arithmetic = QKV_ARITHMETIC_INT8;
        d->flags = QKV_RIGHT | QKV_FROM_END | (qt_chance(&rng, 50) ? QKV_LEFT : 0);
        d->left = qt_range(&rng, 0, d->seq_k);
        if (qt_chance(&rng, 20))
            case_row(&d->k, 0, 0, d->seq_k / 2)[0] = qt_nasty(&rng);
        const qkv_cache_desc shape = {.size = sizeof shape,
                                      .num_sequences = d->batch,
                                      .max_tokens = d->seq_k,
                                      .num_kv_heads = kv,
                                      .head_dim = d->head_dim,
                                      .head_dim_v = c.dv,
                                      .num_pages = d->batch * 11,
                                      .k_type = QKV_INT8,
                                      .v_type = QKV_F32};
        size_t bytes;
        assert_int_equal(qkv_cache_size(&shape, &bytes), QKV_OK);
        void *cache = qt_alloc(bytes, 64, QT_TAIL);
        assert_int_equal(qkv_cache_init(&shape, cache, bytes), QKV_OK);
        for (int64_t b = 0; b < d->batch; b++) {
            const qkv_input k = {case_row(&d->k, b, 0, 0), 0, d->k.head, d->k.token};
            const qkv_input v = {case_row(&d->v, b, 0, 0), 0, d->v.head, d->v.token};
            assert_int_equal(qkv_cache_append(&set->ctx, cache, b, d->seq_k, k, v), QKV_OK);
        }
        attention_case twin = c;
        assert_int_equal(qkv_cache_attach(cache, 0, &twin.desc), QKV_OK);
        const case_results want = case_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 4), 0);
        const case_results got = case_run(&set->ctx, &twin, (int32_t)qt_range(&rng, 0, 4), 0);
        case_expect_same("cached", &c, &want, &got);
        twin = in_pages(&c);
        const case_results paged = case_run(&set->ctx, &twin, (int32_t)qt_range(&rng, 0, 4), 0);
        case_expect_same("in pages", &c, &want, &paged);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("cache_is_an_array_of_tokens", test_cache_is_an_array_of_tokens);
    qt_each_set_of_attention("keys_of_8_bits_are_those_of_scores_in_8_bits",
                             test_keys_of_8_bits_are_those_of_scores_in_8_bits);
    qt_once("refusals_write_nothing", test_refusals_write_nothing);
    qt_once("pages_that_a_window_needs", test_pages_that_a_window_needs);
    qt_each_set("only_what_is_stored_is_written", test_only_what_is_stored_is_written);
    return qt_run();
}
