/* A model's matrices, from its file into the form that qkv multiplies.  SPDX-License-Identifier: MIT */
#include "weights.h"

#include "dequantize.h"
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

void pack_tensors(const struct decoder *decoder, struct projection *projection, const struct gguf_tensor *tensors,
                  int64_t count) {
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = tensors[0].columns, .num_parts = count};
    size_t bytes = 0;
    float *values[QKV_MAX_PARTS];
    for (int64_t i = 0; i < count; i++) {
        values[i] = allocate_floats((size_t)(tensors[i].rows * tensors[i].columns));
        for (int64_t row = 0; row < tensors[i].rows; row++)
            dequantize(values[i] + row * tensors[i].columns, tensors[i].data + (size_t)row * tensors[i].row_size,
                       tensors[i].type, tensors[i].columns);
        desc.part[i] = (qkv_weight){.data = values[i], .out_features = tensors[i].rows, .layout = QKV_OUT_IN};
        projection->desc.part[i].out_features = tensors[i].rows;
    }
    qkv_status status = qkv_packed_size(&desc, &bytes);
    projection->packed = status == QKV_OK ? allocate_floats(bytes / sizeof(float)) : NULL;
    if (status == QKV_OK)
        status = qkv_pack(&decoder->ctx, &desc, projection->packed);
    if (status != QKV_OK)
        die("packing weights: %s", qkv_status_string(status));
    for (int64_t i = 0; i < count; i++)
        free(values[i]);
    projection->desc.size = sizeof projection->desc;
    projection->desc.batch = 1;
    projection->desc.in_features = desc.in_features;
    projection->desc.num_parts = count;
    projection->desc.packed = projection->packed;
}

void embed_rows(struct decoder *decoder, int64_t rows) {
    const struct gguf_tensor *table = &decoder->embedding;
    for (int64_t row = 0; row < rows; row++) {
        float *x = decoder->x + row * table->columns;
        dequantize(x, table->data + (size_t)decoder->row_tokens[row] * table->row_size, table->type, table->columns);
        for (int64_t i = 0; i < table->columns; i++)
            x[i] *= decoder->config.embedding_scale;
    }
}
