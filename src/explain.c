/* A refusal in words, without the C library.  SPDX-License-Identifier: MIT */
#include "plan.h"

#if QKV_WITH(EXPLAIN)

/* A text that grows to the end of its room; what does not fit is dropped. */
typedef struct text_line {
    char *text;
    size_t size, used;
} text_line;

static void put(text_line *l, char c) {
    if (l->used + 1 < l->size)
        l->text[l->used++] = c;
}

static void put_text(text_line *l, const char *s) {
    for (; s && *s; s++)
        put(l, *s);
}

static void put_number(text_line *l, int64_t x) {
    char digits[20];
    int n = 0;
    uint64_t rest = x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
    do {
        digits[n++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (x < 0)
        put(l, '-');
    while (n > 0)
        put(l, digits[--n]);
}

static void put_name(text_line *l, const char *field, int32_t index) {
    for (; *field; field++) {
        put(l, *field);
        if (*field == '[')
            put_number(l, index);
    }
}

static const char *operation_name(uint64_t operation) {
    static const char *const names[] = {"packing", "attention",          "projection",          "merge",
                                        "layer",   "attention backward", "projection backward", "layer backward"};
    return operation < sizeof names / sizeof names[0] ? names[operation] : "an unknown operation";
}

const char *qkv_explain(const qkv_problem *why, int operation, char *text, size_t size) {
    text_line l = {text, size, 0};
    if (size == 0)
        return text;
    put_text(&l, operation_name((uint64_t)operation));
    put_text(&l, ": ");
    for (int32_t i = 0; why->field && i < why->depth; i++)
        put_text(&l, why->within[i]);
    if (why->field) {
        put_name(&l, why->field, why->index);
        put_text(&l, why->axis);
        put(&l, ' ');
    }
    int value = 0;
    for (const char *s = why->text ? why->text : qkv_status_string(why->status); *s; s++) {
        if (*s == '%') {
            put_number(&l, why->value[value++]);
        } else if (*s == '&') {
            put_text(&l, why->other_within);
            put_name(&l, why->other, why->other_index);
        } else {
            put(&l, *s);
        }
    }
    text[l.used] = 0;
    return text;
}

#endif
