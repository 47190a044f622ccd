/* Weights in every type: packing and its inverse; projections over them. In f32 the words of the same projection over
 * the floats that they mean; in int8 those of its definition, written once more here, and within a bound of them; in
 * bfloat16 those of the f32 call on rounded operands.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

typedef struct typed_case {
    qkv_projection_desc desc, plain; /* plain: over the floats */
    qkv_pack_desc pack, pack_plain;
    const float *dense[QKV_MAX_PARTS];
} typed_case;

static int64_t draw_inputs(qt_rng *rng, const int64_t types[QKV_MAX_PARTS]) {
    int64_t terms = 1;
    for (int i = 0; i < QKV_MAX_PARTS; i++)
        terms = oracle_block_terms(types[i]) > terms ? oracle_block_terms(types[i]) : terms;
    return terms == 256 ? 256 * qt_range(rng, 0, 2) : terms == 32 ? 32 * qt_range(rng, 0, 10) : case_size(rng, 300);
}

/* QK-norm and RoPE of a part with such heads. */
static void draw_steps(qt_rng *rng, qkv_projection_desc *d, int part) {
    const int64_t dim = d->part[part].head_dim;
    if (dim == 0 || qt_chance(rng, 60))
        return;
    if (qt_chance(rng, 60)) {
        d->steps[part].norm = case_normal(rng, dim);
        d->steps[part].norm_epsilon = 0.01f;
    }
    if (d->rope.cos || dim < 2)
        return;
    d->steps[part].rotate = 1;
    d->rope = (qkv_rope){.num_positions = d->tokens, .rotary_dim = dim / 2 * 2, .layout = qt_range(rng, 0, 1)};
    d->rope.cos = case_normal(rng, d->tokens * (dim / 2));
    d->rope.sin = case_normal(rng, d->tokens * (dim / 2));
}

/* Types that differ, or one alone. */
static void draw_case(qt_rng *rng, typed_case *c, int64_t first_type, bool integers, bool damaged) {
    memset(c, 0, sizeof *c);
    qkv_projection_desc *d = &c->desc;
    int64_t types[QKV_MAX_PARTS];
    const bool mixed = qt_chance(rng, 50);
    for (int i = 0; i < QKV_MAX_PARTS; i++) {
        types[i] = i > 0 && mixed ? case_weight_type(rng, integers, 0) : first_type;
    }
    d->size = sizeof *d;
    d->batch = qt_range(rng, 1, 2);
    d->tokens = qt_chance(rng, 60) ? qt_range(rng, 1, 13) : qt_range(rng, 1, 200);
    d->num_parts = mixed ? qt_range(rng, 1, QKV_MAX_PARTS) : qt_range(rng, 1, 2);
    d->in_features = draw_inputs(rng, types);
    d->arithmetic = integers ? QKV_ARITHMETIC_INT8 : QKV_ARITHMETIC_F32;
    c->pack = (qkv_pack_desc){.size = sizeof c->pack, .in_features = d->in_features, .num_parts = d->num_parts};
    c->pack_plain = c->pack;
    for (int i = 0; i < d->num_parts; i++) {
        qkv_projection_part *p = &d->part[i];
        const int64_t heads = qt_range(rng, 1, 4), dim = qt_range(rng, 0, 66);
        p->out_features = heads * dim;
        p->head_dim = dim;
        p->type = types[i];
        p->bias = qt_chance(rng, 50) ? case_normal(rng, p->out_features) : NULL;
        p->out = case_output(rng, d->batch, dim > 0 ? heads : 0, d->tokens, dim);
        c->pack.part[i] = case_weight(rng, types[i], d->in_features, p->out_features, damaged, &c->dense[i]);
        c->pack_plain.part[i] = (qkv_weight){.data = c->dense[i], .out_features = p->out_features};
        if (!integers || !damaged)
            draw_steps(rng, d, i);
    }
    d->x = case_input(rng, d->batch, 1, d->tokens, d->in_features, true);
    c->plain = *d;
    for (int i = 0; i < d->num_parts; i++)
        c->plain.part[i].type = QKV_F32;
    c->plain.arithmetic = QKV_ARITHMETIC_F32;
    qt_describe("B=%" PRId64 " M=%" PRId64 " K=%" PRId64 " %s:%" PRId64 "+%s:%" PRId64 "+%s:%" PRId64 "+%s:%" PRId64
                "%s%s",
                d->batch, d->tokens, d->in_features, case_type_name[d->part[0].type], d->part[0].out_features,
                case_type_name[d->part[1].type], d->part[1].out_features, case_type_name[d->part[2].type],
                d->part[2].out_features, case_type_name[d->part[3].type], d->part[3].out_features,
                integers ? " in int8" : "", damaged ? ", damaged" : "");
}

static float *run_part(const qkv_projection_desc *d, int part) {
    const qkv_projection_part *p = &d->part[part];
    const int64_t heads = p->head_dim > 0 ? p->out_features / p->head_dim : 0;
    const qt_view view = qt_view_output(&p->out, d->batch, heads, d->tokens, p->head_dim);
    qt_expect_gaps("out", &view);
    return case_gather(&p->out, d->batch, heads, d->tokens, p->head_dim);
}

/* Part by part, [batch][heads][tokens][head_dim]. */
static void run_case(const qkv_ctx *ctx, qkv_projection_desc *d, const qkv_pack_desc *pack, int32_t threads,
                     uint64_t shuffle, float *got[QKV_MAX_PARTS]) {
    for (int i = 0; i < d->num_parts; i++)
        qt_poison(d->part[i].out.data);
    d->packed = case_pack(ctx, pack);
    qt_read_only(d->packed);
    case_run_projection(ctx, d, threads, shuffle);
    for (int i = 0; i < d->num_parts; i++)
        got[i] = run_part(d, i);
}

/* Every set packs the same bytes and gives the words `want`. */
static void expect_every_set(qt_rng *rng, typed_case *c, float *const want[], const void *packed) {
    qkv_projection_desc *d = &c->desc;
    size_t bytes;
    assert_int_equal(qkv_packed_size(&c->pack, &bytes), QKV_OK);
    for (size_t s = 0; s < qt_num_sets(); s++) {
        const qt_set *set = qt_get_set(s);
        float *got[QKV_MAX_PARTS];
        run_case(&set->ctx, d, &c->pack, qt_chance(rng, 50) ? 0 : (int32_t)qt_range(rng, 1, 8), qt_u64(rng), got);
        qt_expect_bytes(set->name, packed, d->packed, bytes);
        for (int i = 0; i < d->num_parts; i++)
            qt_expect_words(set->name, want[i], got[i], (size_t)(d->batch * d->tokens * d->part[i].out_features), 0);
    }
}

static void in_f32(uint64_t count, bool damaged) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(count); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        typed_case c;
        draw_case(&rng, &c, (int64_t)(i % (QKV_Q6_K + 1)), false, damaged);
        float *want[QKV_MAX_PARTS];
        run_case(&reference, &c.plain, &c.pack_plain, 0, 0, want);
        expect_every_set(&rng, &c, want, case_pack(&reference, &c.pack));
    }
}

static void test_the_words_of_the_floats_they_mean(void) {
    in_f32(600, false);
}

static void test_damaged_blocks_are_values(void) {
    in_f32(150, true);
}

/* ---------------------------------------------------------------------------------------------------------- int8 */

typedef struct terms8 {
    int q[32];
    float scale;
} terms8;

/* By docs/numerics.md. */
static terms8 quantize(const float *x, int64_t n) {
    terms8 to = {.scale = 0};
    float largest = 0;
    bool is_number = true; /* GCC 12 for AArch64 forgets a NaN that is set in this loop */
    for (int64_t i = 0; i < n; i++) {
        is_number = is_number && fabsf(x[i]) <= FLT_MAX;
        largest = fmaxf(largest, fabsf(x[i]));
    }
    if (!is_number)
        to.scale = NAN;
    if (!is_number || largest < 0x1p-100f)
        return to;
    to.scale = largest / 127;
    const float factor = 127 / largest;
    for (int64_t i = 0; i < n; i++) {
        const float y = x[i] * factor;
        to.q[i] = (int)lrintf(y);
        QT_EXPECT(to.q[i] >= -127 && to.q[i] <= 127, "%g of at most %g becomes %d", (double)x[i], (double)largest,
                  to.q[i]);
    }
    return to;
}

/* One output: its word, and how far from x·w in exact arithmetic it may be, value and error. */
static float multiply_in_int8(const float *x, const qkv_weight *w, int64_t in, int64_t column, double *value,
                              double *error) {
    const int64_t bytes = oracle_block_bytes(w->type), terms = oracle_block_terms(w->type);
    const bool in_out = w->layout == QKV_IN_OUT;
    const int64_t stride = (w->stride ? w->stride : in_out ? w->out_features : in) / terms * bytes;
    float y = 0;
    double magnitude = 0;
    *value = *error = 0;
    for (int64_t k = 0; k < in; k += 32) {
        const int64_t n = in - k < 32 ? in - k : 32, step = w->type == QKV_Q6_K ? 16 : 32;
        const terms8 t = quantize(x + k, n);
        oracle_term last = {0, 0, 0};
        int all = 0;
        for (int64_t first = 0; first < n; first += step) {
            int sum = 0;
            for (int64_t i = first; i < n && i < first + step; i++) {
                const char *data = (const char *)w->data;
                last = in_out ? oracle_weight(w->type, data + (k + i) * stride, column)
                              : oracle_weight(w->type, data + column * stride, k + i);
                sum += last.q * t.q[i];
                all += t.q[i];
                const double scale = w->type == QKV_INT8 ? (double)w->scales[column] : last.scale;
                const double weight = scale * last.q + last.minimum;
                *value += (double)x[k + i] * weight;
                *error += 0.5001 * (double)t.scale * fabs(weight);
                magnitude += (fabs(scale * last.q) + fabs(last.minimum)) * fabs((double)t.scale * t.q[i]);
            }
            y = fmaf((float)sum, w->type == QKV_INT8 ? t.scale : t.scale * (float)last.scale, y);
        }
        if (w->type == QKV_Q4_1 || w->type == QKV_Q5_1 || w->type == QKV_Q4_K || w->type == QKV_Q5_K)
            y = fmaf(t.scale * (float)all, (float)last.minimum, y);
    }
    *error += oracle_gamma((double)in / 8 + 4) * (magnitude + *error) + ORACLE_TINY * (double)in;
    return w->type == QKV_INT8 && in > 0 ? y * w->scales[column] : y;
}

static void expect_definition(typed_case *c, float *const got[], double *worst) {
    const qkv_projection_desc *d = &c->desc;
    for (int p = 0; p < d->num_parts; p++) {
        const qkv_projection_part *part = &d->part[p];
        const bool steps = d->steps[p].norm || d->steps[p].rotate;
        const int64_t dim = part->head_dim, n = part->out_features, heads = dim > 0 ? n / dim : 0;
        for (int64_t i = 0; i < d->batch * d->tokens && !steps; i++) {
            const int64_t b = i / d->tokens, t = i % d->tokens;
            const float *x = (const float *)d->x.data + b * d->x.batch + t * d->x.token;
            for (int64_t column = i % 3; column < n; column += 3) { /* a third, for speed */
                double value, error;
                float want = multiply_in_int8(x, &c->pack.part[p], d->in_features, column, &value, &error);
                if (part->bias) {
                    want += part->bias[column];
                    value += (double)part->bias[column];
                    error += ORACLE_U * (fabs(value) + error);
                }
                const float y = got[p][((b * heads + column / dim) * d->tokens + t) * dim + column % dim];
                QT_EXPECT(qt_same(want, y, 0), "part %d [%" PRId64 ", %" PRId64 ", %" PRId64 "]: want %.9g, got %.9g",
                          p, b, t, column, (double)want, (double)y);
                QT_EXPECT(!worst || oracle_within((double)y, value, error, worst),
                          "part %d [%" PRId64 ", %" PRId64 "]: %.9g is not %.9g ± %.3g", p, i, column, (double)y, value,
                          error);
                qt_count_words(1);
            }
        }
    }
}

static void in_int8(uint64_t count, bool damaged) {
    const qkv_ctx reference = case_reference();
    double worst = 0;
    for (uint64_t i = 0; i < case_count(count); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        typed_case c;
        draw_case(&rng, &c, (int64_t)(QKV_Q8_0 + i % 9), true, damaged);
        if (damaged) /* x as well */
            for (int64_t n = 0; n < c.desc.in_features; n += 1 + qt_range(&rng, 0, 200))
                case_row(&c.desc.x, 0, 0, qt_range(&rng, 0, c.desc.tokens - 1))[n] = qt_nasty(&rng);
        float *want[QKV_MAX_PARTS];
        run_case(&reference, &c.desc, &c.pack, 0, 0, want);
        expect_definition(&c, want, damaged ? NULL : &worst);
        expect_every_set(&rng, &c, want, case_pack(&reference, &c.pack));
    }
    if (!damaged)
        qt_note("worst error/bound %.3f", worst);
}

static void test_int8_is_what_its_definition_says(void) {
    in_int8(400, false);
}

static void test_int8_of_damaged_blocks(void) {
    in_int8(120, true);
}

/* ------------------------------------------------------------------------------------------------------ bfloat16 */

/* [count][n][width] floats, rounded, the two of each pair of the n swapped; a last pair of one has a 0 before it. */
static float *swapped_pairs(const float *from, int64_t count, int64_t n, int64_t width) {
    const int64_t even = (n + 1) / 2 * 2;
    float *to = qt_floats((size_t)(count * even * width), QT_HEAD);
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < even; j++)
            for (int64_t x = 0; x < width; x++)
                to[(i * even + (j ^ 1)) * width + x] = j < n ? oracle_to_bf16(from[(i * n + j) * width + x]) : 0;
    return to;
}

/* The words of the f32 call on operands that are rounded and swapped. */
static void test_bf16_is_f32_of_swapped_pairs(void) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(400); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        typed_case c;
        draw_case(&rng, &c, (int64_t)(i % (QKV_Q6_K + 1)), false, qt_chance(&rng, 20));
        const int64_t in = c.desc.in_features, tokens = c.desc.batch * c.desc.tokens;
        c.plain.in_features = c.pack_plain.in_features = (in + 1) / 2 * 2;
        for (int p = 0; p < c.desc.num_parts; p++)
            c.pack_plain.part[p].data = swapped_pairs(c.dense[p], 1, in, c.desc.part[p].out_features);
        const qkv_output x = {(void *)(uintptr_t)c.desc.x.data, c.desc.x.batch, c.desc.x.head, c.desc.x.token};
        c.plain.x = (qkv_input){swapped_pairs(case_gather(&x, c.desc.batch, 1, c.desc.tokens, in), tokens, in, 1),
                                c.desc.tokens * c.plain.in_features, 0, c.plain.in_features};
        c.desc.arithmetic = QKV_ARITHMETIC_BF16;
        float *want[QKV_MAX_PARTS];
        run_case(&reference, &c.plain, &c.pack_plain, 0, 0, want);
        expect_every_set(&rng, &c, want, case_pack(&reference, &c.pack));
    }
}

/* ------------------------------------------------------------------------------------------------------- packing */

/* Unpacked, in any layout, they are the floats; and a matrix packed in pieces is the same bytes. */
static void test_unpack_gives_the_floats(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(240); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        typed_case c;
        draw_case(&rng, &c, (int64_t)(i % (QKV_Q6_K + 1)), false, qt_chance(&rng, 30));
        const unsigned char *packed = case_pack(&set->ctx, &c.pack);
        qt_read_only(packed);
        const int64_t in = c.desc.in_features;
        qkv_pack_desc out = c.pack;
        qt_view view[QKV_MAX_PARTS];
        for (int p = 0; p < out.num_parts; p++) {
            qkv_weight *w = &out.part[p];
            w->data = w->scales = NULL;
            w->layout = qt_range(&rng, 0, 1);
            const int64_t rows = w->layout == QKV_IN_OUT ? in : w->out_features;
            const int64_t cols = w->layout == QKV_IN_OUT ? w->out_features : in;
            w->stride = cols + qt_range(&rng, 0, 5);
            w->unpacked = case_floats(&rng, rows > 0 && cols > 0 ? w->stride * (rows - 1) + cols : 0);
            view[p] = qt_view_rows(w->unpacked, (size_t)rows, (size_t)cols, w->stride);
        }
        assert_int_equal(qkv_unpack(&out, packed), QKV_OK);
        for (int p = 0; p < out.num_parts; p++) {
            const qkv_weight *w = &out.part[p];
            qt_expect_gaps("unpacked", &view[p]);
            for (int64_t k = 0; k < in; k++)
                for (int64_t x = 0; x < w->out_features; x++) {
                    const float got = w->unpacked[w->layout == QKV_IN_OUT ? k * w->stride + x : x * w->stride + k];
                    const float want = c.dense[p][k * w->out_features + x];
                    QT_EXPECT(qt_same(want, got, 0), "part %d [%" PRId64 ", %" PRId64 "]: want %.9g, got %.9g", p, k, x,
                              (double)want, (double)got);
                }
        }
        qt_count_words((uint64_t)in);
    }
}

static void test_pieces_of_64_columns_make_the_whole(void) {
    const qkv_ctx ctx = case_reference();
    for (uint64_t i = 0; i < 3 * (QKV_Q6_K + 1); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t type = (int64_t)(i % (QKV_Q6_K + 1)), terms = oracle_block_terms(type);
        const int64_t in = terms == 1 ? 37 : 2 * terms, out = qt_range(&rng, 65, 300), cut = out / 64 * 64;
        const float *dense;
        const qkv_weight w = case_weight(&rng, type, in, out, false, &dense);
        qkv_pack_desc whole = {.size = sizeof whole, .in_features = in, .num_parts = 1, .part = {w}}, piece = whole;
        size_t bytes, before;
        assert_int_equal(qkv_packed_size(&whole, &bytes), QKV_OK);
        unsigned char *pieces = qt_alloc(bytes, 64, QT_TAIL);
        const bool in_out = w.layout == QKV_IN_OUT;
        piece.part[0].stride = w.stride ? w.stride : in_out ? out : in;
        piece.part[0].out_features = cut;
        assert_int_equal(qkv_packed_size(&piece, &before), QKV_OK);
        assert_int_equal(qkv_pack(&ctx, &piece, pieces), QKV_OK);
        piece.part[0].data =
            (const char *)w.data + cut * (in_out ? 1 : piece.part[0].stride / terms) * oracle_block_bytes(type);
        piece.part[0].scales = w.scales ? w.scales + cut : NULL;
        piece.part[0].out_features = out - cut;
        assert_int_equal(qkv_pack(&ctx, &piece, pieces + before), QKV_OK);
        qt_expect_bytes("pieces", case_pack(&ctx, &whole), pieces, bytes);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("the_words_of_the_floats_they_mean", test_the_words_of_the_floats_they_mean);
    qt_once("damaged_blocks_are_values", test_damaged_blocks_are_values);
    qt_once("int8_is_what_its_definition_says", test_int8_is_what_its_definition_says);
    qt_once("int8_of_damaged_blocks", test_int8_of_damaged_blocks);
    qt_once("bf16_is_f32_of_swapped_pairs", test_bf16_is_f32_of_swapped_pairs);
    qt_each_set("unpack_gives_the_floats", test_unpack_gives_the_floats);
    qt_once("pieces_of_64_columns_make_the_whole", test_pieces_of_64_columns_make_the_whole);
    return qt_run();
}
