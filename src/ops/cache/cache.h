/* The KV cache as other operations use it: where K and V of a sequence lie, and how they get there.
 *
 * The block is a header and these sections, each 64-byte aligned, in this order:
 *
 *     lengths      int64 [num_sequences]
 *     first_pages  int64 [num_sequences]           logical pages below it have been returned, except kept_pages
 *     references   int32 [num_pages]               sequences that use a page; 0: free
 *     tables       int32 [num_sequences][table_stride]   logical page → page of the pool; always one of the pool
 *     K            [num_pages][num_kv_heads][head_dim][64] of k_type: a page is a panel, as attention packs keys
 *     V            [num_pages][num_kv_heads][64][head_dim_v] of v_type
 *     K, V scales  float [num_pages][num_kv_heads][64], each where the type is QKV_INT8
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_CACHE_H
#define QKV_CACHE_H

#include "../../plan.h"

QKV_INTERNAL_BEGIN

/* Of the header: its bytes, where the mark of the byte order is, and how many words of 64 bits are before the checksum
 * of them. The magic and two words of 32 bits come first, all else are words of 64 bits. */
enum {
    QKV_CACHE_HEADER_BYTES = 192,
    QKV_CACHE_ORDER_AT = 12,
    QKV_CACHE_ORDER_MARK = 0x01020304,
    QKV_CACHE_CHECKED_WORDS = 19
};

/* A cache at the address that it has now. Not to be written through where the cache is const. */
typedef struct qkv_cache_view {
    qkv_cache_desc desc;  /* complete */
    int64_t table_stride; /* pages of max_tokens */
    int64_t kept_pages;   /* pages of first_tokens, never returned to the pool while in use */
    int64_t bytes;        /* of the block */
    int64_t *lowest_free; /* no page below it is free */
    int64_t *lengths, *first_pages;
    int32_t *references, *tables;
    unsigned char *k, *v;
    float *k_scales, *v_scales;
    int64_t k_head, v_head; /* bytes of a page's KV head */
} qkv_cache_view;

/* QKV_ERROR_NULL, _ALIGNMENT or _CACHE. Checks the header; indices are checked where they are used. */
qkv_status qkv_cache_open(const void *cache, qkv_cache_view *view);

/* A sequence's length and first page, checked: QKV_ERROR_INDEX, _CACHE. */
qkv_status qkv_cache_sequence(const qkv_cache_view *c, int64_t sequence, int64_t *length, int64_t *first_page);

/* Writes `rows` tokens from `position` on of one KV head, src[r·ld + channel], to where the sequence has been extended.
 * Different heads and tokens may be stored at once: only their own bytes are written. What a damaged cache has no place
 * for is left out. */
void qkv_cache_write(const qkv_kernels *kernels, const qkv_cache_view *c, int64_t sequence, int is_value, int64_t head,
                     int64_t position, int64_t rows, const float *src, int64_t ld);

#if !QKV_WITH(CACHE) /* never reached, but named where nothing is optimised */
#define qkv_cache_open(...) (qkv_status) qkv_absent(QKV_ERROR_LEFT_OUT, __VA_ARGS__)
#define qkv_cache_write(...) ((void)qkv_absent(0, __VA_ARGS__))
#endif

QKV_INTERNAL_END

#endif
