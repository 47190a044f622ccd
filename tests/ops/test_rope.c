/* A projection's steps on heads, QK-norm and RoPE: the bits of the plain projection with the steps done by hand, in
 * every kernel set and cut of the work; and within the bound of the same in double.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_POSITIONS = 400 };

typedef struct rope_case {
    qkv_projection_desc desc;
    float *dense[QKV_MAX_PARTS]; /* [in][out] */
} rope_case;

static const float *draw_vector(qt_rng *rng, int64_t n, float size, float middle) {
    float *x = case_floats(rng, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = middle + size * qt_normal(rng);
    qt_read_only(x);
    return x;
}

static void draw_positions(qt_rng *rng, qkv_projection_desc *d, qkv_head_steps *steps) {
    const int64_t last = d->rope.num_positions - d->tokens;
    steps->first_position = qt_range(rng, 0, last);
    if (qt_chance(rng, 40)) {
        int64_t *firsts = qt_alloc((size_t)d->batch * sizeof *firsts, 8, qt_place(rng));
        for (int64_t b = 0; b < d->batch; b++)
            firsts[b] = qt_range(rng, 0, last);
        steps->first_positions = firsts;
        steps->first_position = qt_chance(rng, 50) ? -9 : 0; /* not looked at */
    }
    if (qt_chance(rng, 40)) {
        const int64_t token = qt_range(rng, 1, 3), batch = d->tokens * token + qt_range(rng, 0, 5);
        const int64_t n = d->batch * d->tokens == 0 ? 0 : (d->batch - 1) * batch + (d->tokens - 1) * token + 1;
        int64_t *all = qt_alloc((size_t)n * sizeof *all, 8, qt_place(rng));
        for (int64_t i = 0; i < n; i++)
            all[i] = -1; /* between those that count */
        for (int64_t b = 0; b < d->batch; b++)
            for (int64_t t = 0; t < d->tokens; t++)
                all[b * batch + t * token] = qt_range(rng, 0, d->rope.num_positions - 1);
        steps->positions = (qkv_positions){all, batch, token};
    }
}

static void draw_case(qt_rng *rng, const qkv_ctx *ctx, rope_case *c, qt_kind kind) {
    static const int64_t dims[] = {2, 4, 8, 16, 32, 64, 80, 96, 128, 200, 256, 48, 72, 66, 130};
    memset(c, 0, sizeof *c);
    qkv_projection_desc *d = &c->desc;
    d->size = sizeof *d;
    d->batch = qt_chance(rng, 3) ? 0 : qt_range(rng, 1, 3);
    d->tokens = qt_chance(rng, 40) ? qt_range(rng, 0, 8) : case_size(rng, 100);
    d->in_features = qt_range(rng, 1, 150);
    d->num_parts = qt_range(rng, 1, QKV_MAX_PARTS);
    qkv_pack_desc pack = {.size = sizeof pack, .in_features = d->in_features, .num_parts = d->num_parts};
    int64_t narrowest = 0;
    const bool joined = qt_chance(rng, 50); /* the tokens of all batches are one run */
    for (int64_t i = 0; i < d->num_parts; i++) {
        qkv_projection_part *p = &d->part[i];
        const int64_t dim = qt_chance(rng, 60) ? dims[qt_range(rng, 0, 14)] : qt_range(rng, 1, 70);
        p->out_features = dim * (qt_chance(rng, 5) ? 0 : qt_range(rng, 1, dim < 20 ? 40 : 4));
        p->head_dim = dim;
        c->dense[i] = case_floats(rng, d->in_features * p->out_features);
        qt_fill(rng, c->dense[i], (size_t)(d->in_features * p->out_features), kind);
        pack.part[i] = (qkv_weight){.data = c->dense[i], .out_features = p->out_features};
        p->bias = qt_chance(rng, 50) ? draw_vector(rng, p->out_features, 1, 0) : NULL;
        p->out = case_output(rng, d->batch, p->out_features / dim, d->tokens, dim);
        if (joined)
            p->out = (qkv_output){case_floats(rng, d->batch * d->tokens * p->out_features), d->tokens * p->out_features,
                                  dim, p->out_features};
        d->steps[i].rotate = dim >= 2 && qt_chance(rng, 70);
        if (d->steps[i].rotate)
            narrowest = narrowest == 0 || dim < narrowest ? dim : narrowest;
        if (qt_chance(rng, 50)) {
            d->steps[i].norm = draw_vector(rng, dim, 0.3f, 1);
            d->steps[i].norm_epsilon = qt_chance(rng, 20) ? 0 : 1e-6f;
        }
    }
    if (narrowest > 0) {
        qkv_rope *rope = &d->rope;
        rope->rotary_dim = qt_chance(rng, 50) ? narrowest / 2 * 2 : 2 * qt_range(rng, 0, narrowest / 2);
        rope->layout = qt_chance(rng, 50) ? QKV_ROPE_HALF : QKV_ROPE_INTERLEAVED;
        rope->num_positions = qt_range(rng, d->tokens > 0 ? d->tokens : 1, MOST_POSITIONS);
        const int64_t n = rope->num_positions * rope->rotary_dim / 2;
        float *cosine = case_floats(rng, n), *sine = case_floats(rng, n);
        const qkv_rope_table_desc table = {
            .size = sizeof table, .num_positions = rope->num_positions, .rotary_dim = rope->rotary_dim};
        assert_int_equal(qkv_rope_table(&table, cosine, sine), QKV_OK);
        rope->cos = cosine;
        rope->sin = sine;
        qt_read_only(cosine);
        qt_read_only(sine);
        for (int64_t i = 0; i < d->num_parts; i++)
            if (d->steps[i].rotate)
                draw_positions(rng, d, &d->steps[i]);
        if (rope->rotary_dim == 0) /* would stand for head_dim */
            for (int64_t i = 0; i < d->num_parts; i++)
                d->steps[i].rotate = 0;
    }
    d->x = case_input(rng, d->batch, 1, d->tokens, d->in_features, true);
    if (joined) {
        float *x = case_floats(rng, d->batch * d->tokens * d->in_features);
        qt_fill(rng, x, (size_t)(d->batch * d->tokens * d->in_features), kind);
        d->x = (qkv_input){x, d->tokens * d->in_features, 0, d->in_features};
    }
    qt_read_only(d->x.data);
    d->packed = case_pack(ctx, &pack);
    qt_read_only(d->packed);
    qt_describe("B=%" PRId64 " M=%" PRId64 " K=%" PRId64 " %" PRId64 "/%" PRId64 "+%" PRId64 "/%" PRId64 " r=%" PRId64
                " layout=%" PRId64 " rotate=%u%u%u%u",
                d->batch, d->tokens, d->in_features, d->part[0].out_features, d->part[0].head_dim,
                d->part[1].out_features, d->part[1].head_dim, d->rope.rotary_dim, d->rope.layout, d->steps[0].rotate,
                d->steps[1].rotate, d->steps[2].rotate, d->steps[3].rotate);
}

static int64_t position_of(const qkv_head_steps *s, int64_t b, int64_t t) {
    if (s->positions.data)
        return s->positions.data[b * s->positions.batch + t * s->positions.token];
    return (s->first_positions ? s->first_positions[b] : s->first_position) + t;
}

/* The two channels of a pair. */
static void channels_of(const qkv_rope *rope, int64_t pair, int64_t at[2]) {
    const bool halves = rope->layout == QKV_ROPE_HALF;
    at[0] = halves ? pair : 2 * pair;
    at[1] = halves ? rope->rotary_dim / 2 + pair : 2 * pair + 1;
}

/* docs/numerics.md, in plain float. */
static void steps_by_hand(const qkv_projection_desc *d, int64_t part, int64_t b, int64_t t, float *x) {
    const qkv_head_steps *s = &d->steps[part];
    const int64_t n = d->part[part].head_dim;
    if (s->norm) {
        float lane[16] = {0};
        for (int64_t i = 0; i < n; i++)
            lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
        for (int half = 8; half > 0; half /= 2)
            for (int i = 0; i < half; i++)
                lane[i] += lane[i + half];
        volatile float mean = lane[0] / (float)n, sum = mean + s->norm_epsilon, root = sqrtf(sum), r = 1 / root;
        for (int64_t i = 0; i < n; i++) {
            volatile float y = x[i] * r;
            y = y == 0 ? 0 : y;
            x[i] = y * s->norm[i];
        }
    }
    for (int64_t p = 0; s->rotate && p < d->rope.rotary_dim / 2; p++) {
        const int64_t row = position_of(s, b, t) * (d->rope.rotary_dim / 2) + p;
        const float c = d->rope.cos[row], sine = d->rope.sin[row];
        int64_t at[2];
        channels_of(&d->rope, p, at);
        const float x0 = x[at[0]], x1 = x[at[1]];
        volatile float down = x1 * -sine, up = x0 * sine;
        x[at[0]] = fmaf(x0, c, down);
        x[at[1]] = fmaf(x1, c, up);
    }
}

/* [batch][heads][tokens][head_dim] of each part. */
static void run_case(const qkv_ctx *ctx, rope_case *c, int32_t threads, uint64_t shuffle, float **got) {
    const qkv_projection_desc *d = &c->desc;
    for (int p = 0; p < d->num_parts; p++)
        qt_poison(d->part[p].out.data);
    case_run_projection(ctx, d, threads, shuffle);
    for (int p = 0; p < d->num_parts; p++) {
        const qkv_projection_part *part = &d->part[p];
        qt_view view =
            qt_view_output(&part->out, d->batch, part->out_features / part->head_dim, d->tokens, part->head_dim);
        qt_expect_gaps("out", &view);
        got[p] = case_gather(&part->out, d->batch, part->out_features / part->head_dim, d->tokens, part->head_dim);
    }
}

static void by_hand(rope_case *c, float **want) {
    rope_case plain = *c;
    const qkv_ctx reference = case_reference();
    memset(plain.desc.steps, 0, sizeof plain.desc.steps);
    run_case(&reference, &plain, 0, 0, want);
    for (int p = 0; p < c->desc.num_parts; p++) {
        const qkv_projection_part *part = &c->desc.part[p];
        float *row = want[p];
        for (int64_t b = 0; b < c->desc.batch; b++)
            for (int64_t h = 0; h < part->out_features / part->head_dim; h++)
                for (int64_t t = 0; t < c->desc.tokens; t++, row += part->head_dim)
                    steps_by_hand(&c->desc, p, b, t, row);
    }
}

static void test_steps_by_hand(void) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(400); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_case c;
        draw_case(&rng, &reference, &c, qt_chance(&rng, 70) ? QT_NORMAL : QT_SPRINKLED);
        float *want[QKV_MAX_PARTS], *got[QKV_MAX_PARTS];
        by_hand(&c, want);
        for (size_t s = 0; s < qt_num_sets(); s++) {
            const qt_set *set = qt_get_set(s);
            run_case(&set->ctx, &c, qt_chance(&rng, 30) ? 0 : (int32_t)qt_range(&rng, 1, 8), qt_u64(&rng), got);
            for (int p = 0; p < c.desc.num_parts; p++)
                qt_expect_words(set->name, want[p], got[p],
                                (size_t)(c.desc.batch * c.desc.tokens * c.desc.part[p].out_features), 0);
        }
    }
}

/* ----------------------------------------------------------------------------------------------- in double */

static const double unit = 0x1p-24;

/* value and bound of one head's row of x·W + bias go through the steps. Returns 0 where a mean is lost in its error. */
static int steps_in_double(const qkv_projection_desc *d, int64_t part, int64_t b, int64_t t, double *value,
                           double *bound) {
    const qkv_head_steps *s = &d->steps[part];
    const int64_t n = d->part[part].head_dim;
    if (s->norm) {
        double mean = 0, error = 0;
        for (int64_t i = 0; i < n; i++) {
            mean += value[i] * value[i] / (double)n;
            error += (2 * fabs(value[i]) * bound[i] + bound[i] * bound[i]) / (double)n;
        }
        error += mean * unit * (double)((n + 15) / 16 + 4 + 2);
        const double sum = mean + (double)s->norm_epsilon;
        if (error > 0.1 * sum)
            return 0;
        const double r = 1 / sqrt(sum), r_error = 0.6 * error / sum + 4 * unit;
        for (int64_t i = 0; i < n; i++) {
            const double w = (double)s->norm[i];
            bound[i] = fabs(w) * r * (bound[i] + fabs(value[i]) * r_error) * 1.1 + 2 * unit * fabs(value[i] * r * w);
            value[i] *= r * w;
        }
    }
    for (int64_t p = 0; s->rotate && p < d->rope.rotary_dim / 2; p++) {
        const int64_t row = position_of(s, b, t) * (d->rope.rotary_dim / 2) + p;
        const double cosine = (double)d->rope.cos[row], sine = (double)d->rope.sin[row];
        int64_t at[2];
        channels_of(&d->rope, p, at);
        const double x0 = value[at[0]], x1 = value[at[1]], e0 = bound[at[0]], e1 = bound[at[1]];
        value[at[0]] = x0 * cosine - x1 * sine;
        value[at[1]] = x1 * cosine + x0 * sine;
        bound[at[0]] = fabs(cosine) * e0 + fabs(sine) * e1 + 3 * unit * (fabs(x0 * cosine) + fabs(x1 * sine));
        bound[at[1]] = fabs(cosine) * e1 + fabs(sine) * e0 + 3 * unit * (fabs(x1 * cosine) + fabs(x0 * sine));
    }
    return 1;
}

static void test_within_the_bound(const qt_set *set) {
    double worst = 0;
    uint64_t lost = 0, rows = 0;
    for (uint64_t i = 0; i < case_count(150); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_case c;
        draw_case(&rng, &set->ctx, &c, QT_NORMAL);
        const qkv_projection_desc *d = &c.desc;
        float *got[QKV_MAX_PARTS];
        run_case(&set->ctx, &c, 3, 0, got);
        double *x = oracle_alloc((size_t)d->in_features, sizeof *x);
        for (int p = 0; p < d->num_parts; p++) {
            const int64_t n = d->part[p].out_features, dim = d->part[p].head_dim;
            double *value = oracle_alloc((size_t)n, sizeof *value), *bound = oracle_alloc((size_t)n, sizeof *bound);
            for (int64_t at = 0; at < d->batch * d->tokens; at++) {
                const int64_t b = at / d->tokens, t = at % d->tokens;
                for (int64_t k = 0; k < d->in_features; k++)
                    x[k] = (double)((const float *)d->x.data)[b * d->x.batch + t * d->x.token + k];
                oracle_projection_row(x, NULL, c.dense[p], d->part[p].bias, d->in_features, n, value, bound);
                for (int64_t h = 0; h < n / dim; h++, rows++) {
                    if (!steps_in_double(d, p, b, t, value + h * dim, bound + h * dim)) {
                        lost++;
                        continue;
                    }
                    const float *y = got[p] + ((b * (n / dim) + h) * d->tokens + t) * dim;
                    for (int64_t j = 0; j < dim; j++)
                        QT_EXPECT(oracle_within((double)y[j], value[h * dim + j], bound[h * dim + j], &worst),
                                  "part %d [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                                  "]: want %.9g ± %.3g, got %.9g",
                                  p, b, h, t, j, value[h * dim + j], bound[h * dim + j], (double)y[j]);
                }
            }
            free(value);
            free(bound);
        }
        free(x);
    }
    qt_note("worst error/bound %.3f; %" PRIu64 " of %" PRIu64 " rows too near 0 to tell", worst, lost, rows);
}

/* ------------------------------------------------------------------------------------------------ what it means */

/* q·k of turned rows depends on the distance of their positions alone. */
static void test_scores_depend_on_distance(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    enum { DIM = 64, TOKENS = 40 };
    for (int64_t layout = 0; layout < 2; layout++) {
        float *cosine = case_floats(&rng, TOKENS * DIM / 2), *sine = case_floats(&rng, TOKENS * DIM / 2);
        const qkv_rope_table_desc table = {.size = sizeof table, .num_positions = TOKENS, .rotary_dim = DIM};
        assert_int_equal(qkv_rope_table(&table, cosine, sine), QKV_OK);
        float *w = case_floats(&rng, DIM * 2 * DIM), *x = case_floats(&rng, DIM);
        qt_fill(&rng, w, DIM * 2 * DIM, QT_NORMAL);
        qt_fill(&rng, x, DIM, QT_NORMAL);
        const qkv_pack_desc pack = {
            .size = sizeof pack,
            .in_features = DIM,
            .num_parts = 2,
            .part = {{.data = w, .out_features = DIM}, {.data = w + DIM * DIM, .out_features = DIM}}};
        float *q = case_floats(&rng, TOKENS * DIM), *k = case_floats(&rng, TOKENS * DIM);
        const qkv_projection_desc d = {
            .size = sizeof d,
            .batch = 1,
            .tokens = TOKENS,
            .in_features = DIM,
            .num_parts = 2,
            .x = {x, 0, 0, 0},
            .packed = case_pack(&set->ctx, &pack),
            .part = {{.out_features = DIM, .out = {q, 0, 0, DIM}}, {.out_features = DIM, .out = {k, 0, 0, DIM}}},
            .steps = {{.rotate = 1}, {.rotate = 1}},
            .rope = {cosine, sine, TOKENS, 0, layout}};
        case_run_projection(&set->ctx, &d, 0, 0);
        for (int distance = 0; distance < TOKENS; distance++) {
            double first = 0, size = 0;
            for (int i = 0; i + distance < TOKENS; i++) {
                double dot = 0;
                for (int c = 0; c < DIM; c++) {
                    dot += (double)q[(i + distance) * DIM + c] * (double)k[i * DIM + c];
                    size += i > 0 ? 0 : fabs((double)q[distance * DIM + c] * (double)k[c]);
                }
                first = i == 0 ? dot : first;
                QT_EXPECT(fabs(dot - first) <= 1e-5 * size, "distance %d: %g at 0, %g at %d", distance, first, dot, i);
            }
        }
        qt_count_words(TOKENS * TOKENS);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("steps_by_hand", test_steps_by_hand);
    qt_each_set("within_the_bound", test_within_the_bound);
    qt_each_set("scores_depend_on_distance", test_scores_depend_on_distance);
    return qt_run();
}
