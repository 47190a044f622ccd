/* KV caches. Their memory is an array of bytes that Python owns.  SPDX-License-Identifier: MIT */
#include "operations.h"

#include <stddef.h>

/* What every function says of an error. */
static PyObject *outcome(qkv_status status) {
    char text[160];
    if (status == QKV_OK)
        Py_RETURN_NONE;
    PyOS_snprintf(text, sizeof text, "cache: %s", qkv_status_string(status));
    return raise_error(status, text);
}

static struct field desc_fields[] = {
#define SIZE(name)                                                                                                     \
    { #name, FIELD_INT64, offsetof(qkv_cache_desc, name), NULL, 0, 0, 0, NULL }
    SIZE(num_sequences),
    SIZE(max_tokens),
    SIZE(num_pages),
    SIZE(num_kv_heads),
    SIZE(head_dim),
    SIZE(head_dim_v),
    SIZE(window),
    SIZE(first_tokens),
    {"k_type", FIELD_UINT32, offsetof(qkv_cache_desc, k_type), NULL, 0, 0, 0, NULL},
    {"v_type", FIELD_UINT32, offsetof(qkv_cache_desc, v_type), NULL, 0, 0, 0, NULL},
    {.name = NULL}};
static struct field memory_fields[] = {{"memory", FIELD_ARRAY, 0, "z", TYPES(TYPE_BYTE), 0, 1, NULL}, {.name = NULL}};

/* cache_init(*, memory, …): fields of qkv_cache_desc. Without memory: how many bytes it takes. */
static PyObject *cache_init(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    qkv_cache_desc desc = {.size = sizeof desc};
    void *memory = NULL;
    size_t bytes = 0;
    struct filling filling = {.operation = "cache"};
    const struct field_table tables[] = {{desc_fields, &desc}, {memory_fields, &memory}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 2, values, names) == 0) {
        qkv_status status = qkv_cache_size(&desc, &bytes);
        if (status == QKV_OK && memory != NULL)
            status = qkv_cache_init(&desc, memory, (size_t)size_of(&filling, 'z'));
        result = outcome(status);
        if (result != NULL && memory == NULL) {
            Py_DECREF(result);
            result = PyLong_FromSize_t(bytes);
        }
    }
    release_tensors(&filling);
    return result;
}

/* (memory, a, b): a call with the cache and two numbers. */
static PyObject *with_cache(PyObject *arguments,
                            qkv_status (*call)(void *memory, int64_t bytes, int64_t a, int64_t b, int64_t *value)) {
    PyObject *object;
    long long a = 0, b = 0;
    if (!PyArg_ParseTuple(arguments, "O|LL", &object, &a, &b))
        return NULL;
    struct tensor memory;
    PyObject *result = NULL;
    if (get_tensor(&memory, object, 1, "cache", "memory") == 0) {
        int64_t value = INT64_MIN;
        result = outcome(call(memory.data, memory.shape[0], a, b, &value));
        if (result != NULL && value != INT64_MIN) {
            Py_DECREF(result);
            result = PyLong_FromLongLong(value);
        }
    }
    release_tensor(&memory);
    return result;
}

#define CACHE_CALL(name, call)                                                                                         \
    static qkv_status name##_call(void *memory, int64_t bytes, int64_t a, int64_t b, int64_t *value) {                 \
        (void)bytes, (void)a, (void)b, (void)value;                                                                    \
        return call;                                                                                                   \
    }                                                                                                                  \
    static PyObject *cache_##name(PyObject *module, PyObject *arguments) {                                             \
        (void)module;                                                                                                  \
        return with_cache(arguments, name##_call);                                                                     \
    }

CACHE_CALL(check, qkv_cache_check(memory, (size_t)bytes))
CACHE_CALL(length, qkv_cache_length(memory, a, value))
CACHE_CALL(free_pages, qkv_cache_free_pages(memory, value))
CACHE_CALL(extend, qkv_cache_extend(memory, a, b))
CACHE_CALL(truncate, qkv_cache_truncate(memory, a, b))
CACHE_CALL(fork, qkv_cache_fork(memory, a, b))

/* cache_append(memory, sequence, k, v): k and v are float32, (kv_heads, tokens, channels). */
static PyObject *cache_append(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *objects[3];
    long long sequence;
    if (!PyArg_ParseTuple(arguments, "OLOO", &objects[0], &sequence, &objects[1], &objects[2]))
        return NULL;
    static const char *const names[] = {"memory", "k", "v"};
    struct tensor t[3];
    int held = 0, failed = 0;
    while (held < 3 && !failed) {
        failed = get_tensor(&t[held], objects[held], held == 0, "cache", names[held]) != 0;
        held++;
    }
    PyObject *result = NULL;
    if (!failed) {
        qkv_cache_desc desc = {.size = sizeof desc};
        qkv_status status = qkv_cache_query(t[0].data, &desc);
        const int fits = t[1].axes == 3 && t[2].axes == 3 && t[1].type == QKV_F32 && t[2].type == QKV_F32 &&
                         t[1].shape[0] == desc.num_kv_heads && t[2].shape[0] == desc.num_kv_heads &&
                         t[1].shape[1] == t[2].shape[1] && t[1].shape[2] == desc.head_dim &&
                         t[2].shape[2] == desc.head_dim_v && (t[1].stride[2] == 1 || desc.head_dim <= 1) &&
                         (t[2].stride[2] == 1 || desc.head_dim_v <= 1);
        if (status == QKV_OK && !fits) {
            PyErr_SetString(PyExc_ValueError, "cache: k and v are no float32 arrays (kv_heads, tokens, channels) of "
                                              "this cache's sizes, with contiguous channels");
        } else {
            if (status == QKV_OK) {
                const qkv_input k = {t[1].data, 0, t[1].stride[0], t[1].stride[1]};
                const qkv_input v = {t[2].data, 0, t[2].stride[0], t[2].stride[1]};
                status = qkv_cache_append(&qkv_python_ctx, t[0].data, sequence, t[1].shape[1], k, v);
            }
            result = outcome(status);
        }
    }
    while (held > 0)
        release_tensor(&t[--held]);
    return result;
}

/* cache_query(memory): the fields of its descriptor. */
static PyObject *cache_query(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *object;
    struct tensor memory;
    if (!PyArg_ParseTuple(arguments, "O", &object) || get_tensor(&memory, object, 0, "cache", "memory") != 0)
        return NULL;
    qkv_cache_desc d = {.size = sizeof d};
    const qkv_status status = qkv_cache_query(memory.data, &d);
    release_tensor(&memory);
    if (status != QKV_OK)
        return outcome(status);
    return Py_BuildValue(
        "{s:L, s:L, s:L, s:L, s:L, s:L, s:i, s:i, s:L, s:L}", "num_sequences", (long long)d.num_sequences, "max_tokens",
        (long long)d.max_tokens, "num_pages", (long long)d.num_pages, "num_kv_heads", (long long)d.num_kv_heads,
        "head_dim", (long long)d.head_dim, "head_dim_v", (long long)d.head_dim_v, "k_type", (int)d.k_type, "v_type",
        (int)d.v_type, "window", (long long)d.window, "first_tokens", (long long)d.first_tokens);
}

int prepare_cache(void) {
    return intern_names(desc_fields) | intern_names(memory_fields);
}

PyMethodDef cache_methods[] = {METHOD(cache_init),       POSITIONAL(cache_check),
                               POSITIONAL(cache_length), POSITIONAL(cache_free_pages),
                               POSITIONAL(cache_extend), POSITIONAL(cache_truncate),
                               POSITIONAL(cache_fork),   POSITIONAL(cache_append),
                               POSITIONAL(cache_query),  {0}};
