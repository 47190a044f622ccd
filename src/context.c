/* The list of kernel sets, and the choice among them.  SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include <string.h>

#include "kernels/kernels.h"
#include "plan.h"

#define TABLE_0(name) NULL
#define TABLE_1(name) &qkv_kernels_##name
#define TABLE_(with, name) TABLE_##with(name)
#define TABLE(with, name) TABLE_(with, name)
#define SET(name, of_architecture, with)                                                                               \
    { #name, of_architecture, TABLE(with, name) }

/* Best first, "ref" last. Adding an instruction set adds one line. A set of another architecture, one that the compiler
 * does not know, or that is left out has no table.
 *
 * Nobody has measured "sve" on a CPU: it stands where it is chosen by itself only on one without dotprod (A64FX), where
 * vectors are four times as long as neon's; elsewhere by name. Nor "rvv", but portable has no vectors at all there. */
static const struct {
    const char *name;
    bool of_architecture; /* whether it is one for this architecture */
    const qkv_kernels *kernels;
} sets[] = {
    SET(avx512bf16, QKV_X86_64, QKV_WITH(AVX512VNNI)),
    SET(avx512vnni, QKV_X86_64, QKV_WITH(AVX512VNNI)),
    SET(avx512, QKV_X86_64, QKV_WITH(AVX512)),
    SET(avxvnni, QKV_X86_64, QKV_WITH(AVXVNNI)),
    SET(avx2, QKV_X86_64, QKV_WITH(AVX2)),
    SET(i8mm, QKV_AARCH64, QKV_WITH(DOTPROD)),
    SET(dotprod, QKV_AARCH64, QKV_WITH(DOTPROD)),
    SET(sve, QKV_AARCH64, QKV_WITH(SVE)),
    SET(neon, QKV_AARCH64, QKV_WITH(NEON)),
    SET(rvv, QKV_RISCV64, QKV_WITH(RVV)),
    SET(helium, QKV_HELIUM, QKV_WITH(HELIUM)),
    SET(relaxed, QKV_WASM, QKV_WITH(RELAXED)),
    SET(simd128, QKV_WASM, QKV_WITH(SIMD128)),
    SET(portable, true, QKV_WITH(PORTABLE)),
    SET(ref, true, 1),
};

enum { NUM_SETS = sizeof sets / sizeof sets[0] };

/* No string functions: the library needs memcpy, memset, memmove and memcmp only. */
static bool same(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static int find_set(const char *name) {
    for (int i = 0; i < NUM_SETS; i++) {
        if (same(sets[i].name, name))
            return i;
    }
    return -1;
}

static bool can_run(int i, uint64_t features) {
    return sets[i].kernels && (sets[i].kernels->needs & ~features) == 0;
}

qkv_status qkv_init(qkv_ctx *ctx, const qkv_config *config) {
    if (!ctx)
        return QKV_ERROR_NULL;
    qkv_config wanted = {0};
    if (config) {
        qkv_problem unused = {0};
        qkv_status status = qkv_import(&wanted, sizeof wanted, config, &unused);
        if (status != QKV_OK)
            return status;
    }
    if (wanted.isa && wanted.max_isa)
        return QKV_ERROR_FLAGS;

    int first = 0, last = NUM_SETS - 1;
    if (wanted.isa)
        first = last = find_set(wanted.isa);
    else if (wanted.max_isa)
        first = find_set(wanted.max_isa);
    if (first < 0)
        return QKV_ERROR_ISA_UNKNOWN;

    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    uint64_t features = cpu.features & ~wanted.disabled_features;
    uint64_t allowed = 0;
    int chosen = -1;
    for (int i = first; i <= last; i++) {
        allowed |= UINT64_C(1) << i;
        if (chosen < 0 && can_run(i, features))
            chosen = i;
    }
    if (chosen < 0)
        return QKV_ERROR_ISA_UNAVAILABLE;
    *ctx = (qkv_ctx){.kernels = sets[chosen].kernels,
                     .isa = sets[chosen].name,
                     .features = features,
                     .l1d_size = cpu.l1d_size,
                     .l2_size = cpu.l2_size,
                     .l3_size = cpu.l3_size,
                     .allowed = allowed};
    return QKV_OK;
}

int32_t qkv_num_kernel_sets(void) {
    return NUM_SETS;
}

/* Appends text to a string of the given capacity, cut where it is full. */
static void append(char *to, size_t capacity, const char *text) {
    size_t used = 0;
    while (used + 1 < capacity && to[used]) /* without the bound compilers would call strlen */
        used++;
    for (; *text && used + 1 < capacity; text++)
        to[used++] = *text;
    to[used] = 0;
}

qkv_status qkv_kernel_set_query(const qkv_ctx *ctx, int32_t index, qkv_kernel_set *set) {
    if (!ctx || !set)
        return QKV_ERROR_NULL;
    if (index < 0 || index >= NUM_SETS)
        return QKV_ERROR_SHAPE;
    const qkv_kernels *kernels = sets[index].kernels;
    memset(set, 0, sizeof *set);
    set->name = sets[index].name;
    set->available = can_run(index, ctx->features);
    set->selected = kernels && kernels == ctx->kernels;
    set->arithmetics = kernels ? kernels->native : 0;
    if (set->selected)
        return QKV_OK;
    if (!kernels) {
        const bool absent = sets[index].of_architecture;
        append(set->reason, sizeof set->reason,
               absent ? "left out, or not in this compiler or its options" : "built for another architecture");
    } else if (!set->available) {
        append(set->reason, sizeof set->reason, "missing:");
        uint64_t missing = kernels->needs & ~ctx->features;
        for (int bit = 0; bit < 64; bit++) {
            if (missing >> bit & 1) {
                append(set->reason, sizeof set->reason, " ");
                append(set->reason, sizeof set->reason, qkv_cpu_feature_name(UINT64_C(1) << bit));
            }
        }
    } else if (!(ctx->allowed >> index & 1)) {
        append(set->reason, sizeof set->reason, "excluded by the caller's isa or max_isa");
    } else {
        append(set->reason, sizeof set->reason, "a faster set runs");
    }
    return QKV_OK;
}
