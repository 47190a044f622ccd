/* The kernel set of WebAssembly with relaxed SIMD, in modules compiled for it (-mrelaxed-simd), where an engine's
 * multiply-add is an fma.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(RELAXED)

#include <string.h>
#include <wasm_simd128.h>

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"
#define WASM_RELAXED_FMA
#include "simd_wasm.h"

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

#define KERNELS qkv_kernels_relaxed
#define KERNELS_NAME "relaxed"
#define KERNELS_NEEDS (QKV_CPU_SIMD128 | QKV_CPU_RELAXED_FMA)
#include "../table.inc.h"

#endif
