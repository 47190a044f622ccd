/* The one file that asks an operating system.  SPDX-License-Identifier: MIT */
#include "cpu.h"

#if defined(__linux__) && defined(__aarch64__) && __STDC_HOSTED__
#include <sys/auxv.h>

uint64_t qkv_hwcap(void) {
    return getauxval(AT_HWCAP);
}
uint64_t qkv_hwcap2(void) {
    return getauxval(AT_HWCAP2);
}
#else
uint64_t qkv_hwcap(void) {
    return 0;
}
uint64_t qkv_hwcap2(void) {
    return 0;
}
#endif
