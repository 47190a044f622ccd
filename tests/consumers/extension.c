/* A Python extension that holds qkv.  SPDX-License-Identifier: MIT */
#include <Python.h>

#include "wrapper.h"

static PyObject *version(PyObject *self, PyObject *arguments) {
    (void)self, (void)arguments;
    return PyUnicode_FromString(wrapper_version());
}

static PyMethodDef methods[] = {{"version", version, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "extension", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_extension(void);
PyMODINIT_FUNC PyInit_extension(void) {
    return PyModule_Create(&module);
}
