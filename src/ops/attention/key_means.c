/* Means of K's channels, which QKV_ARITHMETIC_INT8 takes out.  SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"

enum { MEANS_AT_ONCE = 128, KEYS_AT_ONCE = 4 }; /* channels and keys that are floats */

static void add_rows(const qkv_kernels *kernels, const attention_task *t, int64_t first, int64_t channels,
                     double sums[MEANS_AT_ONCE]) {
    const qkv_attention_desc *d = t->desc;
    const int64_t stride = qkv_stored_bytes(d->k_type, d->k.token);
    float rows[KEYS_AT_ONCE * MEANS_AT_ONCE];
    for (int64_t key = 0, run; key < t->kv_len; key += run) {
        const void *from = qkv_key_run(t, &d->k, d->k_type, key, qkv_min(t->kv_len, key + KEYS_AT_ONCE), &run);
        kernels->widen(rows, MEANS_AT_ONCE, (const unsigned char *)from + qkv_stored_bytes(d->k_type, first), stride,
                       d->k_type, (size_t)run, (size_t)channels);
        for (int64_t i = 0; i < run; i++) {
            for (int64_t c = 0; c < channels; c++)
                sums[c] += (double)rows[i * MEANS_AT_ONCE + c];
        }
    }
}

static void add_panels(const qkv_kernels *kernels, const attention_task *t, int64_t first, int64_t channels,
                       double sums[MEANS_AT_ONCE]) {
    const qkv_attention_desc *d = t->desc;
    float channel[QKV_PANEL];
    for (int64_t key = 0, run; key < t->kv_len; key += QKV_PANEL) {
        const int64_t keys = qkv_min(QKV_PANEL, t->kv_len - key);
        const unsigned char *panel = qkv_key_panel(t, key, key + keys, &run);
        for (int64_t c = 0; c < channels; c++) {
            kernels->widen(channel, QKV_PANEL, panel + qkv_stored_bytes(d->k_type, (first + c) * QKV_PANEL), 0,
                           d->k_type, 1, (size_t)keys);
            for (int64_t j = 0; j < keys; j++)
                sums[c] += (double)channel[j];
        }
    }
}

qkv_status qkv_attention_key_means(const qkv_ctx *ctx, const qkv_attention_desc *desc, float *means) {
    qkv_attention_desc d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    if (!ctx || !means)
        return QKV_ERROR_NULL;
    qkv_status status = qkv_attention_prepare(desc, &d, &unused);
    if (status == QKV_OK && d.k_type == QKV_INT8)
        status = QKV_ERROR_FLAGS;
    if (status == QKV_OK && !d.k.data && d.seq_k > 0)
        status = QKV_ERROR_NULL;
    if (status == QKV_OK)
        status = qkv_attention_check_values(&d, &unused);
    for (int64_t b = 0; status == QKV_OK && b < d.batch; b++) {
        attention_task t;
        qkv_choose_sequence(&t, &d, b);
        for (t.kv_head = 0; t.kv_head < d.num_kv_heads; t.kv_head++, means += d.head_dim) {
            for (int64_t first = 0; first < d.head_dim; first += MEANS_AT_ONCE) {
                const int64_t channels = qkv_min(MEANS_AT_ONCE, d.head_dim - first);
                double sums[MEANS_AT_ONCE] = {0};
                (d.k_layout == QKV_KEY_PANELS ? add_panels : add_rows)(ctx->kernels, &t, first, channels, sums);
                for (int64_t c = 0; c < channels; c++)
                    means[first + c] = t.kv_len > 0 ? (float)(sums[c] / (double)t.kv_len) : 0.0f;
            }
        }
    }
    return status;
}
