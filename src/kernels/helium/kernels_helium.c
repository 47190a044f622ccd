/* The kernel set of Armv8.1-M with MVE and its float instructions (Cortex-M55, -M85), compiled where the command line
 * says that the CPU has them. What does not pay, and what the scalar FPU has to calculate, is the portable set's:
 * docs/helium.md.
 *
 * SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(HELIUM)

#include <arm_mve.h>
#include <string.h>

#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"
#include "../repeat.h"
#include "simd_helium.h"

#include "gemm_helium.h"
#include "rows_helium.h"
#include "bf16_helium.h"
#include "weights_helium.h"
#include "int8_helium.h"

#define INT8(entry) entry##_dots
#define INT8_BYTES 1
#define NATIVE (1 << QKV_ARITHMETIC_INT8)
#include "../float_products.inc.h"
#include "portable_helium.h"

#define TILE_ROWS 4
#define NT_ROWS 4
#define KERNELS qkv_kernels_helium
#define KERNELS_NAME "helium"
#define KERNELS_NEEDS QKV_CPU_MVE
#include "../table.inc.h"

#endif
