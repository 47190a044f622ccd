/* The KV cache in the byte order of files, which is little-endian.  SPDX-License-Identifier: MIT */
#include "cache.h"

#include <string.h>

#include "../ops.h"

#if QKV_WITH(CACHE)

enum { HEADER_WORDS = QKV_CACHE_HEADER_BYTES / 8 };

/* The checksum of a header in the other byte order: the words as a CPU of that order reads them. */
static uint64_t foreign_checksum(const unsigned char *header) {
    int64_t words[QKV_CACHE_CHECKED_WORDS];
    memcpy(words, header, sizeof words);
    qkv_swap_bytes(words, sizeof words[0], QKV_CACHE_CHECKED_WORDS);
    return qkv_checksum(words, QKV_CACHE_CHECKED_WORDS);
}

static uint64_t foreign_word(uint64_t word) {
    qkv_swap_bytes(&word, sizeof word, 1);
    return word;
}

/* All but the checksum. */
static void swap_header(unsigned char *header) {
    qkv_swap_bytes(header + 8, sizeof(uint32_t), 2);
    qkv_swap_bytes(header + 16, sizeof(int64_t), HEADER_WORDS - 2);
}

/* A header of the other order to this CPU's. False: it is damaged, and stays as it is. */
static bool header_from_file(unsigned char *header) {
    unsigned char *const at = header + 8 * QKV_CACHE_CHECKED_WORDS;
    uint64_t checksum;
    memcpy(&checksum, at, sizeof checksum);
    if (foreign_word(checksum) != foreign_checksum(header))
        return false;
    swap_header(header);
    int64_t words[QKV_CACHE_CHECKED_WORDS];
    memcpy(words, header, sizeof words);
    checksum = qkv_checksum(words, QKV_CACHE_CHECKED_WORDS);
    memcpy(at, &checksum, sizeof checksum);
    return true;
}

static void header_to_file(unsigned char *header) {
    swap_header(header);
    const uint64_t checksum = foreign_word(foreign_checksum(header));
    memcpy(header + 8 * QKV_CACHE_CHECKED_WORDS, &checksum, sizeof checksum);
}

/* head_bytes: of a page's head; 0 where the other sizes need not fit a number. */
static void swap_pool(const qkv_cache_desc *d, void *pool, int64_t element_bytes, int64_t head_bytes) {
    if (element_bytes > 1 && head_bytes > 0)
        qkv_swap_bytes(pool, element_bytes, d->num_pages * d->num_kv_heads * (head_bytes / element_bytes));
}

static void swap_sections(const qkv_cache_view *c) {
    enum { SCALES = QKV_CACHE_PAGE * sizeof(float) };
    const qkv_cache_desc *d = &c->desc;
    qkv_swap_bytes(c->lengths, sizeof *c->lengths, d->num_sequences);
    qkv_swap_bytes(c->first_pages, sizeof *c->first_pages, d->num_sequences);
    qkv_swap_bytes(c->references, sizeof *c->references, d->num_pages);
    qkv_swap_bytes(c->tables, sizeof *c->tables, d->num_sequences * c->table_stride);
    swap_pool(d, c->k, qkv_stored_bytes(d->k_type, 1), c->k_head);
    swap_pool(d, c->v, qkv_stored_bytes(d->v_type, 1), c->v_head);
    swap_pool(d, c->k_scales, sizeof *c->k_scales, d->k_type == QKV_INT8 ? SCALES : 0);
    swap_pool(d, c->v_scales, sizeof *c->v_scales, d->v_type == QKV_INT8 ? SCALES : 0);
}

qkv_status qkv_cache_file_order(void *cache, size_t bytes) {
    if (!cache)
        return QKV_ERROR_NULL;
    if ((uintptr_t)cache % 64 != 0)
        return QKV_ERROR_ALIGNMENT;
    if (bytes < QKV_CACHE_HEADER_BYTES)
        return QKV_ERROR_CACHE;
    unsigned char before[QKV_CACHE_HEADER_BYTES], *const header = cache;
    memcpy(before, header, sizeof before);
    const bool from_file = QKV_BIG_ENDIAN && header[QKV_CACHE_ORDER_AT] == (QKV_CACHE_ORDER_MARK & 255);
    if (from_file && !header_from_file(header))
        return QKV_ERROR_CACHE;
    qkv_cache_view c;
    qkv_status status = qkv_cache_open(cache, &c);
    if (status == QKV_OK && (uint64_t)c.bytes > bytes)
        status = QKV_ERROR_CACHE;
    if (status != QKV_OK) {
        if (from_file)
            memcpy(header, before, sizeof before);
        return status;
    }
    if (QKV_BIG_ENDIAN)
        swap_sections(&c);
    if (QKV_BIG_ENDIAN && !from_file)
        header_to_file(header);
    return QKV_OK;
}

#endif
