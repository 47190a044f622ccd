/* Joining partial results: block states folded in order give the bits of the whole, (out, lse) pairs of any split stay
 * in the bound.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PARTS = 6 };

/* A random case with several key blocks, its outputs contiguous in [batch][heads][rows]. */
static void draw_long(qt_rng *rng, attention_case *c) {
    case_attention(rng, 2000000, c);
    qkv_attention_desc *d = &c->desc;
    d->probabilities = d->scores = (qkv_matrix_output){0};
    if (!d->lse.data)
        d->lse = case_output(rng, d->batch, d->num_heads, d->seq_q, 1);
    case_protect(d);
}

static qkv_merge_desc merge_of(qt_rng *rng, const attention_case *c, bool with_lse) {
    const qkv_attention_desc *d = &c->desc;
    qkv_merge_desc m = {.size = sizeof m,
                        .batch = d->batch,
                        .num_heads = d->num_heads,
                        .seq_q = d->seq_q,
                        .head_dim_v = c->dv,
                        .sinks = d->sinks};
    m.out = case_output(rng, d->batch, d->num_heads, d->seq_q, c->dv);
    if (with_lse)
        m.lse = case_output(rng, d->batch, d->num_heads, d->seq_q, 1);
    return m;
}

static qkv_matrix_input readable(const qkv_matrix_output *m) {
    return (qkv_matrix_input){m->data, m->batch, m->head, m->query, m->key};
}

/* Room for the states of all blocks, with gaps that are checked. */
static qkv_matrix_output draw_states(qt_rng *rng, const attention_case *c, qt_view *view) {
    const qkv_attention_desc *d = &c->desc;
    const int64_t blocks = (d->seq_k + QKV_KEY_BLOCK - 1) / QKV_KEY_BLOCK;
    const int64_t size[4] = {d->batch, d->num_heads, d->seq_q, blocks};
    int64_t s[4], origin;
    const int64_t n = case_layout(rng, 4, size, c->dv + 2, false, s, &origin);
    qkv_matrix_output states = {case_floats(rng, n) + origin, s[0], s[1], s[2], s[3]};
    *view = (qt_view){
        states.data, sizeof(float), 5, {size[0], size[1], size[2], size[3], c->dv + 2}, {s[0], s[1], s[2], s[3], 1}};
    return states;
}

static void expect_merge_equals(const qkv_merge_desc *m, const float *out, const float *lse, const char *what) {
    const size_t rows = (size_t)(m->batch * m->num_heads * m->seq_q);
    const float *got = case_gather(&m->out, m->batch, m->num_heads, m->seq_q, m->head_dim_v);
    qt_expect_words(what, out, got, rows * (size_t)m->head_dim_v, 0);
    if (m->lse.data)
        qt_expect_words("lse", lse, case_gather(&m->lse, m->batch, m->num_heads, m->seq_q, 1), rows, 0);
}

static void test_block_states_fold_to_the_whole(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(500); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        draw_long(&rng, &c);
        qkv_attention_desc *d = &c.desc;
        case_run_attention(&set->ctx, d, 0, 0);
        const float *out = case_gather(&d->out, d->batch, d->num_heads, d->seq_q, c.dv);
        const float *lse = case_gather(&d->lse, d->batch, d->num_heads, d->seq_q, 1);

        qkv_attention_desc by_states = *d;
        qt_view view;
        by_states.out = by_states.lse = (qkv_output){0};
        by_states.states = draw_states(&rng, &c, &view);
        case_run_attention(&set->ctx, &by_states, (int32_t)qt_range(&rng, 1, 8), qt_u64(&rng));
        qt_expect_gaps("states", &view);
        qt_read_only(by_states.states.data);

        qkv_merge_desc m = merge_of(&rng, &c, qt_chance(&rng, 70));
        m.num_parts = (d->seq_k + QKV_KEY_BLOCK - 1) / QKV_KEY_BLOCK;
        m.states = readable(&by_states.states);
        case_run_merge(&set->ctx, &m, (int32_t)qt_range(&rng, 0, 8), qt_u64(&rng));
        view = qt_view_output(&m.out, m.batch, m.num_heads, m.seq_q, m.head_dim_v);
        qt_expect_gaps("merged out", &view);
        expect_merge_equals(&m, out, lse, "states folded in order");
    }
}

/* The same states in several merges, each from what the last one came to: also where one folds nothing. */
static void test_a_fold_stops_and_goes_on(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(300); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        draw_long(&rng, &c);
        const qkv_attention_desc *d = &c.desc;
        case_run_attention(&set->ctx, d, 0, 0);
        const float *out = case_gather(&d->out, d->batch, d->num_heads, d->seq_q, c.dv);
        const float *lse = case_gather(&d->lse, d->batch, d->num_heads, d->seq_q, 1);

        /* Block n is part n + 1; part 0 is what was folded before. */
        const int64_t blocks = (d->seq_k + QKV_KEY_BLOCK - 1) / QKV_KEY_BLOCK, floats = c.dv + 2;
        const int64_t rows = d->batch * d->num_heads * d->seq_q, row = (blocks + 1) * floats;
        float *states = case_floats(&rng, rows * row);
        qkv_attention_desc by_states = *d;
        by_states.out = by_states.lse = (qkv_output){0};
        by_states.states =
            (qkv_matrix_output){states + floats, d->num_heads * d->seq_q * row, d->seq_q * row, row, floats};
        case_run_attention(&set->ctx, &by_states, 0, 0);

        qkv_merge_desc m = merge_of(&rng, &c, qt_chance(&rng, 70)), last = m;
        m.out = m.lse = (qkv_output){0};
        m.sinks = NULL;
        for (int64_t done = 0, next; done < blocks; done = next) {
            next = qt_range(&rng, qt_chance(&rng, 80) ? done + 1 : done, blocks);
            const bool first = done == 0;
            m.state = case_output(&rng, d->batch, d->num_heads, d->seq_q, floats);
            m.num_parts = next - done + !first;
            m.states = (qkv_matrix_input){states + (first ? floats : done * floats), by_states.states.batch,
                                          by_states.states.head, row, floats};
            case_run_merge(&set->ctx, &m, (int32_t)qt_range(&rng, 0, 8), qt_u64(&rng));
            const qt_view view = qt_view_output(&m.state, m.batch, m.num_heads, m.seq_q, floats);
            qt_expect_gaps("folded state", &view);
            const float *folded = case_gather(&m.state, d->batch, d->num_heads, d->seq_q, floats);
            for (int64_t r = 0; r < rows; r++) /* in place of the last block that it holds */
                memcpy(states + r * row + next * floats, folded + r * floats, (size_t)floats * sizeof(float));
        }
        last.num_parts = blocks > 0;
        last.states =
            (qkv_matrix_input){states + blocks * floats, by_states.states.batch, by_states.states.head, row, floats};
        case_run_merge(&set->ctx, &last, 0, 0);
        expect_merge_equals(&last, out, lse, "states folded by and by");
    }
}

/* States are the same words on every set, but for the sign of zeros, and empty blocks are what the header says. */
static void test_states_of_every_set(const qt_set *set) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(300); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        draw_long(&rng, &c);
        qkv_attention_desc d = c.desc;
        const int64_t blocks = (d.seq_k + QKV_KEY_BLOCK - 1) / QKV_KEY_BLOCK, row = (c.dv + 2) * blocks;
        const size_t n = (size_t)(d.batch * d.num_heads * d.seq_q * row);
        float *state[2];
        d.out = d.lse = (qkv_output){0};
        for (int r = 0; r < 2; r++) {
            state[r] = case_floats(&rng, (int64_t)n);
            d.states = (qkv_matrix_output){state[r], d.num_heads * d.seq_q * row, d.seq_q * row, row, c.dv + 2};
            case_run_attention(r == 0 ? &reference : &set->ctx, &d, 0, 0);
        }
        qt_expect_words("states", state[0], state[1], n, QT_ANY_ZERO);
        for (size_t at = 0; at < n; at += (size_t)c.dv + 2) {
            const float *m = state[0] + at + c.dv;
            if (m[1] == 0)
                QT_EXPECT(m[0] == -FLT_MAX && (c.dv == 0 || state[0][at] == 0), "an empty state holds m = %a",
                          (double)m[0]);
            else
                QT_EXPECT(isnan(m[1]) || m[1] >= 1, "a state holds l = %a", (double)m[1]);
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- pairs */

/* The call that sees only keys [first, end): the same logits, because the positions move with the keys. */
static qkv_attention_desc part_of(qt_rng *rng, const qkv_attention_desc *d, int64_t first, int64_t end) {
    qkv_attention_desc part = *d;
    part.seq_k = end - first;
    part.k.data = (const float *)d->k.data + first * d->k.token;
    part.v.data = (const float *)d->v.data + first * d->v.token;
    part.q_offset = d->q_offset - first;
    if (d->bias.data)
        part.bias.data = (const float *)d->bias.data + first * d->bias.key;
    if (d->keep.data)
        part.keep.data = (const uint8_t *)d->keep.data + first * d->keep.key;
    int64_t *moved[2] = {NULL, NULL};
    const int64_t *from[2] = {d->q_offsets, d->kv_len};
    for (int i = 0; i < 2; i++)
        if (from[i]) {
            moved[i] = qt_alloc((size_t)d->batch * sizeof(int64_t), sizeof(int64_t), qt_place(rng));
            for (int64_t b = 0; b < d->batch; b++)
                moved[i][b] = from[i][b] - first;
        }
    part.q_offsets = moved[0];
    part.kv_len = moved[1];
    part.sinks = NULL;
    part.lse = (qkv_output){0};
    return part;
}

typedef struct split {
    int64_t parts, start[MOST_PARTS + 1];
    qkv_attention_desc part[MOST_PARTS];
    oracle *exact[MOST_PARTS], *whole, *merged;
} split;

/* Cuts the keys anywhere, empty parts included, and runs every part into m->part_out and m->part_lse. */
static void run_parts(qt_rng *rng, const qkv_ctx *ctx, const attention_case *c, split *s, qkv_merge_desc *m) {
    const qkv_attention_desc *d = &c->desc;
    s->parts = qt_range(rng, 1, MOST_PARTS);
    s->start[0] = 0;
    s->start[s->parts] = d->seq_k;
    for (int64_t i = 1; i < s->parts; i++)
        s->start[i] = qt_range(rng, s->start[i - 1], qt_chance(rng, 50) ? d->seq_k : s->start[i - 1]);
    const int64_t rows = d->batch * d->num_heads * d->seq_q;
    float *out = case_floats(rng, rows * c->dv * s->parts), *lse = case_floats(rng, rows * s->parts);
    m->num_parts = s->parts;
    m->part_out = (qkv_input){out, d->num_heads * d->seq_q * c->dv, d->seq_q * c->dv, c->dv};
    m->part_lse = (qkv_input){lse, d->num_heads * d->seq_q, d->seq_q, 1};
    m->part_out_stride = rows * c->dv;
    m->part_lse_stride = rows;
    for (int64_t i = 0; i < s->parts; i++) {
        qkv_attention_desc *part = &s->part[i];
        *part = part_of(rng, d, s->start[i], s->start[i + 1]);
        part->out = (qkv_output){out + i * m->part_out_stride, m->part_out.batch, m->part_out.head, m->part_out.token};
        part->lse = (qkv_output){lse + i * m->part_lse_stride, m->part_lse.batch, m->part_lse.head, 1};
        case_run_attention(ctx, part, 0, 0);
    }
    if (rows * c->dv > 0)
        qt_read_only(out);
    if (rows > 0)
        qt_read_only(lse);
}

/* The merge of what the parts are in float, and the attention of all keys, away from which the parts' errors lead. */
static void check_row(split *s, const qkv_merge_desc *m, int64_t b, int64_t h, int64_t i, const float *out,
                      const float *lse, double *worst) {
    const int64_t dv = m->head_dim_v;
    double *out_error = oracle_alloc((size_t)(m->num_parts * dv), sizeof(double)), lse_error[MOST_PARTS];
    bool certain = true;
    for (int64_t p = 0; p < s->parts; p++) {
        const oracle_row *r = oracle_attention_row(s->exact[p], b, h, i);
        certain = certain && (r->kind == ORACLE_NUMBER || r->kind == ORACLE_EMPTY);
        lse_error[p] = r->lse_bound;
        for (int64_t c = 0; c < dv; c++)
            out_error[p * dv + c] = r->out_bound[c];
    }
    const oracle_row *whole = oracle_attention_row(s->whole, b, h, i);
    const oracle_row *r = oracle_merge_row(s->merged, m, b, h, i, NULL, NULL);
    double *own = oracle_alloc((size_t)dv, sizeof *own), own_lse = r->lse_bound;
    if (certain && r->kind != ORACLE_ANY) {
        for (int64_t c = 0; c < dv; c++) {
            QT_EXPECT(oracle_within((double)out[c], r->out[c], own[c] = r->out_bound[c], worst),
                      "out [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]: want %.9g ± %.3g, got %.9g", b, h, i,
                      c, r->out[c], r->out_bound[c], (double)out[c]);
            if (r->kind == ORACLE_EMPTY)
                QT_EXPECT(qt_bits(out[c]) == 0, "an empty row holds %a", (double)out[c]);
        }
        QT_EXPECT(!lse || oracle_within((double)*lse, r->lse, r->lse_bound, worst),
                  "lse [%" PRId64 ", %" PRId64 ", %" PRId64 "]: want %.9g ± %.3g, got %.9g", b, h, i, r->lse,
                  r->lse_bound, lse ? (double)*lse : 0);
        r = oracle_merge_row(s->merged, m, b, h, i, out_error, lse_error);
        for (int64_t c = 0; c < dv; c++)
            QT_EXPECT(oracle_within((double)out[c], whole->out[c], own[c] + r->out_bound[c], worst),
                      "out [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]: undivided %.9g ± %.3g, got %.9g", b, h,
                      i, c, whole->out[c], own[c] + r->out_bound[c], (double)out[c]);
        QT_EXPECT(!lse || oracle_within((double)*lse, whole->lse, own_lse + r->lse_bound, worst),
                  "lse [%" PRId64 ", %" PRId64 ", %" PRId64 "]: undivided %.9g, got %.9g", b, h, i, whole->lse,
                  lse ? (double)*lse : 0);
    }
    free(own);
    free(out_error);
}

static void check_merge(split *s, const attention_case *c, const qkv_merge_desc *m, double *worst) {
    const float *out = case_gather(&m->out, m->batch, m->num_heads, m->seq_q, m->head_dim_v);
    const float *lse = m->lse.data ? case_gather(&m->lse, m->batch, m->num_heads, m->seq_q, 1) : NULL;
    s->whole = oracle_open(&c->desc);
    s->merged = oracle_open_merge(m);
    for (int64_t p = 0; p < s->parts; p++)
        s->exact[p] = oracle_open(&s->part[p]);
    for (int64_t b = 0; b < m->batch; b++)
        for (int64_t h = 0; h < m->num_heads; h++) {
            oracle_head(s->whole, b, h);
            for (int64_t p = 0; p < s->parts; p++)
                oracle_head(s->exact[p], b, h);
            for (int64_t i = 0; i < m->seq_q; i++) {
                const int64_t row = (b * m->num_heads + h) * m->seq_q + i;
                check_row(s, m, b, h, i, out + row * m->head_dim_v, lse ? lse + row : NULL, worst);
            }
        }
    for (int64_t p = 0; p < s->parts; p++)
        oracle_close(s->exact[p]);
    oracle_close(s->whole);
    oracle_close(s->merged);
}

static void test_pairs_of_any_split_stay_in_the_bound(void) {
    const qkv_ctx reference = case_reference();
    double worst = 0;
    for (uint64_t i = 0; i < case_count(500); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        draw_long(&rng, &c);
        c.desc.dropout = 0; /* parts count their keys from 0 */
        qkv_merge_desc m = merge_of(&rng, &c, qt_chance(&rng, 70));
        split s;
        run_parts(&rng, &reference, &c, &s, &m);
        case_run_merge(&reference, &m, 0, 0);
        check_merge(&s, &c, &m, case_is_comparable(&c) ? &worst : NULL);
        const float *out = case_gather(&m.out, m.batch, m.num_heads, m.seq_q, m.head_dim_v);
        const float *lse = m.lse.data ? case_gather(&m.lse, m.batch, m.num_heads, m.seq_q, 1) : NULL;
        for (size_t k = 0; k < qt_num_sets(); k++) {
            qt_poison(m.out.data);
            if (m.lse.data)
                qt_poison(m.lse.data);
            case_run_merge(&qt_get_set(k)->ctx, &m, (int32_t)qt_range(&rng, 0, 8), qt_u64(&rng));
            const qt_view view = qt_view_output(&m.out, m.batch, m.num_heads, m.seq_q, m.head_dim_v);
            qt_expect_gaps("merged out", &view);
            expect_merge_equals(&m, out, lse, qt_get_set(k)->name);
        }
    }
    qt_note("worst error/bound %.3f", worst);
}

static void test_no_parts_are_empty_rows(const qt_set *set) {
    qt_case(0, NULL);
    float sink[2] = {2.5f, -INFINITY}, out[2 * 3 * 4], lse[2 * 3];
    qkv_merge_desc m = {.size = sizeof m,
                        .batch = 1,
                        .num_heads = 2,
                        .seq_q = 3,
                        .head_dim_v = 4,
                        .out = {out, 24, 12, 4},
                        .lse = {lse, 6, 3, 1}};
    case_run_merge(&set->ctx, &m, 0, 0);
    for (int i = 0; i < 24; i++)
        assert_int_equal(qt_bits(out[i]), 0);
    for (int i = 0; i < 6; i++)
        assert_true(lse[i] == -INFINITY);
    m.sinks = sink;
    case_run_merge(&set->ctx, &m, 0, 0);
    for (int i = 0; i < 6; i++)
        QT_EXPECT(i < 3 ? fabsf(lse[i] - 2.5f) <= 3 * 2.5f * 0x1p-24f : lse[i] == -INFINITY, "lse[%d] = %a", i,
                  (double)lse[i]);
    for (int i = 0; i < 24; i++)
        assert_int_equal(qt_bits(out[i]), 0);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("block_states_fold_to_the_whole", test_block_states_fold_to_the_whole);
    qt_each_set("a_fold_stops_and_goes_on", test_a_fold_stops_and_goes_on);
    qt_each_set("states_of_every_set", test_states_of_every_set);
    qt_once("pairs_of_any_split_stay_in_the_bound", test_pairs_of_any_split_stay_in_the_bound);
    qt_each_set("no_parts_are_empty_rows", test_no_parts_are_empty_rows);
    return qt_run();
}
