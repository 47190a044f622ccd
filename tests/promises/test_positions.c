/* At every position of a sequence, a token gets the words that it gets as a row of one causal prefill over plain
 * tensors by the reference: whatever lies around it, in every type of K and V and every kernel set.
 *
 * The sets without vectors and slow builds try fewer positions (is_tried), an emulated CPU f16 and int8 alone.
 *
 * SPDX-License-Identifier: MIT */
#include "positions.h"

/* ----------------------------------------------------------------------------------------------- other layouts */

/* Copies of K or V, and its scales, in pages of as many tokens; the rest of the pool is NaN. */
static void put_in_pages(const sequence *s, int is_value, bool panels, int64_t tokens, int64_t pool,
                         const int32_t *table, qkv_input *x, qkv_input *scales) {
    const int64_t n = channels(s, is_value), unit = s->type == QKV_Q8_0 ? 32 : 1;
    const size_t bytes = (size_t)qkv_stored_bytes(s->type, pool * KV * tokens * n);
    const size_t element = (size_t)qkv_stored_bytes(s->type, unit);
    unsigned char *to = qt_alloc(bytes, 4, QT_TAIL);
    float *scale = qt_floats((size_t)(pool * KV * tokens), QT_TAIL);
    memset(to, 0xff, bytes);
    for (int64_t r = 0; r < TOKENS * KV; r++) {
        const int64_t j = r / KV % tokens, head = table[r / KV / tokens] * KV + r % KV;
        scale[head * tokens + j] = s->scales[is_value][r];
        for (int64_t c = 0; c < n; c += unit) {
            const int64_t at = head * tokens * n + (panels ? j / 64 * 64 * n + c * 64 + j % 64 : j * n + c);
            memcpy(to + (size_t)(at / unit) * element, s->stored[is_value] + (size_t)((r * n + c) / unit) * element,
                   element);
        }
    }
    *x = (qkv_input){to, KV * tokens * n, tokens * n, n};
    *scales = (qkv_input){scale, KV * tokens, tokens, 1};
}

/* Pages in random order; a writable table. */
static int32_t *lay_out_pages(qt_rng *rng, const sequence *s, int64_t tokens, bool panels, qkv_attention_desc *d) {
    const int64_t n = (TOKENS + tokens - 1) / tokens, pool = n + 2;
    int32_t *table = qt_alloc((size_t)pool * 4, 4, QT_TAIL);
    for (int32_t i = 0; i < pool; i++) {
        const int64_t at = qt_range(rng, 0, i);
        table[i] = table[at];
        table[at] = i;
    }
    put_in_pages(s, 0, panels, tokens, pool, table, &d->k, &d->k_scales);
    put_in_pages(s, 1, false, tokens, pool, table, &d->v, &d->v_scales);
    d->k_layout = panels ? QKV_KEY_PANELS : QKV_KEY_ROWS;
    d->page_table = table;
    d->table_stride = n;
    d->page_tokens = tokens;
    d->num_pages = pool;
    return table;
}

/* Keys in panels and no pages: one page that is the tensor. */
static qkv_attention_desc lay_out_panels(qt_rng *rng, const sequence *s) {
    qkv_attention_desc d = s->rows;
    const int32_t page = *lay_out_pages(rng, s, 640, true, &d);
    d.page_table = NULL;
    d.table_stride = d.page_tokens = d.num_pages = 0;
    d.k.data = (const unsigned char *)d.k.data + qkv_stored_bytes(s->type, page * d.k.batch);
    d.v.data = (const unsigned char *)d.v.data + qkv_stored_bytes(s->type, page * d.v.batch);
    d.k_scales.data = (const float *)d.k_scales.data + page * d.k_scales.batch;
    d.v_scales.data = (const float *)d.v_scales.data + page * d.v_scales.batch;
    return d;
}

static void test_a_decode_step_is_its_row_of_the_prefill(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        if (!s)
            continue;
        expect_decoding(set, s, &s->rows);
        if (s->type == QKV_Q8_0)
            continue;
        const qkv_attention_desc panels = lay_out_panels(&rng, s);
        expect_decoding(set, s, &panels);
    }
}

static void test_chunks_are_rows_of_the_prefill(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        if (!s)
            continue;
        if (!is_slow(set))
            expect_tokens(set, s, &s->rows, 0, TOKENS, one_thread);
        for (int n = 0; n < 4; n++)
            expect_chunks(set, &rng, s, &s->rows, one_thread);
        if (s->type == QKV_Q8_0)
            continue;
        const qkv_attention_desc panels = lay_out_panels(&rng, s);
        expect_chunks(set, &rng, s, &panels, one_thread);
    }
}

static void test_pages_of_any_size_and_order(const qt_set *set) {
    static const struct {
        int64_t tokens;
        bool panels;
    } layouts[] = {{16, false}, {48, false}, {64, false}, {256, false}, {64, true}, {256, true}};
    for (uint64_t c = 0; c < NUM_SEQUENCES * 6; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        const int64_t tokens = layouts[c / NUM_SEQUENCES].tokens;
        const bool panels = layouts[c / NUM_SEQUENCES].panels;
        if (!s || (panels && s->type == QKV_Q8_0))
            continue;
        qkv_attention_desc d = s->rows;
        lay_out_pages(&rng, s, tokens, panels, &d);
        expect_decoding(set, s, &d);
        expect_chunks(set, &rng, s, &d, one_thread);
    }
}

/* -------------------------------------------------------------------------------------------- several sequences */

/* The sequence in three of four places, each with tokens of its own that come next, and NaN in another. */
typedef struct engine {
    int64_t done[SLOTS], more[SLOTS], keys[SLOTS], q_start[SLOTS + 1];
} engine;

static bool is_other(int64_t slot) {
    return slot == 1;
}

/* Place 0 takes token i; the others a chunk, a token or none, and begin anew at the end. */
static void draw_step(qt_rng *rng, const sequence *s, engine *e, int64_t i) {
    e->done[0] = i;
    e->more[0] = 1;
    for (int64_t b = 1; b < SLOTS; b++) {
        e->done[b] = e->done[b] + e->more[b] == TOKENS ? 0 : e->done[b] + e->more[b];
        e->more[b] = qt_chance(rng, 10) ? 0 : qt_chance(rng, 75) ? 1 : draw_chunk(rng, e->done[b], 20);
    }
    for (int64_t b = 0; b < SLOTS; b++) {
        e->keys[b] = e->done[b] + e->more[b];
        e->q_start[b + 1] = e->q_start[b] + e->more[b];
        put_queries(s, e->q_start[b], e->done[b], e->more[b]);
    }
    qt_describe("%s: token %d beside %d + %d, %d + %d and %d + %d others", s->name, (int)i, (int)e->done[1],
                (int)e->more[1], (int)e->done[2], (int)e->more[2], (int)e->done[3], (int)e->more[3]);
}

/* The keys are in place. */
static void expect_step(const qt_set *set, const sequence *s, const engine *e, qkv_attention_desc *d) {
    d->batch = SLOTS;
    d->q_start = e->q_start;
    d->seq_q = e->q_start[SLOTS];
    d->q.data = call.q;
    d->flags |= QKV_FROM_END;
    run(set, d, d->seq_q, (qt_pool){1, 0});
    for (int64_t b = 0; b < SLOTS; b++)
        if (!is_other(b))
            expect_rows(s, d, e->q_start[b], e->done[b], e->more[b]);
}

/* n tokens of K or V into a tensor of tokens, or as many of NaN. */
static void put_tokens(const sequence *s, bool other, unsigned char *to[2], float *scales[2], int64_t at, int64_t n) {
    for (int x = 0; x < 2; x++) {
        const int64_t token = qkv_stored_bytes(s->type, KV * channels(s, x));
        memcpy(to[x] + at * token, other ? (const void *)nothing : s->stored[x], (size_t)(n * token));
        memcpy(scales[x] + at * KV, other ? nothing : s->scales[x], (size_t)(n * KV) * 4);
    }
}

/* Memory for the tokens of all places. */
static qkv_attention_desc lay_out_tokens(const sequence *s, unsigned char *to[2], float *scales[2]) {
    qkv_attention_desc d = s->rows;
    for (int x = 0; x < 2; x++) {
        to[x] = qt_alloc((size_t)qkv_stored_bytes(s->type, SLOTS * TOKENS * KV * channels(s, x)), 4, QT_TAIL);
        scales[x] = qt_floats(SLOTS * TOKENS * KV, QT_TAIL);
    }
    d.k.data = to[0];
    d.v.data = to[1];
    d.k_scales.data = scales[0];
    d.v_scales.data = scales[1];
    return d;
}

static void test_packed_beside_others(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        if (!s)
            continue;
        unsigned char *to[2];
        float *scales[2];
        const qkv_attention_desc tokens = lay_out_tokens(s, to, scales);
        engine e = {{0, 77, 0, 300}, {0}, {0}, {0}};
        for (int64_t i = 0; i < TOKENS; i++) {
            if (!is_tried(set, i))
                continue;
            qkv_attention_desc d = tokens;
            int64_t k_start[SLOTS + 1] = {qt_range(&rng, 0, 3)};
            draw_step(&rng, s, &e, i);
            for (int64_t b = 0; b < SLOTS; b++) {
                k_start[b + 1] = k_start[b] + e.keys[b];
                put_tokens(s, is_other(b), to, scales, k_start[b], e.keys[b]);
            }
            d.k_start = k_start;
            d.seq_k = k_start[SLOTS];
            expect_step(set, s, &e, &d);
        }
    }
}

/* As many queries of each, with those that are missing before the first token; keys in as much room each. */
static void test_padded_beside_others(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        if (!s)
            continue;
        unsigned char *to[2];
        float *scales[2];
        qkv_attention_desc d = lay_out_tokens(s, to, scales);
        int64_t keys[SLOTS];
        for (int64_t b = 0; b < SLOTS; b++)
            put_tokens(s, is_other(b), to, scales, b * TOKENS, TOKENS);
        d.batch = SLOTS;
        d.q.data = call.q;
        d.kv_len = keys;
        d.flags |= QKV_FROM_END;
        for (int64_t i = 0; i < TOKENS; i++) {
            if (!is_tried(set, i))
                continue;
            const int64_t n = qt_chance(&rng, 90) ? 1 : qt_range(&rng, 1, 40);
            d.seq_q = n;
            d.q.batch = n * HEADS * s->dim;
            for (int64_t b = 0; b < SLOTS; b++) {
                keys[b] = b == 0 ? i + 1 : qt_range(&rng, 0, TOKENS);
                const int64_t pad = keys[b] < n ? n - keys[b] : 0;
                memset(call.q + b * d.q.batch, 0xff, (size_t)d.q.batch * 4);
                put_queries(s, b * n + pad, keys[b] - n + pad, n - pad);
            }
            qt_describe("%s: %d queries up to token %d, beside %d, %d and %d", s->name, (int)n, (int)i, (int)keys[1],
                        (int)keys[2], (int)keys[3]);
            run(set, &d, SLOTS * n, (qt_pool){1, 0});
            for (int64_t b = 0; b < SLOTS; b++) {
                const int64_t pad = keys[b] < n ? n - keys[b] : 0;
                if (!is_other(b))
                    expect_rows(s, &d, b * n + pad, keys[b] - n + pad, n - pad);
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- a cache */

typedef struct cache {
    const qt_set *set;
    const sequence *s;
    unsigned char *block;
    size_t bytes;
} cache;

/* Of SLOTS sequences, with or without a window. False where this case has none. */
static bool draw_cache(uint64_t index, qt_rng *rng, const qt_set *set, bool has_window, cache *x) {
    *x = (cache){.set = set, .s = draw_sequence(index, rng)};
    if (!x->s || x->s->type == QKV_Q8_0)
        return false;
    const qkv_cache_desc d = {.size = sizeof d,
                              .num_sequences = SLOTS,
                              .max_tokens = TOKENS + ROOM,
                              .num_kv_heads = KV,
                              .head_dim = x->s->dim,
                              .head_dim_v = x->s->dv,
                              .k_type = x->s->type,
                              .v_type = x->s->type,
                              .window = has_window ? x->s->window : 0,
                              .first_tokens = has_window ? x->s->first_tokens : 0};
    assert_int_equal(qkv_cache_size(&d, &x->bytes), QKV_OK);
    x->block = qt_alloc(x->bytes, 64, QT_TAIL);
    assert_int_equal(qkv_cache_init(&d, x->block, x->bytes), QKV_OK);
    return true;
}

/* The sequence's tokens of those places. */
static void append(const cache *x, int64_t slot, int64_t first, int64_t n) {
    const qkv_input k = {x->s->k + first * KV * x->s->dim, 0, x->s->dim, KV * x->s->dim};
    const qkv_input v = {x->s->v + first * KV * x->s->dv, 0, x->s->dv, KV * x->s->dv};
    assert_int_equal(qkv_cache_append(&x->set->ctx, x->block, slot, n, k, v), QKV_OK);
}

static void append_others(const cache *x, int64_t slot, int64_t n) {
    const qkv_input k = {nothing, 0, x->s->dim, KV * x->s->dim}, v = {nothing, 0, x->s->dv, KV * x->s->dv};
    assert_int_equal(qkv_cache_append(&x->set->ctx, x->block, slot, n, k, v), QKV_OK);
}

static qkv_attention_desc attach(const cache *x, int64_t slot, int64_t batch) {
    qkv_attention_desc d = {
        .size = sizeof d, .batch = batch, .num_heads = HEADS, .flags = QKV_RIGHT | QKV_FROM_END, .q = x->s->rows.q};
    assert_int_equal(qkv_cache_attach(x->block, slot, &d), QKV_OK);
    return d;
}

/* The n tokens that a sequence got last. */
static void expect_cached(const cache *x, int64_t slot, int64_t first, int64_t n) {
    const qkv_attention_desc d = attach(x, slot, 1);
    expect_tokens(x->set, x->s, &d, first, n, one_thread);
}

/* NaN into pages that no sequence has, so that one that was returned too early shows. */
static void fill_free_pages(const cache *x) {
    int64_t num_pages;
    assert_int_equal(qkv_cache_free_pages(x->block, &num_pages), QKV_OK);
    append_others(x, 0, (num_pages < 10 ? num_pages : 10) * QKV_CACHE_PAGE);
    assert_int_equal(qkv_cache_truncate(x->block, 0, 0), QKV_OK);
}

/* By single tokens and by chunks, in turns with each other. */
static void expect_growth(const cache *x, qt_rng *rng, int64_t most) {
    for (int64_t i = 0, first = 0, n; i < TOKENS; i++) {
        append(x, 2, i, 1);
        if (is_tried(x->set, i)) {
            fill_free_pages(x);
            expect_cached(x, 2, i, 1);
        }
        for (; first <= i; first += n) {
            n = draw_chunk(rng, first, most);
            append(x, 1, first, n);
            if (!is_slow(x->set) || (n < 100 && qt_chance(rng, 15)))
                expect_cached(x, 1, first, n);
        }
    }
}

/* In int8, the same integers and scales as plain tensors hold (get_sequence). */
static void test_a_cache_gives_what_plain_tensors_give(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        if (draw_cache(c, &rng, set, false, &x))
            expect_growth(&x, &rng, 200);
    }
}

static void test_a_cache_serves_others_too(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        if (!draw_cache(c, &rng, set, false, &x))
            continue;
        engine e = {{0, 0, 0, 0}, {0}, {0}, {0}};
        for (int64_t i = 0; i < TOKENS; i++) {
            if (!is_tried(set, i))
                continue;
            draw_step(&rng, x.s, &e, i);
            for (int64_t b = 0; b < SLOTS; b++) {
                int64_t length;
                if (b > 0 && e.done[b] == 0)
                    assert_int_equal(qkv_cache_truncate(x.block, b, 0), QKV_OK);
                assert_int_equal(qkv_cache_length(x.block, b, &length), QKV_OK);
                if (is_other(b))
                    append_others(&x, b, e.keys[b] - length);
                else
                    append(&x, b, length, e.keys[b] - length);
            }
            qkv_attention_desc d = attach(&x, 0, SLOTS);
            expect_step(set, x.s, &e, &d);
        }
    }
}

/* Before each token a fork; then fork or original gets other tokens, and the one that did not goes on. */
static void test_a_fork_and_its_original_go_on_apart(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        if (!draw_cache(c, &rng, set, false, &x))
            continue;
        for (int64_t i = 0, from = 0; i < TOKENS; i++) {
            const int64_t to = (from + 1) % 2, goes_on = qt_range(&rng, 0, 1), others = qt_range(&rng, 1, ROOM);
            const bool last = qt_chance(&rng, 50);
            assert_int_equal(qkv_cache_fork(x.block, from, to), QKV_OK);
            if (last)
                append(&x, goes_on, i, 1);
            append_others(&x, 1 - goes_on, others);
            if (!last)
                append(&x, goes_on, i, 1);
            if (is_tried(set, i))
                expect_cached(&x, goes_on, i, 1);
            from = goes_on;
        }
    }
}

static void test_tokens_taken_back_leave_no_trace(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        if (!draw_cache(c, &rng, set, false, &x))
            continue;
        for (int64_t i = 0; i < TOKENS; i++) {
            append_others(&x, 3, qt_range(&rng, 1, ROOM));
            assert_int_equal(qkv_cache_truncate(x.block, 3, i), QKV_OK);
            append(&x, 3, i, 1);
            if (is_tried(set, i))
                expect_cached(&x, 3, i, 1);
        }
    }
}

static void test_a_copied_block_goes_on(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        if (!draw_cache(c, &rng, set, false, &x))
            continue;
        unsigned char *other = qt_alloc(x.bytes, 64, QT_TAIL);
        for (int64_t i = 0; i < TOKENS; i++) {
            if (is_tried(set, i)) {
                unsigned char *old = x.block;
                memcpy(other, old, x.bytes);
                memset(old, 0xff, x.bytes);
                x.block = other;
                other = old;
            }
            append(&x, 0, i, 1);
            if (is_tried(set, i))
                expect_cached(&x, 0, i, 1);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- windows */

static void test_a_window_over_tensors(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        if (!s)
            continue;
        expect_decoding(set, s, &s->windowed);
        expect_chunks(set, &rng, s, &s->windowed, one_thread);
    }
}

/* Pages that the window has left are none, or hold NaN where the first tokens keep the table in use. */
static void test_a_window_over_pages(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        const sequence *s = draw_sequence(c, &rng);
        if (!s)
            continue;
        const int64_t tokens = 16 * qt_range(&rng, 1, 4);
        qkv_attention_desc d = s->windowed;
        int32_t *table = lay_out_pages(&rng, s, tokens, false, &d);
        const int32_t none = s->first_tokens ? table[d.table_stride] : -1;
        expect_chunks(set, &rng, s, &d, one_thread);
        for (int64_t i = 0; i < TOKENS; i++) {
            for (int64_t p = 0; (p + 1) * tokens <= i + 1 - s->window; p++)
                table[p] = p * tokens < s->first_tokens ? table[p] : none;
            if (is_tried(set, i))
                expect_tokens(set, s, &d, i, 1, one_thread);
        }
    }
}

/* With as many pages as it needs, so that they go round. */
static void test_a_window_over_a_cache(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        if (draw_cache(c, &rng, set, true, &x))
            expect_growth(&x, &rng, QKV_CACHE_PAGE);
    }
}

/* ------------------------------------------------------------------------------------------------------- threads */

static void test_any_number_of_threads(const qt_set *set) {
    for (uint64_t c = 0; c < NUM_SEQUENCES; c++) {
        qt_rng rng;
        cache x;
        const bool has_cache = draw_cache(c, &rng, set, false, &x);
        const sequence *s = x.s;
        if (!s)
            continue;
        for (int32_t threads = 1; threads <= 8; threads++)
            expect_chunks(set, &rng, s, &s->rows, (qt_pool){threads, qt_u64(&rng)});
        for (int64_t i = 0; i < TOKENS; i++) {
            const qt_pool pool = {(int32_t)(1 + i % 8), i % 3 ? qt_u64(&rng) : 0};
            if (has_cache)
                append(&x, 0, i, 1);
            if (!is_tried(set, i))
                continue;
            const qkv_attention_desc d = has_cache ? attach(&x, 0, 1) : s->rows;
            expect_tokens(set, s, i % 2 ? &d : &s->rows, i, 1, pool);
        }
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("a_decode_step_is_its_row_of_the_prefill", test_a_decode_step_is_its_row_of_the_prefill);
    qt_each_set("chunks_are_rows_of_the_prefill", test_chunks_are_rows_of_the_prefill);
    qt_each_set("pages_of_any_size_and_order", test_pages_of_any_size_and_order);
    qt_each_set("packed_beside_others", test_packed_beside_others);
    qt_each_set("padded_beside_others", test_padded_beside_others);
    qt_each_set("a_cache_gives_what_plain_tensors_give", test_a_cache_gives_what_plain_tensors_give);
    qt_each_set("a_cache_serves_others_too", test_a_cache_serves_others_too);
    qt_each_set("a_fork_and_its_original_go_on_apart", test_a_fork_and_its_original_go_on_apart);
    qt_each_set("tokens_taken_back_leave_no_trace", test_tokens_taken_back_leave_no_trace);
    qt_each_set("a_copied_block_goes_on", test_a_copied_block_goes_on);
    qt_each_set("a_window_over_tensors", test_a_window_over_tensors);
    qt_each_set("a_window_over_pages", test_a_window_over_pages);
    qt_each_set("a_window_over_a_cache", test_a_window_over_a_cache);
    qt_each_set("any_number_of_threads", test_any_number_of_threads);
    return qt_run();
}
