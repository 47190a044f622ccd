/* Stored weights → floats.  SPDX-License-Identifier: MIT */
#ifndef DEQUANTIZE_H
#define DEQUANTIZE_H

#include "gguf.h"

void dequantize(float *out, const unsigned char *row, uint32_t type, int64_t columns);

#endif
