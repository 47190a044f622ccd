/* Reading model.safetensors: 8 bytes of header length, a JSON header, then the tensors' bytes without a gap. Nothing in
 * the file is believed before it is checked against the file's size.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "safetensors.h"

#include "json.h"
#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_HEADER 100000000 /* the format's own limit */

struct extent {
    int64_t begin, end;
};

static _Noreturn void damaged(const struct safetensors *model, const char *why) {
    die("%s: %s; the file is damaged, incomplete or of another kind", model->path, why);
}

/* Bytes of an element of any type that the format knows, 0 of others. Types of less than a byte are not for us. */
static int64_t element_size(const char *type) {
    /* clang-format off */
    static const struct {
        const char *name;
        int64_t size;
    } types[] = {
        {"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4}, {"I32", 4},     {"U32", 4},     {"F16", 2},
        {"I16", 2}, {"U16", 2}, {"BF16", 2}, {"I8", 1},  {"U8", 1},      {"BOOL", 1},    {"F8_E4M3", 1},
        {"F8_E5M2", 1},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(type, types[i].name) == 0)
            return types[i].size;
    return 0;
}

static const cJSON *child(const cJSON *tensor, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(tensor, name);
}

/* Checks type, shape and offsets of one tensor and returns where its bytes lie. */
static struct extent check_tensor(const struct safetensors *model, const cJSON *tensor) {
    struct extent extent;
    const cJSON *type = child(tensor, "dtype"), *shape = child(tensor, "shape"), *dimension;
    const cJSON *offsets = child(tensor, "data_offsets");
    const char *name = tensor->string;
    int64_t bytes = cJSON_IsString(type) ? element_size(type->valuestring) : 0, size;
    if (bytes == 0)
        die("%s: tensor %.100s has no known type; the file is damaged or too new", model->path, name);
    if (!cJSON_IsArray(shape) || !cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !json_is_size(offsets->child, &extent.begin) || !json_is_size(offsets->child->next, &extent.end) ||
        extent.begin > extent.end || extent.end > model->data_size)
        die("%s: tensor %.100s does not lie in the file; the file is damaged or incomplete", model->path, name);
    cJSON_ArrayForEach(dimension, shape) {
        if (!json_is_size(dimension, &size) || (size > 0 && bytes > INT64_MAX / size))
            die("%s: tensor %.100s has an impossible shape; the file is damaged", model->path, name);
        bytes *= size;
    }
    if (bytes != extent.end - extent.begin)
        die("%s: tensor %.100s has a shape that does not fit its bytes; the file is damaged", model->path, name);
    return extent;
}

static int compare_extents(const void *a, const void *b) {
    const struct extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Tensors must cover the data without gap or overlap: so a file cut anywhere is noticed, whatever is read of it. */
static void check_header(const struct safetensors *model) {
    struct extent *extents = NULL;
    size_t count = 0, capacity = 0;
    int64_t end = 0;
    for (const cJSON *tensor = model->header->child; tensor; tensor = tensor->next) {
        if (strcmp(tensor->string, "__metadata__") == 0)
            continue;
        if (count == capacity) {
            capacity = 2 * capacity + 64;
            extents = reallocate(extents, capacity, sizeof *extents);
        }
        extents[count++] = check_tensor(model, tensor);
    }
    if (count > 0)
        qsort(extents, count, sizeof *extents, compare_extents);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].begin != end)
            damaged(model, "tensors overlap or leave a gap");
        end = extents[i].end;
    }
    free(extents);
    if (end != model->data_size)
        damaged(model, "there are more bytes than the header speaks of");
}

void open_safetensors(struct safetensors *model, const char *path) {
    unsigned char length_bytes[8];
    uint64_t length = 0;
    struct stat status;
    *model = (struct safetensors){.path = path, .prefix = ""};
    model->file = fopen(path, "rb");
    if (!model->file)
        die("%s: %s", path, strerror(errno));
    if (fstat(fileno(model->file), &status) != 0 || !S_ISREG(status.st_mode))
        die("%s: not a regular file", path);
    if (fread(length_bytes, 1, 8, model->file) != 8)
        damaged(model, "it is shorter than 8 bytes");
    for (int i = 7; i >= 0; i--)
        length = length << 8 | length_bytes[i];
    if (length > MAX_HEADER || (int64_t)length > (int64_t)status.st_size - 8)
        damaged(model, "its header would be longer than the file");

    char *header = allocate((size_t)length + 1, 1);
    if (fread(header, 1, (size_t)length, model->file) != length)
        damaged(model, "its header can't be read");
    model->header = parse_json(header, (size_t)length);
    free(header);
    if (!model->header)
        damaged(model, "its header is no JSON object");
    model->data_start = 8 + (int64_t)length;
    model->data_size = (int64_t)status.st_size - model->data_start;
    check_header(model);
}

void close_safetensors(struct safetensors *model) {
    cJSON_Delete(model->header);
    fclose(model->file);
    *model = (struct safetensors){0};
}

static const cJSON *find_tensor(const struct safetensors *model, const char *name) {
    char full_name[256];
    snprintf(full_name, sizeof full_name, "%s%s", model->prefix, name);
    return cJSON_GetObjectItemCaseSensitive(model->header, full_name);
}

int has_tensor(const struct safetensors *model, const char *name) {
    return find_tensor(model, name) != NULL;
}

/* ------------------------------------------------------------------------------------------------ elements */

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float float_from_half(uint32_t half) {
    uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
    if (exponent == 0) { /* zero and subnormal: fraction · 2⁻²⁴ */
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    if (exponent == 31)
        return float_from_bits(sign | 0x7f800000u | fraction << 13);
    return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Element i of little-endian data of a type of `size` bytes. */
static float element(const unsigned char *data, size_t i, size_t size, int is_half) {
    const unsigned char *p = data + i * size;
    uint32_t low = (uint32_t)(p[0] | p[1] << 8);
    if (size == 4)
        return float_from_bits(low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
    return is_half ? float_from_half(low) : float_from_bits(low << 16);
}

static void read_elements(struct safetensors *model, const char *name, size_t size, int is_half, float *values,
                          size_t count) {
    unsigned char buffer[1 << 14];
    for (size_t done = 0; done < count;) {
        size_t n = count - done < sizeof buffer / size ? count - done : sizeof buffer / size;
        if (fread(buffer, size, n, model->file) != n)
            die("%s: tensor %s can't be read", model->path, name);
        for (size_t i = 0; i < n; i++) {
            values[done + i] = element(buffer, i, size, is_half);
            if (!isfinite(values[done + i]))
                die("%s: tensor %s holds infinity or NaN; the file is damaged", model->path, name);
        }
        done += n;
        model->bytes_read += (int64_t)(n * size);
    }
    show_progress("loading the model", (double)model->bytes_read / (double)model->data_size);
}

float *read_tensor(struct safetensors *model, const char *name, int64_t rows, int64_t columns) {
    const cJSON *tensor = find_tensor(model, name);
    int64_t sizes[2] = {rows, columns}, size = 0, begin = 0;
    if (!tensor)
        die("%s: there is no tensor %s%s; this is no BERT model of the size config.json gives", model->path,
            model->prefix, name);
    const char *type = child(tensor, "dtype")->valuestring;
    if (strcmp(type, "F32") != 0 && strcmp(type, "F16") != 0 && strcmp(type, "BF16") != 0)
        die("%s: tensor %s has type %s; only F32, F16 and BF16 can be used", model->path, name, type);
    const cJSON *dimension = child(tensor, "shape")->child;
    for (int i = rows == 0; i < 2; i++) {
        if (!dimension || !json_is_size(dimension, &size) || size != sizes[i])
            die("%s: tensor %s has another shape than config.json asks for", model->path, name);
        dimension = dimension->next;
    }
    if (dimension)
        die("%s: tensor %s has another shape than config.json asks for", model->path, name);

    size_t count = (size_t)((rows ? rows : 1) * columns);
    float *values = allocate_floats(count);
    json_is_size(child(tensor, "data_offsets")->child, &begin);
    if (fseeko(model->file, (off_t)(model->data_start + begin), SEEK_SET) != 0)
        die("%s: tensor %s can't be read", model->path, name);
    read_elements(model, name, (size_t)element_size(type), strcmp(type, "F16") == 0, values, count);
    return values;
}
