/* What the gradients of attention promise at the edges: empty rows, keys nobody sees, NaN, zero sizes, accumulation,
 * the same bits for any threads, batch, order of tasks and choice of gradients, and memory that grows with the length.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

static int64_t q_size(const gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    return d->batch * d->num_heads * d->seq_q * d->head_dim;
}

static int64_t k_size(const gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    return d->batch * c->attention.kv_heads * d->seq_k * d->head_dim;
}

static int64_t v_size(const gradient_case *c) {
    return c->attention.kv_heads * c->desc.forward.batch * c->desc.forward.seq_k * c->attention.dv;
}

static void expect_zeros(const char *what, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        QT_EXPECT(qt_bits(x[i]) == 0, "%s at %" PRId64 ": want +0, got %a", what, i, (double)x[i]);
    qt_count_words((uint64_t)n);
}

static void expect_nans(const char *what, const float *x, int64_t n, bool nan) {
    for (int64_t i = 0; i < n; i++)
        QT_EXPECT(isnan(x[i]) == nan, "%s at %" PRId64 ": got %a, want %s NaN", what, i, (double)x[i],
                  nan ? "a" : "no");
    qt_count_words((uint64_t)n);
}

/* All gradients wanted, contiguous, of plain attention; changed by the test before it runs the forward. */
static void plain(qt_rng *rng, gradient_case *c, int64_t heads, int64_t kv_heads, int64_t seq_q, int64_t seq_k,
                  int64_t dim) {
    attention_case forward;
    case_plain(rng, &forward, 1, heads, kv_heads, seq_q, seq_k, dim, dim);
    gradient_plain(rng, &forward, c);
    c->desc.grad_sinks = case_floats(rng, heads);
}

/* Cases come twice: so many in f32, then again in bfloat16. Returns the number that both have. */
static uint64_t draw_both(uint64_t i, uint64_t cases, gradient_case *c) {
    c->desc.forward.arithmetic = i < cases ? QKV_ARITHMETIC_F32 : QKV_ARITHMETIC_BF16;
    return i % cases;
}

static int64_t *one_length(int64_t n) {
    int64_t *x = qt_alloc(sizeof *x, sizeof *x, QT_TAIL);
    *x = n;
    return x;
}

static void fill_row(const qkv_input *x, int64_t h, int64_t t, int64_t n, float with) {
    for (int64_t i = 0; i < n; i++)
        case_row(x, 0, h, t)[i] = with;
}

/* The reference is slow; the cases that others repeat for their own kernels are its cases too. */
static uint64_t count(const qt_set *set, uint64_t all) {
    return case_count(strcmp(set->name, "ref") == 0 ? all / 4 : qt_quick() ? all / 2 : all);
}

/* ------------------------------------------------------------------------------------------------------- edges */

/* Rows before the first key of a window, and one in between that a mask empties: nothing of theirs is read, also with a
 * sink. */
static void test_empty_rows_have_zero_gradients(const qt_set *set) {
    for (uint64_t x = 0; x < 16; x++) {
        qt_rng rng;
        if (!qt_case(x, &rng))
            continue;
        gradient_case c;
        plain(&rng, &c, 2, 1, 100, 300, 20);
        const uint64_t i = draw_both(x, 8, &c);
        qkv_attention_desc *d = &c.desc.forward;
        float *sinks = qt_floats(2, QT_TAIL);
        sinks[0] = 0.5f;
        sinks[1] = -2;
        d->flags = QKV_RIGHT | QKV_LEFT;
        d->left = 10;
        d->q_offset = -40; /* rows 0 … 39 are before key 0 */
        d->sinks = i % 2 ? sinks : NULL;
        uint8_t *keep = qt_alloc(100, 1, QT_TAIL);
        for (int64_t t = 0; t < 100; t++)
            keep[t] = t != 70;
        d->keep = (qkv_matrix_input){keep, 0, 0, 1, 0};
        for (int64_t h = 0; h < 2; h++)
            for (int64_t t = 0; t <= 70; t += t == 39 ? 31 : 1) {
                if (i < 6)
                    fill_row(&c.desc.grad_out, h, t, 20, i % 4 < 2 ? NAN : INFINITY);
                if (i >= 2)
                    fill_row(&d->q, h, t, 20, NAN);
            }
        gradient_run_forward(&c);
        const gradient_results r = gradient_run(&set->ctx, &c, i < 4 ? 0 : 3, 0);
        for (int64_t h = 0; h < 2; h++) {
            expect_zeros("dq of an empty row", r.q + h * 2000, 40 * 20);
            expect_nans("dq", r.q + h * 2000 + 800, 60 * 20, false);
            expect_zeros("dq of a masked row", r.q + h * 2000 + 1400, 20);
        }
        expect_nans("dk", r.k, 300 * 20, false);
        expect_nans("dv", r.v, 300 * 20, false);
        expect_zeros("dk of a key that nobody sees", r.k + 60 * 20, 240 * 20);
        expect_zeros("dv of a key that nobody sees", r.v + 60 * 20, 240 * 20);
        expect_nans("dsink", r.sinks, 2, false);
        if (!d->sinks)
            expect_zeros("dsink without a sink", r.sinks, 2);
    }
}

static void test_all_rows_empty(const qt_set *set) {
    for (uint64_t i = 0; i < 2; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        plain(&rng, &c, 2, 2, 70, 90, 33);
        draw_both(i, 1, &c);
        c.desc.forward.kv_len = one_length(0);
        c.desc.grad_bias = (qkv_matrix_output){case_floats(&rng, 90), 0, 0, 0, 1};
        gradient_run_forward(&c);
        const gradient_results r = gradient_run(&set->ctx, &c, 2, 0);
        expect_zeros("dq", r.q, q_size(&c));
        expect_zeros("dk", r.k, k_size(&c));
        expect_zeros("dv", r.v, v_size(&c));
        expect_zeros("dbias", r.bias, 90);
    }
}

/* A poisoned key or value behind each kind of mask changes no bit, and has gradients of exactly 0. */
static void test_a_nan_of_an_invisible_key_never_leaks(const qt_set *set) {
    for (uint64_t x = 0; x < 20; x++) {
        qt_rng rng;
        if (!qt_case(x, &rng))
            continue;
        gradient_case c;
        const int64_t n = 300, key = 270;
        plain(&rng, &c, 2, 2, n, n, 24);
        const uint64_t i = draw_both(x, 10, &c);
        qkv_attention_desc *d = &c.desc.forward;
        uint8_t *keep = qt_alloc(300, 1, QT_TAIL);
        float *bias = qt_floats(300, QT_TAIL);
        for (int64_t j = 0; j < n; j++) {
            keep[j] = j < key;
            bias[j] = j < key ? 0 : -INFINITY;
        }
        switch (i % 5) {
        case 0: d->kv_len = one_length(key); break;
        case 1: d->keep = (qkv_matrix_input){keep, 0, 0, 0, 1}; break;
        case 2: d->bias = (qkv_matrix_input){bias, 0, 0, 0, 1}; break;
        case 3: d->flags = QKV_RIGHT, d->q_offset = -30; break;
        default: d->flags = QKV_RIGHT, d->right = -30; break;
        }
        const bool in_k = i >= 5; /* else in v */
        gradient_case clean = c;
        gradient_run_forward(&clean); /* makes the inputs read-only */
        const gradient_results want = gradient_run(&set->ctx, &clean, 0, 0);
        qt_read_write(d->k.data);
        qt_read_write(d->v.data);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t j = key; j < n; j++)
                fill_row(in_k ? &d->k : &d->v, h, j, 24, j % 3 == 0 ? NAN : j % 3 == 1 ? INFINITY : -FLT_MAX);
        const gradient_results got = gradient_run(&set->ctx, &c, i % 2 ? 2 : 0, 0);
        gradient_expect_same("poisoned keys", &c, &want, &got);
        for (int64_t h = 0; h < 2; h++) {
            expect_zeros("dk of an invisible key", got.k + (h * n + key) * 24, (n - key) * 24);
            expect_zeros("dv of an invisible key", got.v + (h * n + key) * 24, (n - key) * 24);
        }
    }
}

/* Causal: the query's NaN belongs to the keys up to it, and to none behind. */
static void test_a_nan_reaches_what_sees_it_and_nothing_else(const qt_set *set) {
    for (uint64_t n_case = 0; n_case < 6; n_case++) {
        qt_rng rng;
        if (!qt_case(n_case, &rng))
            continue;
        gradient_case c;
        const int64_t n = 400, dim = 17, row = 290;
        plain(&rng, &c, 1, 1, n, n, dim);
        const uint64_t i = draw_both(n_case, 3, &c);
        qkv_attention_desc *d = &c.desc.forward;
        d->flags = QKV_RIGHT;
        case_row(i == 0 ? &c.desc.grad_out : i == 1 ? &d->q : &d->v, 0, 0, row)[3] = NAN;
        gradient_run_forward(&c);
        const gradient_results r = gradient_run(&set->ctx, &c, 2, 0);
        if (i < 2) { /* dO or q of one row: its own dq, and dk of all that it sees */
            expect_nans("dq before", r.q, row * dim, false);
            expect_nans("dq", r.q + row * dim, dim, true);
            expect_nans("dq behind", r.q + (row + 1) * dim, (n - row - 1) * dim, false);
            expect_nans("dk", r.k, (row + 1) * dim, true);
            for (int64_t j = 0; j <= row; j++) /* a NaN in one channel of dO; in q it makes all probabilities NaN */
                for (int64_t x = 0; x < dim; x++)
                    QT_EXPECT(isnan(r.v[j * dim + x]) == (i == 1 || x == 3), "dv at %" PRId64 ", %" PRId64, j, x);
            expect_nans("dk behind", r.k + (row + 1) * dim, (n - row - 1) * dim, false);
            expect_nans("dv behind", r.v + (row + 1) * dim, (n - row - 1) * dim, false);
        } else { /* v of one key: all rows that see it */
            expect_nans("dq before", r.q, row * dim, false);
            expect_nans("dq", r.q + row * dim, (n - row) * dim, true);
            expect_nans("dk", r.k, n * dim, true);
            expect_nans("dv", r.v, n * dim, false);
        }
    }
}

/* Finite, but infinite as an operand in bfloat16: in k and v of a key that some rows don't see, in q and dO of a row
 * that doesn't see some keys. All of these have what they have with anything else there. */
static void test_what_rounds_to_infinity_stays_where_it_is_seen(const qt_set *set) {
    for (uint64_t i = 0; i < 8; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        const int64_t n = 300, dim = 20, at = i < 4 ? 270 : 33;
        plain(&rng, &c, 1, 1, n, n, dim);
        qkv_attention_desc *d = &c.desc.forward;
        d->arithmetic = QKV_ARITHMETIC_BF16;
        d->flags = QKV_RIGHT;
        gradient_case usual = c;
        gradient_run_forward(&usual);
        const gradient_results want = gradient_run(&set->ctx, &usual, 0, 0);
        qkv_input *const inputs[] = {&d->k, &d->v, &d->q, &c.desc.grad_out};
        qt_read_write(inputs[i % 4]->data);
        case_row(inputs[i % 4], 0, 0, at)[7] = i < 4 ? 0x1.ffp127f : -FLT_MAX;
        gradient_case changed = c;
        qt_read_write(d->out.data);
        qt_read_write(d->lse.data);
        gradient_run_forward(&changed);
        const gradient_results got = gradient_run(&set->ctx, &changed, (int32_t)(i % 3), 0);
        qt_expect_words("dq of rows before", want.q, got.q, (size_t)(at * dim), 0);
        if (i % 4 < 2) { /* a key: rows before it don't see it */
            expect_nans("dq of rows before", got.q, at * dim, false);
            continue;
        }
        qt_expect_words("dq of rows behind", want.q + (at + 1) * dim, got.q + (at + 1) * dim,
                        (size_t)((n - at - 1) * dim), 0);
        qt_expect_words("dk of keys behind", want.k + (at + 1) * dim, got.k + (at + 1) * dim,
                        (size_t)((n - at - 1) * dim), 0);
        qt_expect_words("dv of keys behind", want.v + (at + 1) * dim, got.v + (at + 1) * dim,
                        (size_t)((n - at - 1) * dim), 0);
    }
}

static void test_zero_sizes_are_legal(const qt_set *set) {
    static const int64_t sizes[][7] = {/* batch, heads, kv heads, seq_q, seq_k, head_dim, head_dim_v */
                                       {0, 2, 2, 5, 5, 4, 4},  {1, 0, 0, 5, 5, 4, 4}, {1, 2, 2, 0, 5, 4, 4},
                                       {1, 2, 2, 5, 0, 4, 4},  {1, 2, 1, 5, 5, 0, 4}, {1, 2, 2, 0, 0, 4, 4},
                                       {2, 0, 3, 9, 300, 4, 4}};
    for (uint64_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t *s = sizes[i % (sizeof sizes / sizeof *sizes)];
        attention_case forward;
        case_plain(&rng, &forward, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        gradient_case c;
        gradient_plain(&rng, &forward, &c);
        draw_both(i, sizeof sizes / sizeof *sizes, &c);
        c.desc.grad_sinks = case_floats(&rng, s[1]);
        gradient_run_forward(&c);
        const gradient_results r = gradient_run(&set->ctx, &c, (int32_t)(i % 3), 0);
        if (s[3] == 0 || s[1] == 0) {
            expect_zeros("dk without queries", r.k, k_size(&c));
            expect_zeros("dv without queries", r.v, v_size(&c));
        }
        if (s[4] == 0)
            expect_zeros("dq without keys", r.q, q_size(&c));
        expect_zeros("dsink", r.sinks, s[1]);
    }
}

/* test_attention_backward checks sums that start elsewhere. */
static void test_accumulating_into_zeros_is_overwriting(const qt_set *set) {
    for (uint64_t i = 0; i < count(set, 30); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, 100000, &c);
        gradient_want_all(&rng, &c);
        c.desc.flags = 0;
        gradient_run_forward(&c);
        const gradient_results want = gradient_run(&set->ctx, &c, 0, 0);
        float *const each[3] = {c.desc.grad_q.data, c.desc.grad_k.data, c.desc.grad_v.data};
        const int64_t size[3] = {q_size(&c), k_size(&c), v_size(&c)};
        gradient_case again = c;
        again.desc.flags = QKV_ACCUMULATE;
        again.desc.grad_bias.data = NULL;
        again.desc.grad_sinks = NULL;
        for (int x = 0; x < 3; x++)
            if (size[x] > 0)
                memset(each[x], 0, (size_t)size[x] * sizeof(float));
        case_run_attention_backward(&set->ctx, &again.desc, (int32_t)qt_range(&rng, 0, 4), 0);
        qt_expect_words("dq into zeros", want.q, each[0], (size_t)size[0], 0);
        qt_expect_words("dk into zeros", want.k, each[1], (size_t)size[1], 0);
        qt_expect_words("dv into zeros", want.v, each[2], (size_t)size[2], 0);
    }
}

/* -------------------------------------------------------------------------------------------------- the same bits */

/* Few heads and many keys: where the work is a wavefront. Windows, sinks, groups and all other features at random. */
static void draw_long(qt_rng *rng, gradient_case *c) {
    const int64_t kv = qt_range(rng, 1, 2), heads = kv * qt_range(rng, 1, 2), dim = qt_range(rng, 1, 5);
    const int64_t seq_k = qt_range(rng, 257, 1400), seq_q = qt_chance(rng, 50) ? seq_k : qt_range(rng, 1, 700);
    attention_case forward;
    case_plain(rng, &forward, qt_chance(rng, 20) ? 2 : 1, heads, kv, seq_q, seq_k, dim, qt_range(rng, 1, 5));
    qkv_attention_desc *d = &forward.desc;
    d->flags = (qt_chance(rng, 60) ? QKV_RIGHT : 0) | (qt_chance(rng, 30) ? QKV_LEFT : 0);
    d->left = qt_range(rng, -3, 700);
    d->right = qt_chance(rng, 70) ? 0 : qt_range(rng, -300, 300);
    d->q_offset = qt_chance(rng, 50) ? 0 : qt_chance(rng, 50) ? seq_k - seq_q : qt_range(rng, -500, 500);
    gradient_draw_arithmetic(rng, d);
    gradient_plain(rng, &forward, c);
    c->old = qt_u64(rng);
    c->desc.flags = qt_chance(rng, 30) ? QKV_ACCUMULATE : 0;
    c->desc.grad_sinks = qt_chance(rng, 30) ? case_floats(rng, heads) : NULL;
    if (qt_chance(rng, 30)) /* summed over queries: directly where there is one batch and head, else in a phase */
        c->desc.grad_bias = (qkv_matrix_output){case_floats(rng, heads * seq_k), 0, seq_k, 0, 1};
    if (qt_chance(rng, 20)) {
        int64_t *offsets = qt_alloc(2 * sizeof *offsets, sizeof *offsets, QT_TAIL);
        offsets[0] = d->q_offset;
        offsets[1] = qt_range(rng, -100, 100);
        c->desc.forward.q_offsets = offsets;
    }
    qt_describe("B=%" PRId64 " H=%" PRId64 ":%" PRId64 " S=%" PRId64 "x%" PRId64 " flags=%u left=%" PRId64
                " right=%" PRId64 " q_offset=%" PRId64 "%s%s%s",
                d->batch, heads, kv, seq_q, seq_k, d->flags, d->left, d->right, d->q_offset,
                c->desc.forward.q_offsets ? " q_offsets" : "", c->desc.grad_bias.data ? " dbias" : "",
                d->arithmetic == QKV_ARITHMETIC_BF16 ? " bf16" : "");
}

static void test_threads_and_order_of_tasks_change_no_bit(const qt_set *set) {
    uint64_t wavefronts = 0;
    for (uint64_t i = 0; i < count(set, 100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        if (i % 4 == 0)
            gradient_draw(&rng, 150000, &c);
        else
            draw_long(&rng, &c);
        gradient_run_forward(&c);
        const gradient_results one = gradient_run(&set->ctx, &c, 0, 0);
        for (int32_t threads = 1; threads <= 9; threads += (int32_t)qt_range(&rng, 1, 3)) {
            qkv_plan plan;
            assert_int_equal(qkv_attention_backward_plan(&set->ctx, &c.desc, threads, &plan), QKV_OK);
            wavefronts += plan.num_phases > 4; /* statistics, sweeps, dbias, dsink */
            const gradient_results many = gradient_run(&set->ctx, &c, threads, threads % 2 ? qt_u64(&rng) : 0);
            gradient_expect_same("so many threads", &c, &one, &many);
        }
    }
    QT_EXPECT(wavefronts > 5, "only %" PRIu64 " runs were wavefronts", wavefronts);
}

/* The caller's own loop, with worker numbers of its choice. */
static void test_tasks_by_hand_give_the_same_bits(const qt_set *set) {
    for (uint64_t i = 0; i < count(set, 30); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        draw_long(&rng, &c);
        c.desc.flags = 0;
        c.desc.grad_bias.data = NULL;
        c.desc.grad_sinks = NULL;
        gradient_run_forward(&c);
        const gradient_results helper = gradient_run(&set->ctx, &c, 0, 0);
        const int32_t workers = (int32_t)qt_range(&rng, 2, 7);
        qkv_plan plan;
        assert_int_equal(qkv_attention_backward_plan(&set->ctx, &c.desc, workers, &plan), QKV_OK);
        void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
        assert_int_equal(qkv_attention_backward_check(&plan, &c.desc, workspace, plan.workspace_size), QKV_OK);
        gradient_before(&c); /* poison again */
        for (int32_t phase = 0; phase < plan.num_phases; phase++)
            for (int64_t task = qkv_plan_num_tasks(&plan, phase); task-- > 0;)
                qkv_attention_backward_task(&plan, &c.desc, workspace, phase, task,
                                            (int32_t)qt_range(&rng, 0, workers - 1));
        assert_int_equal(qkv_plan_num_tasks(&plan, plan.num_phases), 0);
        assert_int_equal(qkv_plan_num_tasks(&plan, -1), 0);
        assert_int_equal(qkv_plan_num_tasks(NULL, 0), 0);
        qt_expect_words("dq", helper.q, c.desc.grad_q.data, (size_t)q_size(&c), 0);
        qt_expect_words("dk", helper.k, c.desc.grad_k.data, (size_t)k_size(&c), 0);
        qt_expect_words("dv", helper.v, c.desc.grad_v.data, (size_t)v_size(&c), 0);
    }
}

static void test_no_gradient_depends_on_which_others_are_wanted(const qt_set *set) {
    for (uint64_t i = 0; i < count(set, 60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, 150000, &c);
        gradient_want_all(&rng, &c);
        c.desc.flags = 0;
        if (qt_chance(&rng, 50))
            gradient_poison_invisible(&rng, &c);
        gradient_run_forward(&c);
        const gradient_results all = gradient_run(&set->ctx, &c, 0, 0);
        for (int mask = 1; mask < 7; mask++) {
            gradient_case some = c;
            if (!(mask & 1))
                some.desc.grad_q.data = NULL;
            if (!(mask & 2))
                some.desc.grad_k.data = NULL;
            if (!(mask & 4))
                some.desc.grad_v.data = NULL;
            if (qt_chance(&rng, 50))
                some.desc.grad_bias.data = NULL;
            gradient_results got = gradient_run(&set->ctx, &some, (int32_t)qt_range(&rng, 0, 3), 0), want = all;
            want.q = got.q ? all.q : NULL;
            want.k = got.k ? all.k : NULL;
            want.v = got.v ? all.v : NULL;
            want.bias = got.bias ? all.bias : NULL;
            gradient_expect_same("fewer gradients", &c, &want, &got);
        }
    }
}

/* Each batch by itself, and each KV head with its group. */
static void test_a_batch_of_n_equals_n_batches(const qt_set *set) {
    for (uint64_t i = 0; i < count(set, 32); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case forward;
        const int64_t batch = 3, kv = 2, heads = 4, sq = qt_range(&rng, 1, 300), sk = qt_range(&rng, 1, 300), dim = 9;
        case_plain(&rng, &forward, batch, heads, kv, sq, sk, dim, dim);
        forward.desc.flags = qt_chance(&rng, 50) ? QKV_RIGHT : 0;
        gradient_draw_arithmetic(&rng, &forward.desc);
        gradient_case c;
        gradient_plain(&rng, &forward, &c);
        gradient_run_forward(&c);
        const gradient_results whole = gradient_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 4), 0);
        for (int64_t b = 0; b < batch; b++)
            for (int64_t h = 0; h < kv; h++) {
                gradient_case part = c;
                qkv_attention_desc *d = &part.desc.forward;
                d->batch = 1;
                d->num_heads = 2;
                d->num_kv_heads = part.attention.kv_heads = 1;
                d->q.data = case_row(&d->q, b, 2 * h, 0);
                d->k.data = case_row(&d->k, b, h, 0);
                d->v.data = case_row(&d->v, b, h, 0);
                d->out.data = (float *)d->out.data + b * d->out.batch + 2 * h * d->out.head;
                d->lse.data = (float *)d->lse.data + b * d->lse.batch + 2 * h * d->lse.head;
                part.desc.grad_out.data = case_row(&part.desc.grad_out, b, 2 * h, 0);
                gradient_want_all(&rng, &part);
                const gradient_results got = gradient_run(&set->ctx, &part, 0, 0);
                qt_expect_words("dq", whole.q + (b * heads + 2 * h) * sq * dim, got.q, (size_t)(2 * sq * dim), 0);
                qt_expect_words("dk", whole.k + (b * kv + h) * sk * dim, got.k, (size_t)(sk * dim), 0);
                qt_expect_words("dv", whole.v + (b * kv + h) * sk * dim, got.v, (size_t)(sk * dim), 0);
            }
    }
}

/* ------------------------------------------------------------------------------------------------------ memory */

static size_t workspace_of(const qkv_ctx *ctx, int64_t heads, int64_t n, int64_t dim, int64_t arithmetic,
                           int32_t workers) {
    const qkv_attention_backward_desc d = {.size = sizeof d,
                                           .grad_out = {NULL, 0, n * dim, dim},
                                           .grad_q = {(void *)(uintptr_t)64, 0, n * dim, dim},
                                           .forward = {.size = sizeof d.forward,
                                                       .batch = 1,
                                                       .num_heads = heads,
                                                       .seq_q = n,
                                                       .seq_k = n,
                                                       .head_dim = dim,
                                                       .q = {NULL, 0, n * dim, dim},
                                                       .k = {NULL, 0, n * dim, dim},
                                                       .v = {NULL, 0, n * dim, dim},
                                                       .out = {NULL, 0, n * dim, dim},
                                                       .lse = {NULL, 0, n, 1},
                                                       .arithmetic = arithmetic}};
    qkv_plan plan;
    assert_int_equal(qkv_attention_backward_plan(ctx, &d, workers, &plan), QKV_OK);
    return plan.workspace_size;
}

static void expect_growth(const qt_set *set, int64_t heads, int64_t dim, int64_t arithmetic, int32_t workers) {
    const size_t least = workspace_of(&set->ctx, heads, 1024, dim, arithmetic, workers);
    const size_t share = (least - (size_t)(3 * heads * 1024) * sizeof(float)) / (size_t)workers;
    QT_EXPECT(share < (size_t)2 << 20, "a worker's share is %zu bytes", share);
    for (int64_t n = 1024; n <= 32768; n *= 2) {
        const size_t got = workspace_of(&set->ctx, heads, n, dim, arithmetic, workers);
        const size_t want = least + (size_t)(3 * heads * (n - 1024)) * sizeof(float);
        QT_EXPECT(got == want, "heads=%" PRId64 " n=%" PRId64 " dim=%" PRId64 " workers=%d: %zu bytes, want %zu", heads,
                  n, dim, workers, got, want);
        if (workers == 1 && heads == 1 && dim == 64)
            qt_note("%s, n = %" PRId64 ": %zu KiB", arithmetic == QKV_ARITHMETIC_F32 ? "f32" : "bf16", n, got >> 10);
        qt_count_words(1);
    }
}

/* Three floats a row, and a share for each worker that does not grow. */
static void test_memory_grows_with_the_length_not_its_square(const qt_set *set) {
    static const int32_t workers[] = {1, 2, 8};
    for (int w = 0; w < 3; w++)
        for (int64_t heads = 1; heads <= 16; heads *= 4)
            for (int64_t dim = 64; dim <= 128; dim += 64) {
                expect_growth(set, heads, dim, QKV_ARITHMETIC_F32, workers[w]);
                expect_growth(set, heads, dim, QKV_ARITHMETIC_BF16, workers[w]);
            }
}

/* Three rows of 256 keys in scores for each query, and a little besides. */
static void test_small_gradients_take_little_memory(const qt_set *set) {
    static const struct {
        int64_t n, dim;
        size_t most; /* KiB */
    } cases[] = {{1, 4, 10}, {4, 4, 24}, {16, 16, 68}, {64, 64, 352}};
    for (int i = 0; i < 4; i++) {
        const size_t got = workspace_of(&set->ctx, 1, cases[i].n, cases[i].dim, QKV_ARITHMETIC_F32, 1) >> 10;
        QT_EXPECT(got <= cases[i].most, "%" PRId64 " tokens of %" PRId64 ": %zu KiB, at most %zu expected", cases[i].n,
                  cases[i].dim, got, cases[i].most);
        qt_count_words(1);
    }
}

static void test_exactly_the_stated_size_is_enough(const qt_set *set) {
    for (uint64_t i = 0; i < count(set, 60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, 100000, &c);
        gradient_run_forward(&c);
        const int32_t workers = (int32_t)qt_range(&rng, 1, 8);
        qkv_plan plan;
        assert_int_equal(qkv_attention_backward_plan(&set->ctx, &c.desc, workers, &plan), QKV_OK);
        for (int head = 0; head < 2; head++) {
            gradient_before(&c);
            void *workspace = qt_alloc(plan.workspace_size, 64, head ? QT_HEAD : QT_TAIL);
            qt_pool pool = {workers, qt_u64(&rng)};
            assert_int_equal(qkv_attention_backward_run_parallel(&plan, &c.desc, workspace, plan.workspace_size,
                                                                 qt_parallel_for, &pool),
                             QKV_OK);
            qt_check_memory();
        }
        qt_count_words(1);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("empty_rows_have_zero_gradients", test_empty_rows_have_zero_gradients);
    qt_each_set_of_attention("all_rows_empty", test_all_rows_empty);
    qt_each_set_of_attention("a_nan_of_an_invisible_key_never_leaks", test_a_nan_of_an_invisible_key_never_leaks);
    qt_each_set_of_attention("a_nan_reaches_what_sees_it_and_nothing_else",
                             test_a_nan_reaches_what_sees_it_and_nothing_else);
    qt_each_set_of_attention("what_rounds_to_infinity_stays_where_it_is_seen",
                             test_what_rounds_to_infinity_stays_where_it_is_seen);
    qt_each_set_of_attention("zero_sizes_are_legal", test_zero_sizes_are_legal);
    qt_each_set_of_attention("accumulating_into_zeros_is_overwriting", test_accumulating_into_zeros_is_overwriting);
    qt_each_set_of_attention("threads_and_order_of_tasks_change_no_bit", test_threads_and_order_of_tasks_change_no_bit);
    qt_each_set_of_attention("tasks_by_hand_give_the_same_bits", test_tasks_by_hand_give_the_same_bits);
    qt_each_set_of_attention("no_gradient_depends_on_which_others_are_wanted",
                             test_no_gradient_depends_on_which_others_are_wanted);
    qt_each_set_of_attention("a_batch_of_n_equals_n_batches", test_a_batch_of_n_equals_n_batches);
    qt_each_set_of_attention("memory_grows_with_the_length_not_its_square",
                             test_memory_grows_with_the_length_not_its_square);
    qt_each_set("small_gradients_take_little_memory", test_small_gradients_take_little_memory);
    qt_each_set_of_attention("exactly_the_stated_size_is_enough", test_exactly_the_stated_size_is_enough);
    return qt_run();
}
