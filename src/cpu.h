/* What the CPU and the operating system offer.  SPDX-License-Identifier: MIT */
#ifndef QKV_CPU_H
#define QKV_CPU_H

#include "config.h"

#include "qkv.h"

QKV_INTERNAL_BEGIN

/* What the operating system says of the CPU, in Linux's bits for this architecture wherever they come from: its
 * AT_HWCAP and AT_HWCAP2. 0 where nothing is known. The only question to an OS. */
uint64_t qkv_hwcap(void), qkv_hwcap2(void);

/* Those of AArch64. */
enum { QKV_HWCAP_ASIMD = 1 << 1, QKV_HWCAP_ASIMDDP = 1 << 20, QKV_HWCAP_SVE = 1 << 22, QKV_HWCAP2_I8MM = 1 << 13 };

QKV_INTERNAL_END

#endif
