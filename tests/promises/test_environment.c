/* What a call leaves as it found it: errno, the control bits of the floating-point unit, clean upper vector registers.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <errno.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define FP_CONTROL_BITS 0xffc0u /* masks, rounding, flush-to-zero and denormals-are-zero; the rest are sticky flags */
enum { ROUND_TO_ZERO = 0x6000, FLUSH_TO_ZERO = 0x8040 };

static uint64_t control(void) {
    return _mm_getcsr() & FP_CONTROL_BITS;
}

static void set_control(uint64_t bits) {
    _mm_setcsr((unsigned)bits);
}

/* XINUSE: which register parts hold something else than zero. */
static uint32_t in_use(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    return low & (1u << 2 | 1u << 6); /* the upper halves of ymm0–15, of zmm0–15 */
}

static bool has_xinuse(void) {
    unsigned a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c & 1u << 27) || !(c & 1u << 28)) /* OSXSAVE, AVX */
        return false;
    __cpuid_count(13, 1, a, b, c, d);
    return (a & 1u << 2) != 0;
}

/* In assembly: in a function for AVX the compiler would clean up by itself. */
static void dirty_upper(void) {
    __asm__ volatile("vcmpps $15, %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); /* all ones */
}

static void clean_upper(void) {
    __asm__ volatile("vzeroupper");
}
#elif defined(__aarch64__)
enum { ROUND_TO_ZERO = 3 << 22, FLUSH_TO_ZERO = 1 << 24 };

static uint64_t control(void) {
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
}

static void set_control(uint64_t bits) {
    __asm__ volatile("msr fpcr, %0" : : "r"(bits));
}
#endif

/* One small problem for each operation. */
typedef struct calls {
    const qt_set *set;
    qkv_pack_desc pack;
    qkv_projection_desc projection;
    qkv_attention_desc attention;
    qkv_merge_desc merge;
    qkv_layer_desc layer;
    void *packed, *workspace;
    qkv_plan plan[4];
} calls;

enum { NUM_CALLS = 17, ROOM = 1 << 20 };

static qkv_status call(calls *c, int which) {
    const qkv_ctx *ctx = &c->set->ctx;
    qt_pool pool = {2, 0};
    qkv_ctx fresh;
    qkv_kernel_set set;
    qkv_cpu cpu;
    float slopes[12];
    size_t bytes;
    switch (which) {
    case 0: return qkv_init(&fresh, NULL);
    case 1: qkv_cpu_query(&cpu); return QKV_OK;
    case 2: return qkv_kernel_set_query(ctx, 0, &set);
    case 3: return qkv_alibi_slopes(12, slopes);
    case 4: return qkv_packed_size(&c->pack, &bytes);
    case 5: return qkv_pack(ctx, &c->pack, c->packed);
    case 6: return qkv_unpack(&c->pack, c->packed);
    case 7: return qkv_projection_plan(ctx, &c->projection, 2, &c->plan[0]);
    case 8: return qkv_projection_run(&c->plan[0], &c->projection, c->workspace, ROOM);
    case 9: return qkv_attention_plan(ctx, &c->attention, 2, &c->plan[1]);
    case 10: return qkv_attention_run(&c->plan[1], &c->attention, c->workspace, ROOM);
    case 11: return qkv_attention_run_parallel(&c->plan[1], &c->attention, c->workspace, ROOM, qt_parallel_for, &pool);
    case 12: return qkv_attention_check(&c->plan[1], &c->attention, c->workspace, ROOM);
    case 13: return qkv_merge_plan(ctx, &c->merge, 2, &c->plan[2]);
    case 14: return qkv_merge_run(&c->plan[2], &c->merge, c->workspace, ROOM);
    case 15: return qkv_layer_plan(ctx, &c->layer, 2, &c->plan[3]);
    default: return qkv_layer_run(&c->plan[3], &c->layer, c->workspace, ROOM);
    }
}

static calls *prepare(const qt_set *set, qt_rng *rng, attention_case *storage) {
    static calls c;
    memset(&c, 0, sizeof c);
    c.set = set;
    case_plain(rng, storage, 1, 4, 2, 20, 300, 33, 35);
    c.attention = storage->desc;
    c.attention.softcap = 30;
    c.attention.flags = QKV_RIGHT;
    c.attention.q_offset = 280;
    float *w = case_floats(rng, 40 * 70), *x = case_floats(rng, 20 * 40), *y = case_floats(rng, 20 * 70);
    qt_fill(rng, w, 40 * 70, QT_NORMAL);
    qt_fill(rng, x, 20 * 40, QT_NORMAL);
    c.packed = qt_alloc(2 * 40 * QKV_PANEL * sizeof(float), 64, QT_TAIL);
    c.workspace = qt_alloc(ROOM, 64, QT_TAIL);
    c.pack = (qkv_pack_desc){
        .size = sizeof c.pack,
        .in_features = 40,
        .num_parts = 1,
        .part = {{.data = w, .unpacked = case_floats(rng, 40 * 70), .out_features = 70, .layout = QKV_OUT_IN}}};
    c.projection = (qkv_projection_desc){.size = sizeof c.projection,
                                         .batch = 1,
                                         .tokens = 20,
                                         .in_features = 40,
                                         .num_parts = 1,
                                         .x = {x, 0, 0, 40},
                                         .packed = c.packed,
                                         .part = {{.out_features = 70, .out = {y, 0, 0, 70}}}};
    c.merge = (qkv_merge_desc){.size = sizeof c.merge,
                               .batch = 1,
                               .num_heads = 2,
                               .seq_q = 5,
                               .head_dim_v = 4,
                               .num_parts = 2,
                               .part_out = {x, 0, 20, 4},
                               .part_out_stride = 40,
                               .part_lse = {w, 0, 5, 1},
                               .part_lse_stride = 10,
                               .out = {case_floats(rng, 40), 0, 20, 4}};
    c.layer = (qkv_layer_desc){
        .size = sizeof c.layer,
        .model_dim = 40,
        .out_features = 80,
        .x = {x, 0, 0, 40},
        .out = {case_floats(rng, 1600), 0, 0, 80},
        .attention = {
            .size = sizeof c.attention, .batch = 1, .num_heads = 2, .seq_q = 20, .seq_k = 20, .head_dim = 40}};
    return &c;
}

static void test_errno_stays(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case storage;
    calls *c = prepare(set, &rng, &storage);
    for (int which = 0; which < NUM_CALLS; which++) {
        errno = 4711;
        const qkv_status status = call(c, which);
        const int after = errno;
        QT_EXPECT(status == QKV_OK && after == 4711, "call %d: status %d, errno %d", which, (int)status, after);
        qt_count_words(1);
    }
}

/* Whatever the caller has set, other rounding and flush-to-zero included. */
static void test_floating_point_control_stays(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
#if defined(__x86_64__) || defined(__aarch64__)
    attention_case storage;
    calls *c = prepare(set, &rng, &storage);
    const uint64_t usual = control(), modes[] = {usual, usual | ROUND_TO_ZERO, usual | FLUSH_TO_ZERO,
                                                 usual | ROUND_TO_ZERO | FLUSH_TO_ZERO};
    for (int mode = 0; mode < 4; mode++)
        for (int which = 0; which < NUM_CALLS; which++) {
            set_control(modes[mode]);
            const uint64_t before = control();
            const qkv_status status = call(c, which);
            const uint64_t after = control();
            set_control(usual);
            QT_EXPECT(status == QKV_OK && before == after, "call %d: status %d, control bits %llx before, %llx after",
                      which, (int)status, (unsigned long long)before, (unsigned long long)after);
            qt_count_words(1);
        }
#else
    (void)set;
    qt_skip("no access to the floating-point control of this architecture");
#endif
}

/* AVX code that returns with upper halves in use makes the caller's SSE code slow. */
static void test_upper_vector_registers_are_clean(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
#if defined(__x86_64__)
    if (!has_xinuse())
        qt_skip("the processor does not tell which registers are in use (XGETBV with ECX = 1)");
    dirty_upper();
    const uint32_t dirty = in_use();
    clean_upper();
    const uint32_t clean = in_use();
    if (dirty == 0 || clean != 0)
        qt_skip("XGETBV with ECX = 1 does not follow the registers here");
    attention_case storage;
    calls *c = prepare(set, &rng, &storage);
    for (int which = 0; which < NUM_CALLS; which++) {
        clean_upper();
        const qkv_status status = call(c, which);
        const uint32_t after = in_use();
        clean_upper();
        QT_EXPECT(status == QKV_OK && after == 0, "call %d: status %d, registers in use %x", which, (int)status, after);
        qt_count_words(1);
    }
#else
    (void)set;
    qt_skip("only x86 has upper halves to clean");
#endif
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("errno_stays", test_errno_stays);
    qt_each_set("floating_point_control_stays", test_floating_point_control_stays);
    qt_each_set("upper_vector_registers_are_clean", test_upper_vector_registers_are_clean);
    return qt_run();
}
