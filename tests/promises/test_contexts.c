/* Contexts: the list of kernel sets, and how the caller's wishes choose from it.  SPDX-License-Identifier: MIT */
#include "harness.h"

#include <stdio.h>
#include <string.h>

static const char *const names[] = {"avx512bf16", "avx512vnni", "avx512",  "avxvnni",  "avx2",
                                    "i8mm",       "dotprod",    "sve",     "neon",     "rvv",
                                    "helium",     "relaxed",    "simd128", "portable", "ref"};
enum { NUM_NAMES = sizeof names / sizeof *names };

static qkv_kernel_set query(const qkv_ctx *ctx, int32_t index) {
    qkv_kernel_set set;
    assert_int_equal(qkv_kernel_set_query(ctx, index, &set), QKV_OK);
    qt_count_words(1);
    return set;
}

/* Exactly one set is selected, the one that ctx names; all others say why they are not. */
static void expect_consistent(const qkv_ctx *ctx) {
    int selected = 0;
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++) {
        const qkv_kernel_set set = query(ctx, i);
        assert_string_equal(set.name, names[i]);
        assert_true(memchr(set.reason, 0, sizeof set.reason) != NULL);
        assert_int_equal(set.reason[0] == '\0', set.selected != 0);
        assert_true(set.available || !set.selected);
        selected += set.selected != 0;
        if (set.selected)
            assert_string_equal(set.name, ctx->isa);
    }
    assert_int_equal(selected, 1);
}

static qkv_ctx context_with(qkv_config config) {
    qkv_ctx ctx;
    config.size = sizeof config;
    const qkv_status status = qkv_init(&ctx, &config);
    QT_EXPECT(status == QKV_OK, "isa=%s max_isa=%s disabled=%llx: %s", config.isa ? config.isa : "",
              config.max_isa ? config.max_isa : "", (unsigned long long)config.disabled_features,
              qkv_status_string(status));
    expect_consistent(&ctx);
    return ctx;
}

static void test_sets_are_listed_fastest_first_and_ref_last(void) {
    qkv_ctx ctx;
    assert_int_equal(qkv_init(&ctx, NULL), QKV_OK);
    assert_int_equal(qkv_num_kernel_sets(), NUM_NAMES);
    expect_consistent(&ctx);
    assert_true(query(&ctx, NUM_NAMES - 1).available); /* ref runs everywhere */
    for (int32_t i = 0; i < NUM_NAMES; i++)
        if (query(&ctx, i).available) { /* the first that can run is the one that does */
            assert_string_equal(ctx.isa, names[i]);
            break;
        }
#if defined(__x86_64__)
    assert_string_equal(query(&ctx, 5).reason, "built for another architecture");
#else
    assert_string_equal(query(&ctx, 0).reason, "built for another architecture");
#endif
}

static void test_isa_runs_exactly_that_set(void) {
    qkv_ctx best;
    assert_int_equal(qkv_init(&best, NULL), QKV_OK);
    for (int32_t i = 0; i < NUM_NAMES; i++) {
        if (query(&best, i).available) {
            assert_string_equal(context_with((qkv_config){.isa = names[i]}).isa, names[i]);
        } else {
            qkv_ctx ctx;
            const qkv_config config = {.size = sizeof config, .isa = names[i]};
            assert_int_equal(qkv_init(&ctx, &config), QKV_ERROR_ISA_UNAVAILABLE);
        }
    }
}

static void test_max_isa_runs_none_above(void) {
    qkv_ctx best;
    assert_int_equal(qkv_init(&best, NULL), QKV_OK);
    for (int32_t cap = 0; cap < NUM_NAMES; cap++) {
        const qkv_ctx ctx = context_with((qkv_config){.max_isa = names[cap]});
        int32_t first = cap;
        while (!query(&best, first).available)
            first++;
        assert_string_equal(ctx.isa, names[first]);
        for (int32_t above = 0; above < cap; above++)
            if (query(&best, above).available) /* it could run: the reason is the caller's own */
                QT_EXPECT(strstr(query(&ctx, above).reason, "max_isa") != NULL, "%s: \"%s\"", names[above],
                          query(&ctx, above).reason);
    }
}

/* Every set needs each of its features, and the reason names the one that is missing. */
static void test_a_missing_feature_is_named(const qt_set *set) {
    int32_t index = 0;
    while (strcmp(names[index], set->name) != 0)
        index++;
    for (int bit = 0; bit < 64; bit++) {
        const uint64_t feature = UINT64_C(1) << bit;
        if (!(set->kernels->needs & feature))
            continue;
        const qkv_ctx ctx = context_with((qkv_config){.disabled_features = feature});
        const qkv_kernel_set got = query(&ctx, index);
        assert_false(got.available);
        assert_false(ctx.features & feature);
        QT_EXPECT(strstr(got.reason, qkv_cpu_feature_name(feature)) != NULL, "without %s the reason is \"%s\"",
                  qkv_cpu_feature_name(feature), got.reason);
        qkv_ctx refused;
        const qkv_config config = {.size = sizeof config, .isa = set->name, .disabled_features = feature};
        assert_int_equal(qkv_init(&refused, &config), QKV_ERROR_ISA_UNAVAILABLE);
    }
    if (set->kernels->needs == 0)
        assert_true(strcmp(set->name, "portable") == 0 || strcmp(set->name, "ref") == 0);
}

static void test_without_any_feature_the_portable_set_runs(void) {
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    const qkv_ctx none = context_with((qkv_config){.disabled_features = ~UINT64_C(0)});
    assert_string_equal(none.isa, "portable");
    assert_true(none.features == 0);
    const qkv_ctx all = context_with((qkv_config){.disabled_features = UINT64_C(1) << 63}); /* no such feature */
    assert_true(all.features == cpu.features);
}

static void test_features_have_names(void) {
    const uint64_t known = ((QKV_CPU_MVE << 1) - 1) | QKV_CPU_SIMD128 | QKV_CPU_RELAXED_FMA;
    for (int bit = 0; bit < 64; bit++) {
        const char *name = qkv_cpu_feature_name(UINT64_C(1) << bit);
        assert_int_equal(name != NULL, (int)(known >> bit & 1));
        for (int other = 0; name && other < bit; other++)
            if (known >> other & 1)
                assert_string_not_equal(name, qkv_cpu_feature_name(UINT64_C(1) << other));
    }
    assert_string_equal(qkv_cpu_feature_name(QKV_CPU_AVX2), "avx2");
    assert_null(qkv_cpu_feature_name(0));
    assert_null(qkv_cpu_feature_name(QKV_CPU_AVX2 | QKV_CPU_FMA));
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    assert_true((cpu.features & ~known) == 0);
    assert_true(memchr(cpu.name, 0, sizeof cpu.name) != NULL);
    assert_true(cpu.l1d_size >= 0 && cpu.l2_size >= 0 && cpu.l3_size >= 0);
    qt_count_words(1);
}

static void test_version_and_build_in_one_line(void) {
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", QKV_VERSION_MAJOR, QKV_VERSION_MINOR, QKV_VERSION_PATCH);
    assert_string_equal(qkv_version(), version);
    assert_true(strlen(qkv_build_info()) > 0);
    assert_null(strchr(qkv_build_info(), '\n'));
    qt_count_words(1);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("sets_are_listed_fastest_first_and_ref_last", test_sets_are_listed_fastest_first_and_ref_last);
    qt_once("isa_runs_exactly_that_set", test_isa_runs_exactly_that_set);
    qt_once("max_isa_runs_none_above", test_max_isa_runs_none_above);
    qt_each_set_and_variant("a_missing_feature_is_named", test_a_missing_feature_is_named);
    qt_once("without_any_feature_the_portable_set_runs", test_without_any_feature_the_portable_set_runs);
    qt_once("features_have_names", test_features_have_names);
    qt_once("version_and_build_in_one_line", test_version_and_build_in_one_line);
    return qt_run();
}
