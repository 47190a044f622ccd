/* Rows without a visible key, keys that are not visible, NaN and infinity where they are seen.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

/* ---------------------------------------------------------------------------------------------------- empty rows */

static const char *const causes[] = {"kv_len", "keep", "bias", "right", "left", "seq_k = 0"};
enum { NUM_CAUSES = sizeof causes / sizeof *causes };

/* Hides every key of rows first … 8 (of 9) by one cause, and with first = 0 all keys of all rows. */
static void hide_rows(qt_rng *rng, attention_case *c, int cause, int64_t first) {
    qkv_attention_desc *d = &c->desc;
    const int64_t n = d->seq_q * d->seq_k;
    int64_t *len = qt_alloc(sizeof *len * (size_t)d->batch, sizeof *len, QT_TAIL);
    uint8_t *keep = qt_alloc((size_t)n, 1, QT_TAIL);
    float *bias = case_floats(rng, n);
    for (int64_t i = 0; i < n; i++) {
        keep[i] = i / d->seq_k < first;
        bias[i] = i / d->seq_k < first ? qt_normal(rng) : -INFINITY;
    }
    for (int64_t b = 0; b < d->batch; b++)
        len[b] = -b;
    if (cause == 0)
        d->kv_len = len;
    if (cause == 1)
        d->keep = (qkv_matrix_input){keep, 0, 0, d->seq_k, 1};
    if (cause == 2)
        d->bias = (qkv_matrix_input){bias, 0, 0, d->seq_k, 1};
    if (cause == 3) { /* p + right < 0 for all rows */
        d->flags = QKV_RIGHT;
        d->q_offset = -d->seq_q;
    }
    if (cause == 4) { /* p − left beyond the last key from row `first` on */
        d->flags = QKV_LEFT;
        d->q_offset = d->seq_k - first;
    }
}

static void test_empty_rows_are_zero_and_lse_minus_infinity(const qt_set *set) {
    static const int64_t lengths[] = {1, 63, 64, 256, 257, 700};
    for (uint64_t i = 0; i < NUM_CAUSES * 6 * 2; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int cause = (int)(i % NUM_CAUSES);
        const bool some = i >= NUM_CAUSES * 6 && (cause == 1 || cause == 2 || cause == 4); /* only rows 4 … 8 */
        const int64_t seq_k = cause == 5 ? 0 : lengths[i / NUM_CAUSES % 6], first = some ? 4 : 0;
        attention_case c;
        case_plain(&rng, &c, 2, 4, 2, 9, seq_k, 20, 24);
        case_draw_arithmetic(&rng, &c.desc);
        case_add_probabilities(&rng, &c);
        hide_rows(&rng, &c, cause, first);
        qt_describe("rows %" PRId64 " … 8 hidden by %s, seq_k=%" PRId64, first, causes[cause], seq_k);
        case_poison_invisible(&rng, &c);
        const case_results r = case_run(&set->ctx, &c, 0, 0);
        for (int64_t row = 0; row < 2 * 4 * 9; row++) {
            const bool empty = row % 9 >= first;
            for (int64_t x = 0; x < 24; x++)
                QT_EXPECT(empty ? qt_bits(r.out[row * 24 + x]) == 0 : isfinite(r.out[row * 24 + x]),
                          "out of row %" PRId64 " is %a", row, (double)r.out[row * 24 + x]);
            QT_EXPECT(empty ? r.lse[row] == -INFINITY : isfinite(r.lse[row]), "lse of row %" PRId64 " is %a", row,
                      (double)r.lse[row]);
            for (int64_t j = 0; j < seq_k && empty; j++)
                assert_int_equal(qt_bits(r.probabilities[row * seq_k + j]), 0);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ invisible keys */

/* Changes k and v of one key to `poison` and expects that exactly the rows that see it turn to NaN. */
static void poison_one_key(qt_rng *rng, const qt_set *set, attention_case *c, uint64_t counts[2]) {
    static const uint32_t poisons[] = {0x7fc00000, 0x7f800001, 0xffffffff};
    const qkv_attention_desc *d = &c->desc;
    const int64_t b = qt_range(rng, 0, d->batch - 1), kv = qt_range(rng, 0, c->kv_heads - 1);
    const int64_t j = qt_range(rng, 0, d->seq_k - 1), group = d->num_heads / c->kv_heads;
    const case_results clean = case_run(&set->ctx, c, 0, 0);
    for (int64_t x = 0; x < d->head_dim; x++)
        case_row(&d->k, b, kv, j)[x] = qt_from_bits(poisons[qt_range(rng, 0, 2)]);
    for (int64_t x = 0; x < c->dv; x++)
        case_row(&d->v, b, kv, j)[x] = qt_chance(rng, 50) ? INFINITY : qt_from_bits(poisons[qt_range(rng, 0, 2)]);
    const case_results got = case_run(&set->ctx, c, (int32_t)qt_range(rng, 0, 4), 0);
    for (int64_t row = 0; row < d->batch * d->num_heads * d->seq_q; row++) {
        const int64_t rb = row / d->seq_q / d->num_heads, h = row / d->seq_q % d->num_heads, i = row % d->seq_q;
        const bool sees = rb == b && h / group == kv && oracle_sees(d, b, h, i, j);
        counts[sees]++;
        for (int64_t x = row * c->dv; x < (row + 1) * c->dv; x++)
            QT_EXPECT(sees ? isnan(got.out[x]) : qt_same(clean.out[x], got.out[x], 0),
                      "row (%" PRId64 ", %" PRId64 ", %" PRId64 ") %s key %" PRId64 ": out was %a and is %a", rb, h, i,
                      sees ? "sees" : "does not see", j, (double)clean.out[x], (double)got.out[x]);
        if (got.lse)
            QT_EXPECT(sees ? isnan(got.lse[row]) : qt_same(clean.lse[row], got.lse[row], 0),
                      "row (%" PRId64 ", %" PRId64 ", %" PRId64 ") %s key %" PRId64 ": lse was %a and is %a", rb, h, i,
                      sees ? "sees" : "does not see", j, (double)clean.lse[row], (double)got.lse[row]);
        for (int64_t x = 0; got.probabilities && x < d->seq_k && !sees; x++)
            QT_EXPECT(qt_same(clean.probabilities[row * d->seq_k + x], got.probabilities[row * d->seq_k + x], 0),
                      "a probability of row %" PRId64 " changed", row);
    }
}

/* Every mask kind alone and all of them together; most tiles are partly visible. */
static void test_nan_in_a_key_reaches_exactly_the_rows_that_see_it(const qt_set *set) {
    uint64_t counts[2] = {0, 0};
    for (uint64_t i = 0; i < case_count(500); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 300000, &c);
        const qkv_attention_desc *d = &c.desc;
        if (d->batch * d->num_heads * d->seq_q * d->seq_k * d->head_dim * c.dv == 0 ||
            case_is_shared(&d->k, d->batch, c.kv_heads, d->seq_k) ||
            case_is_shared(&d->v, d->batch, c.kv_heads, d->seq_k))
            continue;
        poison_one_key(&rng, set, &c, counts);
    }
    qt_note("%" PRIu64 " rows that see the key, %" PRIu64 " that do not", counts[1], counts[0]);
}

/* Keys that no row sees may hold anything: the bits are those of zeros there. */
static void test_memory_that_no_row_sees_changes_no_bit(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(300); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 300000, &c);
        c.desc.scores_stage = QKV_SCORES_MASKED; /* the other stages show masked keys */
        const case_results clean = case_run(&set->ctx, &c, 0, 0);
        case_poison_invisible(&rng, &c);
        const case_results poisoned = case_run(&set->ctx, &c, 0, 0);
        case_expect_same("poisoned memory", &c, &clean, &poisoned);
    }
}

typedef enum hiding { SCATTERED, CAUSAL_MASK, CAUSAL_WINDOW, RUNS, NUM_HIDINGS } hiding;

/* A mask over queries and keys, in rows, in columns or with gaps; the same for all heads. */
static void add_keep(qt_rng *rng, qkv_attention_desc *d, hiding kind) {
    const int64_t n = d->seq_q, keys = d->seq_k, layout = qt_range(rng, 0, 2);
    uint8_t *keep = qt_alloc((size_t)(2 * n * keys), 1, QT_TAIL);
    const int64_t query = layout == 0 ? keys : layout == 1 ? 1 : 2 * keys, key = layout == 0 ? 1 : layout == 1 ? n : 2;
    const int64_t shift = qt_range(rng, 0, keys), run = qt_range(rng, 1, keys);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < keys; j++)
            keep[i * query + j * key] = (uint8_t)(kind == SCATTERED ? !qt_chance(rng, 30)
                                                  : kind == RUNS    ? (i / 8 + j / run) % 3 == 0
                                                                    : j <= i + shift);
    d->keep = (qkv_matrix_input){keep, 0, 0, query, key};
}

/* Row (h, i) of the case alone, in memory where the v of keys that it does not see is zero. */
static void run_row_alone(const qt_set *set, const attention_case *c, int64_t h, int64_t i, float *v, float *out) {
    attention_case alone = *c;
    qkv_attention_desc *d = &alone.desc;
    for (int64_t j = 0; j < d->seq_k; j++)
        for (int64_t x = 0; x < c->dv; x++)
            v[j * c->dv + x] = oracle_sees(&c->desc, 0, h, i, j) ? case_row(&c->desc.v, 0, 0, j)[x] : 0.0f;
    d->num_heads = 1;
    d->seq_q = 1;
    d->q.data = case_row(&c->desc.q, 0, h, i);
    d->v = (qkv_input){v, 0, 0, c->dv};
    d->q_offset += i;
    if (d->keep.data)
        d->keep.data = (const uint8_t *)d->keep.data + i * d->keep.query;
    d->out = (qkv_output){out, 0, 0, c->dv};
    d->lse.data = NULL;
    case_run_attention(&set->ctx, d, 0, 0);
}

/* Finite keys with NaN and infinity in their v, which some rows of a tile see and others don't. */
static void test_nan_in_v_of_hidden_keys_changes_no_bit(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(48); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        static const float values[] = {NAN, INFINITY, -INFINITY};
        const hiding kind = (hiding)(i % NUM_HIDINGS);
        attention_case c;
        case_plain(&rng, &c, 1, qt_range(&rng, 1, 3), 1, qt_range(&rng, 1, 40), qt_range(&rng, 1, 600), 16, 20);
        case_draw_arithmetic(&rng, &c.desc);
        qkv_attention_desc *d = &c.desc;
        if (kind == CAUSAL_WINDOW) {
            d->flags = QKV_RIGHT;
            d->q_offset = qt_range(&rng, 0, d->seq_k);
        } else {
            add_keep(&rng, d, kind);
        }
        const int64_t holes = qt_range(&rng, 1, 4);
        for (int64_t n = 0; n < holes; n++)
            case_row(&d->v, 0, 0, qt_range(&rng, 0, d->seq_k - 1))[qt_range(&rng, 0, 19)] =
                values[qt_range(&rng, 0, 2)];
        qt_describe("hiding %d, %" PRId64 " heads, %" PRId64 " queries, %" PRId64 " keys", (int)kind, d->num_heads,
                    d->seq_q, d->seq_k);
        const case_results all = case_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 6), 0);
        float *v = case_floats(&rng, d->seq_k * 20), *out = case_floats(&rng, 20);
        for (int64_t row = 0; row < d->num_heads * d->seq_q; row += qt_range(&rng, 1, 3)) {
            run_row_alone(set, &c, row / d->seq_q, row % d->seq_q, v, out);
            qt_expect_words("out", out, all.out + row * 20, 20, 0);
        }
    }
}

/* Packed documents of whole and half key blocks, over more blocks than a mask is surveyed for at once; a mask whose
 * keys are not neighbours in memory is not surveyed. */
static void test_a_mask_means_the_same_in_any_layout(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(24); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t group = qt_range(&rng, 1, 3), rows = qt_range(&rng, 1, 40);
        const int64_t keys = i % 2 == 0 ? qt_range(&rng, 1, 2000) : qt_range(&rng, 16400, 17900);
        const int64_t heads = qt_chance(&rng, 50) ? group : 1;
        attention_case c;
        case_plain(&rng, &c, 1, group, 1, rows, keys, 4, 4);
        case_draw_arithmetic(&rng, &c.desc);
        qkv_attention_desc *d = &c.desc;
        if (qt_chance(&rng, 30)) {
            d->flags = QKV_RIGHT | (qt_chance(&rng, 50) ? QKV_LEFT : 0u);
            d->left = qt_range(&rng, 0, 40);
            d->q_offset = qt_range(&rng, 0, keys);
        }
        uint8_t *keep = qt_alloc((size_t)(heads * rows * keys), 1, QT_TAIL);
        uint8_t *apart = qt_alloc((size_t)(heads * rows * keys), 1, QT_TAIL);
        for (int64_t row = 0; row < heads * rows; row++) {
            const int64_t document = qt_range(&rng, 0, 3) * keys / 4;
            for (int64_t j = 0; j < keys; j++) {
                const bool seen = j >= document && j < document + 400 && !qt_chance(&rng, 10);
                keep[row * keys + j] = seen;
                apart[row % rows + rows * (j + row / rows * keys)] = seen;
            }
        }
        qt_describe("%" PRId64 " of %" PRId64 " heads, %" PRId64 " queries, %" PRId64 " keys, flags %u", heads, group,
                    rows, keys, d->flags);
        const int32_t threads = (int32_t)qt_range(&rng, 0, 6);
        d->keep = (qkv_matrix_input){keep, 0, heads > 1 ? rows * keys : 0, keys, 1};
        const case_results together = case_run(&set->ctx, &c, threads, 0);
        d->keep = (qkv_matrix_input){apart, 0, heads > 1 ? rows * keys : 0, 1, rows};
        const case_results gathered = case_run(&set->ctx, &c, threads, 0);
        case_expect_same("transposed", &c, &together, &gathered);
    }
}

/* What a −inf from arithmetic does is what keep = 0 does. */
static void test_a_computed_minus_infinity_hides_the_key(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_plain(&rng, &c, 1, 2, 1, 5, qt_range(&rng, 1, 600), qt_range(&rng, 1, 40), 17);
        if (qt_chance(&rng, 30)) /* in 8 bits −inf in k is a NaN */
            c.desc.arithmetic = QKV_ARITHMETIC_BF16;
        qkv_attention_desc *d = &c.desc;
        case_add_probabilities(&rng, &c);
        uint8_t *keep = qt_alloc((size_t)d->seq_k, 1, QT_TAIL);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t t = 0; t < 5; t++)
                for (int64_t x = 0; x < d->head_dim; x++)
                    case_row(&d->q, 0, h, t)[x] = fabsf(case_row(&d->q, 0, h, t)[x]) + 0.1f;
        const int hidden = (int)qt_range(&rng, 0, 100);
        for (int64_t j = 0; j < d->seq_k; j++) {
            keep[j] = !qt_chance(&rng, hidden);
            if (!keep[j])
                case_row(&d->k, 0, 0, j)[qt_range(&rng, 0, d->head_dim - 1)] = -INFINITY;
        }
        const case_results computed = case_run(&set->ctx, &c, 0, 0);
        d->keep = (qkv_matrix_input){keep, 0, 0, 0, 1};
        case_poison_invisible(&rng, &c);
        const case_results kept = case_run(&set->ctx, &c, 0, 0);
        case_expect_same("keep", &c, &kept, &computed);
    }
}

/* --------------------------------------------------------------------------------------------- NaN and infinity */

typedef struct live {
    attention_case c;
    float *bias;
} live;

/* Two heads, 7 rows, a bias for each (row, key) that is zero. */
static live draw_live(qt_rng *rng) {
    live l;
    case_plain(rng, &l.c, 1, 2, 2, 7, qt_range(rng, 1, 600), qt_range(rng, 1, 70), qt_range(rng, 1, 70));
    const size_t n = (size_t)(7 * l.c.desc.seq_k);
    l.bias = qt_floats(n, QT_TAIL);
    memset(l.bias, 0, n * sizeof *l.bias);
    l.c.desc.bias = (qkv_matrix_input){l.bias, 0, 0, l.c.desc.seq_k, 1};
    return l;
}

/* Row 3 of head 1 is all NaN, lse too; other rows are as before. */
static void expect_nan_row(const live *l, const case_results *clean, const case_results *got, int64_t last_row) {
    for (int64_t row = 0; row < 14; row++) {
        const bool nan = row == 10 || row == last_row;
        for (int64_t x = row * l->c.dv; x < (row + 1) * l->c.dv; x++)
            QT_EXPECT(nan ? isnan(got->out[x]) : qt_same(clean->out[x], got->out[x], 0), "row %" PRId64 ": %a", row,
                      (double)got->out[x]);
        QT_EXPECT(nan ? isnan(got->lse[row]) : qt_same(clean->lse[row], got->lse[row], 0), "lse of row %" PRId64 ": %a",
                  row, (double)got->lse[row]);
    }
}

static void test_a_visible_nan_or_plus_infinity_gives_a_nan_row(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        live l = draw_live(&rng);
        case_draw_arithmetic(&rng, &l.c.desc);
        const qkv_attention_desc *d = &l.c.desc;
        const int64_t j = qt_range(&rng, 0, d->seq_k - 1);
        const case_results clean = case_run(&set->ctx, &l.c, 0, 0);
        float *where[] = {&case_row(&d->q, 0, 1, 3)[qt_range(&rng, 0, d->head_dim - 1)], &l.bias[3 * d->seq_k + j],
                          &l.bias[3 * d->seq_k + j]};
        const float values[] = {NAN, NAN, INFINITY};
        const int kind = (int)qt_range(&rng, 0, 2);
        qt_describe("seq_k=%" PRId64 " key %" PRId64 ": %s", d->seq_k, j,
                    kind == 0   ? "NaN in q"
                    : kind == 1 ? "NaN in bias"
                                : "bias = inf");
        *where[kind] = values[kind];
        const case_results got = case_run(&set->ctx, &l.c, 0, 0);
        expect_nan_row(&l, &clean, &got, kind == 0 ? 10 : 3); /* the bias is that of both heads */
    }
}

/* NaN in v stays in its channel. An infinity does too, and where its weight is zero it becomes a NaN. */
static void test_nan_and_infinity_in_a_visible_v(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        live l = draw_live(&rng);
        case_draw_arithmetic(&rng, &l.c.desc);
        const qkv_attention_desc *d = &l.c.desc;
        const int64_t j = qt_range(&rng, 0, d->seq_k - 1), x = qt_range(&rng, 0, l.c.dv - 1);
        const case_results clean = case_run(&set->ctx, &l.c, 0, 0);
        const bool nan = qt_chance(&rng, 50);
        const int64_t far = d->seq_k > 1 ? 2 : -1; /* row 2: the weight of key j underflows, as −300 is far away */
        case_row(&d->v, 0, 1, j)[x] = nan ? NAN : INFINITY;
        if (far >= 0)
            l.bias[2 * d->seq_k + j] = -300;
        qt_describe("seq_k=%" PRId64 " key %" PRId64 " channel %" PRId64 ": %s", d->seq_k, j, x, nan ? "NaN" : "inf");
        const case_results got = case_run(&set->ctx, &l.c, 0, 0);
        for (int64_t row = 0; row < 14; row++)
            for (int64_t y = 0; y < l.c.dv; y++) {
                const float was = clean.out[row * l.c.dv + y], is = got.out[row * l.c.dv + y];
                const bool hit = row >= 7 && y == x, underflows = row % 7 == far;
                const bool right = hit          ? (nan || underflows ? isnan(is) : is == INFINITY)
                                   : underflows ? isfinite(is)
                                                : qt_same(was, is, 0);
                QT_EXPECT(right, "row %" PRId64 ", channel %" PRId64 ": %a", row, y, (double)is);
            }
    }
}

static void test_large_finite_negative_bias_is_a_number(const qt_set *set) {
    static const float least[] = {-FLT_MAX, -1e30f, -1e9f};
    for (uint64_t i = 0; i < case_count(30); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        live l = draw_live(&rng);
        qkv_attention_desc *d = &l.c.desc;
        const int64_t j = qt_range(&rng, 0, d->seq_k - 1);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t t = 0; t < 7; t++)
                memset(case_row(&d->q, 0, h, t), 0, (size_t)d->head_dim * sizeof(float));
        const case_results equal = case_run(&set->ctx, &l.c, 0, 0);
        for (int64_t k = 0; k < 7 * d->seq_k; k++)
            l.bias[k] = least[i % 3];
        const case_results same = case_run(&set->ctx, &l.c, 0, 0);
        qt_expect_words("the same bias everywhere", equal.out, same.out, (size_t)(14 * l.c.dv), 0);
        for (int64_t t = 0; t < 7; t++)
            l.bias[t * d->seq_k + j] = 0;
        const case_results one = case_run(&set->ctx, &l.c, 0, 0);
        for (int64_t row = 0; row < 14; row++)
            qt_expect_words("the only key with a small bias", case_row(&d->v, 0, row / 7, j), one.out + row * l.c.dv,
                            (size_t)l.c.dv, 0);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("empty_rows_are_zero_and_lse_minus_infinity",
                             test_empty_rows_are_zero_and_lse_minus_infinity);
    qt_each_set_of_attention("nan_in_a_key_reaches_exactly_the_rows_that_see_it",
                             test_nan_in_a_key_reaches_exactly_the_rows_that_see_it);
    qt_each_set_of_attention("memory_that_no_row_sees_changes_no_bit", test_memory_that_no_row_sees_changes_no_bit);
    qt_each_set_of_attention("nan_in_v_of_hidden_keys_changes_no_bit", test_nan_in_v_of_hidden_keys_changes_no_bit);
    qt_each_set_of_attention("a_mask_means_the_same_in_any_layout", test_a_mask_means_the_same_in_any_layout);
    qt_each_set_of_attention("a_computed_minus_infinity_hides_the_key", test_a_computed_minus_infinity_hides_the_key);
    qt_each_set_of_attention("a_visible_nan_or_plus_infinity_gives_a_nan_row",
                             test_a_visible_nan_or_plus_infinity_gives_a_nan_row);
    qt_each_set_of_attention("nan_and_infinity_in_a_visible_v", test_nan_and_infinity_in_a_visible_v);
    qt_each_set("large_finite_negative_bias_is_a_number", test_large_finite_negative_bias_is_a_number);
    return qt_run();
}
