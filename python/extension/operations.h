/* What the functions of the module share.  SPDX-License-Identifier: MIT */
#ifndef QKV_PYTHON_OPERATIONS_H
#define QKV_PYTHON_OPERATIONS_H

#include "fields.h"
#include "workers.h"

extern qkv_ctx qkv_python_ctx;            /* set once, while the module is imported */
extern PyObject *qkv_python_error;        /* qkv.Error, a ValueError with a member `status` */
extern openmp_parallel qkv_python_openmp; /* of the host, if it has told; see workers.h */

/* Raises qkv.Error and returns NULL. */
PyObject *raise_error(qkv_status status, const char *text);

/* An operation of the library by its four steps, its descriptor as an address. */
struct operation {
    qkv_status (*plan)(const qkv_ctx *, const void *, int32_t, qkv_plan *);
    qkv_status (*run)(const qkv_plan *, const void *, void *, size_t, qkv_parallel_for, void *);
    const char *(*explain_plan)(const qkv_ctx *, const void *, int32_t, char *, size_t);
    const char *(*explain_run)(const qkv_plan *, const void *, const void *, size_t, char *, size_t);
};

#define OPERATION(name)                                                                                                \
    static qkv_status name##_plan(const qkv_ctx *ctx, const void *desc, int32_t workers, qkv_plan *plan) {             \
        return qkv_##name##_plan(ctx, desc, workers, plan);                                                            \
    }                                                                                                                  \
    static qkv_status name##_run(const qkv_plan *plan, const void *desc, void *workspace, size_t bytes,                \
                                 qkv_parallel_for parallel_for, void *pool) {                                          \
        return qkv_##name##_run_parallel(plan, desc, workspace, bytes, parallel_for, pool);                            \
    }                                                                                                                  \
    static const char *name##_explain_plan(const qkv_ctx *ctx, const void *desc, int32_t workers, char *text,          \
                                           size_t size) {                                                              \
        return qkv_##name##_explain_plan(ctx, desc, workers, text, size);                                              \
    }                                                                                                                  \
    static const char *name##_explain_run(const qkv_plan *plan, const void *desc, const void *workspace, size_t bytes, \
                                          char *text, size_t size) {                                                   \
        return qkv_##name##_explain_run(plan, desc, workspace, bytes, text, size);                                     \
    }                                                                                                                  \
    static const struct operation name##_operation = {name##_plan, name##_run, name##_explain_plan, name##_explain_run}

/* Plans and runs, without the interpreter's lock, on at most `threads` threads and no more than the work pays:
 * `products` is roughly how many multiplications it has. `openmp`: the host's threads, or NULL. Returns None, or NULL
 * with an exception. */
PyObject *execute(const struct operation *operation, const void *desc, int64_t threads, double products,
                  openmp_parallel openmp);

/* The size behind the letter is `value`, which the argument `name` says; 0, or -1 with an exception. */
int settle(struct filling *filling, char letter, int64_t value, const char *name);

/* The fields of an attention's descriptor, and what its sizes come to once they are filled. */
extern struct field attention_fields[];
int settle_attention(struct filling *filling, qkv_attention_desc *desc, const void *cache, int64_t first_sequence);
double attention_products(const qkv_attention_desc *desc);

#define METHOD(name)                                                                                                   \
    { #name, (PyCFunction)(void (*)(void))name, METH_FASTCALL | METH_KEYWORDS, NULL }
#define POSITIONAL(name)                                                                                               \
    { #name, name, METH_VARARGS, NULL }
#define POSITIONAL_FAST(name)                                                                                          \
    { #name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL }

/* The functions of the other files, each list ending with a name that is NULL. */
extern PyMethodDef attention_methods[], layer_methods[], cache_methods[];
int prepare_attention(void), prepare_layer(void), prepare_cache(void);

#endif
