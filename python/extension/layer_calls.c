/* Projections, layers and their gradients.  SPDX-License-Identifier: MIT */
#include "operations.h"

#include <stddef.h>

OPERATION(projection);
OPERATION(projection_backward);
OPERATION(layer);
OPERATION(layer_backward);

#define NUMBER(type, name, kind)                                                                                       \
    { #name, kind, offsetof(type, name), NULL, 0, 0, 0, NULL }

/* ---------------------------------------------------------------------------------------------------- packing */

/* pack(packed, weights): weights are matrices (out_features, in_features) whose rows, or those of the transpose, are
 * contiguous. With packed = None returns the number of bytes, else writes them. */
static PyObject *pack(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *packed_object, *weights;
    if (!PyArg_ParseTuple(arguments, "OO!", &packed_object, &PyTuple_Type, &weights))
        return NULL;
    const Py_ssize_t count = PyTuple_Size(weights);
    qkv_pack_desc desc = {.size = sizeof desc, .num_parts = count};
    struct tensor tensors[QKV_MAX_PARTS + 1];
    int held = 0, failed = 0;
    if (count > QKV_MAX_PARTS)
        return raise_error(QKV_ERROR_FLAGS, "packing: more than 4 matrices");
    for (Py_ssize_t i = 0; i < count && !failed; i++) {
        struct tensor *t = &tensors[held++];
        failed = get_tensor(t, PyTuple_GetItem(weights, i), 0, "packing", "weights") != 0;
        if (!failed && (t->axes != 2 || t->type != QKV_F32)) {
            PyErr_SetString(PyExc_TypeError, "packing: weights are no float32 matrices");
            failed = 1;
        }
        if (failed)
            break;
        const int out_in = t->stride[1] == 1 || t->shape[1] <= 1;
        desc.in_features = t->shape[1];
        desc.part[i] = (qkv_weight){.data = t->data,
                                    .out_features = t->shape[0],
                                    .stride = out_in ? t->stride[0] : t->stride[1],
                                    .layout = out_in ? QKV_OUT_IN : QKV_IN_OUT};
        if ((!out_in && t->stride[0] != 1 && t->shape[0] > 1) || (i > 0 && tensors[0].shape[1] != t->shape[1])) {
            PyErr_SetString(PyExc_ValueError, out_in ? "packing: weights have different in_features"
                                                     : "packing: neither rows nor columns are contiguous");
            failed = 1;
        }
    }
    size_t bytes = 0;
    PyObject *result = NULL;
    qkv_status status = failed ? QKV_OK : qkv_packed_size(&desc, &bytes);
    if (!failed && status == QKV_OK && packed_object == Py_None) {
        result = PyLong_FromSize_t(bytes);
    } else if (!failed && status == QKV_OK &&
               get_tensor(&tensors[held++], packed_object, 1, "packing", "packed") == 0) {
        if (tensors[held - 1].shape[0] != (int64_t)bytes)
            PyErr_SetString(PyExc_ValueError, "packing: packed has another size");
        else if ((status = qkv_pack(&qkv_python_ctx, &desc, tensors[held - 1].data)) == QKV_OK)
            result = Py_NewRef(Py_None);
    }
    char text[256];
    if (status != QKV_OK)
        raise_error(status, qkv_pack_explain(&desc, held > count ? tensors[held - 1].data : NULL, text, sizeof text));
    while (held > 0)
        release_tensor(&tensors[--held]);
    return result;
}

/* ------------------------------------------------------------------------------------------------- projections */

struct projection_call {
    qkv_projection_desc desc;
    int64_t threads;
};
/* The letters of the parts' out_features are h, i, j and k. */
#define PART(index, letter)                                                                                            \
    {"out" #index,                                                                                                     \
     FIELD_TENSOR,                                                                                                     \
     offsetof(struct projection_call, desc.part[index].out),                                                           \
     "-bq" letter,                                                                                                     \
     TYPES_FLOAT,                                                                                                      \
     0,                                                                                                                \
     1,                                                                                                                \
     NULL},                                                                                                            \
    {                                                                                                                  \
        "bias" #index, FIELD_ARRAY, offsetof(struct projection_call, desc.part[index].bias), letter, TYPES_FLOAT, 0,   \
            0, NULL                                                                                                    \
    }
static struct field projection_fields[] = {
    {"x", FIELD_TENSOR, offsetof(struct projection_call, desc.x), "-bqm", TYPES_FLOAT, 0, 0, NULL},
    {"packed", FIELD_ARRAY, offsetof(struct projection_call, desc.packed), "z", TYPES(TYPE_BYTE), 0, 0, NULL},
    PART(0, "h"),
    PART(1, "i"),
    PART(2, "j"),
    PART(3, "k"),
    NUMBER(struct projection_call, threads, FIELD_INT64),
    {.name = NULL}};

static double projection_products(const struct filling *filling, qkv_projection_desc *desc) {
    desc->size = sizeof *desc;
    desc->batch = size_of(filling, 'b');
    desc->tokens = size_of(filling, 'q');
    desc->in_features = size_of(filling, 'm');
    double columns = 0;
    for (; desc->num_parts < QKV_MAX_PARTS && has_size(filling, "hijk"[desc->num_parts]); desc->num_parts++) {
        desc->part[desc->num_parts].out_features = size_of(filling, "hijk"[desc->num_parts]);
        columns += (double)desc->part[desc->num_parts].out_features;
    }
    return (double)desc->batch * (double)desc->tokens * (double)desc->in_features * columns;
}

/* projection(*, x, packed, out0 …, bias0 …, threads): x is (batch, tokens, in), outI (batch, tokens, out_features). */
static PyObject *projection(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    struct projection_call call = {.threads = 1};
    struct filling filling = {.operation = "projection"};
    const struct field_table tables[] = {{projection_fields, &call}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 1, values, names) == 0) {
        const double products = projection_products(&filling, &call.desc);
        result = execute(&projection_operation, &call.desc, call.threads, products, NULL);
    }
    release_tensors(&filling);
    return result;
}

#define GRAD(index, letter)                                                                                            \
    {"grad_out" #index,                                                                                                \
     FIELD_TENSOR,                                                                                                     \
     offsetof(qkv_projection_backward_desc, grad_out[index]),                                                          \
     "-bq" letter,                                                                                                     \
     TYPES_FLOAT,                                                                                                      \
     0,                                                                                                                \
     0,                                                                                                                \
     NULL},                                                                                                            \
        {"grad" #index,                                                                                                \
         FIELD_ARRAY,                                                                                                  \
         offsetof(qkv_projection_backward_desc, grad[index].data),                                                     \
         letter "m",                                                                                                   \
         TYPES_FLOAT,                                                                                                  \
         0,                                                                                                            \
         1,                                                                                                            \
         NULL},                                                                                                        \
    {                                                                                                                  \
        "grad_bias" #index, FIELD_ARRAY, offsetof(qkv_projection_backward_desc, grad[index].bias), letter,             \
            TYPES_FLOAT, 0, 1, NULL                                                                                    \
    }
static struct field projection_gradient_fields[] = {
    {"grad_x", FIELD_TENSOR, offsetof(qkv_projection_backward_desc, grad_x), "-bqm", TYPES_FLOAT, 0, 1, NULL},
    GRAD(0, "h"),
    GRAD(1, "i"),
    GRAD(2, "j"),
    GRAD(3, "k"),
    {.name = NULL}};

/* projection_backward(*, x, packed, grad_out0 …, grad_x, grad0 …, grad_bias0 …, threads): gradI is (out, in). */
static PyObject *projection_backward(PyObject *module, PyObject *const *values, Py_ssize_t positional,
                                     PyObject *names) {
    (void)module, (void)positional;
    struct projection_call call = {.threads = 1};
    qkv_projection_backward_desc desc = {.size = sizeof desc};
    struct filling filling = {.operation = "projection_backward"};
    const struct field_table tables[] = {{projection_fields, &call}, {projection_gradient_fields, &desc}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 2, values, names) == 0) {
        const double products = 2 * projection_products(&filling, &call.desc);
        desc.forward = call.desc;
        for (int i = 0; i < QKV_MAX_PARTS; i++)
            desc.grad[i].layout = desc.grad[i].data != NULL ? QKV_OUT_IN : 0;
        result = execute(&projection_backward_operation, &desc, call.threads, products, NULL);
    }
    release_tensors(&filling);
    return result;
}

/* ------------------------------------------------------------------------------------------------------ layers */

struct layer_call {
    qkv_layer_desc desc;
    int64_t threads, num_heads, num_kv_heads, head_dim, head_dim_v;
};
#define IN_LAYER(member) offsetof(struct layer_call, desc.member)
#define LAYER_FLOATS(name, axes)                                                                                       \
    { #name, FIELD_ARRAY, IN_LAYER(name), axes, TYPES_FLOAT, 0, 0, NULL }
#define LAYER_BYTES(name, letter)                                                                                      \
    { #name, FIELD_ARRAY, IN_LAYER(name), letter, TYPES(TYPE_BYTE), 0, 0, NULL }
/* m, i, o: width of x, x_kv and out; u, w, y: columns of Q, K and V; p, j: RoPE's positions and pairs. */
static struct field layer_fields[] = {
    {"x", FIELD_TENSOR, IN_LAYER(x), "-bqm", TYPES_FLOAT, 0, 0, NULL},
    {"x_kv", FIELD_TENSOR, IN_LAYER(x_kv), "-bki", TYPES_FLOAT, 0, 0, NULL},
    {"out", FIELD_TENSOR, IN_LAYER(out), "-bqo", TYPES_FLOAT, 0, 1, NULL},
    LAYER_BYTES(w_qkv, "z"),
    LAYER_BYTES(w_kv, "x"),
    LAYER_BYTES(w_o, "v"),
    LAYER_BYTES(cache, "t"),
    LAYER_FLOATS(bias_q, "u"),
    LAYER_FLOATS(bias_k, "w"),
    LAYER_FLOATS(bias_v, "y"),
    LAYER_FLOATS(bias_o, "o"),
    LAYER_FLOATS(norm_q, "d"),
    LAYER_FLOATS(norm_k, "d"),
    {"norm_epsilon", FIELD_FLOAT, IN_LAYER(norm_epsilon), NULL, 0, 0, 0, NULL},
    {"rope_cos", FIELD_ARRAY, IN_LAYER(rope.cos), "pj", TYPES_FLOAT, 0, 0, NULL},
    {"rope_sin", FIELD_ARRAY, IN_LAYER(rope.sin), "pj", TYPES_FLOAT, 0, 0, NULL},
    {"rope_layout", FIELD_INT64, IN_LAYER(rope.layout), NULL, 0, 0, 0, NULL},
    {"positions_q", FIELD_POSITIONS, IN_LAYER(positions_q), "bq", TYPES(TYPE_INT64), 0, 0, NULL},
    {"positions_k", FIELD_POSITIONS, IN_LAYER(positions_k), "bk", TYPES(TYPE_INT64), 0, 0, NULL},
    {"first_sequence", FIELD_INT64, IN_LAYER(first_sequence), NULL, 0, 0, 0, NULL},
    NUMBER(struct layer_call, threads, FIELD_INT64),
    NUMBER(struct layer_call, num_heads, FIELD_INT64),
    NUMBER(struct layer_call, num_kv_heads, FIELD_INT64),
    NUMBER(struct layer_call, head_dim, FIELD_INT64),
    NUMBER(struct layer_call, head_dim_v, FIELD_INT64),
    {.name = NULL}};

/* Sizes and what they say of the biases; the products, or −1 with an exception. */
static double settle_layer(struct filling *filling, struct layer_call *call) {
    qkv_layer_desc *desc = &call->desc;
    qkv_attention_desc *attention = &desc->attention;
    desc->size = sizeof *desc;
    attention->size = sizeof *attention;
    attention->batch = size_of(filling, 'b');
    attention->seq_q = size_of(filling, 'q');
    attention->num_heads = call->num_heads;
    attention->num_kv_heads = call->num_kv_heads;
    attention->head_dim = call->head_dim;
    attention->head_dim_v = call->head_dim_v;
    attention->flags |= QKV_HEAD_DIM_V;
    desc->model_dim = size_of(filling, 'm');
    desc->out_features = size_of(filling, 'o');
    desc->kv_dim = desc->x_kv.data != NULL ? size_of(filling, 'i') : 0;
    desc->rope.num_positions = size_of(filling, 'p');
    desc->rope.rotary_dim = 2 * size_of(filling, 'j');
    if (desc->cache != NULL) {
        qkv_cache_desc cache = {.size = sizeof cache};
        const qkv_status status = qkv_cache_query(desc->cache, &cache);
        if (status != QKV_OK) {
            raise_error(status, "layer: cache holds no cache");
            return -1;
        }
        attention->seq_k = cache.max_tokens;
    } else {
        attention->seq_k = desc->x_kv.data != NULL ? size_of(filling, 'k') : attention->seq_q;
    }
    if (settle(filling, 'k', attention->seq_k, "x") != 0 || settle(filling, 'n', attention->batch, "x") != 0 ||
        settle(filling, 'h', call->num_heads, "num_heads") != 0 ||
        settle(filling, 'd', call->head_dim, "head_dim") != 0 ||
        settle(filling, 'u', call->num_heads * call->head_dim, "num_heads") != 0 ||
        settle(filling, 'w', call->num_kv_heads * call->head_dim, "num_kv_heads") != 0 ||
        settle(filling, 'y', call->num_kv_heads * call->head_dim_v, "num_kv_heads") != 0)
        return -1;
    const double columns =
        (double)(call->num_heads + 2 * call->num_kv_heads) * (double)call->head_dim + (double)desc->out_features;
    return attention_products(attention) +
           (double)attention->batch * (double)attention->seq_q * (double)desc->model_dim * columns;
}

/* layer(*, x, out, num_heads, …): fields of qkv_layer_desc and of its attention, rope_cos, rope_sin, rope_layout. */
static PyObject *layer(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    struct layer_call call = {.threads = 1};
    struct filling filling = {.operation = "layer"};
    const struct field_table tables[] = {{layer_fields, &call}, {attention_fields, &call.desc.attention}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 2, values, names) == 0) {
        const double products = settle_layer(&filling, &call);
        if (products >= 0)
            result = execute(&layer_operation, &call.desc, call.threads, products, NULL);
    }
    release_tensors(&filling);
    return result;
}

#define OF(member) offsetof(qkv_layer_backward_desc, member)
#define GRADIENT(name, member, axes)                                                                                   \
    { #name, FIELD_ARRAY, OF(member), axes, TYPES_FLOAT, 0, 1, NULL }
static struct field layer_gradient_fields[] = {
    {"grad_out", FIELD_TENSOR, OF(grad_out), "-bqo", TYPES_FLOAT, 0, 0, NULL},
    {"grad_x", FIELD_TENSOR, OF(grad_x), "-bqm", TYPES_FLOAT, 0, 1, NULL},
    {"grad_x_kv", FIELD_TENSOR, OF(grad_x_kv), "-bki", TYPES_FLOAT, 0, 1, NULL},
    GRADIENT(grad_q, grad_q.data, "um"),
    GRADIENT(grad_bias_q, grad_q.bias, "u"),
    GRADIENT(grad_k, grad_k.data, "wi"),
    GRADIENT(grad_bias_k, grad_k.bias, "w"),
    GRADIENT(grad_v, grad_v.data, "yi"),
    GRADIENT(grad_bias_v, grad_v.bias, "y"),
    GRADIENT(grad_o, grad_o.data, "oc"),
    GRADIENT(grad_bias_o, grad_o.bias, "o"),
    GRADIENT(grad_norm_q, grad_norm_q, "d"),
    GRADIENT(grad_norm_k, grad_norm_k, "d"),
    GRADIENT(grad_sinks, grad_sinks, "h"),
    {"grad_bias", FIELD_MATRIX, OF(grad_bias), "bhqk", TYPES_FLOAT, 0, 1, NULL},
    {.name = NULL}};

/* layer_backward(*, …): those of layer but out, and fields of qkv_layer_backward_desc; grad_q … are (out, in). */
static PyObject *layer_backward(PyObject *module, PyObject *const *values, Py_ssize_t positional, PyObject *names) {
    (void)module, (void)positional;
    struct layer_call call = {.threads = 1};
    qkv_layer_backward_desc desc = {.size = sizeof desc};
    struct filling filling = {.operation = "layer_backward"};
    const struct field_table tables[] = {
        {layer_fields, &call}, {attention_fields, &call.desc.attention}, {layer_gradient_fields, &desc}};
    PyObject *result = NULL;
    if (fill_fields(&filling, tables, 3, values, names) == 0) {
        const double products = 3 * settle_layer(&filling, &call);
        if (products >= 0 && settle(&filling, 'c', call.num_heads * call.head_dim_v, "num_heads") == 0 &&
            settle(&filling, 'i', call.desc.kv_dim > 0 ? call.desc.kv_dim : call.desc.model_dim, "x") == 0) {
            desc.forward = call.desc;
            qkv_weight_grad *const grads[] = {&desc.grad_q, &desc.grad_k, &desc.grad_v, &desc.grad_o};
            for (int i = 0; i < 4; i++)
                grads[i]->layout = grads[i]->data != NULL ? QKV_OUT_IN : 0;
            result = execute(&layer_backward_operation, &desc, call.threads, products, NULL);
        }
    }
    release_tensors(&filling);
    return result;
}

int prepare_layer(void) {
    return intern_names(projection_fields) | intern_names(projection_gradient_fields) | intern_names(layer_fields) |
           intern_names(layer_gradient_fields);
}

PyMethodDef layer_methods[] = {POSITIONAL(pack), METHOD(projection),     METHOD(projection_backward),
                               METHOD(layer),    METHOD(layer_backward), {0}};
