/* Packing and projections: any size around the edges of tiles, panels and chains, both layouts, parts, bias, heads and
 * strides; the reference within the bound of the oracle, every kernel set the same words.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct projection_case {
    qkv_projection_desc desc;
    qkv_pack_desc pack;
    float *dense[QKV_MAX_PARTS]; /* [in][out] contiguous: what the oracle reads */
} projection_case;

static int64_t chain_size(qt_rng *rng) {
    static const int64_t edges[] = {0, 1, 2, 16, 64, 127, 128, 129, 255, 256, 257, 384, 385};
    return qt_chance(rng, 60) ? edges[qt_range(rng, 0, 12)] : qt_range(rng, 1, 300);
}

static void draw_weight(qt_rng *rng, projection_case *c, int part, int64_t out, qt_kind kind) {
    const int64_t in = c->desc.in_features;
    qkv_weight *w = &c->pack.part[part];
    w->out_features = out;
    w->layout = qt_chance(rng, 50) ? QKV_IN_OUT : QKV_OUT_IN;
    const int64_t rows = w->layout == QKV_IN_OUT ? in : out, cols = w->layout == QKV_IN_OUT ? out : in;
    const int64_t stride = cols + (qt_chance(rng, 40) ? qt_range(rng, 0, 9) : 0);
    w->stride = stride == cols && qt_chance(rng, 50) ? 0 : stride;
    const int64_t n = rows > 0 && cols > 0 ? stride * (rows - 1) + cols : 0;
    float *data = case_floats(rng, n);
    qt_fill(rng, data, (size_t)n, kind);
    qt_read_only(data);
    w->data = data;
    c->dense[part] = case_floats(rng, in * out);
    for (int64_t k = 0; k < in; k++)
        for (int64_t x = 0; x < out; x++)
            c->dense[part][k * out + x] = data[w->layout == QKV_IN_OUT ? k * stride + x : x * stride + k];
}

static void draw_projection(qt_rng *rng, projection_case *c, qt_kind kind) {
    memset(c, 0, sizeof *c);
    qkv_projection_desc *d = &c->desc;
    d->size = sizeof *d;
    d->batch = qt_chance(rng, 3) ? 0 : qt_range(rng, 1, 3);
    d->tokens = qt_chance(rng, 40) ? qt_range(rng, 0, 8) : case_size(rng, 130);
    d->in_features = chain_size(rng);
    d->num_parts = qt_range(rng, 1, QKV_MAX_PARTS);
    c->pack = (qkv_pack_desc){.size = sizeof c->pack, .in_features = d->in_features, .num_parts = d->num_parts};
    for (int part = 0; part < d->num_parts; part++) {
        qkv_projection_part *p = &d->part[part];
        const int64_t heads = qt_range(rng, 1, 4);
        const int64_t dim = qt_chance(rng, 50) ? case_size(rng, 130) : qt_range(rng, 0, 66);
        p->out_features = heads * dim;
        p->head_dim = dim > 0 && heads > 1 ? dim : qt_chance(rng, 50) ? p->out_features : 0;
        draw_weight(rng, c, part, p->out_features, kind);
        if (qt_chance(rng, 50)) {
            float *bias = case_floats(rng, p->out_features);
            qt_fill(rng, bias, (size_t)p->out_features, kind);
            qt_read_only(bias);
            p->bias = bias;
        }
        const int64_t head_dim = p->head_dim ? p->head_dim : p->out_features;
        p->out = case_output(rng, d->batch, head_dim > 0 ? p->out_features / head_dim : 0, d->tokens, head_dim);
    }
    d->x = case_input(rng, d->batch, 1, d->tokens, d->in_features, true);
    if (kind != QT_NORMAL)
        for (int64_t b = 0; b < d->batch; b++)
            for (int64_t t = 0; t < d->tokens; t++)
                qt_fill(rng, (float *)(uintptr_t)d->x.data + b * d->x.batch + t * d->x.token, (size_t)d->in_features,
                        kind);
    qt_read_only(d->x.data);
    qt_describe("B=%" PRId64 " M=%" PRId64 " K=%" PRId64 " N=%" PRId64 "+%" PRId64 "+%" PRId64 "+%" PRId64 " %s",
                d->batch, d->tokens, d->in_features, d->part[0].out_features, d->part[1].out_features,
                d->part[2].out_features, d->part[3].out_features, qt_kind_name(kind));
}

static int64_t part_heads(const qkv_projection_part *p) {
    return p->head_dim ? p->out_features / p->head_dim : p->out_features > 0;
}

/* Runs and gathers part by part, [batch][heads][tokens][head_dim]. */
static void run_case(const qkv_ctx *ctx, projection_case *c, int32_t threads, uint64_t shuffle, float **got) {
    qkv_projection_desc *d = &c->desc;
    for (int p = 0; p < d->num_parts; p++)
        qt_poison(d->part[p].out.data);
    d->packed = case_pack(ctx, &c->pack);
    qt_read_only(d->packed);
    case_run_projection(ctx, d, threads, shuffle);
    for (int p = 0; p < d->num_parts; p++) {
        const qkv_projection_part *part = &d->part[p];
        const int64_t heads = part_heads(part), dim = part->head_dim ? part->head_dim : part->out_features;
        qt_view view = qt_view_output(&part->out, d->batch, heads, d->tokens, dim);
        qt_expect_gaps("out", &view);
        got[p] = case_gather(&part->out, d->batch, heads, d->tokens, dim);
    }
}

static void expect_sets_agree(qt_rng *rng, projection_case *c, float *const *want, const void *packed) {
    const qkv_projection_desc *d = &c->desc;
    size_t bytes;
    assert_int_equal(qkv_packed_size(&c->pack, &bytes), QKV_OK);
    for (size_t s = 0; s < qt_num_sets(); s++) {
        const qt_set *set = qt_get_set(s);
        float *got[QKV_MAX_PARTS];
        run_case(&set->ctx, c, qt_chance(rng, 50) ? 0 : (int32_t)qt_range(rng, 1, 8), qt_u64(rng), got);
        qt_expect_bytes("packed", packed, d->packed, bytes);
        for (int p = 0; p < d->num_parts; p++) {
            char what[64];
            snprintf(what, sizeof what, "part %d of %s", p, set->name);
            qt_expect_words(what, want[p], got[p], (size_t)(d->batch * d->tokens * d->part[p].out_features), 0);
        }
    }
}

static void expect_within(const projection_case *c, float *const *got, double *worst, bool exact) {
    const qkv_projection_desc *d = &c->desc;
    double *x = oracle_alloc((size_t)d->in_features, sizeof *x);
    for (int p = 0; p < d->num_parts; p++) {
        const qkv_projection_part *part = &d->part[p];
        const int64_t n = part->out_features, dim = part->head_dim ? part->head_dim : n, heads = part_heads(part);
        double *value = oracle_alloc((size_t)n, sizeof *value), *bound = oracle_alloc((size_t)n, sizeof *bound);
        for (int64_t b = 0; b < d->batch; b++)
            for (int64_t t = 0; t < d->tokens; t++) {
                for (int64_t k = 0; k < d->in_features; k++)
                    x[k] = (double)((const float *)d->x.data)[b * d->x.batch + t * d->x.token + k];
                oracle_projection_row(x, NULL, c->dense[p], part->bias, d->in_features, n, value, bound);
                for (int64_t i = 0; i < n; i++) {
                    const float y = got[p][((b * heads + i / dim) * d->tokens + t) * dim + i % dim];
                    QT_EXPECT(oracle_within((double)y, value[i], exact ? 0 : bound[i], worst),
                              "part %d [%" PRId64 ", %" PRId64 ", %" PRId64 "]: want %.9g ± %.3g, got %.9g", p, b, t, i,
                              value[i], exact ? 0 : bound[i], (double)y);
                }
            }
        free(value);
        free(bound);
    }
    free(x);
}

static void projection_cases(uint64_t count, qt_kind kind) {
    const qkv_ctx reference = case_reference();
    double worst = 0;
    for (uint64_t i = 0; i < case_count(count); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        projection_case c;
        draw_projection(&rng, &c, kind);
        float *want[QKV_MAX_PARTS];
        run_case(&reference, &c, 0, 0, want);
        expect_sets_agree(&rng, &c, want, c.desc.packed);
        expect_within(&c, want, &worst, kind == QT_INTEGER);
    }
    if (kind != QT_INTEGER)
        qt_note("worst error/bound %.3f", worst);
}

static void test_projection(void) {
    projection_cases(500, QT_NORMAL);
}

/* Every product and sum is exact, so that the slightest slip in indexing shows. */
static void test_small_integers_are_exact(void) {
    projection_cases(250, QT_INTEGER);
}

static void test_wide_range(void) {
    projection_cases(200, QT_WIDE);
}

static void test_empty_inner_sum_is_the_bias(void) {
    const qkv_ctx ctx = case_reference();
    float bias[3] = {1, -2, 3}, y[6], plain[6];
    const qkv_pack_desc pack = {.size = sizeof pack, .num_parts = 1, .part = {{.data = bias, .out_features = 3}}};
    qkv_projection_desc d = {.size = sizeof d,
                             .batch = 1,
                             .tokens = 2,
                             .num_parts = 1,
                             .x = {bias, 0, 0, 0},
                             .packed = case_pack(&ctx, &pack),
                             .part = {{.out_features = 3, .bias = bias, .out = {y, 6, 3, 3}}}};
    case_run_projection(&ctx, &d, 0, 0);
    for (int i = 0; i < 6; i++)
        assert_true(y[i] == bias[i % 3]);
    d.part[0].bias = NULL;
    d.part[0].out.data = plain;
    case_run_projection(&ctx, &d, 0, 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(qt_bits(plain[i]), 0);
}

/* ------------------------------------------------------------------------------------------------------- packing */

static size_t packed_bytes(const qkv_pack_desc *pack) {
    size_t panels = 0;
    for (int p = 0; p < pack->num_parts; p++)
        panels += (size_t)(pack->part[p].out_features + QKV_PANEL - 1) / QKV_PANEL;
    return panels * (size_t)pack->in_features * QKV_PANEL * sizeof(float);
}

/* The layout that the header describes, so that packed weights may be kept in files. */
static void test_packed_layout(void) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        projection_case c;
        draw_projection(&rng, &c, QT_NASTY);
        size_t bytes;
        assert_int_equal(qkv_packed_size(&c.pack, &bytes), QKV_OK);
        assert_int_equal(bytes, packed_bytes(&c.pack));
        const int64_t in = c.desc.in_features;
        const float *packed = case_pack(&reference, &c.pack);
        for (int p = 0; p < c.desc.num_parts; p++) {
            const int64_t out = c.pack.part[p].out_features, panels = (out + QKV_PANEL - 1) / QKV_PANEL;
            for (int64_t x = 0; x < panels * QKV_PANEL; x++)
                for (int64_t k = 0; k < in; k++) {
                    const float want = x < out ? c.dense[p][k * out + x] : 0;
                    const float got = packed[(x / QKV_PANEL * in + k) * QKV_PANEL + x % QKV_PANEL];
                    QT_EXPECT(qt_bits(want) == qt_bits(got), "part %d [%" PRId64 ", %" PRId64 "]: want %08x, got %08x",
                              p, k, x, (unsigned)qt_bits(want), (unsigned)qt_bits(got));
                }
            packed += panels * in * QKV_PANEL;
        }
    }
}

static void test_unpack_is_the_inverse(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        projection_case c;
        draw_projection(&rng, &c, QT_NASTY);
        const void *packed = case_pack(&set->ctx, &c.pack);
        qt_read_only(packed);
        qt_view view[QKV_MAX_PARTS];
        for (int p = 0; p < c.desc.num_parts; p++) { /* into the other layout, with gaps */
            qkv_weight *w = &c.pack.part[p];
            w->layout = qt_chance(&rng, 50) ? QKV_IN_OUT : QKV_OUT_IN;
            const bool in_out = w->layout == QKV_IN_OUT;
            const int64_t in = c.desc.in_features, rows = in_out ? in : w->out_features;
            const int64_t cols = in_out ? w->out_features : in;
            w->stride = cols + qt_range(&rng, 0, 5);
            const int64_t n = rows > 0 && cols > 0 ? w->stride * (rows - 1) + cols : 0;
            w->unpacked = case_floats(&rng, n);
            view[p] = qt_view_rows(w->unpacked, (size_t)rows, (size_t)cols, w->stride);
            w->stride = w->stride == cols ? 0 : w->stride;
        }
        assert_int_equal(qkv_unpack(&c.pack, packed), QKV_OK);
        for (int p = 0; p < c.desc.num_parts; p++) {
            qt_expect_gaps("unpacked", &view[p]);
            const int64_t in = c.desc.in_features, out = c.pack.part[p].out_features;
            const bool in_out = c.pack.part[p].layout == QKV_IN_OUT;
            const int64_t ld = view[p].stride[0];
            for (int64_t k = 0; k < in; k++)
                for (int64_t x = 0; x < out; x++) {
                    const float got = c.pack.part[p].unpacked[in_out ? k * ld + x : x * ld + k];
                    QT_EXPECT(qt_bits(got) == qt_bits(c.dense[p][k * out + x]), "part %d [%" PRId64 ", %" PRId64 "]", p,
                              k, x);
                }
        }
        qt_count_words((uint64_t)c.desc.in_features);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("projection", test_projection);
    qt_once("small_integers_are_exact", test_small_integers_are_exact);
    qt_once("wide_range", test_wide_range);
    qt_once("empty_inner_sum_is_the_bias", test_empty_inner_sum_is_the_bias);
    qt_once("packed_layout", test_packed_layout);
    qt_each_set("unpack_is_the_inverse", test_unpack_is_the_inverse);
    return qt_run();
}
