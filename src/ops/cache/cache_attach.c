/* The KV cache as the keys and values of an attention.  SPDX-License-Identifier: MIT */
#include "cache.h"

#if QKV_WITH(CACHE)

qkv_status qkv_cache_attach(const void *cache, int64_t first_sequence, qkv_attention_desc *desc) {
    qkv_cache_view c;
    const qkv_status status = qkv_cache_open(cache, &c);
    if (status != QKV_OK)
        return status;
    if (!desc)
        return QKV_ERROR_NULL;
    const qkv_cache_desc *d = &c.desc;
    if (first_sequence < 0 || desc->batch < 0 || first_sequence > d->num_sequences ||
        desc->batch > d->num_sequences - first_sequence)
        return QKV_ERROR_INDEX;
    if (desc->size < sizeof *desc)
        return QKV_ERROR_SIZE;
    if (d->num_kv_heads == 0 && desc->num_heads != 0) /* 0 would stand for num_heads */
        return QKV_ERROR_HEADS;
    int64_t page;
    const int64_t sizes[3] = {qkv_max(d->num_kv_heads, 1), qkv_max(d->head_dim, d->head_dim_v), QKV_CACHE_PAGE};
    if (!qkv_product(sizes, 3, PTRDIFF_MAX, &page))
        return QKV_ERROR_OVERFLOW;
    const int64_t heads = d->num_kv_heads, k_head = d->head_dim * QKV_CACHE_PAGE;
    const int64_t v_head = d->head_dim_v * QKV_CACHE_PAGE;
    desc->num_kv_heads = heads;
    desc->head_dim = d->head_dim;
    desc->head_dim_v = d->head_dim_v;
    desc->seq_k = d->max_tokens;
    desc->k = (qkv_input){c.k, heads * k_head, k_head, 0};
    desc->v = (qkv_input){c.v, heads * v_head, v_head, d->head_dim_v};
    desc->k_type = d->k_type;
    desc->v_type = d->v_type;
    desc->k_layout = QKV_KEY_PANELS;
    desc->k_scales = (qkv_input){c.k_scales, heads * QKV_CACHE_PAGE, QKV_CACHE_PAGE, 1};
    desc->v_scales = (qkv_input){c.v_scales, heads * QKV_CACHE_PAGE, QKV_CACHE_PAGE, 1};
    desc->k_start = NULL;
    desc->kv_len = c.lengths + first_sequence;
    desc->page_table = c.tables + first_sequence * c.table_stride;
    desc->table_stride = c.table_stride;
    desc->page_tokens = QKV_CACHE_PAGE;
    desc->num_pages = d->num_pages;
    if (d->window > 0) {
        desc->flags |= QKV_LEFT;
        desc->left = d->window - 1;
        desc->first_tokens = d->first_tokens;
    }
    return QKV_OK;
}

#endif
