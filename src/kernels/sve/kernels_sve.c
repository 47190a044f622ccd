/* The SVE kernel set: AArch64, vectors of whatever length the CPU has.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(SVE)

#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sve"))), apply_to = function)
#else
/* See kernels_portable.c: what is no template for such vectors is loops. */
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+sve")
#endif

#include <arm_sve.h>

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"

#define V_TARGET
#include "simd_sve.h"

#include "../storage_loops.inc.h"
#include "../weights_loops.inc.h"
#include "../bf16_loops.inc.h"
#include "../int8_loops.inc.h"
#include "../scalable_gemm.inc.h"
#include "../scalable_rows.inc.h"
#include "../float_products.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_sve
#define KERNELS_NAME "sve"
#define KERNELS_NEEDS QKV_CPU_SVE
#include "../table.inc.h"

#endif
