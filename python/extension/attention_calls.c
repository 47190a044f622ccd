/* Attention and its gradients.  SPDX-License-Identifier: MIT */
#include "operations.h"

#include <stddef.h>

OPERATION(attention);
OPERATION(attention_backward);

#define AT(member) offsetof(qkv_attention_desc, member)
#define NUMBER(name, kind) {#name, kind, AT(name), NULL, 0, 0, 0, NULL}
#define ARRAY(name, axes, types) {#name, FIELD_ARRAY, AT(name), axes, types, 0, 0, NULL}

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
static PyObject *attention_backward(PyObject *module, PyObject *const *values, Py_ssize_t positional,
                                    PyObject *names) {
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
        qkv_attention_desc desc = {.size = sizeof desc, .batch = keep.shape[0], .num_heads = keep.shape[1],
                                   .seq_q = keep.shape[2], .seq_k = keep.shape[3], .flags = QKV_HEAD_DIM_V,
                                   .dropout = (float)rate, .dropout_seed = seed, .dropout_offset = offset,
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
            Py_BEGIN_ALLOW_THREADS
            status = QKV_OK;
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

PyMethodDef attention_methods[] = {
    METHOD(attention), METHOD(attention_backward), POSITIONAL(dropout_mask), POSITIONAL(mask_ranges), {0}};
