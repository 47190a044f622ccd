/* The KV cache's tokens: floats to stored elements, in panels for K and rows for V.  SPDX-License-Identifier: MIT */
#include "cache.h"

#include <string.h>

#include "../../ref/storage.h"

#if QKV_WITH(CACHE)

enum {
    CHANNELS = 8, /* of a panel that are rounded at once: they take 2 KiB as floats */
    CHUNK = 128   /* channels of a row that are rounded at once */
};

/* Rows smaller than this become 0, so that neither the scale nor its inverse is subnormal or overflows. */
#define LEAST_AMAX 0x1p-100f

/* The scale of a row, and what its elements are multiplied by to become integers. */
static float int8_scale(const float *x, int64_t n, float *inverse) {
    int32_t largest = 0; /* magnitudes compare as integers, NaN above all */
    for (int64_t c = 0; c < n; c++) {
        const int32_t magnitude = (int32_t)(qkv_float_bits(x[c]) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    const float amax = qkv_bits_float((uint32_t)largest);
    *inverse = 0;
    if (largest >= 0x7f800000)
        return __builtin_nanf("");
    if (amax < LEAST_AMAX)
        return 0;
    *inverse = 127.0f / amax;
    return amax / 127.0f;
}

static void to_int8(int8_t *dst, const float *x, int64_t n, float inverse) {
    if (!(inverse > 0)) { /* x may be infinite or NaN */
        memset(dst, 0, (size_t)n);
        return;
    }
    for (int64_t c = 0; c < n; c++)
        dst[c] = (int8_t)qkv_int8_element(x[c], inverse);
}

/* n channels of one row, as bytes of its type, to every 64th element of a panel. */
static void scatter(unsigned char *panel, const void *row, int64_t element, int64_t n) {
    if (element == 1) {
        const unsigned char *x = row;
        for (int64_t c = 0; c < n; c++)
            panel[c * QKV_PANEL] = x[c];
    } else if (element == 2) {
        const uint16_t *x = row;
        for (int64_t c = 0; c < n; c++)
            memcpy(panel + c * QKV_PANEL * 2, &x[c], 2);
    } else {
        const float *x = row;
        for (int64_t c = 0; c < n; c++)
            memcpy(panel + c * QKV_PANEL * 4, &x[c], 4);
    }
}

/* One token of a panel that begins at its element. */
static void store_key(const qkv_kernels *kernels, unsigned char *panel, int type, const float *x, int64_t n,
                      float inverse) {
    const int64_t element = qkv_stored_bytes(type, 1);
    union {
        uint16_t half[CHUNK];
        int8_t byte[CHUNK];
    } row;
    for (int64_t c = 0; c < n; c += CHUNK) {
        const int64_t some = qkv_min(CHUNK, n - c);
        if (type == QKV_INT8)
            to_int8(row.byte, x + c, some, inverse);
        else if (type != QKV_F32)
            kernels->narrow(row.half, 0, x + c, 0, type, 1, (size_t)some);
        scatter(panel + c * QKV_PANEL * element, type == QKV_F32 ? (const void *)(x + c) : &row, element, some);
    }
}

/* A whole panel of keys, not of QKV_INT8. */
static void store_panel(const qkv_kernels *kernels, unsigned char *panel, int type, const float *src, int64_t ld,
                        int64_t n) {
    if (type == QKV_F32) {
        kernels->pack((float *)(void *)panel, src, ld, QKV_PANEL, (size_t)n);
        return;
    }
    float room[CHANNELS * QKV_PANEL + 15];
    float *tile = (float *)(((uintptr_t)room + 63) & ~(uintptr_t)63);
    const int64_t row_bytes = qkv_stored_bytes(type, QKV_PANEL);
    for (int64_t c = 0; c < n; c += CHANNELS) {
        const int64_t some = qkv_min(CHANNELS, n - c);
        kernels->pack(tile, src + c, ld, QKV_PANEL, (size_t)some);
        kernels->narrow(panel + c * row_bytes, row_bytes, tile, QKV_PANEL, type, (size_t)some, QKV_PANEL);
    }
}

/* `rows` tokens of one head's K in a page, from slot `first` on. */
static void store_keys(const qkv_kernels *kernels, unsigned char *panel, float *scales, int type, int64_t first,
                       int64_t rows, const float *src, int64_t ld, int64_t n) {
    const int64_t element = qkv_stored_bytes(type, 1);
    if (rows == QKV_PANEL && type != QKV_INT8) {
        store_panel(kernels, panel, type, src, ld, n);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        const float *x = src + r * ld;
        float inverse = 0;
        if (type == QKV_INT8)
            scales[first + r] = int8_scale(x, n, &inverse);
        store_key(kernels, panel + (first + r) * element, type, x, n, inverse);
    }
}

/* The same of V, a row for each token. */
static void store_values(const qkv_kernels *kernels, unsigned char *page, float *scales, int type, int64_t first,
                         int64_t rows, const float *src, int64_t ld, int64_t n) {
    const int64_t row_bytes = qkv_stored_bytes(type, n);
    if (type != QKV_INT8) {
        kernels->narrow(page + first * row_bytes, row_bytes, src, ld, type, (size_t)rows, (size_t)n);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        float inverse;
        scales[first + r] = int8_scale(src + r * ld, n, &inverse);
        to_int8((int8_t *)(page + (first + r) * row_bytes), src + r * ld, n, inverse);
    }
}

void qkv_cache_write(const qkv_kernels *kernels, const qkv_cache_view *c, int64_t sequence, int is_value, int64_t head,
                     int64_t position, int64_t rows, const float *src, int64_t ld) {
    int64_t length, first_page;
    if (qkv_cache_sequence(c, sequence, &length, &first_page) != QKV_OK || head < 0 || head >= c->desc.num_kv_heads ||
        position < 0 || position > length || rows < 0 || rows > length - position)
        return;
    const int64_t n = is_value ? c->desc.head_dim_v : c->desc.head_dim;
    const int64_t head_bytes = is_value ? c->v_head : c->k_head;
    const int type = is_value ? c->desc.v_type : c->desc.k_type;
    const int32_t *table = c->tables + sequence * c->table_stride;
    while (n > 0 && rows > 0) {
        const int64_t first = position % QKV_CACHE_PAGE, some = qkv_min(rows, QKV_CACHE_PAGE - first);
        const int32_t page = table[position / QKV_CACHE_PAGE];
        if (page >= 0 && page < c->desc.num_pages) {
            const int64_t at = page * c->desc.num_kv_heads + head;
            unsigned char *to = (is_value ? c->v : c->k) + at * head_bytes;
            float *scales = type == QKV_INT8 ? (is_value ? c->v_scales : c->k_scales) + at * QKV_CACHE_PAGE : NULL;
            if (is_value)
                store_values(kernels, to, scales, type, first, some, src, ld, n);
            else
                store_keys(kernels, to, scales, type, first, some, src, ld, n);
        }
        position += some;
        rows -= some;
        src += rows > 0 ? some * ld : 0;
    }
}

#endif
