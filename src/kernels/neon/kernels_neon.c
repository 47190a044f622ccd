/* The NEON kernel set: AArch64, where Advanced SIMD with fma is part of the base.  SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_AARCH64

#include <arm_neon.h>
#include <string.h>

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

#define KERNELS qkv_kernels_neon
#define KERNELS_NAME "neon"
#define KERNELS_NEEDS QKV_CPU_NEON
#include "../table.inc.h"

#endif
