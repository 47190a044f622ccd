/* Weights to panels and back.  SPDX-License-Identifier: MIT */
#include "../ops.h"

qkv_status qkv_check_weights(int64_t type, int64_t in_features, int64_t out_features, const char *field, int32_t i,
                             const char *blocks, int64_t *bytes, qkv_problem *why) {
    if (type < QKV_F32 || type > QKV_Q6_K)
        return qkv_refuse(why, QKV_ERROR_FLAGS, field, i, "is %, no type of weights", type, 0);
    if (!qkv_weight_is_there((int)type))
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, field, i, "is %, which is left out of this build", type, 0);
    if (in_features % qkv_weight_terms((int)type) != 0)
        return qkv_refuse(why, QKV_ERROR_SHAPE, field, i, blocks, type, in_features);
    int64_t panels = qkv_ceil_div(out_features, QKV_PANEL), of_part;
    int64_t floats[3] = {in_features, panels, QKV_PANEL}; /* then the bytes of a panel are a number, too */
    bool fits = qkv_product(floats, 3, PTRDIFF_MAX / (int64_t)sizeof(float), &of_part);
    int64_t whole[2] = {panels, fits && panels > 0 ? qkv_panel_bytes(type, in_features) : 0};
    if (!fits || !qkv_product(whole, 2, PTRDIFF_MAX - *bytes, &of_part))
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "in_features * out_features", -1, "is too large", 0, 0);
    *bytes += of_part;
    return QKV_OK;
}

qkv_status qkv_check_arithmetic(int64_t arithmetic, int64_t type, qkv_problem *why) {
    if (arithmetic < QKV_ARITHMETIC_F32 || arithmetic > QKV_ARITHMETIC_BF16)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "arithmetic", -1, "is %, none that there is", arithmetic, 0);
    if ((!QKV_WITH(QUANTIZED) && arithmetic == QKV_ARITHMETIC_INT8) ||
        (!QKV_WITH(BF16) && arithmetic == QKV_ARITHMETIC_BF16))
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, "arithmetic", -1, "is %, which is left out of this build",
                          arithmetic, 0);
    if (arithmetic == QKV_ARITHMETIC_INT8 && type != QKV_INT8 && qkv_weight_terms((int)type) == 1)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "arithmetic", -1, "is %, but weights of type % are no integers",
                          arithmetic, type);
    return QKV_OK;
}

/* The stride in elements of the type, of floats where it is `unpacked`. */
static int64_t row_stride(const qkv_weight *w, int64_t in_features) {
    if (w->stride != 0)
        return w->stride;
    return w->layout == QKV_IN_OUT ? w->out_features : in_features;
}

/* `unpacked`: part[].unpacked is what is asked for, an output; else part[].data, an input. */
static void list_operands(qkv_operands *o, const qkv_pack_desc *d, const void *packed, int64_t bytes, bool unpacked) {
    o->count = 0;
    o->within = QKV_OUTERMOST;
    qkv_add_packed(o, QKV_NEEDED | (unpacked ? 0 : QKV_OUTPUT), "packed", packed, bytes);
    for (int64_t i = 0; i < d->num_parts; i++) {
        const qkv_weight *w = &d->part[i];
        bool in_out = w->layout == QKV_IN_OUT;
        int64_t rows = in_out ? d->in_features : w->out_features, stride = row_stride(w, d->in_features);
        int64_t columns = in_out ? w->out_features : d->in_features;
        if (unpacked) {
            qkv_add_operand(o, w->unpacked ? QKV_NEEDED | QKV_OUTPUT : 0, "part[].unpacked", w->unpacked, sizeof(float),
                            1, &rows, &stride, columns)
                ->index = (uint8_t)i;
            continue;
        }
        int64_t terms = qkv_weight_terms((int)w->type), bytes_of_terms = qkv_weight_bytes(w->type);
        stride /= terms;
        qkv_operand *x = qkv_add_operand(o, QKV_NEEDED, "part[].data", w->data, (size_t)bytes_of_terms, 1, &rows,
                                         &stride, columns / terms);
        x->index = (uint8_t)i;
        x->alignment = (uint8_t)(bytes_of_terms & -bytes_of_terms);
        if (terms > 1)
            x->alignment = sizeof(uint16_t);
        if (w->type == QKV_INT8)
            qkv_add_operand(o, d->in_features > 0 ? QKV_NEEDED : 0, "part[].scales", w->scales, sizeof(float), 0, NULL,
                            NULL, w->out_features)
                ->index = (uint8_t)i;
    }
}

/* unpacked: as above. */
static qkv_status validate_weight(const qkv_pack_desc *d, int32_t i, bool unpacked, int64_t *bytes, qkv_problem *why) {
    const qkv_weight *w = &d->part[i];
    if (qkv_check_size(why, "part[].out_features", i, w->out_features) != QKV_OK)
        return why->status;
    if (w->layout != QKV_IN_OUT && w->layout != QKV_OUT_IN)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "part[].layout", i, "is %, no layout", w->layout, 0);
    if (w->out_features > INT64_MAX / 8)
        return qkv_refuse(why, QKV_ERROR_OVERFLOW, "part[].out_features", i, "is too large (%)", w->out_features, 0);
    if (qkv_check_weights(w->type, d->in_features, w->out_features, "part[].type", i,
                          "is %, whose blocks don't divide in_features (%)", bytes, why) != QKV_OK)
        return why->status;
    int64_t terms = qkv_weight_terms((int)w->type);
    if (unpacked || terms == 1)
        return QKV_OK;
    if (w->layout != QKV_OUT_IN)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "part[].layout", i, "is not QKV_OUT_IN, but type is % in blocks",
                          w->type, 0);
    if (w->stride % terms != 0)
        return qkv_refuse(why, QKV_ERROR_SHAPE, "part[].stride", i, "is %, no multiple of the type's blocks of %",
                          w->stride, terms);
    return QKV_OK;
}

static qkv_status validate(const qkv_pack_desc *d, bool unpacked, int64_t *bytes, qkv_problem *why) {
    *bytes = 0;
    if (qkv_check_size(why, "in_features", -1, d->in_features) != QKV_OK)
        return why->status;
    if (d->num_parts < 1 || d->num_parts > QKV_MAX_PARTS)
        return qkv_refuse(why, QKV_ERROR_FLAGS, "num_parts", -1, "is %, not 1 to %", d->num_parts, QKV_MAX_PARTS);
    for (int32_t i = 0; i < d->num_parts; i++) {
        if (validate_weight(d, i, unpacked, bytes, why) != QKV_OK)
            return why->status;
    }
    return QKV_OK;
}

/* A valid copy of the descriptor. */
static qkv_status prepare(const qkv_pack_desc *desc, bool unpacked, qkv_pack_desc *d, int64_t *bytes,
                          qkv_problem *why) {
    qkv_status status = qkv_import(d, sizeof *d, desc, why);
    return status != QKV_OK ? status : validate(d, unpacked, bytes, why);
}

/* pointers: for a call that looks at them. By itself, as the list needs much stack. */
static QKV_NOINLINE qkv_status check_tensors(const qkv_pack_desc *d, const void *packed, int64_t bytes, bool unpacked,
                                             bool pointers, qkv_problem *why) {
    qkv_operands operands;
    list_operands(&operands, d, packed, bytes, unpacked);
    qkv_status status = qkv_check_strides(&operands, why);
    return status != QKV_OK || !pointers ? status : qkv_check_pointers(&operands, why);
}

qkv_status qkv_packed_size(const qkv_pack_desc *desc, size_t *bytes) {
    qkv_pack_desc d;
    qkv_problem unused = {0};
    int64_t n;
    qkv_status status = prepare(desc, false, &d, &n, &unused);
    if (status == QKV_OK)
        status = check_tensors(&d, NULL, n, false, false, &unused);
    if (status != QKV_OK)
        return status;
    if (!bytes)
        return QKV_ERROR_NULL;
    *bytes = (size_t)n;
    return QKV_OK;
}

/* All that qkv_pack (or, unpacked, qkv_unpack) checks. */
static qkv_status check(const qkv_pack_desc *desc, const void *packed, bool unpacked, qkv_pack_desc *d, int64_t *bytes,
                        qkv_problem *why) {
    qkv_status status = prepare(desc, unpacked, d, bytes, why);
    return status != QKV_OK ? status : check_tensors(d, packed, *bytes, unpacked, true, why);
}

#if QKV_WITH(EXPLAIN)
const char *qkv_pack_explain(const qkv_pack_desc *desc, const void *packed, char *text, size_t size) {
    qkv_pack_desc d;
    qkv_problem why = {0};
    int64_t bytes;
    check(desc, packed, false, &d, &bytes, &why);
    return qkv_explain(&why, 0, text, size);
}

const char *qkv_unpack_explain(const qkv_pack_desc *desc, const void *packed, char *text, size_t size) {
    qkv_pack_desc d;
    qkv_problem why = {0};
    int64_t bytes;
    check(desc, packed, true, &d, &bytes, &why);
    return qkv_explain(&why, 0, text, size);
}

#endif

qkv_status qkv_pack(const qkv_ctx *ctx, const qkv_pack_desc *desc, void *packed) {
    if (!ctx)
        return QKV_ERROR_NULL;
    qkv_pack_desc d;
    qkv_problem unused = {0};
    int64_t bytes;
    qkv_status status = check(desc, packed, false, &d, &bytes, &unused);
    if (status != QKV_OK || bytes == 0)
        return status;

    unsigned char *panel = packed;
    for (int64_t i = 0; i < d.num_parts; i++) {
        const qkv_weight *w = &d.part[i];
        int64_t stride = row_stride(w, d.in_features), panel_bytes = qkv_panel_bytes(w->type, d.in_features);
        for (int64_t c = 0; c < w->out_features; c += QKV_PANEL, panel += panel_bytes)
            qkv_pack_panel(ctx->kernels, panel, w, stride, c, qkv_min(QKV_PANEL, w->out_features - c), d.in_features);
    }
    return QKV_OK;
}

qkv_status qkv_unpack(const qkv_pack_desc *desc, const void *packed) {
    qkv_pack_desc d;
    qkv_problem unused = {0};
    int64_t bytes;
    qkv_status status = check(desc, packed, true, &d, &bytes, &unused);
    if (status != QKV_OK || bytes == 0)
        return status;

    const unsigned char *panel = packed;
    for (int64_t i = 0; i < d.num_parts; i++) {
        const qkv_weight *w = &d.part[i];
        const int type = (int)w->type;
        int64_t stride = row_stride(w, d.in_features), panel_bytes = qkv_panel_bytes(type, d.in_features);
        int64_t in_stride = w->layout == QKV_IN_OUT ? stride : 1, out_stride = w->layout == QKV_IN_OUT ? 1 : stride;
        for (int64_t c = 0; c < w->out_features; c += QKV_PANEL, panel += panel_bytes) {
            int64_t n = qkv_min(QKV_PANEL, w->out_features - c);
            for (int64_t k = 0; w->unpacked && k < d.in_features; k++) {
                float *to = w->unpacked + k * in_stride + c * out_stride;
                for (int64_t x = 0; x < n; x++)
                    to[x * out_stride] = qkv_weight_value(type, panel, (size_t)k, (size_t)x);
            }
        }
    }
    return QKV_OK;
}

void qkv_swap_bytes(void *elements, int64_t element_bytes, int64_t count) {
    unsigned char *p = elements;
    for (int64_t i = 0; i < count; i++, p += element_bytes) {
        for (int64_t low = 0, high = element_bytes - 1; low < high; low++, high--) {
            const unsigned char byte = p[low];
            p[low] = p[high];
            p[high] = byte;
        }
    }
}

/* What is more than a byte in a panel (../../ref/weights.h): elements, the scales of a group, those of QKV_INT8. */
static void swap_panel(int type, unsigned char *panel, int64_t in_features) {
    if (type == QKV_INT8) {
        qkv_swap_bytes(panel, sizeof(float), QKV_PANEL);
    } else if (qkv_weight_bits(type) == 0) {
        qkv_swap_bytes(panel, qkv_weight_bytes(type), in_features * QKV_PANEL);
    } else {
        for (int64_t k = 0; k < in_features; k += qkv_weight_terms(type), panel += qkv_weight_group_bytes(type))
            qkv_swap_bytes(panel, 2, (int64_t)qkv_weight_head_bytes(type) / 2);
    }
}

qkv_status qkv_packed_file_order(const qkv_pack_desc *desc, void *packed) {
    qkv_pack_desc d;
    qkv_problem unused = {0};
    int64_t bytes;
    qkv_status status = prepare(desc, true, &d, &bytes, &unused);
    if (status != QKV_OK)
        return status;
    for (int64_t i = 0; i < d.num_parts; i++)
        d.part[i].unpacked = NULL;
    status = check_tensors(&d, packed, bytes, true, true, &unused);
    if (status != QKV_OK || !QKV_BIG_ENDIAN || bytes == 0)
        return status;

    unsigned char *panel = packed;
    for (int64_t i = 0; i < d.num_parts; i++) {
        const int type = (int)d.part[i].type;
        for (int64_t c = 0; c < d.part[i].out_features; c += QKV_PANEL) {
            swap_panel(type, panel, d.in_features);
            panel += qkv_panel_bytes(type, d.in_features);
        }
    }
    return QKV_OK;
}
