/* Reading GGUF, the file of llama.cpp and its kin: names with values, then tensors. SPDX-License-Identifier: MIT */
#ifndef GGUF_H
#define GGUF_H

#include <stddef.h>
#include <stdint.h>

/* A tensor's elements are stored as the file has them: rows one after the other, each of whole blocks. */
enum gguf_tensor_type {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_BF16 = 30
};

/* Text in the file, without a 0 at its end. */
struct gguf_string {
    const char *text;
    size_t size;
};

struct gguf_tensor {
    struct gguf_string name;
    uint32_t type;
    int64_t columns, rows; /* a vector has one row */
    const unsigned char *data;
    size_t row_size; /* in bytes */
};

struct gguf_array {
    size_t count;
    const unsigned char *data;
};

struct gguf {
    const char *path;
    const unsigned char *bytes;
    size_t size;
    size_t num_values, num_tensors;
    size_t *values, *tensors; /* where each begins in the file */
    size_t data;              /* where the tensors' elements begin */
};

/* Maps the file and checks all that it says against its size; a file that is damaged, cut short or of another kind ends
 * the program with a message that names `path`. */
void open_gguf(struct gguf *file, const char *path);
void close_gguf(struct gguf *file);

/* Of a file that open_gguf has mapped: what has been read need not stay in memory; read again, it comes back. */
void forget_gguf_pages(const struct gguf *file);

/* The same as open and close with a file that is in memory already. Only the arrays are this struct's. */
void read_gguf(struct gguf *file, const char *path, const void *bytes, size_t size);
void free_gguf(struct gguf *file);

/* The value of a key, or `otherwise` if there is none. A value of another kind ends the program. */
int64_t gguf_integer(const struct gguf *file, const char *key, int64_t low, int64_t high, int64_t otherwise);
double gguf_number(const struct gguf *file, const char *key, double otherwise);
int gguf_bool(const struct gguf *file, const char *key, int otherwise);
struct gguf_string gguf_text(const struct gguf *file, const char *key); /* without one: text is NULL */

/* An array of strings, 32-bit integers or floats; count is 0 without one. */
struct gguf_array gguf_strings(const struct gguf *file, const char *key);
struct gguf_array gguf_integers(const struct gguf *file, const char *key);
struct gguf_array gguf_floats(const struct gguf *file, const char *key);
struct gguf_string gguf_next_string(const unsigned char **at); /* from array.data on, `count` times */
int32_t gguf_integer_at(const struct gguf_array *array, size_t i);
float gguf_float_at(const struct gguf_array *array, size_t i);

/* Tensor number i < num_tensors. */
struct gguf_tensor gguf_tensor_at(const struct gguf *file, size_t i);

/* "Q4_K", for any number. */
const char *gguf_type_name(uint32_t type);

#endif
