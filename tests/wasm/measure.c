/* What each kernel set costs in an engine of WebAssembly, beside loops of plain C: sh tests/wasm/run.sh measure. Every
 * result is compared with the reference's before it is timed.  SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

enum { ROWS = 48, COLS = 256, TERMS = QKV_CHAIN, KEYS = 512, DIM = 64, FLOATS = 4096 };

static _Alignas(64) float a[ROWS * TERMS], b[TERMS * COLS], few_bits[TERMS * COLS], c[ROWS * COLS], want[ROWS * COLS];
static _Alignas(64) float q[KEYS * DIM], k[KEYS * DIM], v[KEYS * DIM], out[KEYS * DIM], want_out[KEYS * DIM];
static _Alignas(64) float y[FLOATS], exponents[FLOATS], want_y[FLOATS];
static qkv_ctx ctx;

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void multiply(const float *by) {
    ctx.kernels->gemm(c, COLS, a, TERMS, by, QKV_PANEL, TERMS * QKV_PANEL, ROWS, COLS, TERMS, 0, NULL);
}

static void by_gemm(void) {
    multiply(b);
}

/* As weights in bfloat16 are: sums with few bits lie halfway between floats more often. */
static void by_gemm_of_few_bits(void) {
    multiply(few_bits);
}

static void by_exp2(void) {
    memcpy(y, exponents, sizeof y);
    ctx.kernels->exp2(y, FLOATS);
}

static void by_attention(void) {
    static _Alignas(64) unsigned char workspace[1 << 22];
    qkv_attention_desc d = {.size = sizeof d,
                            .batch = 1,
                            .num_heads = 1,
                            .seq_q = KEYS,
                            .seq_k = KEYS,
                            .head_dim = DIM,
                            .q = {q, 0, 0, DIM},
                            .k = {k, 0, 0, DIM},
                            .v = {v, 0, 0, DIM},
                            .out = {out, 0, 0, DIM}};
    qkv_plan plan;
    if (qkv_attention_plan(&ctx, &d, 1, &plan) != QKV_OK ||
        qkv_attention_run(&plan, &d, workspace, sizeof workspace) != QKV_OK)
        abort();
}

/* The usual loops; a multiply and an add each, and no promise of the bits. */
static void by_plain_loops(void) {
    memset(c, 0, sizeof c);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t panel = 0; panel < COLS / QKV_PANEL; panel++)
            for (size_t x = 0; x < TERMS; x++) {
                const float *restrict row = b + (panel * TERMS + x) * QKV_PANEL, factor = a[i * TERMS + x];
                float *restrict sum = c + i * COLS + panel * QKV_PANEL;
                for (size_t j = 0; j < QKV_PANEL; j++)
                    sum[j] += factor * row[j];
            }
}

/* The best of several times of run, each of a twentieth of a second or more. */
static double best(void (*run)(void)) {
    double least = 1e9;
    for (int trial = 0; trial < 5; trial++) {
        const double begin = seconds();
        double now;
        int runs = 0;
        do {
            run();
            runs++;
            now = seconds();
        } while (now - begin < 0.05);
        if ((now - begin) / runs < least)
            least = (now - begin) / runs;
    }
    return least;
}

static void compare(const char *what, const float *expected, const float *got, size_t bytes) {
    if (memcmp(expected, got, bytes) != 0) {
        printf("%s: %s differs from ref\n", ctx.isa, what);
        exit(1);
    }
}

static void fill(float *x, size_t n, uint32_t seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
}

int main(void) {
    fill(a, ROWS * TERMS, 1);
    fill(b, TERMS * COLS, 2);
    fill(q, KEYS * DIM, 3);
    fill(k, KEYS * DIM, 4);
    fill(v, KEYS * DIM, 5);
    fill(exponents, FLOATS, 6);
    for (size_t i = 0; i < TERMS * COLS; i++)
        few_bits[i] = (float)(int)(b[i] * 128) * 0x1p-7f;
    for (size_t i = 0; i < FLOATS; i++)
        exponents[i] = exponents[i] * 20 - 20;
    printf("%-9s %27s %21s %19s %21s\n", "", "gemm 48x256, k 128", "B of 8 bits", "exp2 of 4096",
           "attention 512x512x64");
    for (int32_t i = qkv_num_kernel_sets(); i-- > 0;) {
        qkv_kernel_set set;
        qkv_init(&ctx, NULL);
        qkv_kernel_set_query(&ctx, i, &set);
        if (!set.available)
            continue;
        qkv_init(&ctx, &(qkv_config){.size = sizeof(qkv_config), .isa = set.name});
        by_gemm();
        by_exp2();
        by_attention();
        if (strcmp(set.name, "ref") == 0) {
            memcpy(want, c, sizeof c);
            memcpy(want_y, y, sizeof y);
            memcpy(want_out, out, sizeof out);
            continue;
        }
        compare("gemm", want, c, sizeof c);
        compare("exp2", want_y, y, sizeof y);
        compare("attention", want_out, out, sizeof out);
        const double product = best(by_gemm), few = best(by_gemm_of_few_bits), powers = best(by_exp2);
        const double attention = best(by_attention);
        printf("%-9s %10.3f ms %5.1f GFLOP/s %18.3f ms %16.3f ms %18.3f ms\n", set.name, product * 1e3,
               2e-9 * ROWS * COLS * TERMS / product, few * 1e3, powers * 1e3, attention * 1e3);
    }
    const double plain = best(by_plain_loops);
    printf("%-9s %10.3f ms %5.1f GFLOP/s\n", "plain C", plain * 1e3, 2e-9 * ROWS * COLS * TERMS / plain);
    return 0;
}
