/* Scores in 8 bits. A panel of 64 keys holds their integers, in the form of the kernels' gemm_int8, then a scale for
 * each key. Rows of q are such operands too; what each is multiplied by, and what is added, lies beside them.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"

#if QKV_WITH(BF16) && QKV_WITH(QUANTIZED)

/* Floats of a panel that so many terms take. */
static int64_t panel_floats(const qkv_kernels *kernels, int64_t terms) {
    return QKV_PANEL * qkv_ceil_div(terms * kernels->int8_bytes, (int64_t)sizeof(float));
}

int64_t qkv_int8_key_bytes(const qkv_kernels *kernels, const qkv_attention_desc *d) {
    return (panel_floats(kernels, d->head_dim) / QKV_PANEL + 1) * (int64_t)sizeof(float);
}

static const float *means_of(const attention_task *t) {
    const qkv_input *x = &t->desc->k_means;
    return x->data ? (const float *)x->data + t->b * x->batch + t->kv_head * x->head : NULL;
}

/* -------------------------------------------------------------------------------------------------------------- K */

void qkv_int8_pack_keys(const attention_task *t, void *panel, float *strip, int64_t column, int64_t first,
                        int64_t end) {
    const qkv_kernels *kernels = t->kernels;
    const qkv_attention_desc *d = t->desc;
    const int64_t ld = t->shape->ld_q, floats = panel_floats(kernels, d->head_dim);
    float *to = (float *)panel, *scales = to + floats;
    int64_t run;
    memset(scales, 0, QKV_PANEL * sizeof *scales);
    if (d->head_dim == 0) {
        column = qkv_keys_in_panels(d) ? first % QKV_PANEL : column;
    } else if (qkv_keys_in_panels(d)) {
        kernels->panel_int8(to, scales, qkv_key_panel(t, first, end, &run), qkv_k_type(d), (size_t)d->head_dim,
                            means_of(t));
        column = first % QKV_PANEL;
    } else {
        for (int64_t key = first, i = column; key < end; key += run, i += run) {
            const void *from = qkv_key_run(t, &d->k, qkv_k_type(d), key, end, &run);
            kernels->rows_int8(strip + i * ld, ld, scales + i, from, qkv_stored_bytes(qkv_k_type(d), d->k.token),
                               qkv_k_type(d), (size_t)run, (size_t)d->head_dim, means_of(t), 1);
        }
        kernels->pack(to, strip, ld, (size_t)(column + end - first), (size_t)(floats / QKV_PANEL));
    }
    if (qkv_k_type(d) == QKV_INT8) /* which are used as they are stored */
        qkv_gather_scales(t, &d->k_scales, first, end, scales + column);
}

/* -------------------------------------------------------------------------------------------------------------- q */

void qkv_int8_convert_queries(const attention_task *t) {
    const int64_t ld = t->shape->ld_q, dim = t->desc->head_dim;
    const float *means = means_of(t);
    if (means)
        t->kernels->row_dots(t->q_offsets, t->q, ld, means, 0, (size_t)t->rows, (size_t)dim);
    else
        memset(t->q_offsets, 0, (size_t)t->rows * sizeof *t->q_offsets);
    t->kernels->rows_int8(t->q, ld, t->q_scales, t->q, ld * (int64_t)sizeof(float), QKV_F32, (size_t)t->rows,
                          (size_t)dim, NULL, 0);
}

/* Some columns of one panel, from `first` on, a multiple of QKV_LANES. */
static void multiply_int8_panel(const attention_task *t, float *c, int64_t row, int64_t n, const void *panel,
                                int64_t first, int64_t width, const qkv_soon *soon) {
    const qkv_kernels *kernels = t->kernels;
    const int64_t ld = t->shape->ld_q, dim = t->desc->head_dim;
    const float *columns = (const float *)panel + first, *scales = columns + panel_floats(kernels, dim);
    const float zeros[QKV_MAX_ROWS] = {0}; /* the scales of rows without channels, which have not been converted */
    for (int64_t i = 0; dim == 0 && i < n; i++)
        memset(c + i * LD_SCORES, 0, (size_t)width * sizeof *c);
    for (int64_t x = 0; x < dim; x += QKV_INT8_CHAIN)
        kernels->gemm_int8(c, LD_SCORES, t->q + row * ld, ld, (size_t)x, columns + panel_floats(kernels, x), (size_t)n,
                           (size_t)width, (size_t)qkv_min(QKV_INT8_CHAIN, dim - x), x > 0, x == 0 ? soon : NULL);
    kernels->scale_scores(c, LD_SCORES, (size_t)n, (size_t)qkv_round_up(width, QKV_LANES), scales,
                          dim > 0 ? t->q_scales + row : zeros, dim > 0 ? t->q_offsets + row : zeros);
}

void qkv_int8_multiply(const attention_task *t, float *c, int64_t row, int64_t n, const void *panels, key_range columns,
                       const qkv_soon *soon) {
    int64_t size = QKV_PANEL * t->shape->key_bytes, width;
    for (int64_t j = columns.first; j < columns.end; j += width, soon = NULL) {
        int64_t first = j % QKV_PANEL;
        width = qkv_min(QKV_PANEL - first, columns.end - j);
        const void *panel = (const unsigned char *)panels + j / QKV_PANEL * size;
        multiply_int8_panel(t, c + j, row, n, panel, first, width, soon);
    }
}

#endif
