/* The AVX2 kernels with the set "avxvnni" for CPUs without AVX-VNNI: its one instruction in AVX2.
 *
 * SPDX-License-Identifier: MIT */
#include <immintrin.h>

#include "emulated_dpbusd.h"

#include "kernels/kernels.h"

#undef QKV_CPU_AVXVNNI
#define QKV_CPU_AVXVNNI 0
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd

#include "kernels/avx2/kernels_avx2.c"
