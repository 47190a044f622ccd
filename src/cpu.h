/* What the CPU and the operating system offer.  SPDX-License-Identifier: MIT */
#ifndef QKV_CPU_H
#define QKV_CPU_H

#include "config.h"

#include "qkv.h"

QKV_INTERNAL_BEGIN

/* AT_HWCAP and AT_HWCAP2 of the operating system's auxiliary vector; 0 where there is none. The only question to an
 * OS. */
uint64_t qkv_hwcap(void), qkv_hwcap2(void);

QKV_INTERNAL_END

#endif
