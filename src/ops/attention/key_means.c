/* Means of K's channels, which QKV_ARITHMETIC_INT8 takes out.  SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"

#if QKV_WITH(BF16) && QKV_WITH(QUANTIZED)

enum { MEANS_AT_ONCE = 128, KEYS_AT_ONCE = 4 }; /* channels and keys that are floats */

/* Keys that count: first tokens, and what QKV_LEFT leaves to the sequence's first query. Others may be released. */
static void find_keys(const attention_task *t, key_range parts[2]) {
    const qkv_attention_desc *d = t->desc;
    const int64_t first_query = qkv_q_start(d) ? qkv_q_start(d)[t->b] : 0;
    const int64_t end_query = qkv_q_start(d) ? qkv_q_start(d)[t->b + 1] : d->seq_q;
    parts[0] = (key_range){0, 0};
    parts[1] = (key_range){0, first_query < end_query ? t->kv_len : 0};
    if (d->flags & QKV_LEFT) {
        parts[1].first = qkv_min(parts[1].end, qkv_max(0, position_of(t, first_query) - bounded(d->left)));
        parts[0].end = qkv_min(d->first_tokens, parts[1].first);
    }
}

static bool are_pages(const attention_task *t, key_range keys) {
    const qkv_attention_desc *d = t->desc;
    for (int64_t j = keys.first; qkv_page_table(d) && j < keys.end; j = (j / d->page_tokens + 1) * d->page_tokens) {
        const int32_t page = qkv_page_table(d)[t->b * d->table_stride + j / d->page_tokens];
        if (page < 0 || page >= d->num_pages)
            return false;
    }
    return true;
}

static void add_rows(const qkv_kernels *kernels, const attention_task *t, key_range keys, int64_t first,
                     int64_t channels, double sums[MEANS_AT_ONCE]) {
    const qkv_attention_desc *d = t->desc;
    const int64_t stride = qkv_stored_bytes(qkv_k_type(d), d->k.token);
    float rows[KEYS_AT_ONCE * MEANS_AT_ONCE];
    for (int64_t key = keys.first, run; key < keys.end; key += run) {
        const void *from = qkv_key_run(t, &d->k, qkv_k_type(d), key, qkv_min(keys.end, key + KEYS_AT_ONCE), &run);
        from = (const unsigned char *)from + qkv_stored_bytes(qkv_k_type(d), first);
        kernels->widen(rows, MEANS_AT_ONCE, from, stride, qkv_k_type(d), (size_t)run, (size_t)channels);
        for (int64_t i = 0; i < run; i++) {
            for (int64_t c = 0; c < channels; c++)
                sums[c] += (double)rows[i * MEANS_AT_ONCE + c];
        }
    }
}

static void add_panels(const qkv_kernels *kernels, const attention_task *t, key_range keys, int64_t first,
                       int64_t channels, double sums[MEANS_AT_ONCE]) {
    const int type = qkv_k_type(t->desc);
    float channel[QKV_PANEL];
    for (int64_t key = keys.first, end, run; key < keys.end; key = end) {
        end = qkv_min(keys.end, (key / QKV_PANEL + 1) * QKV_PANEL);
        const unsigned char *panel = qkv_key_panel(t, key, end, &run);
        for (int64_t c = 0; c < channels; c++) {
            kernels->widen(channel, QKV_PANEL,
                           panel + qkv_stored_bytes(type, (first + c) * QKV_PANEL + key % QKV_PANEL), 0, type, 1,
                           (size_t)(end - key));
            for (int64_t j = 0; j < end - key; j++)
                sums[c] += (double)channel[j];
        }
    }
}

/* By itself, as the next one: with others their frames would be large. */
static QKV_NOINLINE void average(const qkv_kernels *kernels, const attention_task *t, const key_range parts[2],
                                 float *means) {
    const qkv_attention_desc *d = t->desc;
    const int64_t keys = parts[0].end - parts[0].first + parts[1].end - parts[1].first;
    for (int64_t first = 0; first < d->head_dim; first += MEANS_AT_ONCE) {
        const int64_t channels = qkv_min(MEANS_AT_ONCE, d->head_dim - first);
        double sums[MEANS_AT_ONCE] = {0};
        for (int i = 0; i < 2; i++)
            (qkv_keys_in_panels(d) ? add_panels : add_rows)(kernels, t, parts[i], first, channels, sums);
        for (int64_t c = 0; c < channels; c++)
            means[first + c] = keys > 0 ? (float)(sums[c] / (double)keys) : 0.0f;
    }
}

static QKV_NOINLINE qkv_status check_keys_and_means(const qkv_attention_desc *d, float *means, qkv_problem *why) {
    qkv_operands o;
    const int64_t rows[3] = {d->batch, d->num_kv_heads, 1};
    o.count = 0;
    o.within = QKV_OUTERMOST;
    qkv_attention_add_keys(&o, d, QKV_NEEDED);
    qkv_add_output(&o, QKV_NEEDED, "means", (qkv_output){means, d->num_kv_heads * d->head_dim, d->head_dim, 0}, rows,
                   d->head_dim);
    return qkv_k_type(d) == QKV_INT8 ? QKV_ERROR_FLAGS : qkv_check_pointers(&o, why);
}

static qkv_status check_counted_pages(const qkv_attention_desc *d) {
    for (int64_t b = 0; b < d->batch; b++) {
        attention_task t;
        key_range parts[2];
        qkv_choose_sequence(&t, d, b);
        find_keys(&t, parts);
        if (!are_pages(&t, parts[0]) || !are_pages(&t, parts[1]))
            return QKV_ERROR_INDEX;
    }
    return QKV_OK;
}

qkv_status qkv_attention_key_means(const qkv_ctx *ctx, const qkv_attention_desc *desc, float *means) {
    qkv_attention_desc d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    if (!ctx)
        return QKV_ERROR_NULL;
    qkv_status status = qkv_attention_prepare(desc, &d, &unused);
    if (status == QKV_OK)
        status = check_keys_and_means(&d, means, &unused);
    if (status == QKV_OK)
        status = qkv_attention_check_values(&d, &unused);
    if (status == QKV_OK)
        status = check_counted_pages(&d);
    for (int64_t b = 0; status == QKV_OK && b < d.batch; b++) {
        attention_task t;
        key_range parts[2];
        qkv_choose_sequence(&t, &d, b);
        find_keys(&t, parts);
        for (t.kv_head = 0; t.kv_head < d.num_kv_heads && d.head_dim > 0; t.kv_head++, means += d.head_dim)
            average(ctx->kernels, &t, parts, means);
    }
    return status;
}

#endif
