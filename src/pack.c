/* Weights to panels and back.  SPDX-License-Identifier: MIT */
#include <string.h>

#include "plan.h"

static int64_t num_panels(int64_t out_features) {
    return qkv_ceil_div(out_features, QKV_PANEL);
}

static int64_t row_stride(const qkv_weight *w, int64_t in_features) {
    if (w->stride != 0)
        return w->stride;
    return w->layout == QKV_IN_OUT ? w->out_features : in_features;
}

static qkv_status prepare(const qkv_pack_desc *desc, qkv_pack_desc *d, int64_t *floats) {
    qkv_status status = qkv_import(d, sizeof *d, desc);
    if (status != QKV_OK)
        return status;
    if (d->in_features < 0)
        return QKV_ERROR_NEGATIVE;
    if (d->num_parts < 1 || d->num_parts > QKV_MAX_PARTS)
        return QKV_ERROR_FLAGS;
    int64_t panels = 0;
    for (int64_t i = 0; i < d->num_parts; i++) {
        const qkv_weight *w = &d->part[i];
        if (w->out_features < 0)
            return QKV_ERROR_NEGATIVE;
        if (w->layout != QKV_IN_OUT && w->layout != QKV_OUT_IN)
            return QKV_ERROR_FLAGS;
        bool in_out = w->layout == QKV_IN_OUT;
        int64_t sizes[2] = {in_out ? d->in_features : w->out_features, in_out ? w->out_features : d->in_features};
        int64_t strides[2] = {row_stride(w, d->in_features), 1};
        if (w->out_features > INT64_MAX / 8 || !qkv_fits(sizeof(float), sizes, strides, 2))
            return QKV_ERROR_OVERFLOW;
        panels += num_panels(w->out_features);
    }
    int64_t factors[3] = {d->in_features, panels, QKV_PANEL};
    return qkv_product(factors, 3, PTRDIFF_MAX / (int64_t)sizeof(float), floats) ? QKV_OK : QKV_ERROR_OVERFLOW;
}

qkv_status qkv_packed_size(const qkv_pack_desc *desc, size_t *bytes) {
    qkv_pack_desc d;
    int64_t floats;
    qkv_status status = prepare(desc, &d, &floats);
    if (status != QKV_OK)
        return status;
    if (!bytes)
        return QKV_ERROR_NULL;
    *bytes = (size_t)floats * sizeof(float);
    return QKV_OK;
}

/* Columns [first, first + n) of an [in][out] matrix. */
static void pack_in_out(float *panel, const float *data, int64_t stride, int64_t n, int64_t in_features) {
    for (int64_t k = 0; k < in_features; k++, panel += QKV_PANEL) {
        memcpy(panel, data + k * stride, (size_t)n * sizeof(float));
        memset(panel + n, 0, (size_t)(QKV_PANEL - n) * sizeof(float));
    }
}

qkv_status qkv_pack(const qkv_ctx *ctx, const qkv_pack_desc *desc, void *packed) {
    if (!ctx)
        return QKV_ERROR_NULL;
    qkv_pack_desc d;
    int64_t floats;
    qkv_status status = prepare(desc, &d, &floats);
    if (status != QKV_OK)
        return status;
    qkv_pointers pointers = {0};
    qkv_add_output(&pointers, packed, 64, floats > 0);
    for (int64_t i = 0; i < d.num_parts; i++)
        qkv_add_input(&pointers, d.part[i].data, sizeof(float), d.part[i].out_features > 0 && d.in_features > 0);
    status = qkv_check_pointers(&pointers);
    if (status != QKV_OK || floats == 0)
        return status;

    float *panel = packed;
    for (int64_t i = 0; i < d.num_parts; i++) {
        const qkv_weight *w = &d.part[i];
        int64_t stride = row_stride(w, d.in_features);
        for (int64_t c = 0; c < w->out_features; c += QKV_PANEL, panel += d.in_features * QKV_PANEL) {
            int64_t n = qkv_min(QKV_PANEL, w->out_features - c);
            if (w->layout == QKV_IN_OUT)
                pack_in_out(panel, w->data + c, stride, n, d.in_features);
            else
                ctx->kernels->pack(panel, w->data + c * stride, stride, (size_t)n, (size_t)d.in_features);
        }
    }
    return QKV_OK;
}

qkv_status qkv_unpack(const qkv_pack_desc *desc, const void *packed) {
    qkv_pack_desc d;
    int64_t floats;
    qkv_status status = prepare(desc, &d, &floats);
    if (status != QKV_OK)
        return status;
    qkv_pointers pointers = {0};
    qkv_add_input(&pointers, packed, 64, floats > 0);
    for (int64_t i = 0; i < d.num_parts; i++)
        qkv_add_output(&pointers, d.part[i].unpacked, sizeof(float), d.part[i].unpacked && floats > 0);
    status = qkv_check_pointers(&pointers);
    if (status != QKV_OK || floats == 0)
        return status;

    const float *panel = packed;
    for (int64_t i = 0; i < d.num_parts; i++) {
        const qkv_weight *w = &d.part[i];
        int64_t stride = row_stride(w, d.in_features);
        int64_t in_stride = w->layout == QKV_IN_OUT ? stride : 1, out_stride = w->layout == QKV_IN_OUT ? 1 : stride;
        for (int64_t c = 0; c < w->out_features; c += QKV_PANEL, panel += d.in_features * QKV_PANEL) {
            int64_t n = qkv_min(QKV_PANEL, w->out_features - c);
            for (int64_t k = 0; w->unpacked && k < d.in_features; k++) {
                for (int64_t x = 0; x < n; x++)
                    w->unpacked[k * in_stride + (c + x) * out_stride] = panel[k * QKV_PANEL + x];
            }
        }
    }
    return QKV_OK;
}
