/* The model's floats in fewer bits.  SPDX-License-Identifier: MIT */
#ifndef ROUNDING_H
#define ROUNDING_H

#include <qkv.h>
#include <stdint.h>

/* f32, bf16, int8, q8_0 as a qkv_type; -1: another name. */
int64_t weight_type(const char *name);
const char *weight_type_name(int64_t type);

/* f32, int8, bf16 as QKV_ARITHMETIC_…; -1: another name. */
int64_t arithmetic(const char *name);
const char *arithmetic_name(int64_t arithmetic);

/* The one that is worth while: integers are multiplied as such. */
int64_t weight_arithmetic(int64_t type);

/* Sets data, type and scales of a Linear's [out][in] floats, rounded to nearest. Both are to be freed; those of f32 are
 * the floats themselves. */
void round_weights(int64_t type, float *values, int64_t in_features, qkv_weight *weight);

#endif
