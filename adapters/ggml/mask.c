/* Masks as ranges or as numbers in f32.  SPDX-License-Identifier: MIT */
#include "mask.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MINUS_INFINITY 0xfc00u /* in f16 */
#define ROWS_OF_TASK 16

static const ggml_fp16_t *row_of(const struct mask *mask, int64_t row) {
    const struct ggml_tensor *t = mask->tensor;
    const int64_t i = row % mask->queries, h = row / mask->queries % mask->heads, b = row / mask->queries / mask->heads;
    return (const ggml_fp16_t *)((const char *)t->data + i * t->nb[1] + h * t->nb[2] + b * t->nb[3]);
}

static int64_t num_rows(const struct mask *mask) {
    return mask->batch * mask->heads * mask->queries;
}

static bool hides_four(const ggml_fp16_t *at) {
    uint64_t four;
    memcpy(&four, at, sizeof four);
    return four == UINT64_C(0xfc00fc00fc00fc00);
}

/* The keys from the first to the end of what is not −inf; true if all of them are ±0. */
static bool range_of_row(const ggml_fp16_t *row, int64_t keys, int64_t range[2]) {
    int64_t first = 0, end = keys;
    while (first + 4 <= keys && hides_four(row + first))
        first += 4;
    while (first < keys && row[first] == MINUS_INFINITY)
        first++;
    while (end - 4 >= first && hides_four(row + end - 4))
        end -= 4;
    while (end > first && row[end - 1] == MINUS_INFINITY)
        end--;
    range[0] = first < end ? first : 0;
    range[1] = first < end ? end : 0;
    unsigned seen = 0;
    for (int64_t j = first; j < end; j++)
        seen |= row[j];
    return (seen & 0x7fffu) == 0;
}

struct scan {
    struct mask *mask;
    atomic_bool only_ranges;
};

static void scan_rows(void *arg, int64_t index, int32_t worker) {
    (void)worker;
    struct scan *scan = arg;
    struct mask *mask = scan->mask;
    const int64_t begin = index * ROWS_OF_TASK, rows = num_rows(mask);
    for (int64_t row = begin; row < rows && row < begin + ROWS_OF_TASK; row++)
        if (!range_of_row(row_of(mask, row), mask->keys, mask->ranges + 2 * row))
            atomic_store_explicit(&scan->only_ranges, false, memory_order_relaxed);
}

static void widen_rows(void *arg, int64_t index, int32_t worker) {
    (void)worker;
    struct mask *mask = arg;
    const int64_t begin = index * ROWS_OF_TASK, rows = num_rows(mask);
    for (int64_t row = begin; row < rows && row < begin + ROWS_OF_TASK; row++)
        ggml_fp16_to_fp32_row(row_of(mask, row), mask->bias + row * mask->keys, mask->keys);
}

static void for_rows(struct mask *mask, struct team *team, qkv_task task, void *arg) {
    team_for(team, (num_rows(mask) + ROWS_OF_TASK - 1) / ROWS_OF_TASK, task, arg);
}

static bool is_of(const struct mask *mask, const struct ggml_tensor *tensor, int64_t queries) {
    return mask->tensor == tensor && mask->data == tensor->data && mask->keys == tensor->ne[0] &&
           mask->queries == queries && mask->heads == tensor->ne[2] && mask->batch == tensor->ne[3];
}

struct mask *look_at_mask(struct masks *masks, const struct ggml_tensor *tensor, int64_t queries, struct team *team) {
    for (int i = 0; i < masks->count; i++)
        if (is_of(&masks->known[i], tensor, queries))
            return &masks->known[i];
    struct mask *mask = &masks->known[masks->count];
    if (masks->count < MAX_MASKS)
        masks->count++;
    else
        mask = &masks->known[masks->oldest++ % MAX_MASKS];
    mask->tensor = NULL;
    mask->has_bias = false;
    const int64_t rows = tensor->ne[3] * tensor->ne[2] * queries, room = 2 * rows + tensor->ne[3];
    if (room > mask->room) {
        free(mask->ranges);
        mask->ranges = malloc((size_t)room * sizeof *mask->ranges);
        mask->room = mask->ranges ? room : 0;
        if (!mask->ranges)
            return NULL;
    }
    mask->tensor = tensor;
    mask->data = tensor->data;
    mask->keys = tensor->ne[0];
    mask->queries = queries;
    mask->heads = tensor->ne[2];
    mask->batch = tensor->ne[3];
    mask->kv_len = mask->ranges + 2 * rows;

    struct scan scan = {.mask = mask, .only_ranges = true};
    for_rows(mask, team, scan_rows, &scan);
    mask->only_ranges = scan.only_ranges;
    for (int64_t b = 0; b < mask->batch; b++) {
        const int64_t *range = mask->ranges + 2 * b * mask->heads * queries;
        mask->kv_len[b] = 0;
        for (int64_t row = 0; row < mask->heads * queries; row++)
            if (range[2 * row + 1] > mask->kv_len[b])
                mask->kv_len[b] = range[2 * row + 1];
    }
    return mask;
}

bool mask_as_bias(struct mask *mask, struct team *team) {
    if (mask->has_bias)
        return true;
    const int64_t room = num_rows(mask) * mask->keys;
    if (room > mask->bias_room) {
        free(mask->bias);
        mask->bias = malloc((size_t)room * sizeof *mask->bias);
        mask->bias_room = mask->bias ? room : 0;
        if (!mask->bias)
            return false;
    }
    for_rows(mask, team, widen_rows, mask);
    mask->has_bias = true;
    return true;
}

void forget_masks(struct masks *masks) {
    masks->count = 0;
}

void free_masks(struct masks *masks) {
    for (int i = 0; i < MAX_MASKS; i++) {
        free(masks->known[i].ranges);
        free(masks->known[i].bias);
    }
    memset(masks, 0, sizeof *masks);
}
