/* The KV cache's memory: layout, pages, references.  SPDX-License-Identifier: MIT */
#include "cache.h"

#include <string.h>

#include "../../ref/storage.h"

#if QKV_WITH(CACHE)

/* What does not change is at the front, under the checksum. Words in the byte order of the machine. */
typedef struct cache_header {
    char magic[8];
    uint32_t version, byte_order;
    int64_t bytes;
    int64_t num_sequences, max_tokens, num_pages, num_kv_heads, head_dim, head_dim_v;
    int64_t k_type, v_type, window, first_tokens;
    int64_t reserved[6]; /* 0 */
    uint64_t checksum;
    int64_t lowest_free;
} cache_header;

enum { LAYOUT_VERSION = 1 };
_Static_assert(sizeof(cache_header) <= QKV_CACHE_HEADER_BYTES, "the first section begins behind the header");
_Static_assert(offsetof(cache_header, byte_order) == QKV_CACHE_ORDER_AT, "cache_order.c looks for it there");
_Static_assert(offsetof(cache_header, checksum) == QKV_CACHE_CHECKED_WORDS * sizeof(int64_t), "all before is checked");

enum section { LENGTHS, FIRST_PAGES, REFERENCES, TABLES, K_POOL, V_POOL, K_SCALES, V_SCALES, NUM_SECTIONS };

static int64_t cache_pages(int64_t tokens) {
    return qkv_ceil_div(tokens, QKV_CACHE_PAGE);
}

static int64_t kept_cache_pages(const qkv_cache_desc *d) {
    return qkv_min(cache_pages(d->first_tokens), cache_pages(d->max_tokens));
}

/* Where each section begins, and at the last index where the block ends. */
static qkv_status cache_layout(const qkv_cache_desc *d, int64_t at[NUM_SECTIONS + 1]) {
    const int64_t stride = cache_pages(d->max_tokens);
    const int64_t k_scales = d->k_type == QKV_INT8 ? d->num_pages : 0;
    const int64_t v_scales = d->v_type == QKV_INT8 ? d->num_pages : 0;
    const int64_t sizes[NUM_SECTIONS][5] = {
        [LENGTHS] = {sizeof(int64_t), d->num_sequences, 1, 1, 1},
        [FIRST_PAGES] = {sizeof(int64_t), d->num_sequences, 1, 1, 1},
        [REFERENCES] = {sizeof(int32_t), d->num_pages, 1, 1, 1},
        [TABLES] = {sizeof(int32_t), d->num_sequences, stride, 1, 1},
        [K_POOL] = {qkv_stored_bytes(d->k_type, 1), d->num_pages, d->num_kv_heads, QKV_CACHE_PAGE, d->head_dim},
        [V_POOL] = {qkv_stored_bytes(d->v_type, 1), d->num_pages, d->num_kv_heads, QKV_CACHE_PAGE, d->head_dim_v},
        [K_SCALES] = {sizeof(float), k_scales, d->num_kv_heads, QKV_CACHE_PAGE, 1},
        [V_SCALES] = {sizeof(float), v_scales, d->num_kv_heads, QKV_CACHE_PAGE, 1},
    };
    at[0] = QKV_CACHE_HEADER_BYTES;
    for (int i = 0; i < NUM_SECTIONS; i++) {
        int64_t bytes;
        if (!qkv_product(sizes[i], 5, PTRDIFF_MAX - 63 - at[i], &bytes))
            return QKV_ERROR_OVERFLOW;
        at[i + 1] = at[i] + qkv_round_up(bytes, 64);
    }
    return QKV_OK;
}

/* The most pages a sequence ever uses. With a window: its first token may be the last of a page, and so may the last
 * one before up to 64 new ones. */
static int64_t most_cache_pages(const qkv_cache_desc *d) {
    const int64_t all = cache_pages(d->max_tokens);
    if (d->window == 0)
        return all;
    const int64_t seen = cache_pages(qkv_max(d->window - 2, 0));
    return seen < all ? qkv_min(kept_cache_pages(d) + 2 + seen, all) : all;
}

/* What 0 stands for, and whether all of it makes a cache. */
static qkv_status cache_complete(qkv_cache_desc *d) {
    if (d->num_sequences < 0 || d->max_tokens < 0 || d->num_pages < 0 || d->num_kv_heads < 0 || d->head_dim < 0 ||
        d->head_dim_v < 0 || d->window < 0 || d->first_tokens < 0)
        return QKV_ERROR_NEGATIVE;
    const int32_t types[2] = {d->k_type, d->v_type};
    for (int i = 0; i < 2; i++) {
        if (types[i] != QKV_F32 && types[i] != QKV_F16 && types[i] != QKV_BF16 && types[i] != QKV_INT8)
            return QKV_ERROR_FLAGS;
    }
    if (d->first_tokens > 0 && d->window == 0)
        return QKV_ERROR_SHAPE;
    if (d->head_dim_v == 0)
        d->head_dim_v = d->head_dim;
    if (d->num_pages == 0) {
        const int64_t factors[2] = {d->num_sequences, most_cache_pages(d)};
        if (!qkv_product(factors, 2, INT32_MAX, &d->num_pages))
            return QKV_ERROR_OVERFLOW;
    }
    return d->num_sequences > INT32_MAX || d->num_pages > INT32_MAX ? QKV_ERROR_OVERFLOW : QKV_OK;
}

/* A complete copy of the descriptor and its layout. */
static qkv_status cache_prepare(const qkv_cache_desc *desc, qkv_cache_desc *d, int64_t at[NUM_SECTIONS + 1]) {
    qkv_problem unused = {0};
    qkv_status status = qkv_import(d, sizeof *d, desc, &unused);
    if (status == QKV_OK)
        status = cache_complete(d);
    return status == QKV_OK ? cache_layout(d, at) : status;
}

qkv_status qkv_cache_size(const qkv_cache_desc *desc, size_t *bytes) {
    qkv_cache_desc d;
    int64_t at[NUM_SECTIONS + 1];
    const qkv_status status = cache_prepare(desc, &d, at);
    if (status != QKV_OK)
        return status;
    if (!bytes)
        return QKV_ERROR_NULL;
    *bytes = (size_t)at[NUM_SECTIONS];
    return QKV_OK;
}

static const char cache_magic[8] = {'q', 'k', 'v', 'c', 'a', 'c', 'h', 'e'};

static uint64_t header_checksum(const cache_header *h) {
    int64_t words[QKV_CACHE_CHECKED_WORDS];
    memcpy(words, h, sizeof words);
    return qkv_checksum(words, QKV_CACHE_CHECKED_WORDS);
}

qkv_status qkv_cache_init(const qkv_cache_desc *desc, void *memory, size_t bytes) {
    qkv_cache_desc d;
    int64_t at[NUM_SECTIONS + 1];
    const qkv_status status = cache_prepare(desc, &d, at);
    if (status != QKV_OK)
        return status;
    if (!memory)
        return QKV_ERROR_NULL;
    if ((uintptr_t)memory % 64 != 0)
        return QKV_ERROR_ALIGNMENT;
    if (bytes < (size_t)at[NUM_SECTIONS])
        return QKV_ERROR_WORKSPACE;
    memset(memory, 0, (size_t)at[K_POOL]);
    cache_header *h = memory;
    *h = (cache_header){.version = LAYOUT_VERSION,
                        .byte_order = QKV_CACHE_ORDER_MARK,
                        .bytes = at[NUM_SECTIONS],
                        .num_sequences = d.num_sequences,
                        .max_tokens = d.max_tokens,
                        .num_pages = d.num_pages,
                        .num_kv_heads = d.num_kv_heads,
                        .head_dim = d.head_dim,
                        .head_dim_v = d.head_dim_v,
                        .k_type = d.k_type,
                        .v_type = d.v_type,
                        .window = d.window,
                        .first_tokens = d.first_tokens};
    memcpy(h->magic, cache_magic, sizeof cache_magic);
    h->checksum = header_checksum(h);
    return QKV_OK;
}

/* Bytes of one head of a page; next to a size of 0 a number without a use may be too large. */
static int64_t cache_head_bytes(int32_t type, int64_t dim) {
    const int64_t factors[3] = {qkv_stored_bytes(type, 1), QKV_CACHE_PAGE, dim};
    int64_t bytes;
    return qkv_product(factors, 3, PTRDIFF_MAX, &bytes) ? bytes : 0;
}

qkv_status qkv_cache_open(const void *cache, qkv_cache_view *view) {
    if (!cache)
        return QKV_ERROR_NULL;
    if ((uintptr_t)cache % 64 != 0)
        return QKV_ERROR_ALIGNMENT;
    unsigned char *memory = (unsigned char *)(uintptr_t)cache;
    cache_header *h = (cache_header *)(void *)memory;
    if (memcmp(h->magic, cache_magic, sizeof cache_magic) != 0 || h->version != LAYOUT_VERSION ||
        h->byte_order != QKV_CACHE_ORDER_MARK || h->checksum != header_checksum(h) || h->lowest_free < 0 ||
        h->lowest_free > h->num_pages)
        return QKV_ERROR_CACHE;
    *view = (qkv_cache_view){
        .desc = {.size = sizeof view->desc,
                 .num_sequences = h->num_sequences,
                 .max_tokens = h->max_tokens,
                 .num_pages = h->num_pages,
                 .num_kv_heads = h->num_kv_heads,
                 .head_dim = h->head_dim,
                 .head_dim_v = h->head_dim_v,
                 .k_type = (int32_t)h->k_type,
                 .v_type = (int32_t)h->v_type,
                 .window = h->window,
                 .first_tokens = h->first_tokens},
        .bytes = h->bytes,
        .lowest_free = &h->lowest_free,
    };
    qkv_cache_desc *d = &view->desc;
    int64_t at[NUM_SECTIONS + 1];
    if (cache_complete(d) != QKV_OK || cache_layout(d, at) != QKV_OK || at[NUM_SECTIONS] != h->bytes ||
        d->num_pages != h->num_pages)
        return QKV_ERROR_CACHE;
    view->table_stride = cache_pages(d->max_tokens);
    view->kept_pages = kept_cache_pages(d);
    view->lengths = (int64_t *)(void *)(memory + at[LENGTHS]);
    view->first_pages = (int64_t *)(void *)(memory + at[FIRST_PAGES]);
    view->references = (int32_t *)(void *)(memory + at[REFERENCES]);
    view->tables = (int32_t *)(void *)(memory + at[TABLES]);
    view->k = memory + at[K_POOL];
    view->v = memory + at[V_POOL];
    view->k_scales = (float *)(void *)(memory + at[K_SCALES]);
    view->v_scales = (float *)(void *)(memory + at[V_SCALES]);
    view->k_head = cache_head_bytes(d->k_type, d->head_dim);
    view->v_head = cache_head_bytes(d->v_type, d->head_dim_v);
    return QKV_OK;
}

/* Between the kept pages and the first page there is a hole, none of whose tokens the next query sees. */
qkv_status qkv_cache_sequence(const qkv_cache_view *c, int64_t sequence, int64_t *length, int64_t *first_page) {
    if (sequence < 0 || sequence >= c->desc.num_sequences)
        return QKV_ERROR_INDEX;
    *length = c->lengths[sequence];
    *first_page = c->first_pages[sequence];
    if (*length < 0 || *length > c->desc.max_tokens)
        return QKV_ERROR_CACHE;
    const int64_t unseen = *length - c->desc.window + 1; /* tokens before this one */
    const bool whole = *first_page == 0, hole = *first_page > c->kept_pages && c->desc.window > 0 && unseen > 0 &&
                                                *first_page <= unseen / QKV_CACHE_PAGE;
    return whole || hole ? QKV_OK : QKV_ERROR_CACHE;
}

qkv_status qkv_cache_query(const void *cache, qkv_cache_desc *desc) {
    qkv_cache_view c;
    const qkv_status status = qkv_cache_open(cache, &c);
    if (status != QKV_OK)
        return status;
    if (!desc)
        return QKV_ERROR_NULL;
    const size_t size = desc->size;
    if (size < sizeof *desc || size > 4096)
        return QKV_ERROR_SIZE;
    memset(desc, 0, size);
    *desc = c.desc;
    desc->size = size;
    return QKV_OK;
}

qkv_status qkv_cache_length(const void *cache, int64_t sequence, int64_t *tokens) {
    qkv_cache_view c;
    int64_t length, first_page;
    qkv_status status = qkv_cache_open(cache, &c);
    if (status == QKV_OK)
        status = qkv_cache_sequence(&c, sequence, &length, &first_page);
    if (status != QKV_OK)
        return status;
    if (!tokens)
        return QKV_ERROR_NULL;
    *tokens = length;
    return QKV_OK;
}

/* Free pages, counted to `most`. */
static int64_t count_free(const qkv_cache_view *c, int64_t most) {
    int64_t n = 0;
    for (int64_t p = *c->lowest_free; p < c->desc.num_pages && n < most; p++)
        n += c->references[p] == 0;
    return n;
}

qkv_status qkv_cache_free_pages(const void *cache, int64_t *pages) {
    qkv_cache_view c;
    const qkv_status status = qkv_cache_open(cache, &c);
    if (status != QKV_OK)
        return status;
    if (!pages)
        return QKV_ERROR_NULL;
    *pages = count_free(&c, c.desc.num_pages);
    return QKV_OK;
}

/* ------------------------------------------------------------------------------------------------------- pages */

static bool is_page(const qkv_cache_view *c, int32_t page) {
    return page >= 0 && page < c->desc.num_pages;
}

/* Adds step to the references of the logical pages [from, end) of a sequence, except those of its hole. */
static void add_references(const qkv_cache_view *c, int64_t sequence, int64_t first_page, int64_t from, int64_t end,
                           int32_t step) {
    const int32_t *table = c->tables + sequence * c->table_stride;
    for (int64_t i = from; i < end; i++) {
        if (i < c->kept_pages || i >= first_page)
            c->references[table[i]] += step;
    }
}

/* The same for a step of 1 or −1, all of it or, where a page or its count can't be, nothing. A sequence that has a page
 * twice is found this way too, as its count would fall below 0. */
static qkv_status try_references(const qkv_cache_view *c, int64_t sequence, int64_t first_page, int64_t from,
                                 int64_t end, int32_t step) {
    const int32_t *table = c->tables + sequence * c->table_stride;
    const int64_t lowest_free = *c->lowest_free;
    for (int64_t i = from; i < end; i++) {
        if (i >= c->kept_pages && i < first_page) {
            i = first_page - 1;
            continue;
        }
        const int32_t page = table[i];
        if (!is_page(c, page) || c->references[page] <= 0 || c->references[page] == INT32_MAX) {
            add_references(c, sequence, first_page, from, i, -step);
            *c->lowest_free = lowest_free;
            return QKV_ERROR_CACHE;
        }
        c->references[page] += step;
        if (c->references[page] == 0)
            *c->lowest_free = qkv_min(*c->lowest_free, page);
    }
    return QKV_OK;
}

/* There is a free page. */
static int32_t take_page(const qkv_cache_view *c) {
    int64_t page = *c->lowest_free;
    while (c->references[page] != 0)
        page++;
    c->references[page] = 1;
    *c->lowest_free = page + 1;
    return (int32_t)page;
}

static void copy_in_pool(void *pool, int64_t bytes, int32_t to, int32_t from) {
    unsigned char *pages = pool;
    memcpy(pages + to * bytes, pages + from * bytes, (size_t)bytes);
}

static void copy_cache_page(const qkv_cache_view *c, int32_t to, int32_t from) {
    const int64_t heads = c->desc.num_kv_heads, scales = QKV_CACHE_PAGE * (int64_t)sizeof(float);
    copy_in_pool(c->k, heads * c->k_head, to, from);
    copy_in_pool(c->v, heads * c->v_head, to, from);
    if (c->desc.k_type == QKV_INT8)
        copy_in_pool(c->k_scales, heads * scales, to, from);
    if (c->desc.v_type == QKV_INT8)
        copy_in_pool(c->v_scales, heads * scales, to, from);
}

static qkv_status extend_sequence(const qkv_cache_view *c, int64_t sequence, int64_t n, int64_t length,
                                  int64_t first_page) {
    int32_t *table = c->tables + sequence * c->table_stride;
    const int64_t pages = cache_pages(length), wanted = cache_pages(length + n), lowest_free = *c->lowest_free;

    /* Pages that leave the window make room first. If it is still not enough, they stay. */
    int64_t new_first = c->desc.window > 0 ? qkv_max(length - c->desc.window + 1, 0) / QKV_CACHE_PAGE : 0;
    new_first = new_first > c->kept_pages ? new_first : first_page;
    qkv_status status = try_references(c, sequence, first_page, c->kept_pages, new_first, -1);
    if (status != QKV_OK)
        return status;

    /* The last page, if it is filled in part, and others have it too. */
    int32_t *last = length % QKV_CACHE_PAGE != 0 ? &table[pages - 1] : NULL;
    if (last && (!is_page(c, *last) || c->references[*last] <= 0))
        status = QKV_ERROR_CACHE;
    const bool copied = last && status == QKV_OK && c->references[*last] > 1;
    const int64_t need = wanted - pages + copied;
    if (status == QKV_OK && count_free(c, need) < need)
        status = QKV_ERROR_CAPACITY;
    if (status != QKV_OK) {
        add_references(c, sequence, first_page, c->kept_pages, new_first, 1);
        *c->lowest_free = lowest_free;
        return status;
    }

    if (copied) {
        const int32_t page = take_page(c);
        copy_cache_page(c, page, *last);
        c->references[*last]--;
        *last = page;
    }
    for (int64_t i = pages; i < wanted; i++)
        table[i] = take_page(c);
    c->lengths[sequence] = length + n;
    c->first_pages[sequence] = new_first;
    return QKV_OK;
}

/* Opens, and checks what extending by n tokens needs of the sequence itself. */
static qkv_status open_to_extend(const void *cache, int64_t sequence, int64_t n, qkv_cache_view *c, int64_t *length,
                                 int64_t *first_page) {
    qkv_status status = qkv_cache_open(cache, c);
    if (status == QKV_OK)
        status = qkv_cache_sequence(c, sequence, length, first_page);
    if (status != QKV_OK)
        return status;
    if (n < 0)
        return QKV_ERROR_NEGATIVE;
    return n > c->desc.max_tokens - *length ? QKV_ERROR_CAPACITY : QKV_OK;
}

qkv_status qkv_cache_extend(void *cache, int64_t sequence, int64_t n) {
    qkv_cache_view c;
    int64_t length, first_page;
    const qkv_status status = open_to_extend(cache, sequence, n, &c, &length, &first_page);
    return status != QKV_OK || n == 0 ? status : extend_sequence(&c, sequence, n, length, first_page);
}

/* Strides that matter, pointers, overlap with the cache. In a function of its own: the list of operands is large. */
static QKV_NOINLINE qkv_status check_appended(const qkv_cache_view *c, const void *cache, int64_t n, const qkv_input *k,
                                              const qkv_input *v) {
    qkv_operands o;
    qkv_problem unused = {0};
    const int64_t rows[3] = {1, c->desc.num_kv_heads, n};
    o.count = 0;
    o.within = QKV_OUTERMOST;
    qkv_add_packed(&o, QKV_NEEDED | QKV_OUTPUT, "cache", cache, c->bytes);
    qkv_add_input(&o, QKV_NEEDED, "k", *k, rows, c->desc.head_dim);
    qkv_add_input(&o, QKV_NEEDED, "v", *v, rows, c->desc.head_dim_v);
    const qkv_status status = qkv_check_strides(&o, &unused);
    return status != QKV_OK ? status : qkv_check_pointers(&o, &unused);
}

qkv_status qkv_cache_append(const qkv_ctx *ctx, void *cache, int64_t sequence, int64_t n, qkv_input k, qkv_input v) {
    if (!ctx)
        return QKV_ERROR_NULL;
    qkv_cache_view c;
    int64_t length, first_page;
    qkv_status status = open_to_extend(cache, sequence, n, &c, &length, &first_page);
    if (status != QKV_OK || n == 0)
        return status;
    const int64_t heads = c.desc.num_kv_heads;
    qkv_settle_input(&k, 1, heads, n, c.desc.head_dim);
    qkv_settle_input(&v, 1, heads, n, c.desc.head_dim_v);
    status = check_appended(&c, cache, n, &k, &v);
    if (status == QKV_OK)
        status = extend_sequence(&c, sequence, n, length, first_page);
    if (status != QKV_OK)
        return status;
    const float *keys = k.data, *values = v.data;
    for (int64_t h = 0; h < heads && c.desc.head_dim > 0; h++)
        qkv_cache_write(ctx->kernels, &c, sequence, 0, h, length, n, keys + h * k.head, k.token);
    for (int64_t h = 0; h < heads && c.desc.head_dim_v > 0; h++)
        qkv_cache_write(ctx->kernels, &c, sequence, 1, h, length, n, values + h * v.head, v.token);
    return QKV_OK;
}

/* --------------------------------------------------------------------------------------- shorter, shared, checked */

qkv_status qkv_cache_truncate(void *cache, int64_t sequence, int64_t length) {
    qkv_cache_view c;
    int64_t old, first_page;
    qkv_status status = qkv_cache_open(cache, &c);
    if (status == QKV_OK)
        status = qkv_cache_sequence(&c, sequence, &old, &first_page);
    if (status != QKV_OK)
        return status;
    if (length < 0)
        return QKV_ERROR_NEGATIVE;
    if (length > old)
        return QKV_ERROR_CAPACITY;
    const int64_t pages = cache_pages(length);
    int64_t new_first = first_page;
    if (pages <= c.kept_pages)
        new_first = 0; /* no hole is left */
    else if (first_page > qkv_max(length - c.desc.window + 1, 0) / QKV_CACHE_PAGE)
        return QKV_ERROR_CAPACITY;
    status = try_references(&c, sequence, first_page, pages, cache_pages(old), -1);
    if (status != QKV_OK)
        return status;
    c.lengths[sequence] = length;
    c.first_pages[sequence] = new_first;
    return QKV_OK;
}

qkv_status qkv_cache_fork(void *cache, int64_t from, int64_t to) {
    qkv_cache_view c;
    int64_t length, first_page, to_length, to_first_page;
    qkv_status status = qkv_cache_open(cache, &c);
    if (status == QKV_OK)
        status = qkv_cache_sequence(&c, from, &length, &first_page);
    if (status == QKV_OK)
        status = qkv_cache_sequence(&c, to, &to_length, &to_first_page);
    if (status != QKV_OK || from == to)
        return status;
    const int64_t pages = cache_pages(length);
    status = try_references(&c, from, first_page, 0, pages, 1);
    if (status != QKV_OK)
        return status;
    status = try_references(&c, to, to_first_page, 0, cache_pages(to_length), -1);
    if (status != QKV_OK) {
        add_references(&c, from, first_page, 0, pages, -1);
        return status;
    }
    if (pages > 0)
        memcpy(c.tables + to * c.table_stride, c.tables + from * c.table_stride, (size_t)pages * sizeof *c.tables);
    c.lengths[to] = length;
    c.first_pages[to] = first_page;
    return QKV_OK;
}

/* Of the pages [first, first + n) of the pool: each sequence has each at most once, and references counts them. */
enum { CHECKED_PAGES = 384 };

static bool references_are_right(const qkv_cache_view *c, int64_t first, int64_t n) {
    int32_t count[CHECKED_PAGES] = {0}, last[CHECKED_PAGES] = {0}; /* last: 1 + the sequence seen last */
    for (int64_t s = 0; s < c->desc.num_sequences; s++) {
        const int32_t *table = c->tables + s * c->table_stride;
        const int64_t end = cache_pages(c->lengths[s]);
        for (int64_t i = 0; i < end; i++) {
            const int64_t page = table[i] - first;
            if (page < 0 || page >= n || (i >= c->kept_pages && i < c->first_pages[s]))
                continue;
            if (last[page] == (int32_t)s + 1)
                return false;
            last[page] = (int32_t)s + 1;
            count[page]++;
        }
    }
    for (int64_t p = 0; p < n; p++) {
        if (count[p] != c->references[first + p] || (count[p] == 0 && first + p < *c->lowest_free))
            return false;
    }
    return true;
}

qkv_status qkv_cache_check(const void *memory, size_t bytes) {
    if (!memory)
        return QKV_ERROR_NULL;
    if (bytes < QKV_CACHE_HEADER_BYTES)
        return QKV_ERROR_CACHE;
    qkv_cache_view c;
    qkv_status status = qkv_cache_open(memory, &c);
    if (status == QKV_OK && (uint64_t)c.bytes > bytes)
        status = QKV_ERROR_CACHE;
    for (int64_t s = 0; status == QKV_OK && s < c.desc.num_sequences; s++) {
        int64_t length, first_page;
        status = qkv_cache_sequence(&c, s, &length, &first_page);
        for (int64_t i = 0; status == QKV_OK && i < c.table_stride; i++) {
            if (!is_page(&c, c.tables[s * c.table_stride + i]))
                status = QKV_ERROR_CACHE;
        }
    }
    for (int64_t p = 0; status == QKV_OK && p < c.desc.num_pages; p += CHECKED_PAGES) {
        if (!references_are_right(&c, p, qkv_min(CHECKED_PAGES, c.desc.num_pages - p)))
            status = QKV_ERROR_CACHE;
    }
    return status;
}

#endif
