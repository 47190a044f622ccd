/* Types of weights: in memory, in panels.  SPDX-License-Identifier: MIT */
#ifndef QKV_OPS_PACK_H
#define QKV_OPS_PACK_H

#include "../ops.h"

QKV_INTERNAL_BEGIN

/* Columns [first, first + columns) of a part to a panel; stride in elements, not 0 for contiguous rows. */
void qkv_pack_panel(const qkv_kernels *kernels, void *panel, const qkv_weight *w, int64_t stride, int64_t first,
                    int64_t columns, int64_t in_features);

QKV_INTERNAL_END

#endif
