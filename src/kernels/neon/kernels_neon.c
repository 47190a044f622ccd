/* The NEON kernel set: AArch64, where Advanced SIMD with fma is part of the base.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(NEON)

#include <arm_neon.h>
#include <string.h>

/* Whatever the command line has: what is inlined into the regions below must not ask for more than they do. */
#if !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("arch=armv8-a")
#endif

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"
#include "simd_neon.h"

#include "../gemm.inc.h"
#include "../rows.inc.h"
#include "../rotate.inc.h"
#include "../backward.inc.h"
#include "../dropout.inc.h"
#include "../storage.inc.h"
#include "../stored.inc.h"
#include "../weights.inc.h"
#include "../bf16.inc.h"
#include "../int8.inc.h"
#include "../float_products.inc.h"

#if !defined(__clang__)
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_neon
#define KERNELS_NAME "neon"
#define KERNELS_NEEDS QKV_CPU_NEON
#include "../table.inc.h"

#if QKV_WITH(DOTPROD)

/* "dotprod": the same, but for products of packed weights. The instruction is text, as clang before 16 has no intrinsic
 * for a function's own target. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define DOT_VECTORS 4
#define SIGNED_DOTS 1
#define DOTS_OF_LANES
#define DOT_FENCE __asm__("" ::: "memory");
typedef struct vterms {
    int8x16_t lower, upper;
} vterms;
QKV_INLINE vterms d_terms(const int8_t *q) { return (vterms){vld1q_s8(q), vld1q_s8(q + 16)}; }
#define SDOT(lane) __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(sum) : "w"(w), "w"(of_a))
QKV_INLINE vint d_dot(vint sum, vint w, vterms a, int g) {
    const int8x16_t of_a = g < 4 ? a.lower : a.upper;
    switch (g % 4) {
    case 0: SDOT(0); break;
    case 1: SDOT(1); break;
    case 2: SDOT(2); break;
    default: SDOT(3);
    }
    return sum;
}
#include "../weights_dots.inc.h"

/* The same for attention: c + a·b, and c + a[lane]·b. */
QKV_INLINE vec int8_fma(vec a, vec b, vec c) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(c) : "w"(b), "w"(a));
    return c;
}
#define SDOT_LANE(lane) __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(c) : "w"(b), "w"(a))
QKV_INLINE vec int8_fma_lane(vec a, int lane, vec b, vec c) {
    switch (lane) {
    case 0: SDOT_LANE(0); break;
    case 1: SDOT_LANE(1); break;
    case 2: SDOT_LANE(2); break;
    default: SDOT_LANE(3);
    }
    return c;
}
#include "../int8_dots.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_dotprod
#define KERNELS_NAME "dotprod"
#define KERNELS_NEEDS (QKV_CPU_NEON | QKV_CPU_DOTPROD)
#define GEMM_WEIGHTS gemm_weights_dots
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define NATIVE (1 << QKV_ARITHMETIC_INT8)
#include "../table.inc.h"

/* "i8mm": the same, but for products in 8 bits of several rows. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif

#include "squares_neon.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_i8mm
#define KERNELS_NAME "i8mm"
#define KERNELS_NEEDS (QKV_CPU_NEON | QKV_CPU_DOTPROD | QKV_CPU_I8MM)
#define GEMM_WEIGHTS gemm_weights_squares
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define NATIVE (1 << QKV_ARITHMETIC_INT8)
#include "../table.inc.h"

#endif

#endif
