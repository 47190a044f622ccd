/* Tensors of Python callers, as they lie in memory: anything with the buffer protocol (NumPy) or DLPack, not copied, or
 * the tuple (address, type, shape, strides) of a caller that knows all of it.  SPDX-License-Identifier: MIT */
#ifndef QKV_PYTHON_TENSORS_H
#define QKV_PYTHON_TENSORS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <qkv.h>

#define MAX_AXES 4

/* Element types: those of qkv_type, and of masks and lengths. */
enum { TYPE_BYTE = 8, TYPE_INT32 = 9, TYPE_INT64 = 10 };

struct tensor {
    void *data;
    int type;
    int axes;
    int64_t shape[MAX_AXES], stride[MAX_AXES]; /* strides in elements */
    Py_buffer view;                            /* held until release_tensor, if view.obj is not NULL */
    PyObject *capsule;                         /* likewise */
};

/* Returns 0, or -1 with an exception that begins with "operation: name". `is_output`: it has to be writable. */
int get_tensor(struct tensor *tensor, PyObject *object, int is_output, const char *operation, const char *name);
void release_tensor(struct tensor *tensor);

#endif
