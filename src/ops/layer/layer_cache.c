/* A layer that decodes over a KV cache: what its attention takes from that.  SPDX-License-Identifier: MIT */
#include "layer.h"

qkv_status qkv_layer_attach_cache(qkv_layer_desc *d, qkv_problem *why) {
    if (!QKV_WITH(CACHE)) {
        qkv_leave(why);
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, "cache", -1, "is left out of this build", 0, 0);
    }
    qkv_attention_desc *a = &d->attention;
    const qkv_attention_desc given = *a;
    const char *field = a->k.data       ? "k"
                        : a->v.data     ? "v"
                        : a->kv_len     ? "kv_len"
                        : a->q_offsets  ? "q_offsets"
                        : a->q_start    ? "q_start"
                        : a->k_start    ? "k_start"
                        : a->page_table ? "page_table"
                                        : NULL;
    if (field)
        return qkv_refuse(why, QKV_ERROR_SHAPE, field, -1, "must be NULL with a cache", 0, 0);
    if (a->flags & QKV_LEFT || a->first_tokens != 0)
        return qkv_refuse(why, QKV_ERROR_SHAPE, a->first_tokens ? "first_tokens" : "flags", -1,
                          "has a window, but that is the cache's", 0, 0);
    qkv_status status = qkv_cache_attach(d->cache, d->first_sequence, a);
    if (status != QKV_OK) {
        qkv_leave(why);
        return qkv_refuse(why, status, status == QKV_ERROR_INDEX ? "first_sequence" : "cache", -1, "can't be used (%)",
                          d->first_sequence, 0);
    }
    /* clang-format off */
    const struct {
        const char *field;
        int64_t given, cached;
    } sizes[] = {{"num_kv_heads", given.num_kv_heads, a->num_kv_heads}, {"head_dim", given.head_dim, a->head_dim},
                 {"head_dim_v", given.head_dim_v, a->head_dim_v}, {"seq_k", given.seq_k, a->seq_k},
                 {"k_type", given.k_type, a->k_type}, {"v_type", given.v_type, a->v_type},
                 {"k_layout", given.k_layout, a->k_layout}, {"page_tokens", given.page_tokens, a->page_tokens},
                 {"num_pages", given.num_pages, a->num_pages}};
    /* clang-format on */
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].given != 0 && sizes[i].given != sizes[i].cached)
            return qkv_refuse(why, QKV_ERROR_SHAPE, sizes[i].field, -1, "is %, but % in the cache", sizes[i].given,
                              sizes[i].cached);
    }
    a->flags |= QKV_FROM_END;
    return QKV_OK;
}
