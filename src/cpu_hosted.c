/* The one file that asks an operating system, and only where the CPU does not tell itself; on x86 it does. Without a
 * system, or on one that is not known here, the answer is that nothing is known.
 *
 * SPDX-License-Identifier: MIT */
#include "cpu.h"

#if !__STDC_HOSTED__ || defined(__x86_64__) || defined(__i386__)
#define NOBODY_TO_ASK

#elif defined(__linux__) /* Android too */
/* Every C library with this header has the function. Others are linked all the same, as the name is weak there; only
 * there, because a weak name takes no member of a static library into a program. */
#if defined(__has_include)
#if __has_include(<sys/auxv.h>)
#include <sys/auxv.h>
#endif
#endif
#if !defined(AT_HWCAP)
extern unsigned long getauxval(unsigned long) __attribute__((weak));
#endif

static uint64_t auxiliary_value(unsigned long entry) {
    unsigned long (*const get)(unsigned long) = getauxval;
    return get ? get(entry) : 0;
}

uint64_t qkv_hwcap(void) {
    return auxiliary_value(16); /* AT_HWCAP */
}

uint64_t qkv_hwcap2(void) {
    return auxiliary_value(26); /* AT_HWCAP2 */
}

#elif defined(__FreeBSD__) || defined(__OpenBSD__) /* since FreeBSD 12 and OpenBSD 7.6; the bits are Linux's */
extern int elf_aux_info(int, void *, int) __attribute__((weak));

static uint64_t auxiliary_value(int entry) {
    unsigned long value = 0;
    return elf_aux_info && elf_aux_info(entry, &value, (int)sizeof value) == 0 ? value : 0;
}

uint64_t qkv_hwcap(void) {
    return auxiliary_value(25); /* AT_HWCAP */
}

uint64_t qkv_hwcap2(void) {
    return auxiliary_value(26); /* AT_HWCAP2 */
}

#elif defined(__APPLE__) && defined(__aarch64__) /* macOS 12, iOS 15; before that there are no such names */
extern int sysctlbyname(const char *, void *, size_t *, void *, size_t);

static uint64_t bit_if(uint64_t bit, const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0 ? bit : 0;
}

uint64_t qkv_hwcap(void) {
    return QKV_HWCAP_ASIMD | bit_if(QKV_HWCAP_ASIMDDP, "hw.optional.arm.FEAT_DotProd");
}

uint64_t qkv_hwcap2(void) {
    return bit_if(QKV_HWCAP2_I8MM, "hw.optional.arm.FEAT_I8MM");
}

#elif defined(_WIN32) && defined(__aarch64__) /* to numbers that it does not know yet a Windows says no */
__declspec(dllimport) int __stdcall IsProcessorFeaturePresent(unsigned long);

static uint64_t bit_if(uint64_t bit, unsigned long feature) {
    return IsProcessorFeaturePresent(feature) ? bit : 0;
}

uint64_t qkv_hwcap(void) {
    return QKV_HWCAP_ASIMD | bit_if(QKV_HWCAP_ASIMDDP, 43); /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
}

uint64_t qkv_hwcap2(void) {
    return bit_if(QKV_HWCAP2_I8MM, 66); /* PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE */
}

#else
#define NOBODY_TO_ASK
#endif

#if defined(NOBODY_TO_ASK)
uint64_t qkv_hwcap(void) {
    return 0;
}

uint64_t qkv_hwcap2(void) {
    return 0;
}
#endif
