/* SPDX-License-Identifier: MIT */
#include "tensors.h"

#include <string.h>

/* What a capsule "dltensor" holds: the part of DLPack's C interface that is read here (dmlc.github.io/dlpack). */
enum { DLPACK_CPU = 1, DLPACK_INT = 0, DLPACK_UINT = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4, DLPACK_BOOL = 6 };

struct dlpack_tensor {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } element;
    int64_t *shape, *strides; /* strides in elements; NULL: contiguous */
    uint64_t byte_offset;
};

struct dlpack_managed {
    struct dlpack_tensor tensor;
    void *manager;
    void (*deleter)(struct dlpack_managed *self);
};

/* What a capsule "dlpack_exchange_api" of a type holds, by which its tensors can be read without an object for each. */
struct dlpack_exchange {
    struct {
        uint32_t major, minor;
    } version;
    void *older;
    void (*allocate)(void), (*export_managed)(void), (*import_managed)(void);
    int (*read)(void *object, struct dlpack_tensor *tensor);
    void (*current_stream)(void);
};

static PyObject *host_type;
static const struct dlpack_exchange *host;

static int refuse(const char *operation, const char *name, const char *why) {
    PyErr_Format(PyExc_TypeError, "%s: %s %s", operation, name, why);
    return -1;
}

static int type_of_format(const char *format, Py_ssize_t bytes) { /* of the struct module, in native byte order */
    if (*format == '@' || *format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>'))
        format++;
    if (strlen(format) != 1)
        return -1;
    switch (*format) {
    case 'f': return QKV_F32;
    case 'e': return QKV_F16;
    case 'b': return QKV_INT8;
    case '?':
    case 'B': return TYPE_BYTE;
    case 'i':
    case 'l':
    case 'q': return bytes == 8 ? TYPE_INT64 : bytes == 4 ? TYPE_INT32 : -1;
    default: return -1;
    }
}

static int from_buffer(struct tensor *tensor, const char *operation, const char *name) {
    const Py_buffer *view = &tensor->view;
    tensor->type = type_of_format(view->format != NULL ? view->format : "B", view->itemsize);
    if (tensor->type < 0)
        return refuse(operation, name, "has elements of a type that qkv does not know (float64?)");
    if (view->ndim > MAX_AXES)
        return refuse(operation, name, "has more than 4 axes");
    tensor->data = view->buf;
    tensor->axes = view->ndim;
    for (int i = 0; i < view->ndim; i++) {
        tensor->shape[i] = view->shape[i];
        tensor->stride[i] = view->strides[i] / view->itemsize;
        if (view->strides[i] % view->itemsize != 0)
            return refuse(operation, name, "has a stride that is no multiple of its elements");
    }
    return 0;
}

static int type_of_dlpack(int code, int bits) {
    switch (code) {
    case DLPACK_FLOAT: return bits == 32 ? QKV_F32 : bits == 16 ? QKV_F16 : -1;
    case DLPACK_BFLOAT: return bits == 16 ? QKV_BF16 : -1;
    case DLPACK_INT: return bits == 64 ? TYPE_INT64 : bits == 32 ? TYPE_INT32 : bits == 8 ? QKV_INT8 : -1;
    case DLPACK_UINT:
    case DLPACK_BOOL: return bits == 8 ? TYPE_BYTE : -1;
    default: return -1;
    }
}

static int from_dlpack(struct tensor *tensor, const struct dlpack_tensor *given, const char *operation,
                       const char *name) {
    if (given->device.type != DLPACK_CPU)
        return refuse(operation, name, "is not in the memory of the CPU");
    tensor->type = given->element.lanes == 1 ? type_of_dlpack(given->element.code, given->element.bits) : -1;
    if (tensor->type < 0)
        return refuse(operation, name, "has elements of a type that qkv does not know (float64?)");
    if (given->ndim > MAX_AXES)
        return refuse(operation, name, "has more than 4 axes");
    tensor->data = (char *)given->data + given->byte_offset;
    tensor->axes = given->ndim;
    int64_t contiguous = 1;
    for (int i = given->ndim - 1; i >= 0; i--) {
        tensor->shape[i] = given->shape[i];
        tensor->stride[i] = given->strides != NULL ? given->strides[i] : contiguous;
        contiguous *= given->shape[i];
    }
    return 0;
}

static int from_capsule(struct tensor *tensor, const char *operation, const char *name) {
    const struct dlpack_managed *managed = PyCapsule_GetPointer(tensor->capsule, "dltensor");
    return managed == NULL ? -1 : from_dlpack(tensor, &managed->tensor, operation, name);
}

int set_host_type(PyObject *type) {
    PyObject *capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
    const struct dlpack_exchange *exchange =
        capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_XDECREF(capsule); /* the functions live as long as the process */
    PyErr_Clear();
    if (exchange == NULL || exchange->version.major != 1 || exchange->read == NULL)
        return 0;
    host_type = Py_NewRef(type);
    host = exchange;
    return 1;
}

int get_host_tensor(struct tensor *tensor, PyObject *object) {
    struct dlpack_tensor given;
    return host_type != NULL && PyType_IsSubtype(Py_TYPE(object), (PyTypeObject *)host_type) &&
           host->read(object, &given) == 0 && from_dlpack(tensor, &given, "tensor", "of the host") == 0;
}

static int from_tuple(struct tensor *tensor, PyObject *tuple) {
    PyObject *shape = PyTuple_GetItem(tuple, 2), *strides = PyTuple_GetItem(tuple, 3);
    if (shape == NULL || strides == NULL)
        return -1;
    const Py_ssize_t axes = PyTuple_Size(shape);
    if (axes < 0 || axes > MAX_AXES || PyTuple_Size(strides) != axes) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "(address, type, shape, strides) has other axes than it may");
        return -1;
    }
    tensor->data = PyLong_AsVoidPtr(PyTuple_GetItem(tuple, 0));
    tensor->type = (int)PyLong_AsLong(PyTuple_GetItem(tuple, 1));
    tensor->axes = (int)axes;
    for (Py_ssize_t i = 0; i < axes; i++) {
        tensor->shape[i] = PyLong_AsLongLong(PyTuple_GetItem(shape, i));
        tensor->stride[i] = PyLong_AsLongLong(PyTuple_GetItem(strides, i));
    }
    return PyErr_Occurred() ? -1 : 0;
}

int get_tensor(struct tensor *tensor, PyObject *object, int is_output, const char *operation, const char *name) {
    tensor->view.obj = NULL;
    tensor->capsule = NULL;
    if (PyTuple_Check(object))
        return from_tuple(tensor, object);
    if (PyObject_CheckBuffer(object)) {
        const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (is_output ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &tensor->view, flags) == 0)
            return from_buffer(tensor, operation, name);
        tensor->view.obj = NULL;
        if (is_output)
            return -1;
        PyErr_Clear(); /* a type that the buffer protocol has no letter for */
    }
    if (is_output)
        return refuse(operation, name, "has to be a NumPy array, or another writable buffer");
    if (!PyObject_HasAttrString(object, "__dlpack__"))
        return refuse(operation, name, "is no array: it has neither a buffer nor DLPack");
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    tensor->capsule = method != NULL ? PyObject_CallNoArgs(method) : NULL;
    Py_XDECREF(method);
    return tensor->capsule == NULL ? -1 : from_capsule(tensor, operation, name);
}

void release_tensor(struct tensor *tensor) {
    if (tensor->view.obj != NULL)
        PyBuffer_Release(&tensor->view);
    Py_XDECREF(tensor->capsule); /* whose destructor frees what nobody took over */
}
