/* Descriptors filled from keyword arguments that are named after their fields. Sizes come from the shapes of the
 * tensors, which have to agree about them.  SPDX-License-Identifier: MIT */
#ifndef QKV_PYTHON_FIELDS_H
#define QKV_PYTHON_FIELDS_H

#include "tensors.h"

/* One lower-case letter for each size: */
enum { NUM_SIZES = 'z' - 'a' + 1 };

enum field_kind {
    FIELD_INT64,
    FIELD_UINT64,
    FIELD_UINT32,
    FIELD_FLOAT,
    FIELD_DOUBLE,
    FIELD_ADDRESS,   /* a Python number */
    FIELD_TENSOR,    /* qkv_input, qkv_output: axes batch, head, token, then channels if there are four; or batch,
                      * token, channels, without a head stride, where the letters begin with '-' */
    FIELD_MATRIX,    /* qkv_matrix_input, qkv_matrix_output: an axis may have length 1 in place of its size */
    FIELD_RANGES,    /* qkv_ranges: batch, query, 2; likewise */
    FIELD_POSITIONS, /* qkv_positions: batch, token; likewise */
    FIELD_ARRAY,     /* a pointer to contiguous elements */
};

#define TYPES(type) (1u << (type))
#define TYPES_FLOAT TYPES(QKV_F32)
#define TYPES_16 (TYPES(QKV_F32) | TYPES(QKV_F16) | TYPES(QKV_BF16))
#define TYPES_STORED (TYPES_16 | TYPES(QKV_INT8))

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    const char *axes;   /* of a tensor: the letters of its sizes; '+' behind one: one more element than that */
    unsigned types;     /* of its elements */
    size_t type_offset; /* where that type is noted; 0: nowhere */
    int is_output;
    PyObject *interned; /* the name as Python holds it */
};

struct field_table {
    struct field *fields; /* ends with a name that is NULL */
    void *descriptor;
};

enum { MAX_HELD = 40 };

struct filling {
    const char *operation; /* begins every message */
    int64_t size[NUM_SIZES];
    const char *size_from[NUM_SIZES]; /* the argument that said so; NULL: nobody has */
    struct tensor held[MAX_HELD];
    int num_held;
};

int intern_names(struct field *fields);

/* Fills the descriptors of the tables from the arguments of a METH_FASTCALL function. None counts as absent. Returns 0,
 * or -1 with an exception; either way the tensors are held until release_tensors. */
int fill_fields(struct filling *filling, const struct field_table *tables, int num_tables, PyObject *const *values,
                PyObject *names);
void release_tensors(struct filling *filling);

int64_t size_of(const struct filling *filling, char letter); /* 0 if nobody has said */
int has_size(const struct filling *filling, char letter);

#endif
