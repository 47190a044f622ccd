/* CPU detection: by instructions on x86, where CPUID tells what the CPU has and XGETBV what the operating system saves;
 * by trying on WebAssembly; elsewhere by what the operating system says (cpu_hosted.c). A feature counts only if both
 * agree: a virtual machine or kernel that does not save a register file makes its instructions fault or, worse, lose
 * data.
 *
 * SPDX-License-Identifier: MIT */
#include "cpu.h"

#include <stdbool.h>
#include <string.h>

#if QKV_WASM_SIMD
#include <wasm_simd128.h>
#endif
#if QKV_X86_64
#include <cpuid.h>

typedef struct cpuid_leaf {
    uint32_t eax, ebx, ecx, edx;
} cpuid_leaf;

static cpuid_leaf cpuid(uint32_t leaf, uint32_t subleaf) {
    cpuid_leaf r = {0, 0, 0, 0};
    if (leaf <= (uint32_t)__get_cpuid_max(leaf & 0x80000000u, NULL))
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

/* XCR0: which register files the operating system saves. */
static uint64_t xgetbv0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static uint64_t x86_features(void) {
    enum { YMM = 0x6, ZMM = 0xe6 }; /* XCR0: SSE, AVX; opmask, upper halves of zmm0–15, zmm16–31 */
    const cpuid_leaf one = cpuid(1, 0), seven = cpuid(7, 0);
    const uint32_t more = seven.eax > 0 ? cpuid(7, 1).eax : 0;
    uint64_t xcr0 = one.ecx >> 27 & 1 ? xgetbv0() : 0; /* OSXSAVE */
    uint64_t found = 0;
    if ((xcr0 & YMM) == YMM) {
        found |= QKV_CPU_OS_YMM;
        found |= one.ecx >> 12 & 1 ? QKV_CPU_FMA : 0;
        found |= one.ecx >> 29 & 1 ? QKV_CPU_F16C : 0;
        found |= seven.ebx >> 5 & 1 ? QKV_CPU_AVX2 : 0;
        found |= more >> 4 & 1 ? QKV_CPU_AVXVNNI : 0;
    }
    if ((xcr0 & ZMM) == ZMM) {
        found |= QKV_CPU_OS_ZMM;
        found |= seven.ebx >> 16 & 1 ? QKV_CPU_AVX512F : 0;
        found |= seven.ebx >> 17 & 1 ? QKV_CPU_AVX512DQ : 0;
        found |= seven.ebx >> 30 & 1 ? QKV_CPU_AVX512BW : 0;
        found |= seven.ebx >> 31 & 1 ? QKV_CPU_AVX512VL : 0;
        found |= seven.ecx >> 11 & 1 ? QKV_CPU_AVX512VNNI : 0;
        found |= more >> 5 & 1 ? QKV_CPU_AVX512BF16 : 0;
    }
    return found;
}

/* Leaf 4 of Intel and leaf 0x8000001D of AMD share one format. */
static void x86_caches(qkv_cpu *cpu) {
    uint32_t leaf = cpuid(4, 0).eax & 31 ? 4 : 0x8000001du;
    for (uint32_t i = 0; i < 16; i++) {
        cpuid_leaf r = cpuid(leaf, i);
        uint32_t type = r.eax & 31, level = r.eax >> 5 & 7;
        if (type == 0)
            break;
        int64_t ways = (r.ebx >> 22) + 1, partitions = (r.ebx >> 12 & 1023) + 1, line = (r.ebx & 4095) + 1;
        int64_t size = ways * partitions * line * ((int64_t)r.ecx + 1);
        if (level == 1 && type == 1)
            cpu->l1d_size = size;
        else if (level == 2)
            cpu->l2_size = size;
        else if (level == 3)
            cpu->l3_size = size;
    }
}

static void x86_name(char name[64]) {
    char text[49] = {0};
    for (uint32_t i = 0; i < 3; i++) {
        cpuid_leaf r = cpuid(0x80000002u + i, 0);
        memcpy(text + 16 * i, &r, 16);
    }
    const char *start = text;
    while (*start == ' ')
        start++;
    memcpy(name, start, 48 - (size_t)(start - text));
}
#endif

#if QKV_WASM_SIMD
/* Engines may round relaxed SIMD's multiply-add once or twice, but must do the same all the time. (1 + 2⁻¹²)² is
 * 1 + 2⁻¹¹ + 2⁻²⁴: only a product that is not rounded leaves 2⁻²⁴. */
static uint64_t wasm_features(void) {
#if QKV_WASM_RELAXED
    v128_t a = wasm_f32x4_splat(0x1.001p0f), c = wasm_f32x4_splat(-0x1.002p0f);
    QKV_OPAQUE(a);
    QKV_OPAQUE(c);
    const v128_t up = wasm_f32x4_relaxed_madd(a, a, c), down = wasm_f32x4_relaxed_nmadd(a, a, wasm_f32x4_neg(c));
    const v128_t want = wasm_f32x4_splat(0x1p-24f);
    const bool fused =
        wasm_i32x4_all_true(wasm_f32x4_eq(up, want)) && wasm_i32x4_all_true(wasm_f32x4_eq(wasm_f32x4_neg(down), want));
    return fused ? QKV_CPU_RELAXED_FMA : 0;
#else
    return 0;
#endif
}
#endif

#if QKV_HELIUM
/* The cumulative flags of FPSCR after x·x in a vector. The caller's stay set. */
static uint32_t flags_of_square(uint32_t x) {
    uint32_t before, after;
    __asm__ volatile("vmrs %0, fpscr\n\t"
                     "bic %1, %0, #0x9f\n\t"
                     "vmsr fpscr, %1\n\t"
                     "vdup.32 q0, %2\n\t"
                     "vmul.f32 q0, q0, q0\n\t"
                     "vmrs %1, fpscr\n\t"
                     "vmsr fpscr, %0"
                     : "=&r"(before), "=&r"(after)
                     : "r"(x)
                     : "s0", "s1", "s2", "s3");
    return after;
}
#endif

#if QKV_RISCV64 && !defined(__riscv_v)
/* Some kernels say V of the draft 0.7.1 too. To that, vtype of e8, m1, ta, ma is illegal, which its highest bit says.
 * As numbers, since not every assembler knows vsetvli and vtype. */
static bool is_rvv_1_0(void) {
    int64_t vtype;
    __asm__ volatile(".4byte 0x0c0072d7\n\tcsrr %0, 0xc21" : "=r"(vtype) : : "t0"); /* vsetvli t0, zero, … */
    return vtype >= 0;
}
#endif

void qkv_cpu_query(qkv_cpu *cpu) {
    memset(cpu, 0, sizeof *cpu);
#if QKV_X86_64
    cpu->features = x86_features();
    x86_caches(cpu);
    x86_name(cpu->name);
#elif QKV_AARCH64
    uint64_t hwcap = qkv_hwcap();
    /* Where nothing is known (bare metal, other systems) the architecture's base holds. */
    cpu->features = hwcap == 0 || (hwcap & QKV_HWCAP_ASIMD) ? QKV_CPU_NEON : 0;
    cpu->features |= hwcap & QKV_HWCAP_ASIMDDP ? QKV_CPU_DOTPROD : 0;
    cpu->features |= hwcap & QKV_HWCAP_SVE ? QKV_CPU_SVE : 0;
    cpu->features |= qkv_hwcap2() & QKV_HWCAP2_I8MM ? QKV_CPU_I8MM : 0;
#if defined(__ARM_FEATURE_DOTPROD) /* all code here may use it */
    cpu->features |= QKV_CPU_DOTPROD;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
    cpu->features |= QKV_CPU_I8MM;
#endif
#if defined(__ARM_FEATURE_SVE)
    cpu->features |= QKV_CPU_SVE;
#endif
#elif QKV_WASM_SIMD /* an engine that runs this module has what it was compiled for */
    cpu->features = QKV_CPU_SIMD128 | wasm_features();
#elif QKV_HELIUM
    /* An instruction that flushes has to say so: FPSCR.IDC of an operand (2⁻¹²⁷), FPSCR.UFC of a result (2⁻²⁰⁰). */
    enum { IDC = 1 << 7, UFC = 1 << 3 };
    cpu->features = (flags_of_square(0x00400000) & IDC) && (flags_of_square(0x0d800000) & UFC) ? QKV_CPU_MVE : 0;
#elif QKV_RISCV64
#if defined(__riscv_v) /* all code here may use it */
    cpu->features = QKV_CPU_RVV;
#else
    enum { HWCAP_V = 1 << ('V' - 'A') };
    cpu->features = (qkv_hwcap() & HWCAP_V) && is_rvv_1_0() ? QKV_CPU_RVV : 0;
#endif
#endif
}

const char *qkv_cpu_feature_name(uint64_t feature) {
    switch (feature) {
    case QKV_CPU_AVX2: return "avx2";
    case QKV_CPU_FMA: return "fma";
    case QKV_CPU_F16C: return "f16c";
    case QKV_CPU_AVX512F: return "avx512f";
    case QKV_CPU_AVX512BW: return "avx512bw";
    case QKV_CPU_AVX512DQ: return "avx512dq";
    case QKV_CPU_AVX512VL: return "avx512vl";
    case QKV_CPU_AVX512VNNI: return "avx512vnni";
    case QKV_CPU_AVX512BF16: return "avx512bf16";
    case QKV_CPU_AVXVNNI: return "avxvnni";
    case QKV_CPU_NEON: return "neon";
    case QKV_CPU_DOTPROD: return "dotprod";
    case QKV_CPU_I8MM: return "i8mm";
    case QKV_CPU_SVE: return "sve";
    case QKV_CPU_RVV: return "rvv";
    case QKV_CPU_SIMD128: return "simd128";
    case QKV_CPU_RELAXED_FMA: return "relaxed_fma";
    case QKV_CPU_MVE: return "mve";
    case QKV_CPU_OS_YMM: return "os_ymm";
    case QKV_CPU_OS_ZMM: return "os_zmm";
    default: return NULL;
    }
}
