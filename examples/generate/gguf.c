/* Reading GGUF: a header, keys with values, descriptions of tensors, then their elements. Everything is looked at once,
 * by read_gguf, with a cursor that never leaves the file; later reads follow offsets that passed.
 * SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* madvise */
#include "gguf.h"

#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAGIC = 0x46554747, MAX_NAME = 256, MAX_AXES = 4 };
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, NUM_VALUE_TYPES };

static const unsigned char value_sizes[NUM_VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* Elements and bytes of a block of each type of tensor; 0: known by name only. */
/* clang-format off */
static const struct tensor_type {
    const char *name;
    unsigned short elements, bytes;
} tensor_types[] = {
    [0] = {"F32", 1, 4}, {"F16", 1, 2}, {"Q4_0", 32, 18}, {"Q4_1", 32, 20}, {"Q4_2", 0, 0}, {"Q4_3", 0, 0},
    {"Q5_0", 32, 22}, {"Q5_1", 32, 24}, {"Q8_0", 32, 34}, {"Q8_1", 0, 0}, {"Q2_K", 0, 0}, {"Q3_K", 0, 0},
    {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"Q8_K", 0, 0}, {"IQ2_XXS", 0, 0}, {"IQ2_XS", 0, 0},
    {"IQ3_XXS", 0, 0}, {"IQ1_S", 0, 0}, {"IQ4_NL", 0, 0}, {"IQ3_S", 0, 0}, {"IQ2_S", 0, 0}, {"IQ4_XS", 0, 0},
    {"I8", 0, 0}, {"I16", 0, 0}, {"I32", 0, 0}, {"I64", 0, 0}, {"F64", 0, 0}, {"IQ1_M", 0, 0}, {"BF16", 1, 2},
    [34] = {"TQ1_0", 0, 0}, {"TQ2_0", 0, 0}, [39] = {"MXFP4", 0, 0}, {"NVFP4", 0, 0},
};
/* clang-format on */

const char *gguf_type_name(uint32_t type) {
    const char *name = type < sizeof tensor_types / sizeof tensor_types[0] ? tensor_types[type].name : NULL;
    return name ? name : "of a later version";
}

/* ------------------------------------------------------------------------------------------------ the cursor */

static _Noreturn void damaged(const struct gguf *file, const char *why) {
    die("%s: %s; the file is damaged, incomplete or of another kind", file->path, why);
}

static size_t left(const struct gguf *file, size_t at) {
    return file->size - at;
}

static uint64_t little_endian(const unsigned char *bytes, size_t size) {
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;)
        value = value << 8 | bytes[i];
    return value;
}

static uint64_t take(const struct gguf *file, size_t *at, size_t size) {
    if (left(file, *at) < size)
        damaged(file, "it ends within its header");
    *at += size;
    return little_endian(file->bytes + *at - size, size);
}

static struct gguf_string take_string(const struct gguf *file, size_t *at) {
    const uint64_t size = take(file, at, 8);
    if (size > left(file, *at))
        damaged(file, "a string is longer than the file");
    *at += (size_t)size;
    return (struct gguf_string){(const char *)file->bytes + *at - size, (size_t)size};
}

static struct gguf_string take_name(const struct gguf *file, size_t *at) {
    const struct gguf_string name = take_string(file, at);
    if (name.size == 0 || name.size > MAX_NAME || memchr(name.text, '\0', name.size))
        damaged(file, "a name is empty, too long or no text");
    return name;
}

static void skip_elements(const struct gguf *file, size_t *at, uint64_t type, uint64_t count) {
    if (type == STRING) {
        while (count-- > 0) /* ends with the file: each takes 8 bytes at least */
            take_string(file, at);
        return;
    }
    if (type >= NUM_VALUE_TYPES || type == ARRAY)
        damaged(file, "a value is of no known type");
    if (count > left(file, *at) / value_sizes[type])
        damaged(file, "an array is longer than the file");
    *at += (size_t)count * value_sizes[type];
}

static void skip_value(const struct gguf *file, size_t *at) {
    uint64_t type = take(file, at, 4), count = 1;
    if (type == ARRAY) {
        type = take(file, at, 4);
        count = take(file, at, 8);
    }
    skip_elements(file, at, type, count);
}

/* ------------------------------------------------------------------------------------------------ tensors */

struct axes {
    uint32_t count, type;
    uint64_t size[MAX_AXES], offset;
};

static struct gguf_string take_tensor(const struct gguf *file, size_t *at, struct axes *axes) {
    const struct gguf_string name = take_name(file, at);
    *axes = (struct axes){.count = (uint32_t)take(file, at, 4), .size = {1, 1, 1, 1}};
    if (axes->count == 0 || axes->count > MAX_AXES)
        damaged(file, "a tensor has no axis or too many");
    for (uint32_t i = 0; i < axes->count; i++)
        axes->size[i] = take(file, at, 8);
    axes->type = (uint32_t)take(file, at, 4);
    axes->offset = take(file, at, 8);
    return name;
}

/* Tensors lie in the order of their descriptions: this one not before `begin`. Returns where it ends. */
static uint64_t check_tensor(const struct gguf *file, const struct gguf_string *name, const struct axes *axes,
                             uint64_t alignment, uint64_t begin) {
    const int shown = (int)name->size;
    const uint32_t num_types = sizeof tensor_types / sizeof tensor_types[0];
    if (axes->type >= num_types || tensor_types[axes->type].elements == 0)
        die("%s: tensor %.*s has type %u (%s), which can't be read", file->path, shown, name->text,
            (unsigned)axes->type, gguf_type_name(axes->type));
    const struct tensor_type *type = &tensor_types[axes->type];
    const uint64_t room = file->size - file->data;
    uint64_t blocks = axes->size[0] / type->elements;
    if (axes->size[2] != 1 || axes->size[3] != 1)
        die("%s: tensor %.*s has more than two axes, which no model that is known here has", file->path, shown,
            name->text);
    if (axes->size[0] % type->elements != 0)
        die("%s: tensor %.*s has rows of %llu elements, which are no whole blocks of %s", file->path, shown, name->text,
            (unsigned long long)axes->size[0], type->name);
    if (axes->size[1] == 0 || blocks > room / axes->size[1])
        die("%s: tensor %.*s has an impossible shape; the file is damaged or incomplete", file->path, shown,
            name->text);
    blocks *= axes->size[1];
    if (blocks == 0 || blocks > room / type->bytes || axes->offset > room - blocks * type->bytes ||
        axes->offset % alignment != 0 || axes->offset < begin)
        die("%s: tensor %.*s does not lie in the file, or in another; the file is damaged or incomplete", file->path,
            shown, name->text);
    return axes->offset + blocks * type->bytes;
}

struct gguf_tensor gguf_tensor_at(const struct gguf *file, size_t i) {
    size_t at = file->tensors[i];
    struct axes axes;
    const struct gguf_string name = take_tensor(file, &at, &axes);
    const struct tensor_type *type = &tensor_types[axes.type];
    return (struct gguf_tensor){.name = name,
                                .type = axes.type,
                                .columns = (int64_t)axes.size[0],
                                .rows = (int64_t)axes.size[1],
                                .data = file->bytes + file->data + axes.offset,
                                .row_size = (size_t)(axes.size[0] / type->elements * type->bytes)};
}

/* ------------------------------------------------------------------------------------------------ the file */

void read_gguf(struct gguf *file, const char *path, const void *bytes, size_t size) {
    size_t at = 0;
    *file = (struct gguf){.path = path, .bytes = bytes, .size = size};
    if (size < 4 || take(file, &at, 4) != MAGIC)
        damaged(file, "it does not begin with \"GGUF\"");
    const uint64_t version = take(file, &at, 4);
    if (version != 2 && version != 3)
        die("%s: GGUF of version %llu (%s); 2 and 3 can be read", path, (unsigned long long)version,
            version > 0xffff ? "perhaps of big-endian machines" : "too old or too new");
    const uint64_t num_tensors = take(file, &at, 8), num_values = take(file, &at, 8);
    enum { LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8, LEAST_VALUE = 8 + 1 + 4 + 1 }; /* their bytes in the file */
    if (num_tensors > left(file, at) / LEAST_TENSOR || num_values > left(file, at) / LEAST_VALUE)
        damaged(file, "it is shorter than its header says");
    file->num_tensors = (size_t)num_tensors;
    file->num_values = (size_t)num_values;
    file->values = allocate(file->num_values, sizeof *file->values);
    file->tensors = allocate(file->num_tensors, sizeof *file->tensors);
    for (size_t i = 0; i < file->num_values; i++) {
        file->values[i] = at;
        take_name(file, &at);
        skip_value(file, &at);
    }
    struct axes axes;
    for (size_t i = 0; i < file->num_tensors; i++) {
        file->tensors[i] = at;
        take_tensor(file, &at, &axes);
    }
    const uint64_t alignment = (uint64_t)gguf_integer(file, "general.alignment", 8, 1 << 20, 32);
    if ((alignment & (alignment - 1)) != 0)
        damaged(file, "its alignment is no power of two");
    const size_t gap = (size_t)((alignment - at % alignment) % alignment);
    file->data = gap < left(file, at) ? at + gap : file->size;
    uint64_t end = 0;
    for (size_t i = 0; i < file->num_tensors; i++) {
        size_t tensor = file->tensors[i];
        const struct gguf_string name = take_tensor(file, &tensor, &axes);
        end = check_tensor(file, &name, &axes, alignment, end);
    }
}

void free_gguf(struct gguf *file) {
    free(file->values);
    free(file->tensors);
    *file = (struct gguf){0};
}

void open_gguf(struct gguf *file, const char *path) {
    struct stat status;
    const int descriptor = open(path, O_RDONLY);
    if (descriptor < 0)
        die("%s: %s", path, strerror(errno));
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        die("%s: not a regular file", path);
    if (status.st_size == 0)
        die("%s: the file is empty", path);
    if ((uint64_t)status.st_size > SIZE_MAX / 2)
        die("%s: too large for this machine's addresses", path);
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (bytes == MAP_FAILED)
        die("%s: can't be mapped: %s", path, strerror(errno));
    close(descriptor);
    read_gguf(file, path, bytes, (size_t)status.st_size);
}

void close_gguf(struct gguf *file) {
    munmap((void *)(uintptr_t)file->bytes, file->size);
    free_gguf(file);
}

void forget_gguf_pages(const struct gguf *file) {
    madvise((void *)(uintptr_t)file->bytes, file->size, MADV_DONTNEED);
}

/* ------------------------------------------------------------------------------------------------ values */

/* Where the value of a key lies, behind its type; 0 without one. */
static size_t find_value(const struct gguf *file, const char *key, uint32_t *type) {
    const size_t size = strlen(key);
    for (size_t i = 0; i < file->num_values; i++) {
        size_t at = file->values[i];
        const struct gguf_string name = take_name(file, &at);
        if (name.size == size && memcmp(name.text, key, size) == 0) {
            *type = (uint32_t)take(file, &at, 4);
            return at;
        }
    }
    return 0;
}

static _Noreturn void wrong_kind(const struct gguf *file, const char *key, const char *wanted) {
    die("%s: %s is no %s; the file is damaged or of another kind", file->path, key, wanted);
}

int64_t gguf_integer(const struct gguf *file, const char *key, int64_t low, int64_t high, int64_t otherwise) {
    uint32_t type;
    size_t at = find_value(file, key, &type);
    if (!at && otherwise < low)
        die("%s: %s is missing", file->path, key);
    if (!at)
        return otherwise;
    if (type == F32 || type == F64 || type == BOOL || type == STRING || type == ARRAY)
        wrong_kind(file, key, "whole number");
    const size_t size = value_sizes[type];
    uint64_t bits = take(file, &at, size);
    if ((type == I8 || type == I16 || type == I32) && bits >> (8 * size - 1))
        bits |= ~UINT64_C(0) << (8 * size);
    const int64_t value = type == U64 && bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    if (value < low || value > high)
        die("%s: %s is %lld, not from %lld to %lld", file->path, key, (long long)value, (long long)low,
            (long long)high);
    return value;
}

static double float_value(uint64_t bits, uint32_t type) {
    double value;
    float single;
    if (type == F64) {
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    const uint32_t word = (uint32_t)bits;
    memcpy(&single, &word, sizeof single);
    return (double)single;
}

double gguf_number(const struct gguf *file, const char *key, double otherwise) {
    uint32_t type;
    size_t at = find_value(file, key, &type);
    if (!at)
        return otherwise;
    if (type != F32 && type != F64)
        wrong_kind(file, key, "number");
    return float_value(take(file, &at, value_sizes[type]), type);
}

int gguf_bool(const struct gguf *file, const char *key, int otherwise) {
    uint32_t type;
    size_t at = find_value(file, key, &type);
    if (at && type != BOOL)
        wrong_kind(file, key, "truth value");
    return at ? file->bytes[at] != 0 : otherwise;
}

struct gguf_string gguf_text(const struct gguf *file, const char *key) {
    uint32_t type;
    size_t at = find_value(file, key, &type);
    if (at && type != STRING)
        wrong_kind(file, key, "text");
    return at ? take_string(file, &at) : (struct gguf_string){NULL, 0};
}

static struct gguf_array find_array(const struct gguf *file, const char *key, uint32_t wanted, const char *kind) {
    struct gguf_array array = {0};
    uint32_t type;
    size_t at = find_value(file, key, &type);
    if (!at)
        return array;
    const uint32_t found = type == ARRAY ? (uint32_t)take(file, &at, 4) : NUM_VALUE_TYPES;
    if (found != wanted && !(wanted == I32 && found == U32))
        wrong_kind(file, key, kind);
    array.count = (size_t)take(file, &at, 8);
    array.data = file->bytes + at;
    return array;
}

struct gguf_array gguf_strings(const struct gguf *file, const char *key) {
    return find_array(file, key, STRING, "array of texts");
}

struct gguf_array gguf_integers(const struct gguf *file, const char *key) {
    return find_array(file, key, I32, "array of integers");
}

struct gguf_array gguf_floats(const struct gguf *file, const char *key) {
    return find_array(file, key, F32, "array of numbers");
}

struct gguf_string gguf_next_string(const unsigned char **at) {
    const size_t size = (size_t)little_endian(*at, 8);
    const struct gguf_string string = {(const char *)*at + 8, size};
    *at += 8 + size;
    return string;
}

int32_t gguf_integer_at(const struct gguf_array *array, size_t i) {
    return (int32_t)(uint32_t)little_endian(array->data + 4 * i, 4);
}

float gguf_float_at(const struct gguf_array *array, size_t i) {
    return (float)float_value(little_endian(array->data + 4 * i, 4), F32);
}
