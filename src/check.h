/* What a call is checked for, and what it is refused for. Each operation lists its tensors once (qkv_operands); from
 * that list follow the checks of strides when a plan is made, those of pointers when it runs, and a refusal in words.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_CHECK_H
#define QKV_CHECK_H

#include <stdbool.h>

#include "config.h"
#include "qkv.h"

QKV_INTERNAL_BEGIN

/* Why a call is refused: in words "within.field.axis text", where % in text stands for the next value, & for the name
 * of another tensor, and [] in a name for its index. Written on a refusal only. */
typedef struct qkv_problem {
    qkv_status status;
    int32_t index, other_index;
    int32_t depth; /* of within: the descriptors that the field lies in, outermost first */
    const char *within[3];
    const char *field, *axis, *text;
    const char *other_within, *other;
    int64_t value[3]; /* of which qkv_refuse writes two */
} qkv_problem;

/* No problem yet. Only an explanation looks at more than its depth. */
static inline void qkv_no_problem(qkv_problem *why) {
    why->depth = 0;
}

/* Notes the problem and returns its status. field: NULL where the text says it all; index: -1 for a name without []. */
#if !QKV_WITH(EXPLAIN)
QKV_INLINE qkv_status qkv_refuse(qkv_problem *why, qkv_status status, const char *field, int32_t index,
                                 const char *text, int64_t first, int64_t second) {
    (void)field, (void)index, (void)text, (void)first, (void)second;
    return why->status = status;
}
#else
qkv_status qkv_refuse(qkv_problem *why, qkv_status status, const char *field, int32_t index, const char *text,
                      int64_t first, int64_t second);
#endif

/* Between these two, fields lie in an inner descriptor, such as "forward.". A refusal in between needs no leave. */
static inline void qkv_enter(qkv_problem *why, const char *within) {
    why->within[why->depth++] = within;
}

static inline void qkv_leave(qkv_problem *why) {
    why->depth--;
}

/* QKV_OK, or the refusal of a field below 0. */
static inline qkv_status qkv_check_size(qkv_problem *why, const char *field, int32_t index, int64_t value) {
    return value >= 0 ? QKV_OK : qkv_refuse(why, QKV_ERROR_NEGATIVE, field, index, "is negative (%)", value, 0);
}

/* ----------------------------------------------------------------------------------------------------- operands */

enum qkv_role {
    QKV_INPUT = 0,
    QKV_OUTPUT = 1,
    QKV_NEEDED = 2, /* a run looks at it, if it has elements */
    QKV_SUMMED = 4, /* an output with strides of 0 for axes that it sums over */
    QKV_LSE = 8     /* its lack has a status of its own */
};

enum { QKV_MAX_OPERANDS = 36, QKV_MAX_AXES = 4 };

/* A tensor of a call: axes of some size and stride, counted in elements, over runs of elements without gaps. */
typedef struct qkv_operand {
    const char *field;
    int64_t size[QKV_MAX_AXES], stride[QKV_MAX_AXES];
    int64_t run;
    /* Addresses of its bytes, in a run of the call; 0 where it is not looked at. Before qkv_check_pointers `first` is
     * that of element 0. */
    uintptr_t first, end;
    uint8_t role, axes, element, alignment, index, within, itself;
} qkv_operand;

/* The descriptor inside the call's that an operand's name begins with. */
enum qkv_within { QKV_OUTERMOST, QKV_IN_ATTENTION, QKV_IN_FORWARD, QKV_IN_FORWARD_ATTENTION };

typedef struct qkv_operands {
    int32_t count;
    enum qkv_within within;
    qkv_operand list[QKV_MAX_OPERANDS];
} qkv_operands;

/* Adds one; sizes and strides have `axes` numbers. What is missing to QKV_MAX_AXES are axes of one element. */
static inline qkv_operand *qkv_add_operand(qkv_operands *o, int role, const char *field, const void *data,
                                           size_t element, int axes, const int64_t *sizes, const int64_t *strides,
                                           int64_t run) {
    qkv_operand *x = &o->list[o->count++];
    x->first = (uintptr_t)data;
    x->field = QKV_WITH(EXPLAIN) ? field : NULL;
    for (int i = 0; i < QKV_MAX_AXES; i++) {
        x->size[i] = i < axes ? sizes[i] : 1;
        x->stride[i] = i < axes ? strides[i] : 0;
    }
    x->run = run;
    x->role = (uint8_t)role;
    x->axes = (uint8_t)axes;
    x->element = x->alignment = (uint8_t)element;
    x->index = x->itself = 0;
    x->within = (uint8_t)o->within;
    return x;
}

/* (batch, head, token) over channels. */
static inline qkv_operand *qkv_add_input(qkv_operands *o, int role, const char *field, qkv_input x,
                                         const int64_t rows[3], int64_t channels) {
    const int64_t strides[3] = {x.batch, x.head, x.token};
    return qkv_add_operand(o, role, field, x.data, sizeof(float), 3, rows, strides, channels);
}

/* The same of stored elements, where a block counts as one. */
qkv_operand *qkv_add_stored(qkv_operands *o, int role, const char *field, qkv_input x, int32_t type,
                            const int64_t rows[3], int64_t channels);

static inline qkv_operand *qkv_add_output(qkv_operands *o, int role, const char *field, qkv_output x,
                                          const int64_t rows[3], int64_t channels) {
    const int64_t strides[3] = {x.batch, x.head, x.token};
    return qkv_add_operand(o, role | QKV_OUTPUT, field, x.data, sizeof(float), 3, rows, strides, channels);
}

/* (batch, head, query, key) over runs, for options: without data there is none. */
static inline void qkv_add_matrix_input(qkv_operands *o, int role, const char *field, qkv_matrix_input x,
                                        size_t element, const int64_t rows[3], int64_t keys) {
    const int64_t sizes[4] = {rows[0], rows[1], rows[2], keys}, strides[4] = {x.batch, x.head, x.query, x.key};
    if (x.data)
        qkv_add_operand(o, role, field, x.data, element, 4, sizes, strides, 1);
}

static inline void qkv_add_matrix_output(qkv_operands *o, int role, const char *field, qkv_matrix_output x,
                                         const int64_t rows[3], int64_t keys, int64_t run) {
    const int64_t sizes[4] = {rows[0], rows[1], rows[2], keys}, strides[4] = {x.batch, x.head, x.query, x.key};
    if (x.data)
        qkv_add_operand(o, role | QKV_OUTPUT, field, x.data, sizeof(float), 4, sizes, strides, run);
}

/* n elements, for options: without data there is none. */
static inline void qkv_add_vector(qkv_operands *o, int role, const char *field, const void *data, size_t element,
                                  int64_t n) {
    if (data)
        qkv_add_operand(o, role, field, data, element, 0, NULL, NULL, n);
}

/* A packed matrix, or a cache, of so many bytes. */
static inline void qkv_add_packed(qkv_operands *o, int role, const char *field, const void *data, int64_t bytes) {
    qkv_add_operand(o, role, field, data, 1, 0, NULL, NULL, bytes)->alignment = 64;
}

/* The gradients of weights and of their bias, each if wanted. */
void qkv_add_weight_grad(qkv_operands *o, const char *data, const char *bias, const qkv_weight_grad *g,
                         int64_t in_features, int64_t out_features, uint8_t index);

/* For a plan: no element is farther from its tensor's base than memory reaches, and no two of an output meet. */
qkv_status qkv_check_strides(const qkv_operands *o, qkv_problem *why);

/* For a run, of operands whose strides have been checked: pointers are there and aligned; outputs meet neither inputs
 * nor each other. */
qkv_status qkv_check_pointers(qkv_operands *o, qkv_problem *why);

/* After that: the workspace is there, aligned, large enough, and meets no operand. */
qkv_status qkv_check_workspace(const qkv_operands *o, const qkv_plan *plan, const void *workspace,
                               size_t workspace_size, qkv_problem *why);

/* A line about the problem of an operation (enum qkv_operation; 0: packing), cut to size bytes. Returns text. */
const char *qkv_explain(const qkv_problem *why, int operation, char *text, size_t size);

QKV_INTERNAL_END

#endif
