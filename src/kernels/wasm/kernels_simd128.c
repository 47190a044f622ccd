/* The kernel set of WebAssembly with 128-bit SIMD, in modules compiled for it (-msimd128). SIMD has no fma: it is
 * emulated, exactly.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(SIMD128)

#include <string.h>
#include <wasm_simd128.h>

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"
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

#define KERNELS qkv_kernels_simd128
#define KERNELS_NAME "simd128"
#define KERNELS_NEEDS QKV_CPU_SIMD128
#include "../table.inc.h"

#endif
