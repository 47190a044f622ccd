/* qkv-info: what the library sees of this machine, which kernel set it runs and why not a faster one; with --selftest,
 * whether all sets agree. Its output belongs in a bug report.
 *
 * SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qkv.h>

#include "selftest.h"

static const char usage[] =
    "usage: qkv-info [--json | --selftest] [--isa NAME]\n"
    "  --json      the same facts as JSON\n"
    "  --selftest  check every available kernel set against the reference, for about two seconds\n"
    "  --isa NAME  choose this kernel set; the environment variable QKV_ISA does the same\n";

static void print_size(const char *name, int64_t bytes) {
    if (bytes <= 0)
        printf("  %s unknown", name);
    else if (bytes % (1 << 20) == 0)
        printf("  %s %lld MiB", name, (long long)(bytes >> 20));
    else
        printf("  %s %lld KiB", name, (long long)(bytes >> 10));
}

static const char *next_feature(uint64_t features, int *bit) {
    while (*bit < 64) {
        const uint64_t feature = UINT64_C(1) << (*bit)++;
        const char *name = qkv_cpu_feature_name(feature);
        if ((features & feature) && name != NULL)
            return name;
    }
    return NULL;
}

static int has(const qkv_kernel_set *set, int arithmetic) {
    return set->available && (set->arithmetics >> arithmetic & 1);
}

static void print_text(const qkv_ctx *ctx, const qkv_cpu *cpu) {
    const char *feature;
    printf("qkv       %s\n", qkv_version());
    printf("build     %s\n", qkv_build_info());
    printf("cpu       %s\n", cpu->name[0] != '\0' ? cpu->name : "unknown");
    printf("features ");
    for (int bit = 0; (feature = next_feature(cpu->features, &bit)) != NULL;)
        printf(" %s", feature);
    printf("\ncaches  ");
    print_size("L1d", cpu->l1d_size);
    print_size("L2", cpu->l2_size);
    print_size("L3", cpu->l3_size);
    printf("\nkernel sets, the fastest first\n");
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set set;
        if (qkv_kernel_set_query(ctx, i, &set) != QKV_OK)
            continue;
        printf("  %-10s %s%s%s%s\n", set.name,
               set.selected    ? "selected"
               : set.available ? "available"
                               : "unavailable",
               set.reason[0] ? ": " : "", set.reason,
               has(&set, QKV_ARITHMETIC_BF16)   ? " (dot products in int8 and bf16)"
               : has(&set, QKV_ARITHMETIC_INT8) ? " (dot products in int8)"
                                                : "");
    }
}

static void print_json_string(const char *name, const char *text, const char *end) {
    printf("\"%s\": \"", name);
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    printf("\"%s", end);
}

static void print_json(const qkv_ctx *ctx, const qkv_cpu *cpu) {
    const char *feature, *comma = "";
    printf("{");
    print_json_string("version", qkv_version(), ", ");
    print_json_string("build", qkv_build_info(), ",\n \"cpu\": {");
    print_json_string("name", cpu->name, ", \"features\": [");
    for (int bit = 0; (feature = next_feature(cpu->features, &bit)) != NULL; comma = ", ")
        printf("%s\"%s\"", comma, feature);
    printf("],\n  \"l1d_size\": %lld, \"l2_size\": %lld, \"l3_size\": %lld},\n ", (long long)cpu->l1d_size,
           (long long)cpu->l2_size, (long long)cpu->l3_size);
    print_json_string("isa", ctx->isa, ",\n \"kernel_sets\": [");
    comma = "\n";
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++, comma = ",\n") {
        qkv_kernel_set set;
        if (qkv_kernel_set_query(ctx, i, &set) != QKV_OK)
            continue;
        printf("%s  {", comma);
        print_json_string("name", set.name, ", ");
        printf("\"available\": %s, \"selected\": %s, ", set.available ? "true" : "false",
               set.selected ? "true" : "false");
        printf("\"arithmetics\": [\"f32\"%s%s], ", set.arithmetics >> QKV_ARITHMETIC_INT8 & 1 ? ", \"int8\"" : "",
               set.arithmetics >> QKV_ARITHMETIC_BF16 & 1 ? ", \"bf16\"" : "");
        print_json_string("reason", set.reason, "}");
    }
    printf("]}\n");
}

/* The context of the kernel set asked for, or a message and 0. */
static int choose(qkv_ctx *ctx, const char *isa) {
    const qkv_config config = {.size = sizeof config, .isa = isa};
    const qkv_status status = qkv_init(ctx, &config);
    if (status == QKV_OK)
        return 1;
    fprintf(stderr, "qkv-info: %s: %s", isa, qkv_status_string(status));
    qkv_ctx best;
    const int known = qkv_init(&best, NULL) == QKV_OK;
    for (int32_t i = 0; known && i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set set;
        if (qkv_kernel_set_query(&best, i, &set) == QKV_OK && strcmp(set.name, isa) == 0)
            fprintf(stderr, " (%s)", set.reason);
    }
    fputc('\n', stderr);
    return 0;
}

int main(int argc, char **argv) {
    const char *isa = getenv("QKV_ISA");
    int json = 0, test = 0;
    if (isa != NULL && isa[0] == '\0')
        isa = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = 1;
        } else if (strcmp(argv[i], "--selftest") == 0) {
            test = 1;
        } else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            isa = argv[++i];
        } else if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        } else {
            fputs(usage, stderr);
            return 2;
        }
    }
    if (json && test) {
        fputs(usage, stderr);
        return 2;
    }

    qkv_ctx ctx;
    qkv_cpu cpu;
    if (!choose(&ctx, isa))
        return 1;
    qkv_cpu_query(&cpu);
    if (json)
        print_json(&ctx, &cpu);
    else
        print_text(&ctx, &cpu);
    return test ? selftest(isa) : 0;
}
