/* Byte-pair merges with a heap of candidates: n·log n for a piece of n bytes.  SPDX-License-Identifier: MIT */
#include "merges.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ the list */

static size_t find_slot(const struct merges *merges, int32_t left, int32_t right) {
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    const size_t mask = merges->num_slots - 1;
    size_t slot = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & mask;
    for (; merges->slots[slot] >= 0; slot = (slot + 1) & mask) {
        const struct merge *merge = &merges->list[merges->slots[slot]];
        if (merge->left == left && merge->right == right)
            break;
    }
    return slot;
}

/* "Ġ t": two tokens as GPT-2 writes them. Returns 0 if they are none, or make no third. */
static int read_merge(struct merges *merges, const struct gguf_string *line, char *bytes) {
    const char *space = line->size > 2 ? memchr(line->text + 1, ' ', line->size - 1) : NULL;
    struct merge *merge = &merges->list[merges->count];
    size_t left = SIZE_MAX, right = SIZE_MAX;
    if (space) {
        const size_t size = (size_t)(space - line->text);
        left = decode_byte_level(bytes, line->text, size);
        if (left != SIZE_MAX)
            right = decode_byte_level(bytes + left, space + 1, line->size - size - 1);
    }
    if (right != SIZE_MAX) {
        merge->left = find_token(merges->lexicon, bytes, left);
        merge->right = find_token(merges->lexicon, bytes + left, right);
        merge->result = find_token(merges->lexicon, bytes, left + right);
    }
    if (right == SIZE_MAX || merge->left < 0 || merge->right < 0 || merge->result < 0)
        return 0;
    const size_t slot = find_slot(merges, merge->left, merge->right);
    if (merges->slots[slot] < 0) /* of two the first counts */
        merges->slots[slot] = (int32_t)merges->count;
    merges->count++;
    return 1;
}

void read_merges(struct merges *merges, const struct gguf *file, const struct lexicon *lexicon, int byte_level) {
    *merges = (struct merges){.lexicon = lexicon, .num_slots = 64};
    if (!byte_level) {
        merges->scores = gguf_floats(file, "tokenizer.ggml.scores");
        if (merges->scores.count != (size_t)lexicon->num_tokens)
            die("%s: %d tokens with %zu scores; the file is damaged", file->path, (int)lexicon->num_tokens,
                merges->scores.count);
        return;
    }
    const struct gguf_array lines = gguf_strings(file, "tokenizer.ggml.merges");
    if (lines.count == 0 || lines.count > INT32_MAX / 4)
        die("%s: %zu merges (tokenizer.ggml.merges)", file->path, lines.count);
    while (merges->num_slots < lines.count + lines.count / 2)
        merges->num_slots *= 2;
    merges->slots = allocate(merges->num_slots, sizeof *merges->slots);
    memset(merges->slots, 0xff, merges->num_slots * sizeof *merges->slots);
    merges->list = allocate(lines.count, sizeof *merges->list);
    const unsigned char *at = lines.data;
    size_t longest = 0;
    for (size_t i = 0; i < lines.count; i++) {
        const struct gguf_string line = gguf_next_string(&at);
        longest = line.size > longest ? line.size : longest;
    }
    char *bytes = allocate(longest + 1, 1);
    at = lines.data;
    for (size_t i = 0; i < lines.count; i++) {
        const struct gguf_string line = gguf_next_string(&at);
        if (!read_merge(merges, &line, bytes)) {
            free(bytes); /* as die() does not return, nothing need point to them behind its call: a leak */
            die("%s: merge %zu (\"%.*s\") is not of two tokens that make a third; the file is damaged", file->path, i,
                (int)(line.size < 100 ? line.size : 100), line.text);
        }
    }
    free(bytes);
}

void free_merges(struct merges *merges) {
    free(merges->list);
    free(merges->slots);
    *merges = (struct merges){0};
}

/* ------------------------------------------------------------------------------------------------ merging */

void append_token(struct token_list *list, int32_t token) {
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 256;
        list->ids = reallocate(list->ids, list->capacity, sizeof *list->ids);
    }
    list->ids[list->count++] = token;
}

/* A part of the piece: empty once its left neighbour has taken it. */
struct symbol {
    size_t begin, size;
    ptrdiff_t previous, next;
    int32_t token;
};

struct candidate {
    double key;         /* the least goes first, among equals the leftmost */
    size_t left, right; /* symbols */
    size_t size;        /* of both, when it was found: else one of them has changed */
    int32_t result;
};

struct heap {
    struct candidate *items;
    size_t count, capacity;
};

static int goes_first(const struct candidate *a, const struct candidate *b) {
    return a->key < b->key || (a->key == b->key && a->left < b->left);
}

static void push(struct heap *heap, struct candidate item) {
    if (heap->count == heap->capacity) {
        heap->capacity = heap->capacity ? 2 * heap->capacity : 64;
        heap->items = reallocate(heap->items, heap->capacity, sizeof *heap->items);
    }
    size_t at = heap->count++;
    for (; at > 0 && goes_first(&item, &heap->items[(at - 1) / 2]); at = (at - 1) / 2)
        heap->items[at] = heap->items[(at - 1) / 2];
    heap->items[at] = item;
}

static struct candidate pop(struct heap *heap) {
    const struct candidate first = heap->items[0], last = heap->items[--heap->count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap->count; at = child) {
        if (child + 1 < heap->count && goes_first(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!goes_first(&heap->items[child], &last))
            break;
        heap->items[at] = heap->items[child];
    }
    heap->items[at] = last;
    return first;
}

static void consider(const struct merges *merges, const char *text, const struct symbol *symbols, ptrdiff_t left,
                     ptrdiff_t right, struct heap *heap) {
    if (left < 0 || right < 0)
        return;
    const struct symbol *a = &symbols[left], *b = &symbols[right];
    struct candidate item = {.left = (size_t)left, .right = (size_t)right, .size = a->size + b->size};
    if (merges->scores.count > 0) {
        item.result = find_token(merges->lexicon, text + a->begin, item.size);
        if (item.result < 0)
            return;
        item.key = -(double)gguf_float_at(&merges->scores, (size_t)item.result);
        if (isnan(item.key))
            item.key = (double)INFINITY;
    } else {
        if (a->token < 0 || b->token < 0)
            return;
        const int32_t number = merges->slots[find_slot(merges, a->token, b->token)];
        if (number < 0)
            return;
        item.result = merges->list[number].result;
        item.key = (double)number;
    }
    push(heap, item);
}

/* A byte, or a character as its first byte tells how long it is. */
static size_t first_symbol(const struct merges *merges, const char *text, size_t size) {
    const unsigned char lead = (unsigned char)text[0];
    const size_t length = merges->scores.count == 0 || lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return length < size ? length : size;
}

void merge_piece(const struct merges *merges, const char *text, size_t size, const int32_t *byte_tokens,
                 struct token_list *out) {
    if (size == 0)
        return;
    struct symbol *symbols = allocate(size, sizeof *symbols);
    struct heap heap = {0};
    size_t count = 0;
    for (size_t at = 0; at < size; count++) {
        const size_t n = first_symbol(merges, text + at, size - at);
        symbols[count] = (struct symbol){.begin = at,
                                         .size = n,
                                         .previous = (ptrdiff_t)count - 1,
                                         .next = at + n < size ? (ptrdiff_t)count + 1 : -1,
                                         .token = find_token(merges->lexicon, text + at, n)};
        at += n;
    }
    for (size_t i = 0; i + 1 < count; i++)
        consider(merges, text, symbols, (ptrdiff_t)i, (ptrdiff_t)i + 1, &heap);
    while (heap.count > 0) {
        const struct candidate item = pop(&heap);
        struct symbol *left = &symbols[item.left], *right = &symbols[item.right];
        if (left->size == 0 || right->size == 0 || left->size + right->size != item.size)
            continue;
        left->size = item.size;
        left->token = item.result;
        left->next = right->next;
        right->size = 0;
        if (right->next >= 0)
            symbols[right->next].previous = (ptrdiff_t)item.left;
        consider(merges, text, symbols, left->previous, (ptrdiff_t)item.left, &heap);
        consider(merges, text, symbols, (ptrdiff_t)item.left, left->next, &heap);
    }
    for (ptrdiff_t i = 0; i >= 0; i = symbols[i].next) {
        if (symbols[i].token >= 0)
            append_token(out, symbols[i].token);
        for (size_t b = 0; symbols[i].token < 0 && b < symbols[i].size; b++) {
            const int32_t byte = byte_tokens[(unsigned char)text[symbols[i].begin + b]];
            if (byte >= 0)
                append_token(out, byte);
        }
    }
    free(heap.items);
    free(symbols);
}
