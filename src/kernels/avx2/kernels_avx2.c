/* The AVX2 kernel set.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(AVX2)

#include <immintrin.h>
#include <string.h>
#if defined(_MSC_VER) /* clang's header brings there what the command line asks for, and nothing else */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#if QKV_WITH(AVXVNNI)
#include <avxvnniintrin.h>
#endif
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define QKV_HAVE_FMA 1

#include "../win64.inc.h"

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"
#include "simd_avx2.h"

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

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_avx2
#define KERNELS_NAME "avx2"
#define KERNELS_NEEDS (QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_OS_YMM)
#include "../table.inc.h"

/* "avxvnni": the same, but for products of packed weights. */
#if QKV_WITH(AVXVNNI)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

#define DOT_VECTORS 2
#define SIGNED_DOTS 0
QKV_INLINE vint i_dots(vint sum, vint w, vint a) { return _mm256_dpbusd_avx_epi32(sum, w, a); }
#include "../weights_dots.inc.h"
#include "../int8_dots.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define KERNELS qkv_kernels_avxvnni
#define KERNELS_NAME "avxvnni"
#define KERNELS_NEEDS (QKV_CPU_AVX2 | QKV_CPU_FMA | QKV_CPU_F16C | QKV_CPU_AVXVNNI | QKV_CPU_OS_YMM)
#define GEMM_WEIGHTS gemm_weights_dots
#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define NATIVE (1 << QKV_ARITHMETIC_INT8)
#include "../table.inc.h"

#endif

#endif
