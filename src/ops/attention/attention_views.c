/* What each row sees of a key block: its window, kv_len and keep. A mask is read before anything is computed, so that
 * keys it hides at both ends, or all of them, cost no more than that.
 *
 * SPDX-License-Identifier: MIT */
#include "attention_task.h"

#include <string.h>

key_range qkv_union_of_ranges(const attention_task *t, int64_t first, int64_t last, key_range all) {
    key_range seen = {all.end, all.first};
    for (int64_t query = first; query <= last; query++) {
        key_range keys = visible_keys(t, query);
        if (keys.first < keys.end)
            seen = (key_range){qkv_min(seen.first, keys.first), qkv_max(seen.end, keys.end)};
    }
    return seen.first < seen.end ? seen : (key_range){all.first, all.first};
}

/* Whether any of n bytes is not 0, and whether any is. Loops of a constant length become a few vectors. */
static inline bool any_kept(const uint8_t *keep, int64_t n) {
    uint8_t kept = 0;
    for (int64_t j = 0; j < n; j++)
        kept |= keep[j];
    return kept != 0;
}

static inline bool any_hidden(const uint8_t *keep, int64_t n) {
    uint8_t hidden = 0;
    for (int64_t j = 0; j < n; j++)
        hidden |= (uint8_t)(keep[j] == 0);
    return hidden != 0;
}

enum { AT_ONCE = 32 };

static bool is_whole_block(key_range keys) {
    return keys.end - keys.first == QKV_KEY_BLOCK;
}

/* The range without zeros at its ends. */
static key_range trim(const uint8_t *keep, key_range keys) {
    int64_t first = keys.first, end = keys.end;
    while (end - first >= AT_ONCE && !any_kept(keep + first, AT_ONCE))
        first += AT_ONCE;
    while (first < end && keep[first] == 0)
        first++;
    while (end - first >= AT_ONCE && !any_kept(keep + end - AT_ONCE, AT_ONCE))
        end -= AT_ONCE;
    while (first < end && keep[end - 1] == 0)
        end--;
    return (key_range){first, end};
}

static bool keeps_all(const uint8_t *keep, key_range keys) {
    if (is_whole_block(keys))
        return !any_hidden(keep, QKV_KEY_BLOCK);
    int64_t j = keys.first;
    for (; j + AT_ONCE <= keys.end; j += AT_ONCE) {
        if (any_hidden(keep + j, AT_ONCE))
            return false;
    }
    return !any_hidden(keep + j, keys.end - j);
}

/* The mask of a row, from the block's first key on. It is contiguous, or has been gathered. */
static const uint8_t *keep_row(const attention_task *t, int64_t row, int64_t i, int64_t block) {
    if (t->shape->keep_rows > 0)
        return t->keep + i * QKV_KEY_BLOCK;
    return qkv_matrix_row(t, &t->desc->keep, row, block, 1);
}

/* Whether a row of a tile has the mask of the one before. */
static bool shares_mask(const attention_task *t, int64_t row, int64_t i) {
    const qkv_matrix_input *keep = &t->desc->keep;
    return i > 0 && (keep->query == 0 || t->query[row + i] == t->query[row + i - 1]) &&
           (keep->head == 0 || t->head[row + i] == t->head[row + i - 1]);
}

static row_view view_row(const attention_task *t, int64_t row, int64_t i, int64_t block, key_range keys) {
    if (!qkv_keep(t->desc) || keys.first == keys.end)
        return (row_view){keys, NULL};
    const uint8_t *keep = keep_row(t, row, i, block);
    if (t->desc->keep.key == 0) /* one element for all keys */
        return (row_view){*keep ? keys : (key_range){0, 0}, NULL};
    keys = trim(keep, keys);
    return (row_view){keys, keeps_all(keep, keys) ? NULL : keep};
}

/* Keys between the first tokens and the window, counted from the block's first: no query of this position sees them. */
static key_range gap_in_block(const attention_task *t, int64_t query, int64_t block) {
    const qkv_attention_desc *d = t->desc;
    return within_block((key_range){d->first_tokens, position_of(t, query) - bounded(d->left)}, block);
}

/* The view of a row that may see keys on both sides of a gap: in the middle of a block that is a mask. */
static row_view view_around_gap(const attention_task *t, int64_t row, int64_t i, int64_t block, key_range keys) {
    key_range gap = gap_in_block(t, t->query[row], block);
    uint8_t *keep = t->keep + i * QKV_KEY_BLOCK;
    if (gap.first < gap.end && gap.first <= keys.first)
        keys.first = qkv_max(keys.first, gap.end);
    if (gap.first < gap.end && gap.end >= keys.end)
        keys.end = qkv_min(keys.end, gap.first);
    if (keys.first >= keys.end)
        return (row_view){{0, 0}, NULL};
    bool masked = qkv_keep(t->desc), divided = gap.first > keys.first && gap.end < keys.end;
    if (!masked && !divided)
        return (row_view){keys, NULL};
    if (!masked)
        memset(keep + keys.first, 1, (size_t)(keys.end - keys.first));
    if (divided)
        memset(keep + gap.first, 0, (size_t)(gap.end - gap.first));
    keys = trim(keep, keys);
    return (row_view){keys, keeps_all(keep, keys) ? NULL : keep};
}

key_range qkv_view_rows(const attention_task *t, int64_t row, int64_t n, int64_t block, row_view *views) {
    const qkv_matrix_input *keep = &t->desc->keep;
    const bool gap = qkv_has_gap(t->desc), masked = qkv_keep(t->desc);
    key_range first = visible_keys(t, t->query[row]), last = visible_keys(t, t->query[row + n - 1]);
    key_range low = within_block(first, block), high = within_block(last, block), seen = {QKV_KEY_BLOCK, 0};
    /* Bounds of windows don't decrease, so what lies between two equal ranges is equal, unless they are empty. */
    bool ordered = !qkv_key_ranges(t->desc) || t->query[row] == t->query[row + n - 1];
    key_range all = within_block(ordered ? (key_range){first.first, last.end} : visible_to_rows(t, row, n), block);
    bool equal =
        all.first == all.end || (ordered && low.first < low.end && low.first == high.first && low.end == high.end);
    if (equal && ((!masked && !gap) || all.first == all.end)) {
        for (int64_t i = 0; i < n; i++)
            views[i] = (row_view){all, NULL};
        return all;
    }
    if (masked && t->shape->keep_rows > 0)
        qkv_gather_rows(t, keep, row, n, block, all, t->keep, 1);
    for (int64_t i = 0; i < n; i++) {
        row_view *view = &views[i];
        bool same_keys = i > 0 && ((equal && !gap) || t->query[row + i] == t->query[row + i - 1]);
        if (same_keys && (!masked || shares_mask(t, row, i))) {
            *view = view[-1];
        } else {
            key_range keys = equal ? all : within_block(visible_keys(t, t->query[row + i]), block);
            *view = gap ? view_around_gap(t, row + i, i, block, keys) : view_row(t, row + i, i, block, keys);
        }
        if (view->keys.first < view->keys.end) {
            seen.first = qkv_min(seen.first, view->keys.first);
            seen.end = qkv_max(seen.end, view->keys.end);
        }
    }
    return seen.first < seen.end ? seen : (key_range){0, 0};
}

/* Which of SURVEYED_BLOCKS key blocks from `first` on the mask shows to any row of a tile, as bits. */
static uint64_t survey_tile(const attention_task *t, int64_t row, int64_t n, int64_t first) {
    key_range all = visible_to_rows(t, row, n), blocks = blocks_of(all);
    uint64_t shown = 0;
    blocks = (key_range){qkv_max(blocks.first, first), qkv_min(blocks.end, first + SURVEYED_BLOCKS)};
    for (int64_t i = 0; i < n; i++) {
        if (shares_mask(t, row, i))
            continue;
        const uint8_t *keep = qkv_matrix_row(t, &t->desc->keep, row + i, 0, 1);
        for (int64_t block = blocks.first; block < blocks.end; block++) {
            key_range keys = within_block(all, block);
            const uint8_t *cell = keep + block * QKV_KEY_BLOCK + keys.first;
            if (shown >> (block - first) & 1)
                continue;
            if (is_whole_block(keys) ? any_kept(cell, QKV_KEY_BLOCK) : any_kept(cell, keys.end - keys.first))
                shown |= UINT64_C(1) << (block - first);
        }
    }
    return shown;
}

void qkv_survey_mask(const attention_task *t, int64_t first) {
    for (int64_t row = 0; row < t->rows; row += t->tile)
        t->shown[row / t->tile] = survey_tile(t, row, qkv_min(t->tile, t->rows - row), first);
}

/* ---------------------------------------------------------------------------------------------- strided matrices */

/* Copies rows of keys. Along the axis with the smaller stride neighbours are read one after the other, as they share
 * cache lines. Strides are in elements. */
static inline void gather_elements(unsigned char *to, int64_t to_row, const unsigned char *from, int64_t rows,
                                   int64_t row, int64_t keys, int64_t key, size_t element) {
    bool by_keys = (row < 0 ? -row : row) < (key < 0 ? -key : key);
    int64_t outer = by_keys ? keys : rows, inner = by_keys ? rows : keys, size = (int64_t)element;
    int64_t to_outer = (by_keys ? 1 : to_row) * size, to_inner = (by_keys ? to_row : 1) * size;
    int64_t from_outer = (by_keys ? key : row) * size, from_inner = (by_keys ? row : key) * size;
    for (int64_t x = 0; x < outer; x++) {
        for (int64_t y = 0; y < inner; y++)
            memcpy(to + x * to_outer + y * to_inner, from + x * from_outer + y * from_inner, element);
    }
}

void qkv_gather_rows(const attention_task *t, const qkv_matrix_input *x, int64_t row, int64_t n, int64_t block,
                     key_range keys, void *to, int64_t element) {
    /* Rows are queries of one head, or the heads of a group take turns. */
    int64_t group = n > 1 && t->head[row] == t->head[row + 1] ? 1 : t->shape->group, next;
    for (int64_t i = 0; i < qkv_min(group, n); i += next) { /* head by head */
        int64_t rows = qkv_ceil_div(n - i, group);
        next = 1;
        if (x->head == 0 && group > 1) { /* of the rows of a query the first serves all */
            next = group - t->head[row + i] % group;
            rows = next < group ? 1 : rows;
        }
        unsigned char *first = (unsigned char *)to + (i * QKV_KEY_BLOCK + keys.first) * element;
        const unsigned char *from = qkv_matrix_row(t, x, row + i, block, element) + keys.first * x->key * element;
        int64_t to_row = group * QKV_KEY_BLOCK, width = keys.end - keys.first;
        if (element == 1)
            gather_elements(first, to_row, from, rows, x->query, width, x->key, 1);
        else
            gather_elements(first, to_row, from, rows, x->query, width, x->key, sizeof(float));
    }
}
