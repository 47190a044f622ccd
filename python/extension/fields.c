/* SPDX-License-Identifier: MIT */
#include "fields.h"

#include <string.h>

int intern_names(struct field *fields) {
    for (; fields->name != NULL; fields++)
        if ((fields->interned = PyUnicode_InternFromString(fields->name)) == NULL)
            return -1;
    return 0;
}

int64_t size_of(const struct filling *filling, char letter) {
    return filling->size[letter - 'a'];
}

int has_size(const struct filling *filling, char letter) {
    return filling->size_from[letter - 'a'] != NULL;
}

static int wrong(const struct filling *filling, const struct field *field, const char *why) {
    PyErr_Format(PyExc_ValueError, "%s: %s %s", filling->operation, field->name, why);
    return -1;
}

/* An axis of the field has so many elements: the first to say so decides. */
static int agree(struct filling *filling, const struct field *field, int axis, int64_t length, char letter) {
    int64_t *size = &filling->size[letter - 'a'];
    const char **from = &filling->size_from[letter - 'a'];
    if (*from == NULL) {
        *size = length;
        *from = field->name;
    } else if (*size != length) {
        PyErr_Format(PyExc_ValueError, "%s: axis %d of %s has length %lld, but %s says %lld", filling->operation, axis,
                     field->name, (long long)length, *from, (long long)*size);
        return -1;
    }
    return 0;
}

/* Broadcast axes are looked at last, when all sizes are known. */
static int agree_or_repeat(struct filling *filling, const struct field *field, struct tensor *tensor, int first,
                           const char *axes) {
    for (int i = first; i < tensor->axes && axes[i - first] != 0; i++) {
        if (tensor->shape[i] == 1)
            tensor->stride[i] = 0;
        else if (agree(filling, field, i, tensor->shape[i], axes[i - first]) != 0)
            return -1;
    }
    return 0;
}

static int put_tensor(struct filling *filling, const struct field *field, struct tensor *tensor, void *to) {
    const int no_heads = *field->axes == '-';
    const char *axes = field->axes + no_heads;
    const int count = (int)strlen(axes);
    if (tensor->axes != count) {
        PyErr_Format(PyExc_ValueError, "%s: %s has %d axes in place of %d", filling->operation, field->name,
                     tensor->axes, count);
        return -1;
    }
    for (int i = 0; i < count; i++)
        if (agree(filling, field, i, tensor->shape[i], axes[i]) != 0)
            return -1;
    const int channels = no_heads || count == MAX_AXES;
    if (channels && tensor->shape[count - 1] > 1 && tensor->stride[count - 1] != 1)
        return wrong(filling, field, "has channels (its last axis) that are not contiguous");
    qkv_input *input = to; /* qkv_output is the same but for const */
    input->data = tensor->data;
    input->batch = tensor->stride[0];
    input->head = no_heads ? 0 : tensor->stride[1];
    input->token = tensor->stride[no_heads ? 1 : 2];
    return 0;
}

static int put_matrix(struct filling *filling, const struct field *field, struct tensor *tensor, void *to) {
    const int missing = MAX_AXES - tensor->axes;
    if (agree_or_repeat(filling, field, tensor, 0, field->axes + missing) != 0)
        return -1;
    int64_t stride[MAX_AXES] = {0};
    for (int i = 0; i < tensor->axes; i++)
        stride[missing + i] = tensor->stride[i];
    *(qkv_matrix_input *)to = (qkv_matrix_input){tensor->data, stride[0], stride[1], stride[2], stride[3]};
    return 0;
}

static int put_rows(struct filling *filling, const struct field *field, struct tensor *tensor, void *to) {
    const int pairs = field->kind == FIELD_RANGES;
    if (tensor->axes != 2 + pairs)
        return wrong(filling, field, pairs ? "is not (batch, query, 2)" : "is not (batch, token)");
    if (pairs && (tensor->shape[2] != 2 || tensor->stride[2] != 1))
        return wrong(filling, field, "has no pairs of adjacent numbers as its last axis");
    if (agree_or_repeat(filling, field, tensor, 0, field->axes) != 0)
        return -1;
    *(qkv_ranges *)to = (qkv_ranges){tensor->data, tensor->stride[0], tensor->stride[1]}; /* qkv_positions likewise */
    return 0;
}

static int put_array(struct filling *filling, const struct field *field, const struct tensor *tensor, void *to) {
    const char *axes = field->axes;
    int64_t contiguous = 1;
    for (int i = tensor->axes - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != contiguous)
            return wrong(filling, field, "is not contiguous");
        contiguous *= tensor->shape[i];
    }
    for (int i = 0; i < tensor->axes && *axes != 0; i++, axes++) {
        const int more = axes[1] == '+';
        if (more && tensor->shape[i] < 1)
            return wrong(filling, field, "is empty");
        if (agree(filling, field, i, tensor->shape[i] - more, *axes) != 0)
            return -1;
        axes += more;
    }
    if (*axes != 0 || tensor->axes == 0)
        return wrong(filling, field, "has another number of axes than it may");
    *(void **)to = tensor->data;
    return 0;
}

static int put_value(struct filling *filling, const struct field *field, PyObject *value, char *to) {
    switch (field->kind) {
    case FIELD_INT64: *(int64_t *)(void *)to = PyLong_AsLongLong(value); break;
    case FIELD_UINT64: *(uint64_t *)(void *)to = PyLong_AsUnsignedLongLongMask(value); break;
    case FIELD_UINT32: *(uint32_t *)(void *)to = (uint32_t)PyLong_AsUnsignedLong(value); break;
    case FIELD_FLOAT: *(float *)(void *)to = (float)PyFloat_AsDouble(value); break;
    case FIELD_DOUBLE: *(double *)(void *)to = PyFloat_AsDouble(value); break;
    case FIELD_ADDRESS: *(void **)(void *)to = PyLong_AsVoidPtr(value); break;
    default: break;
    }
    if (!PyErr_Occurred())
        return 0;
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: %s is no number of its kind", filling->operation, field->name);
    }
    return -1;
}

static int put(struct filling *filling, const struct field *field, PyObject *value, char *descriptor) {
    char *to = descriptor + field->offset;
    if (field->kind < FIELD_TENSOR)
        return put_value(filling, field, value, to);
    if (filling->num_held == MAX_HELD)
        return wrong(filling, field, "is one tensor too many");
    struct tensor *tensor = &filling->held[filling->num_held++];
    if (get_tensor(tensor, value, field->is_output, filling->operation, field->name) != 0)
        return -1;
    if ((field->types & TYPES(tensor->type)) == 0) {
        PyErr_Format(PyExc_TypeError, "%s: %s has elements of a type that it can't have", filling->operation,
                     field->name);
        return -1;
    }
    if (field->type_offset != 0)
        *(int32_t *)(void *)(descriptor + field->type_offset) = tensor->type;
    switch (field->kind) {
    case FIELD_TENSOR: return put_tensor(filling, field, tensor, to);
    case FIELD_MATRIX: return put_matrix(filling, field, tensor, to);
    case FIELD_ARRAY: return put_array(filling, field, tensor, to);
    default: return put_rows(filling, field, tensor, to);
    }
}

static const struct field *find(const struct field *fields, PyObject *name) {
    for (const struct field *field = fields; field->name != NULL; field++)
        if (field->interned == name)
            return field;
    for (const struct field *field = fields; field->name != NULL; field++)
        if (PyUnicode_CompareWithASCIIString(name, field->name) == 0)
            return field;
    return NULL;
}

int fill_fields(struct filling *filling, const struct field_table *tables, int num_tables, PyObject *const *values,
                PyObject *names) {
    const Py_ssize_t count = names == NULL ? 0 : PyTuple_Size(names);
    for (int broadcast = 0; broadcast < 2; broadcast++) /* sizes first, then what may repeat itself */
        for (Py_ssize_t i = 0; i < count; i++) {
            if (values[i] == Py_None)
                continue;
            PyObject *name = PyTuple_GetItem(names, i);
            const struct field *field = NULL;
            int table = 0;
            for (; table < num_tables && (field = find(tables[table].fields, name)) == NULL; table++) {
            }
            if (field == NULL) {
                PyErr_Format(PyExc_TypeError, "%s: there is no argument %U", filling->operation, name);
                return -1;
            }
            const int repeats =
                field->kind == FIELD_MATRIX || field->kind == FIELD_RANGES || field->kind == FIELD_POSITIONS;
            if (repeats == broadcast && put(filling, field, values[i], tables[table].descriptor) != 0)
                return -1;
        }
    return 0;
}

void release_tensors(struct filling *filling) {
    while (filling->num_held > 0)
        release_tensor(&filling->held[--filling->num_held]);
}
