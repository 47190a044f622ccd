/* qkv_packed_size, qkv_pack and qkv_unpack: the panels that the header describes, and back bit for bit.
 *
 * SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "operands.h"

/* A part and the allocation that holds its elements; element (in, out) is base[in·in_step + out·out_step]. */
typedef struct matrix {
    const float *base;
    ptrdiff_t in_step, out_step;
} matrix;

static uint32_t element(const matrix *m, int64_t in, int64_t out) {
    return qt_bits(m->base[in * m->in_step + out * m->out_step]);
}

static int64_t panels_of(int64_t out_features) {
    return (out_features + QKV_PANEL - 1) / QKV_PANEL;
}

/* Strides of any kind: left out, tight, with gaps, negative. Not 0 by itself: that means contiguous. */
static qkv_weight draw_part(qt_rng *rng, int64_t in_features, int place, matrix *m) {
    qkv_weight w = {.layout = qt_range(rng, QKV_IN_OUT, QKV_OUT_IN)};
    w.out_features = (int64_t)draw_size(rng, 200);
    bool in_out = w.layout == QKV_IN_OUT;
    int64_t rows = in_out ? in_features : w.out_features, cols = in_out ? w.out_features : in_features;
    int64_t ld = draw_ld(rng, (size_t)cols);
    w.stride = qt_chance(rng, 30) ? 0 : ld == 0 ? cols : ld;
    int64_t step = w.stride == 0 ? cols : w.stride;
    w.data = operand(rng, (size_t)rows, (size_t)cols, step, place, QT_NASTY);
    *m = in_out ? (matrix){w.data, step, 1} : (matrix){w.data, 1, step};
    return w;
}

static qkv_pack_desc draw_desc(qt_rng *rng, int place, matrix m[QKV_MAX_PARTS]) {
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = (int64_t)draw_size(rng, 200)};
    desc.num_parts = qt_range(rng, 1, QKV_MAX_PARTS);
    for (int64_t i = 0; i < desc.num_parts; i++)
        desc.part[i] = draw_part(rng, desc.in_features, place, &m[i]);
    return desc;
}

static void describe(const qkv_pack_desc *desc, int place) {
    char text[400];
    int at = snprintf(text, sizeof text, "in=%lld place=%d", (long long)desc->in_features, place);
    for (int64_t i = 0; i < desc->num_parts; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, " [out=%lld stride=%lld %s]",
                       (long long)desc->part[i].out_features, (long long)desc->part[i].stride,
                       desc->part[i].layout == QKV_IN_OUT ? "in-out" : "out-in");
    qt_describe("%s", text);
}

static void expect_panels(const qkv_pack_desc *desc, const matrix m[], const float *packed) {
    const float *panel = packed;
    for (int64_t i = 0; i < desc->num_parts; i++)
        for (int64_t p = 0; p < panels_of(desc->part[i].out_features); p++)
            for (int64_t in = 0; in < desc->in_features; in++, panel += QKV_PANEL)
                for (int64_t x = 0; x < QKV_PANEL; x++) {
                    int64_t out = p * QKV_PANEL + x;
                    uint32_t want = out < desc->part[i].out_features ? element(&m[i], in, out) : 0;
                    QT_EXPECT(qt_bits(panel[x]) == want, "part %lld panel %lld [%lld][%lld]: want %08x, got %08x",
                              (long long)i, (long long)p, (long long)in, (long long)x, want, qt_bits(panel[x]));
                }
    qt_count_words((uint64_t)(panel - packed));
}

/* Unpacks into layouts and strides of its own, some parts left out. */
static void expect_round_trip(qt_rng *rng, const qkv_pack_desc *packed_desc, const matrix m[], const float *packed,
                              int place) {
    qkv_pack_desc desc = *packed_desc;
    qt_view views[QKV_MAX_PARTS];
    float *buffers[QKV_MAX_PARTS];
    for (int64_t i = 0; i < desc.num_parts; i++) {
        qkv_weight *w = &desc.part[i];
        w->layout = qt_range(rng, QKV_IN_OUT, QKV_OUT_IN);
        int64_t rows = w->layout == QKV_IN_OUT ? desc.in_features : w->out_features;
        int64_t cols = w->layout == QKV_IN_OUT ? w->out_features : desc.in_features;
        int64_t step = cols + qt_range(rng, 0, 9), sign = qt_chance(rng, 20) ? -1 : 1;
        int64_t n = rows == 0 || cols == 0 ? 0 : (rows - 1) * step + cols;
        buffers[i] = qt_floats((size_t)n, place);
        w->stride = step == 0 ? 0 : sign * step;
        w->data = NULL;
        float *base = sign < 0 && n > 0 ? buffers[i] + (rows - 1) * step : buffers[i];
        w->unpacked = qt_chance(rng, 20) ? NULL : base;
        views[i] = qt_view_rows(base, (size_t)rows, (size_t)cols, sign * step);
    }
    qkv_status status = qkv_unpack(&desc, packed);
    QT_EXPECT(status == QKV_OK, "qkv_unpack: %s", qkv_status_string(status));
    for (int64_t i = 0; i < desc.num_parts; i++) {
        const qkv_weight *w = &desc.part[i];
        if (w->unpacked == NULL) {
            qt_expect_untouched("a part left out", buffers[i]);
            continue;
        }
        qt_expect_gaps("unpacked", &views[i]);
        bool in_out = w->layout == QKV_IN_OUT;
        matrix got = {w->unpacked, in_out ? w->stride : 1, in_out ? 1 : w->stride};
        for (int64_t in = 0; in < desc.in_features; in++)
            for (int64_t out = 0; out < w->out_features; out++)
                QT_EXPECT(element(&got, in, out) == element(&m[i], in, out),
                          "part %lld (%lld, %lld): packed %08x, unpacked %08x", (long long)i, (long long)in,
                          (long long)out, element(&m[i], in, out), element(&got, in, out));
        qt_count_words((uint64_t)(desc.in_features * w->out_features));
    }
}

static void test_weights(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 100 : 1000); i++) {
        if (!qt_case(i, &rng))
            continue;
        int place = qt_place(&rng);
        matrix m[QKV_MAX_PARTS];
        qkv_pack_desc desc = draw_desc(&rng, place, m);
        describe(&desc, place);
        int64_t floats = 0;
        for (int64_t p = 0; p < desc.num_parts; p++)
            floats += panels_of(desc.part[p].out_features) * QKV_PANEL * desc.in_features;
        size_t bytes = 1;
        qkv_status status = qkv_packed_size(&desc, &bytes);
        QT_EXPECT(status == QKV_OK, "qkv_packed_size: %s", qkv_status_string(status));
        QT_EXPECT(bytes == (size_t)floats * sizeof(float), "packed size: want %lld floats, got %zu bytes",
                  (long long)floats, bytes);
        float *packed = qt_tile(1, (size_t)floats, place);
        status = qkv_pack(&set->ctx, &desc, packed);
        QT_EXPECT(status == QKV_OK, "qkv_pack: %s", qkv_status_string(status));
        expect_panels(&desc, m, packed);
        qt_read_only(packed);
        expect_round_trip(&rng, &desc, m, packed, place);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("weights", test_weights);
    return qt_run();
}
