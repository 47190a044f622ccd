/* Weights to panels and back.  SPDX-License-Identifier: MIT */
#include <string.h>

#include "../../plan.h"

static int64_t num_panels(int64_t out_features) {
    return qkv_ceil_div(out_features, QKV_PANEL);
}

static int64_t row_stride(const qkv_weight *w, int64_t in_features) {
    if (w->stride != 0)
        return w->stride;
    return w->layout == QKV_IN_OUT ? w->out_features : in_features;
}

/* `unpacked`: part[].unpacked is what is asked for, an output; else part[].data, an input. */
static void list_operands(qkv_operands *o, const qkv_pack_desc *d, const void *packed, int64_t floats, bool unpacked) {
    o->count = 0;
    o->within = QKV_OUTERMOST;
    qkv_add_packed(o, QKV_NEEDED | (unpacked ? 0 : QKV_OUTPUT), "packed", packed, floats);
    for (int64_t i = 0; i < d->num_parts; i++) {
        const qkv_weight *w = &d->part[i];
        bool in_out = w->layout == QKV_IN_OUT;
        int64_t rows = in_out ? d->in_features : w->out_features, stride = row_stride(w, d->in_features);
        int64_t columns = in_out ? w->out_features : d->in_features;
        int role = !unpacked ? QKV_NEEDED : w->unpacked ? QKV_NEEDED | QKV_OUTPUT : 0;
        qkv_add_operand(o, role, unpacked ? "part[].unpacked" : "part[].data", unpacked ? w->unpacked : w->data,
                        sizeof(float), 1, &rows, &stride, columns)->index = (uint8_t)i;
    }
}

static qkv_status validate(const qkv_pack_desc *d, int64_t *floats, qkv_problem *why) {
    if (qkv_check_size(why, "in_features", -1, d->in_features) != QKV_OK)
        return why->status;
    if (d->num_parts < 1 || d->num_parts > QKV_MAX_PARTS)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "num_parts", -1, "is %, not 1 to %", d->num_parts, QKV_MAX_PARTS);
    int64_t panels = 0;
    for (int32_t i = 0; i < d->num_parts; i++) {
        const qkv_weight *w = &d->part[i];
        if (qkv_check_size(why, "part[].out_features", i, w->out_features) != QKV_OK)
            return why->status;
        if (w->layout != QKV_IN_OUT && w->layout != QKV_OUT_IN)
            return qkv_refuse(why, QKV_ERROR_FLAGS, "part[].layout", i, "is %, no layout", w->layout, 0);
        if (w->out_features > INT64_MAX / 8)
            return qkv_refuse(why, QKV_ERROR_OVERFLOW, "part[].out_features", i, "is too large (%)", w->out_features,
                              0);
        panels += num_panels(w->out_features);
    }
    int64_t factors[3] = {d->in_features, panels, QKV_PANEL};
    return qkv_product(factors, 3, PTRDIFF_MAX / (int64_t)sizeof(float), floats)
               ? QKV_OK
               : qkv_refuse(why, QKV_ERROR_OVERFLOW, "in_features * out_features", -1, "is too large", 0, 0);
}

/* A valid copy of the descriptor. */
static qkv_status prepare(const qkv_pack_desc *desc, qkv_pack_desc *d, int64_t *floats, qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    return status != QKV_OK ? status : validate(d, floats, why);
}

/* pointers: for a call that looks at them. By itself, as the list needs much stack. */
static QKV_NOINLINE qkv_status check_tensors(const qkv_pack_desc *d, const void *packed, int64_t floats, bool unpacked,
                                             bool pointers, qkv_problem *why) {
    qkv_operands operands;
    list_operands(&operands, d, packed, floats, unpacked);
    qkv_status status = qkv_check_strides(&operands, why);
    return status != QKV_OK || !pointers ? status : qkv_check_pointers(&operands, why);
}

qkv_status qkv_packed_size(const qkv_pack_desc *desc, size_t *bytes) {
    qkv_pack_desc d;
    qkv_problem unused = {0};
    int64_t floats;
    qkv_status status = prepare(desc, &d, &floats, &unused);
    if (status == QKV_OK)
        status = check_tensors(&d, NULL, floats, false, false, &unused);
    if (status != QKV_OK)
        return status;
    if (!bytes)
        return QKV_ERROR_NULL;
    *bytes = (size_t)floats * sizeof(float);
    return QKV_OK;
}

/* All that qkv_pack (or, unpacked, qkv_unpack) checks. */
static qkv_status check(const qkv_pack_desc *desc, const void *packed, bool unpacked, qkv_pack_desc *d,
                        int64_t *floats, qkv_problem *why) {
    qkv_status status = prepare(desc, d, floats, why);
    return status != QKV_OK ? status : check_tensors(d, packed, *floats, unpacked, true, why);
}

const char *qkv_pack_explain(const qkv_pack_desc *desc, const void *packed, char *text, size_t size) {
    qkv_pack_desc d;
    qkv_problem why = {0};
    int64_t floats;
    check(desc, packed, false, &d, &floats, &why);
    return qkv_explain(&why, 0, text, size);
}

const char *qkv_unpack_explain(const qkv_pack_desc *desc, const void *packed, char *text, size_t size) {
    qkv_pack_desc d;
    qkv_problem why = {0};
    int64_t floats;
    check(desc, packed, true, &d, &floats, &why);
    return qkv_explain(&why, 0, text, size);
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
    qkv_problem unused = {0};
    int64_t floats;
    qkv_status status = check(desc, packed, false, &d, &floats, &unused);
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
    qkv_problem unused = {0};
    int64_t floats;
    qkv_status status = check(desc, packed, true, &d, &floats, &unused);
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
