/* The module qkv._qkv: the C API by keyword arguments. What users see is in Python.  SPDX-License-Identifier: MIT */
#include "operations.h"

#include <stddef.h>

qkv_ctx qkv_python_ctx;
PyObject *qkv_python_error;
openmp_parallel qkv_python_openmp;

PyObject *raise_error(qkv_status status, const char *text) {
    PyObject *error = PyObject_CallFunction(qkv_python_error, "s", text);
    PyObject *number = error != NULL ? PyLong_FromLong(status) : NULL;
    if (number != NULL && PyObject_SetAttrString(error, "status", number) == 0)
        PyErr_SetObject(qkv_python_error, error);
    Py_XDECREF(number);
    Py_XDECREF(error);
    return NULL;
}

int settle(struct filling *filling, char letter, int64_t value, const char *name) {
    const int index = letter - 'a';
    if (filling->size_from[index] != NULL && filling->size[index] != value) {
        PyErr_Format(PyExc_ValueError, "%s: %s has a size of %lld where %s says %lld", filling->operation,
                     filling->size_from[index], (long long)filling->size[index], name, (long long)value);
        return -1;
    }
    filling->size[index] = value;
    filling->size_from[index] = name;
    return 0;
}

/* Another thread is worth waking for about as much work as it takes to wake it. */
static int32_t useful_threads(int64_t threads, double products) {
    const double worth_a_thread = 2.5e5;
    const double most = products / worth_a_thread;
    threads = threads > 256 ? 256 : threads;
    return threads <= 1 || most < 2 ? 1 : most < (double)threads ? (int32_t)most : (int32_t)threads;
}

PyObject *execute(const struct operation *operation, const void *desc, int64_t threads, double products,
                  openmp_parallel openmp) {
    char text[256];
    if (threads < 1)
        return raise_error(QKV_ERROR_WORKERS, "threads is below 1");
    struct team team = {.num_threads = useful_threads(threads, products), .openmp = openmp};
    qkv_plan plan;
    qkv_status status = operation->plan(&qkv_python_ctx, desc, team.num_threads, &plan);
    if (status != QKV_OK)
        return raise_error(status, operation->explain_plan(&qkv_python_ctx, desc, team.num_threads, text, sizeof text));
    void *workspace = NULL;
    if (plan.workspace_size > 0 && (workspace = take_workspace(plan.workspace_size)) == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS status = operation->run(&plan, desc, workspace, plan.workspace_size, run_on_team, &team);
    Py_END_ALLOW_THREADS if (status != QKV_OK)
        operation->explain_run(&plan, desc, workspace, plan.workspace_size, text, sizeof text);
    give_workspace(workspace);
    return status == QKV_OK ? Py_NewRef(Py_None) : raise_error(status, text);
}

/* ------------------------------------------------------------------------------------------- what runs here */

/* start(isa, error): the kernel set of that name, or the best one for None; the exception to raise. */
static PyObject *start(PyObject *module, PyObject *arguments) {
    (void)module;
    const char *isa;
    PyObject *error;
    if (!PyArg_ParseTuple(arguments, "zO", &isa, &error))
        return NULL;
    qkv_python_error = Py_NewRef(error);
    const qkv_config config = {.size = sizeof config, .isa = isa};
    const qkv_status status = qkv_init(&qkv_python_ctx, &config);
    return status == QKV_OK ? Py_NewRef(Py_None) : raise_error(status, qkv_status_string(status));
}

/* host_openmp(address): of a function like GCC's GOMP_parallel, for calls that say on_host_threads. */
static PyObject *host_openmp(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long address;
    if (!PyArg_ParseTuple(arguments, "K", &address))
        return NULL;
    qkv_python_openmp = (openmp_parallel)(uintptr_t)address;
    Py_RETURN_NONE;
}

/* host_tensors(type): see set_host_type. */
static PyObject *host_tensors(PyObject *module, PyObject *type) {
    (void)module;
    return PyBool_FromLong(set_host_type(type));
}

static PyObject *info(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    PyObject *sets = PyDict_New();
    for (int32_t i = 0; sets != NULL && i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set set;
        if (qkv_kernel_set_query(&qkv_python_ctx, i, &set) != QKV_OK)
            continue;
        PyObject *reason = PyUnicode_FromString(set.selected ? "selected" : set.reason);
        if (reason == NULL || PyDict_SetItemString(sets, set.name, reason) != 0)
            Py_CLEAR(sets);
        Py_XDECREF(reason);
    }
    return sets == NULL
               ? NULL
               : Py_BuildValue("{s:s, s:s, s:s, s:s, s:N}", "version", qkv_version(), "build", qkv_build_info(), "cpu",
                               cpu.name, "isa", qkv_python_ctx.isa, "kernel_sets", sets);
}

/* ------------------------------------------------------------------------------------------------- tables */

static PyObject *alibi_slopes(PyObject *module, PyObject *arguments) { /* (slopes): float32, written */
    (void)module;
    PyObject *object;
    struct tensor slopes;
    if (!PyArg_ParseTuple(arguments, "O", &object) || get_tensor(&slopes, object, 1, "alibi_slopes", "slopes") != 0)
        return NULL;
    const qkv_status status = qkv_alibi_slopes(slopes.shape[0], slopes.data);
    release_tensor(&slopes);
    return status == QKV_OK ? Py_NewRef(Py_None) : raise_error(status, qkv_status_string(status));
}

#define OF(member) offsetof(qkv_rope_table_desc, member)
static struct field rope_fields[] = {{"first_position", FIELD_INT64, OF(first_position), NULL, 0, 0, 0, NULL},
                                     {"base", FIELD_DOUBLE, OF(base), NULL, 0, 0, 0, NULL},
                                     {"scaling", FIELD_UINT32, OF(scaling), NULL, 0, 0, 0, NULL},
                                     {"untruncated", FIELD_UINT32, OF(untruncated), NULL, 0, 0, 0, NULL},
                                     {"factor", FIELD_DOUBLE, OF(factor), NULL, 0, 0, 0, NULL},
                                     {"original_positions", FIELD_INT64, OF(original_positions), NULL, 0, 0, 0, NULL},
                                     {"beta_fast", FIELD_DOUBLE, OF(beta_fast), NULL, 0, 0, 0, NULL},
                                     {"beta_slow", FIELD_DOUBLE, OF(beta_slow), NULL, 0, 0, 0, NULL},
                                     {"low_freq_factor", FIELD_DOUBLE, OF(low_freq_factor), NULL, 0, 0, 0, NULL},
                                     {"high_freq_factor", FIELD_DOUBLE, OF(high_freq_factor), NULL, 0, 0, 0, NULL},
                                     {"attention_factor", FIELD_DOUBLE, OF(attention_factor), NULL, 0, 0, 0, NULL},
                                     {"pair_factors", FIELD_ARRAY, OF(pair_factors), "i", TYPES_FLOAT, 0, 0, NULL},
                                     {.name = NULL}};
static struct field rope_tables[] = {{"cos", FIELD_ARRAY, 0, "pi", TYPES_FLOAT, 0, 1, NULL},
                                     {"sin", FIELD_ARRAY, sizeof(float *), "pi", TYPES_FLOAT, 0, 1, NULL},
                                     {.name = NULL}};

/* rope_table(*, cos, sin, …): fields of qkv_rope_table_desc; cos and sin are written. */
static PyObject *rope_table(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    qkv_rope_table_desc desc = {.size = sizeof desc};
    float *tables[2] = {NULL, NULL};
    struct filling filling = {.operation = "rope_table"};
    const struct field_table fields[] = {{rope_fields, &desc}, {rope_tables, tables}};
    PyObject *result = NULL;
    if (fill_fields(&filling, fields, 2, values, names) == 0) {
        desc.num_positions = size_of(&filling, 'p');
        desc.rotary_dim = 2 * size_of(&filling, 'i');
        const qkv_status status = qkv_rope_table(&desc, tables[0], tables[1]);
        result = status == QKV_OK ? Py_NewRef(Py_None) : raise_error(status, qkv_status_string(status));
    }
    release_tensors(&filling);
    return result;
}

static PyMethodDef methods[] = {POSITIONAL(start),
                                POSITIONAL(host_openmp),
                                {"host_tensors", host_tensors, METH_O, NULL},
                                {"info", info, METH_NOARGS, NULL},
                                POSITIONAL(alibi_slopes),
                                METHOD(rope_table),
                                {0}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "qkv._qkv", .m_size = -1};

PyMODINIT_FUNC PyInit__qkv(void);
PyMODINIT_FUNC PyInit__qkv(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || prepare_attention() != 0 || prepare_layer() != 0 || prepare_cache() != 0 ||
        intern_names(rope_fields) != 0 || intern_names(rope_tables) != 0 ||
        PyModule_AddFunctions(module, methods) != 0 || PyModule_AddFunctions(module, attention_methods) != 0 ||
        PyModule_AddFunctions(module, layer_methods) != 0 || PyModule_AddFunctions(module, cache_methods) != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
