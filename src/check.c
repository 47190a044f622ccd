/* Checking the tensors of a call: reach, strides, pointers, overlap.  SPDX-License-Identifier: MIT */
#include "check.h"

#include "ref/storage.h"

#if QKV_WITH(EXPLAIN)
qkv_status qkv_refuse(qkv_problem *why, qkv_status status, const char *field, int32_t index, const char *text,
                      int64_t first, int64_t second) {
    why->status = status;
    why->field = field;
    why->index = index;
    why->text = text;
    why->value[0] = first;
    why->value[1] = second;
    return status;
}

#endif

void qkv_add_weight_grad(qkv_operands *o, const char *data, const char *bias, const qkv_weight_grad *g,
                         int64_t in_features, int64_t out_features, uint8_t index) {
    bool in_out = g->layout == QKV_IN_OUT;
    int64_t rows = in_out ? in_features : out_features, columns = in_out ? out_features : in_features;
    int64_t stride = g->stride != 0 ? g->stride : columns;
    int role = QKV_NEEDED | QKV_OUTPUT;
    if (g->data)
        qkv_add_operand(o, role, data, g->data, sizeof(float), 1, &rows, &stride, columns)->index = index;
    if (g->bias)
        qkv_add_operand(o, role, bias, g->bias, sizeof(float), 0, NULL, NULL, out_features)->index = index;
}

qkv_operand *qkv_add_stored(qkv_operands *o, int role, const char *field, qkv_input x, int32_t type,
                            const int64_t rows[3], int64_t channels) {
    const int64_t strides[3] = {x.batch, x.head, x.token};
    if (type != QKV_Q8_0) /* and so without divisions, which each call would wait for */
        return qkv_add_operand(o, role, field, x.data, (size_t)qkv_stored_bytes(type, 1), 3, rows, strides, channels);
    const int64_t blocks[3] = {x.batch / QKV_Q8_0_CHANNELS, x.head / QKV_Q8_0_CHANNELS, x.token / QKV_Q8_0_CHANNELS};
    qkv_operand *added =
        qkv_add_operand(o, role, field, x.data, QKV_Q8_0_BYTES, 3, rows, blocks, channels / QKV_Q8_0_CHANNELS);
    added->alignment = sizeof(uint16_t);
    return added;
}

static const char *within_name(int within) {
    static const char *const names[] = {"", "attention.", "forward.", "forward.attention."};
    return names[within];
}

static qkv_status refuse_operand(qkv_problem *why, qkv_status status, const qkv_operand *x, const char *text,
                                 int64_t first, int64_t second) {
    qkv_enter(why, within_name(x->within));
    return qkv_refuse(why, status, x->field, x->index, text, first, second);
}

static bool has_elements(const qkv_operand *x) {
    bool any = x->run > 0;
    for (int i = 0; i < QKV_MAX_AXES; i++)
        any = any & (x->size[i] > 0);
    return any;
}

static int64_t magnitude(int64_t stride) {
    return stride < 0 ? -stride : stride;
}

/* Elements from the first to the last; false if memory has not so many. */
static bool fits(const qkv_operand *x) {
    int64_t reach = x->run, step;
    for (int i = 0; i < x->axes; i++) {
        if (x->size[i] == 1)
            continue;
        if (x->stride[i] == INT64_MIN || __builtin_mul_overflow(x->size[i] - 1, magnitude(x->stride[i]), &step) ||
            __builtin_add_overflow(reach, step, &reach))
            return false;
    }
    return reach <= PTRDIFF_MAX / x->element;
}

/* ------------------------------------------------------------------------------------------------------- boxes */

/* The bytes of a tensor: axes of positive stride, the smallest first, each stepping over all that the smaller ones span
 * (extent[0] is the run, extent[i + 1] what axes 0 … i span). */
typedef struct box {
    int axes, axis[QKV_MAX_AXES];
    int64_t count[QKV_MAX_AXES], stride[QKV_MAX_AXES], extent[QKV_MAX_AXES + 1];
} box;

/* Axes of one element or, for what does not move, a stride of 0 are left out. An axis that does not step over the
 * smaller ones makes one run of them all, gaps included: more than the tensor. Returns the last such axis, or -1. */
static int make_box(const qkv_operand *x, box *b) {
    int n = 0, order[QKV_MAX_AXES], meets = -1;
    for (int i = 0; i < x->axes; i++) {
        if (x->size[i] == 1 || x->stride[i] == 0)
            continue;
        int at = n++;
        for (; at > 0 && magnitude(x->stride[order[at - 1]]) > magnitude(x->stride[i]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    b->axes = 0;
    b->extent[0] = x->run * x->element;
    for (int i = 0; i < n; i++) {
        int axis = order[i];
        int64_t stride = magnitude(x->stride[axis]) * x->element, extent = b->extent[b->axes];
        int64_t whole = extent + (x->size[axis] - 1) * stride;
        if (stride < extent) {
            meets = axis;
            b->axes = 0;
            b->extent[0] = whole;
            continue;
        }
        b->axis[b->axes] = axis;
        b->count[b->axes] = x->size[axis];
        b->stride[b->axes] = stride;
        b->extent[++b->axes] = whole;
    }
    return meets;
}

/* Whether the boxes a and b, without all but their an and bn smallest axes, have a byte in common; b begins `offset`
 * bytes after a. Exact as long as both are made of rows at the same stride, and the rows of rows at the same stride,
 * and so on; "true" otherwise. */
static bool boxes_meet(const box *a, int an, const box *b, int bn, int64_t offset) {
    if (offset >= a->extent[an] || offset <= -b->extent[bn])
        return false;
    if (an == 0 && bn == 0)
        return true;
    int64_t sa = an > 0 ? a->stride[an - 1] : 0, sb = bn > 0 ? b->stride[bn - 1] : 0, s = sa > sb ? sa : sb;
    int64_t na = sa == s ? a->count[--an] : 1, nb = sb == s ? b->count[--bn] : 1;
    if (a->extent[an] > s || b->extent[bn] > s)
        return true;
    /* Row j of b begins offset + (j − i)·s after row i of a. Rows are no longer than s, so that only the two distances
     * around 0 matter. */
    int64_t below = offset % s, behind;
    below -= below > 0 ? s : 0;
    behind = (below - offset) / s; /* j − i */
    for (int64_t at = below; at <= below + s; at += s, behind++) {
        if (behind > -na && behind < nb && boxes_meet(a, an, b, bn, at))
            return true;
    }
    return false;
}

static bool operands_meet(const qkv_operand *x, const qkv_operand *y) {
    box a, b;
    make_box(x, &a);
    make_box(y, &b);
    return boxes_meet(&a, a.axes, &b, b.axes, (int64_t)(y->first - x->first));
}

/* ------------------------------------------------------------------------------------------------------- checks */

static const char *axis_name(const qkv_operand *x, int axis) {
    static const char *const tokens[] = {".batch", ".head", ".token"};
    static const char *const matrix[] = {".batch", ".head", ".query", ".key"};
    return x->axes == 4 ? matrix[axis] : x->axes == 3 ? tokens[axis] : ".stride";
}

/* Which axis of an output lets two elements meet; -1: none. */
static int meeting_axis(const qkv_operand *x) {
    box unused;
    for (int i = 0; !(x->role & QKV_SUMMED) && i < x->axes; i++) {
        if (x->size[i] > 1 && x->stride[i] == 0)
            return i;
    }
    return make_box(x, &unused);
}

qkv_status qkv_check_strides(const qkv_operands *o, qkv_problem *why) {
    for (int i = 0; i < o->count; i++) {
        const qkv_operand *x = &o->list[i];
        if (!has_elements(x))
            continue;
        if (!fits(x))
            return refuse_operand(why, QKV_ERROR_OVERFLOW, x, "reaches beyond what memory can hold", 0, 0);
        int axis = x->role & QKV_OUTPUT ? meeting_axis(x) : -1;
        if (axis >= 0) {
            why->axis = axis_name(x, axis);
            return refuse_operand(why, QKV_ERROR_STRIDES, x, "is %: two elements of the output meet", x->stride[axis],
                                  0);
        }
    }
    return QKV_OK;
}

static void find_bytes(qkv_operand *x) {
    int64_t low = 0, high = x->run;
    for (int i = 0; i < QKV_MAX_AXES; i++) {
        int64_t step = (x->size[i] - 1) * x->stride[i];
        low += step < 0 ? step : 0;
        high += step > 0 ? step : 0;
    }
    x->end = x->first + (uintptr_t)(high * x->element);
    x->first += (uintptr_t)(low * x->element);
}

/* An output over the very elements of an input that each task reads before it writes them. */
static bool is_itself(const qkv_operand *x, const qkv_operand *y) {
    bool same = (x->itself || y->itself) && x->itself == y->itself && x->first == y->first && x->run == y->run &&
                x->element == y->element;
    for (int i = 0; i < x->axes && same; i++)
        same = x->size[i] == y->size[i] && (x->size[i] == 1 || x->stride[i] == y->stride[i]);
    return same;
}

static qkv_status refuse_overlap(qkv_problem *why, const qkv_operand *x, const qkv_operand *other) {
    why->other_within = within_name(other->within);
    why->other = other->field;
    why->other_index = other->index;
    return refuse_operand(why, QKV_ERROR_ALIAS, x, "overlaps &", 0, 0);
}

qkv_status qkv_check_pointers(qkv_operands *o, qkv_problem *why) {
    for (int i = 0; i < o->count; i++) {
        qkv_operand *x = &o->list[i];
        if (!(x->role & QKV_NEEDED) || !has_elements(x)) {
            x->first = x->end = 0;
            continue;
        }
        if (x->first == 0)
            return refuse_operand(why, x->role & QKV_LSE ? QKV_ERROR_LSE : QKV_ERROR_NULL, x, "is NULL", 0, 0);
        if ((x->first & (x->alignment - 1u)) != 0)
            return refuse_operand(why, QKV_ERROR_ALIGNMENT, x, "is not aligned to % bytes", x->alignment, 0);
        find_bytes(x);
    }
    for (int i = 0; i < o->count; i++) {
        const qkv_operand *x = &o->list[i];
        if (!(x->role & QKV_OUTPUT))
            continue;
        for (int j = 0; j < o->count; j++) {
            const qkv_operand *y = &o->list[j];
            bool apart = (x->first >= y->end) | (y->first >= x->end);
            if (!apart && (j < i || !(y->role & QKV_OUTPUT)) && operands_meet(x, y) && !is_itself(x, y))
                return refuse_overlap(why, x, y);
        }
    }
    return QKV_OK;
}

qkv_status qkv_check_workspace(const qkv_operands *o, const qkv_plan *plan, const void *workspace,
                               size_t workspace_size, qkv_problem *why) {
    if (workspace_size < plan->workspace_size)
        return qkv_refuse(why, QKV_ERROR_WORKSPACE, "workspace_size", -1, "is %, but the plan needs %",
                          (int64_t)workspace_size, (int64_t)plan->workspace_size);
    if (plan->workspace_size == 0)
        return QKV_OK;
    if (!workspace)
        return qkv_refuse(why, QKV_ERROR_NULL, "workspace", -1, "is NULL, but the plan needs % bytes",
                          (int64_t)plan->workspace_size, 0);
    if ((uintptr_t)workspace % 64 != 0)
        return qkv_refuse(why, QKV_ERROR_ALIGNMENT, "workspace", -1, "is not aligned to % bytes", 64, 0);
    uintptr_t first = (uintptr_t)workspace, end = first + plan->workspace_size;
    for (int i = 0; i < o->count; i++) {
        const qkv_operand *x = &o->list[i];
        if (x->first < end && first < x->end)
            return refuse_operand(why, QKV_ERROR_ALIAS, x, "overlaps the workspace", 0, 0);
    }
    return QKV_OK;
}
