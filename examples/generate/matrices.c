/* A model's matrices, from its file into the form that qkv multiplies.  SPDX-License-Identifier: MIT */
#include "matrices.h"

#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void open_weights(struct weights *weights, const struct gguf *file) {
    *weights = (struct weights){.file = file, .used = allocate(file->num_tensors, 1)};
}

void close_weights(struct weights *weights) {
    for (size_t i = 0; i < weights->file->num_tensors; i++)
        if (!weights->used[i]) {
            const struct gguf_string name = gguf_tensor_at(weights->file, i).name;
            die("%s: tensor %.*s: no model that is known here has it", weights->file->path, (int)name.size, name.text);
        }
    free(weights->used);
}

int find_tensor(struct weights *weights, int64_t layer, const char *name, int64_t rows, int64_t columns, int optional,
                struct gguf_tensor *tensor) {
    const struct gguf *file = weights->file;
    char full[128];
    if (layer >= 0)
        snprintf(full, sizeof full, "blk.%lld.%s", (long long)layer, name);
    else
        snprintf(full, sizeof full, "%s", name);
    for (size_t i = 0; i < file->num_tensors; i++) {
        *tensor = gguf_tensor_at(file, i);
        if (tensor->name.size != strlen(full) || memcmp(tensor->name.text, full, tensor->name.size) != 0)
            continue;
        if (tensor->rows != rows || tensor->columns != columns)
            die("%s: tensor %s is %lld × %lld, not %lld × %lld as its other values say", file->path, full,
                (long long)tensor->rows, (long long)tensor->columns, (long long)rows, (long long)columns);
        weights->used[i] = 1;
        return 1;
    }
    if (!optional)
        die("%s: there is no tensor %s; the file is damaged or of a model that is not known here", file->path, full);
    return 0;
}

float *read_vector(struct weights *weights, int64_t layer, const char *name, int64_t size, int optional) {
    struct gguf_tensor tensor;
    if (!find_tensor(weights, layer, name, 1, size, optional, &tensor))
        return NULL;
    if (tensor.type != GGUF_F32)
        die("%s: tensor %.*s has type %s, not F32", weights->file->path, (int)tensor.name.size, tensor.name.text,
            gguf_type_name(tensor.type));
    float *values = allocate_floats((size_t)size);
    memcpy(values, tensor.data, (size_t)size * sizeof *values);
    return values;
}

/* ------------------------------------------------------------------------------------------------ packing */

static int64_t type_of(const struct gguf_tensor *tensor) {
    static const struct {
        uint32_t stored;
        int64_t type;
    } types[] = {
        {GGUF_F32, QKV_F32},   {GGUF_F16, QKV_F16},   {GGUF_BF16, QKV_BF16}, {GGUF_Q4_0, QKV_Q4_0},
        {GGUF_Q4_1, QKV_Q4_1}, {GGUF_Q5_0, QKV_Q5_0}, {GGUF_Q5_1, QKV_Q5_1}, {GGUF_Q8_0, QKV_Q8_0},
        {GGUF_Q4_K, QKV_Q4_K}, {GGUF_Q5_K, QKV_Q5_K}, {GGUF_Q6_K, QKV_Q6_K},
    };
    size_t i = 0;
    while (types[i].stored != tensor->type) /* the reader lets no other pass */
        i++;
    return types[i].type;
}

static qkv_pack_desc part_of(const struct gguf_tensor *tensor, int64_t first, int64_t rows) {
    return (qkv_pack_desc){.size = sizeof(qkv_pack_desc),
                           .in_features = tensor->columns,
                           .num_parts = 1,
                           .part = {{.data = tensor->data + (size_t)first * tensor->row_size,
                                     .out_features = rows,
                                     .layout = QKV_OUT_IN,
                                     .type = type_of(tensor)}}};
}

static size_t packed_bytes(const struct gguf_tensor *tensor, int64_t rows) {
    const qkv_pack_desc desc = part_of(tensor, 0, rows);
    size_t bytes = 0;
    must(qkv_packed_size(&desc, &bytes), "packing weights");
    return bytes;
}

struct packing {
    const qkv_ctx *ctx;
    const struct gguf_tensor *tensor;
    char *packed;
};

enum { TASK_ROWS = 8 * QKV_PANEL };

static void pack_task(void *arg, int64_t index, int32_t worker) {
    const struct packing *packing = arg;
    const int64_t first = index * TASK_ROWS, rest = packing->tensor->rows - first;
    const qkv_pack_desc desc = part_of(packing->tensor, first, rest < TASK_ROWS ? rest : TASK_ROWS);
    (void)worker;
    must(qkv_pack(packing->ctx, &desc, packing->packed + packed_bytes(packing->tensor, first)), "packing weights");
}

void pack_tensors(const struct decoder *decoder, struct projection *projection, const struct gguf_tensor *tensors,
                  int64_t count) {
    qkv_projection_desc *desc = &projection->desc;
    size_t bytes = 0, at = 0;
    *desc = (qkv_projection_desc){.size = sizeof *desc,
                                  .batch = 1,
                                  .in_features = tensors[0].columns,
                                  .num_parts = count,
                                  .arithmetic = decoder->options.arithmetic};
    for (int64_t i = 0; i < count; i++) {
        desc->part[i] = (qkv_projection_part){.out_features = tensors[i].rows, .type = type_of(&tensors[i])};
        bytes += packed_bytes(&tensors[i], tensors[i].rows);
        if (desc->arithmetic == QKV_ARITHMETIC_INT8 && desc->part[i].type <= QKV_BF16) /* not made of integers */
            desc->arithmetic = QKV_ARITHMETIC_F32;
    }
    desc->packed = projection->packed = allocate_bytes(bytes);
    for (int64_t i = 0; i < count; i++) { /* its panels follow those of the part before */
        struct packing packing = {&decoder->ctx, &tensors[i], (char *)projection->packed + at};
        qkv_pthreads_for(decoder->pool, (tensors[i].rows + TASK_ROWS - 1) / TASK_ROWS, pack_task, &packing);
        at += packed_bytes(&tensors[i], tensors[i].rows);
    }
}

/* Rows of the table mean what any weights do: those that are wanted are packed side by side, and unpacked. */
void embed_rows(struct decoder *decoder, int64_t rows) {
    struct gguf_tensor some = decoder->embedding;
    unsigned char *stored = decoder->embedding_rows;
    some.data = stored;
    for (int64_t at = 0; at < rows; at += QKV_PANEL) {
        some.rows = rows - at < QKV_PANEL ? rows - at : QKV_PANEL;
        for (int64_t i = 0; i < some.rows; i++)
            memcpy(stored + (size_t)i * some.row_size,
                   decoder->embedding.data + (size_t)decoder->row_tokens[at + i] * some.row_size, some.row_size);
        qkv_pack_desc desc = part_of(&some, 0, some.rows);
        float *x = decoder->x + at * some.columns;
        must(qkv_pack(&decoder->ctx, &desc, decoder->embedding_panel), "packing embeddings");
        desc.part[0].unpacked = x;
        must(qkv_unpack(&desc, decoder->embedding_panel), "unpacking embeddings");
        for (int64_t i = 0; i < some.rows * some.columns; i++)
            x[i] *= decoder->config.embedding_scale;
    }
}

void make_embedding_rows(struct decoder *decoder) {
    decoder->embedding_rows = allocate_bytes((size_t)QKV_PANEL * decoder->embedding.row_size);
    decoder->embedding_panel = allocate_bytes(packed_bytes(&decoder->embedding, QKV_PANEL));
}
