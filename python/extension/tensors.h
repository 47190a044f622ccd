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

/* The type of a host's tensors, which are then read by the functions of DLPack's C exchange, without an object for
 * each. Returns 0 if the type has none. */
int set_host_type(PyObject *type);

/* Returns 1, or 0, perhaps with an exception, if that is no tensor of the host, or not on the CPU, …. The object has to
 * outlive it; there is nothing to release. Gradients that PyTorch might want are the caller's to think of. */
int get_host_tensor(struct tensor *tensor, PyObject *object);

#endif
