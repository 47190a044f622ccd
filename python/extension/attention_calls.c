/* Attention and its gradients.  SPDX-License-Identifier: MIT */
#include "operations.h"

#include <stddef.h>
#include <string.h>

OPERATION(attention);
OPERATION(attention_backward);

#define AT(member) offsetof(qkv_attention_desc, member)
#define NUMBER(name, kind)                                                                                             \
    { #name, kind, AT(name), NULL, 0, 0, 0, NULL }
#define ARRAY(name, axes, types)                                                                                       \
    { #name, FIELD_ARRAY, AT(name), axes, types, 0, 0, NULL }

/* b and q: batches and tokens of the queries' tensors; c and k: those of the keys'; n: sequences; g: KV heads. */
struct field attention_fields[] = {
    {"q", FIELD_TENSOR, AT(q), "bhqd", TYPES_16, AT(q_type), 0, NULL},
    {"k", FIELD_TENSOR, AT(k), "cgkd", TYPES_STORED, AT(k_type), 0, NULL},
    {"v", FIELD_TENSOR, AT(v), "cgke", TYPES_STORED, AT(v_type), 0, NULL},
    {"out", FIELD_TENSOR, AT(out), "bhqe", TYPES_16, AT(out_type), 1, NULL},
    {"lse", FIELD_TENSOR, AT(lse), "bhq", TYPES_FLOAT, 0, 1, NULL},
    NUMBER(scale, FIELD_FLOAT),
    NUMBER(flags, FIELD_UINT32),
    NUMBER(right, FIELD_INT64),
    NUMBER(left, FIELD_INT64),
    NUMBER(q_offset, FIELD_INT64),
    NUMBER(softcap, FIELD_FLOAT),
    {"key_ranges", FIELD_RANGES, AT(key_ranges), "bq", TYPES(TYPE_INT64), 0, 0, NULL},
    {"keep", FIELD_MATRIX, AT(keep), "bhqk", TYPES(TYPE_BYTE) | TYPES(QKV_INT8), 0, 0, NULL},
    {"bias", FIELD_MATRIX, AT(bias), "bhqk", TYPES_FLOAT, 0, 0, NULL},
    ARRAY(kv_len, "n", TYPES(TYPE_INT64)),
    ARRAY(q_offsets, "n", TYPES(TYPE_INT64)),
    ARRAY(q_start, "n+", TYPES(TYPE_INT64)),
    ARRAY(k_start, "n+", TYPES(TYPE_INT64)),
    ARRAY(alibi_slopes, "h", TYPES_FLOAT),
    ARRAY(sinks, "h", TYPES_FLOAT),
    NUMBER(first_tokens, FIELD_INT64),
    {"k_scales", FIELD_TENSOR, AT(k_scales), "cgk", TYPES_FLOAT, 0, 0, NULL},
    {"v_scales", FIELD_TENSOR, AT(v_scales), "cgk", TYPES_FLOAT, 0, 0, NULL},
    NUMBER(dropout, FIELD_FLOAT),
    NUMBER(dropout_seed, FIELD_UINT64),
    NUMBER(dropout_offset, FIELD_UINT64),
    {"probabilities", FIELD_MATRIX, AT(probabilities), "bhqk", TYPES_FLOAT, 0, 1, NULL},
    {"scores", FIELD_MATRIX, AT(scores), "bhqk", TYPES_FLOAT, 0, 1, NULL},
    NUMBER(scores_stage, FIELD_UINT32),
    {.name = NULL}};

/* What is no field of the descriptor. */
struct around {
    int64_t threads, on_host_threads, first_sequence;
    void *cache;
};
static struct field around_fields[] = {
    {"threads", FIELD_INT64, offsetof(struct around, threads), NULL, 0, 0, 0, NULL},
    {"on_host_threads", FIELD_INT64, offsetof(struct around, on_host_threads), NULL, 0, 0, 0, NULL},
    {"first_sequence", FIELD_INT64, offsetof(struct around, first_sequence), NULL, 0, 0, 0, NULL},
    {"cache", FIELD_ARRAY, offsetof(struct around, cache), "z", TYPES(TYPE_BYTE), 0, 0, NULL},
    {.name = NULL}};

struct gradients {
    qkv_attention_backward_desc desc;
    int32_t grad_out_type;
};
#define OF(member) offsetof(struct gradients, desc.member)
static struct field gradient_fields[] = {
    {"grad_out", FIELD_TENSOR, OF(grad_out), "bhqe", TYPES_16, offsetof(struct gradients, grad_out_type), 0, NULL},
    {"grad_lse", FIELD_TENSOR, OF(grad_lse), "bhq", TYPES_FLOAT, 0, 0, NULL},
    {"grad_q", FIELD_TENSOR, OF(grad_q), "bhqd", TYPES_FLOAT, 0, 1, NULL},
    {"grad_k", FIELD_TENSOR, OF(grad_k), "cgkd", TYPES_FLOAT, 0, 1, NULL},
    {"grad_v", FIELD_TENSOR, OF(grad_v), "cgke", TYPES_FLOAT, 0, 1, NULL},
    {"grad_bias", FIELD_MATRIX, OF(grad_bias), "bhqk", TYPES_FLOAT, 0, 1, NULL},
    {"grad_sinks", FIELD_ARRAY, OF(grad_sinks), "h", TYPES_FLOAT, 0, 1, NULL},
    {"accumulate", FIELD_UINT32, OF(flags), NULL, 0, 0, 0, NULL},
    {.name = NULL}};

int prepare_attention(void) {
    return intern_names(attention_fields) | intern_names(around_fields) | intern_names(gradient_fields);
}

int settle_attention(struct filling *filling, qkv_attention_desc *desc, const void *cache, int64_t first_sequence) {
    desc->size = sizeof *desc;
    desc->batch = desc->q_start != NULL ? size_of(filling, 'n') : size_of(filling, 'b');
    desc->num_heads = size_of(filling, 'h');
    desc->seq_q = size_of(filling, 'q');
    if (settle(filling, 'n', desc->batch, "q") != 0 ||
        (desc->q_start != NULL && settle(filling, 'b', 1, "q_start") != 0))
        return -1;
    if (cache != NULL) {
        const qkv_status status = qkv_cache_attach(cache, first_sequence, desc);
        if (status != QKV_OK) {
            raise_error(status, "attention: this cache does not have these sequences");
            return -1;
        }
        if (settle(filling, 'g', desc->num_kv_heads, "cache") != 0 || settle(filling, 'k', desc->seq_k, "cache") != 0 ||
            settle(filling, 'd', desc->head_dim, "cache") != 0 || settle(filling, 'e', desc->head_dim_v, "cache") != 0)
            return -1;
    } else {
        desc->num_kv_heads = size_of(filling, 'g');
        desc->seq_k = size_of(filling, 'k');
        desc->head_dim = size_of(filling, 'd');
        desc->head_dim_v = size_of(filling, 'e');
        const int packed = desc->k_start != NULL;
        if (has_size(filling, 'c') && settle(filling, 'c', packed ? 1 : desc->batch, packed ? "k_start" : "q") != 0)
            return -1;
    }
    desc->flags |= QKV_HEAD_DIM_V;
    return 0;
}

double attention_products(const qkv_attention_desc *desc) {
    return (double)(desc->q_start != NULL ? 1 : desc->batch) * (double)desc->num_heads * (double)desc->seq_q *
           (double)desc->seq_k * (double)(desc->head_dim + desc->head_dim_v);
}

/* attention(*, q, k, v, out, …): fields of qkv_attention_desc, threads, cache and first_sequence. */
static PyObject *attention(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    qkv_attention_desc desc = {0};
    struct around around = {.threads = 1};
    struct filling filling = {.operation = "attention"};
    const struct field_table tables[] = {{attention_fields, &desc}, {around_fields, &around}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 2, values, names) == 0 &&
        settle_attention(&filling, &desc, around.cache, around.first_sequence) == 0)
        result = execute(&attention_operation, &desc, around.threads, attention_products(&desc),
                         around.on_host_threads ? qkv_python_openmp : NULL);
    release_tensors(&filling);
    return result;
}

/* attention_backward(*, …): those of attention, and fields of qkv_attention_backward_desc. */
static PyObject *attention_backward(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    struct gradients gradients = {.desc = {.size = sizeof gradients.desc}};
    struct around around = {.threads = 1};
    struct filling filling = {.operation = "attention_backward"};
    qkv_attention_desc *forward = &gradients.desc.forward;
    const struct field_table tables[] = {
        {attention_fields, forward}, {gradient_fields, &gradients}, {around_fields, &around}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 3, values, names) == 0 && settle_attention(&filling, forward, NULL, 0) == 0) {
        if (gradients.grad_out_type != forward->out_type)
            PyErr_SetString(PyExc_TypeError, "attention_backward: grad_out and out have elements of different types");
        else
            result = execute(&attention_backward_operation, &gradients.desc, around.threads,
                             2.5 * attention_products(forward), around.on_host_threads ? qkv_python_openmp : NULL);
    }
    release_tensors(&filling);
    return result;
}

/* ------------------------------------------------------------------------- tensors of the host, few arguments */

/* How the values of the functions below begin. */
enum { Q, K, V, CAUSAL, SCALE, GROUPED, THREADS, PLAIN };

static qkv_input input_of(const struct tensor *t) {
    return (qkv_input){t->data, t->stride[0], t->stride[1], t->stride[2]};
}

static qkv_output output_of(const struct tensor *t) {
    return (qkv_output){t->data, t->stride[0], t->stride[1], t->stride[2]};
}

/* 1 if it is a tensor of the host, with memory, with so many axes and contiguous channels, if there are channels. */
static int get_plain(struct tensor *tensor, PyObject *object, int axes) {
    return get_host_tensor(tensor, object) && tensor->axes == axes && tensor->data != NULL &&
           (axes < 4 || tensor->shape[3] <= 1 || tensor->stride[3] == 1);
}

/* 1 if the values are what attention takes, as PyTorch's function of that name would; else 0, perhaps with an
 * exception. */
static int fill_plain(qkv_attention_desc *desc, struct tensor tensors[3], int64_t *threads, PyObject *const *values) {
    const struct tensor *q = &tensors[0], *k = &tensors[1], *v = &tensors[2];
    for (int i = 0; i < 3; i++)
        if (!get_plain(&tensors[i], values[i], 4) || tensors[i].type != q->type || tensors[i].shape[0] != q->shape[0])
            return 0;
    const int64_t heads = q->shape[1], kv_heads = k->shape[1];
    const int causal = PyObject_IsTrue(values[CAUSAL]), grouped = PyObject_IsTrue(values[GROUPED]);
    const int scaled = values[SCALE] != Py_None;
    const double scale = scaled ? PyFloat_AsDouble(values[SCALE]) : 0;
    *threads = PyLong_AsLongLong(values[THREADS]);
    *desc = (qkv_attention_desc){.size = sizeof *desc,
                                 .batch = q->shape[0],
                                 .num_heads = heads,
                                 .num_kv_heads = kv_heads,
                                 .seq_q = q->shape[2],
                                 .seq_k = k->shape[2],
                                 .head_dim = q->shape[3],
                                 .head_dim_v = v->shape[3],
                                 .q = input_of(q),
                                 .k = input_of(k),
                                 .v = input_of(v),
                                 .scale = (float)scale,
                                 .flags = QKV_HEAD_DIM_V | (causal ? QKV_RIGHT : 0) | (scaled ? QKV_SCALE : 0),
                                 .q_type = q->type,
                                 .k_type = q->type,
                                 .v_type = q->type,
                                 .out_type = q->type};
    return !PyErr_Occurred() && (TYPES(q->type) & TYPES_16) != 0 && k->shape[3] == q->shape[3] &&
           v->shape[1] == kv_heads && v->shape[2] == k->shape[2] &&
           (heads == kv_heads || (grouped && kv_heads > 0 && heads % kv_heads == 0));
}

static int ran(const struct operation *operation, const void *desc, int64_t threads, double products) {
    PyObject *done = execute(operation, desc, threads, products, qkv_python_openmp);
    Py_XDECREF(done);
    return done != NULL;
}

static PyObject *not_plain(void) {
    PyErr_Clear();
    Py_RETURN_NONE;
}

static PyObject *new_tensor(PyObject *empty_strided, PyObject *arguments, PyObject *dtype) {
    PyObject *options = dtype != NULL ? Py_BuildValue("{s:O}", "dtype", dtype) : NULL;
    PyObject *new = arguments != NULL &&options != NULL ? PyObject_Call(empty_strided, arguments, options) : NULL;
    Py_XDECREF(arguments);
    Py_XDECREF(options);
    return new;
}

/* is_plain(q, k, v, causal, scale, grouped, threads): whether the two functions below take it. */
static PyObject *is_plain(PyObject *module, PyObject *const *values, Py_ssize_t count) {
    (void)module;
    struct tensor tensors[3];
    qkv_attention_desc desc;
    int64_t threads;
    const int plain = count == PLAIN && fill_plain(&desc, tensors, &threads, values);
    PyErr_Clear();
    return PyBool_FromLong(plain);
}

/* plain_attention(q, k, v, causal, scale, grouped, threads, empty_strided, lse_dtype): of tensors of the host's type,
 * into a new one that its empty_strided makes, in memory as (batch, queries, heads, channels); with a dtype for lse,
 * out and lse. None for what has to be looked at more closely. */
static PyObject *plain_attention(PyObject *module, PyObject *const *values, Py_ssize_t count) {
    (void)module;
    struct tensor tensors[3], written;
    qkv_attention_desc desc;
    int64_t threads;
    if (count != PLAIN + 2 || !fill_plain(&desc, tensors, &threads, values))
        return not_plain();
    PyObject *empty_strided = values[PLAIN], *lse_dtype = values[PLAIN + 1], *lse = NULL, *result = NULL;
    const long long b = desc.batch, h = desc.num_heads, n = desc.seq_q, e = desc.head_dim_v;
    PyObject *dtype = PyObject_GetAttrString(values[Q], "dtype");
    PyObject *out =
        new_tensor(empty_strided, Py_BuildValue("(LLLL)(LLLL)", b, h, n, e, n * h * e, e, h * e, 1LL), dtype);
    int made = out != NULL && get_plain(&written, out, 4);
    if (made)
        desc.out = output_of(&written);
    if (made && lse_dtype != Py_None) {
        lse = new_tensor(empty_strided, Py_BuildValue("(LLL)(LLL)", b, h, n, h * n, n, 1LL), lse_dtype);
        made = lse != NULL && get_plain(&written, lse, 3);
        if (made)
            desc.lse = output_of(&written);
    }
    if (!made)
        result = not_plain();
    else if (ran(&attention_operation, &desc, threads, attention_products(&desc)))
        result = lse == NULL ? Py_NewRef(out) : PyTuple_Pack(2, out, lse);
    Py_XDECREF(lse);
    Py_XDECREF(out);
    Py_XDECREF(dtype);
    return result;
}

/* plain_attention_backward(q, k, v, causal, scale, grouped, threads, empty_like, out, lse, grad_out): the gradients of
 * q, k and v, float32 each; or None. */
static PyObject *plain_attention_backward(PyObject *module, PyObject *const *values, Py_ssize_t count) {
    (void)module;
    struct tensor tensors[3], out, lse, grad_out, grad;
    qkv_attention_backward_desc desc = {.size = sizeof desc};
    qkv_attention_desc *forward = &desc.forward;
    int64_t threads;
    if (count != PLAIN + 4 || !fill_plain(forward, tensors, &threads, values) || forward->q_type != QKV_F32 ||
        !get_plain(&out, values[PLAIN + 1], 4) || !get_plain(&lse, values[PLAIN + 2], 3) ||
        !get_plain(&grad_out, values[PLAIN + 3], 4) || grad_out.type != QKV_F32 ||
        memcmp(grad_out.shape, out.shape, sizeof out.shape) != 0)
        return not_plain();
    forward->out = output_of(&out);
    forward->lse = output_of(&lse);
    desc.grad_out = input_of(&grad_out);
    qkv_output *const grads[] = {&desc.grad_q, &desc.grad_k, &desc.grad_v};
    PyObject *new[3] = {NULL, NULL, NULL}, *result = NULL;
    int made = 1;
    for (int i = 0; i < 3 && made; i++) {
        new[i] = PyObject_CallFunctionObjArgs(values[PLAIN], values[i], NULL);
        made = new[i] != NULL &&get_plain(&grad, new[i], 4);
        if (made)
            *grads[i] = output_of(&grad);
    }
    if (!made)
        result = not_plain();
    else if (ran(&attention_backward_operation, &desc, threads, 2.5 * attention_products(forward)))
        result = PyTuple_Pack(3, new[0], new[1], new[2]);
    for (int i = 0; i < 3; i++)
        Py_XDECREF(new[i]);
    return result;
}

/* ------------------------------------------------------------------------------------------------------- masks */

/* dropout_mask(keep, rate, seed, offset, q_offset): keep is a byte array (batch, heads, queries, keys), written. */
static PyObject *dropout_mask(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *object;
    double rate;
    unsigned long long seed, offset;
    long long q_offset;
    if (!PyArg_ParseTuple(arguments, "OdKKL", &object, &rate, &seed, &offset, &q_offset))
        return NULL;
    struct tensor keep;
    PyObject *result = NULL;
    if (get_tensor(&keep, object, 1, "dropout_mask", "keep") == 0) {
        qkv_attention_desc desc = {.size = sizeof desc,
                                   .batch = keep.shape[0],
                                   .num_heads = keep.shape[1],
                                   .seq_q = keep.shape[2],
                                   .seq_k = keep.shape[3],
                                   .flags = QKV_HEAD_DIM_V,
                                   .dropout = (float)rate,
                                   .dropout_seed = seed,
                                   .dropout_offset = offset,
                                   .q_offset = q_offset};
        qkv_status status = QKV_OK;
        uint8_t *row = keep.data;
        for (int64_t b = 0; b < desc.batch && status == QKV_OK; b++)
            for (int64_t h = 0; h < desc.num_heads && status == QKV_OK; h++)
                for (int64_t i = 0; i < desc.seq_q && status == QKV_OK; i++, row += desc.seq_k)
                    status = qkv_dropout_mask(&desc, b, h, i, row);
        result = status == QKV_OK ? Py_NewRef(Py_None) : raise_error(status, "dropout_mask: the rate is not in [0, 1)");
    }
    release_tensor(&keep);
    return result;
}

/* mask_ranges(mask, ranges): of each row of mask (batch, queries, keys) into ranges (batch, queries, 2), int64 and
 * contiguous. False, and anything in ranges, where a row is none. */
static PyObject *mask_ranges(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *mask_object, *ranges_object;
    if (!PyArg_ParseTuple(arguments, "OO", &mask_object, &ranges_object))
        return NULL;
    struct tensor mask = {0}, ranges = {0};
    qkv_status status = QKV_ERROR_NULL;
    if (get_tensor(&mask, mask_object, 0, "mask_ranges", "mask") == 0 &&
        get_tensor(&ranges, ranges_object, 0, "mask_ranges", "ranges") == 0) {
        const int64_t batch = mask.shape[0], queries = mask.shape[1], keys = mask.shape[2];
        const int64_t bytes = mask.type == QKV_F32 ? 4 : mask.type == QKV_F16 || mask.type == QKV_BF16 ? 2 : 1;
        if (mask.axes != 3 || ranges.axes != 3 || ranges.type != TYPE_INT64 || ranges.shape[0] != batch ||
            ranges.shape[1] != queries || ranges.shape[2] != 2 || (keys > 1 && mask.stride[2] != 1)) {
            PyErr_SetString(PyExc_ValueError, "mask_ranges: shapes or strides do not fit");
        } else {
            Py_BEGIN_ALLOW_THREADS status = QKV_OK;
            for (int64_t b = 0; b < batch && status == QKV_OK; b++)
                status = qkv_mask_ranges((const char *)mask.data + b * mask.stride[0] * bytes,
                                         mask.type == TYPE_BYTE ? QKV_INT8 : mask.type, queries, keys, mask.stride[1],
                                         (int64_t *)ranges.data + 2 * b * queries);
            Py_END_ALLOW_THREADS
        }
    }
    release_tensor(&mask);
    release_tensor(&ranges);
    if (PyErr_Occurred())
        return NULL;
    if (status != QKV_OK && status != QKV_ERROR_VALUE)
        return raise_error(status, "mask_ranges: elements of a type that is no mask");
    return PyBool_FromLong(status == QKV_OK);
}

PyMethodDef attention_methods[] = {METHOD(attention),
                                   METHOD(attention_backward),
                                   POSITIONAL(dropout_mask),
                                   POSITIONAL(mask_ranges),
                                   POSITIONAL_FAST(is_plain),
                                   POSITIONAL_FAST(plain_attention),
                                   POSITIONAL_FAST(plain_attention_backward),
                                   {0}};
