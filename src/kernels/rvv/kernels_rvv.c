/* The RVV kernel set: RISC-V of 64 bits with V 1.0, vectors of whatever length the CPU has from 128 bits on.
 *
 * SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(RVV)

#include <string.h>

#if !defined(__clang__)
/* See kernels_portable.c: what is no template for such vectors is loops. */
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")
#elif !defined(__riscv_v)
#pragma clang attribute push(__attribute__((target("arch=+v"))), apply_to = function)
#endif

/* GCC has no such region for RISC-V, only an attribute of single functions, and inlines none into one that may use
 * more. So here every inline function has it, and each other one is declared with it. */
#if defined(__clang__) || defined(__riscv_v)
#define V_TARGET
#else
#define V_TARGET __attribute__((target("arch=+v")))
#undef QKV_INLINE
#define QKV_INLINE static inline __attribute__((always_inline)) V_TARGET
#endif
#define V_INLINE QKV_INLINE

#include <riscv_vector.h>

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"

#if !defined(__clang__) && !defined(__riscv_v)
#include "entries_rvv.h"
#endif
#include "simd_rvv.h"

#include "../storage_loops.inc.h"
#include "../weights_loops.inc.h"
#include "../bf16_loops.inc.h"
#include "../int8_loops.inc.h"
#include "../scalable_gemm.inc.h"
#include "../scalable_rows.inc.h"
#include "../float_products.inc.h"

#if defined(__clang__) && !defined(__riscv_v)
#pragma clang attribute pop
#endif

#define KERNELS qkv_kernels_rvv
#define KERNELS_NAME "rvv"
#define KERNELS_NEEDS QKV_CPU_RVV
#include "../table.inc.h"

#endif
