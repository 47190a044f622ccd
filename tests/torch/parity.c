/* Attention forward and backward on tensors from standard input, for tests/torch/test_autograd.py.
 *
 * Input: 16 int64 (batch, num_heads, num_kv_heads, seq_q, seq_k, head_dim, head_dim_v, flags, left, right, q_offset,
 * has keep, bias, sinks, dLSE; threads), 2 floats (scale, softcap), then contiguous [batch][head][token][channel] q, k,
 * v, dO as floats; keep (uint8) and bias (float) of [num_heads][seq_q][seq_k], sinks, dLSE where there are any.
 * Output: out, lse, dQ, dK, dV, dbias, dsink as floats; the last two where there is a bias or sinks.
 *
 * SPDX-License-Identifier: MIT */
#include "qkv.h"

#include <stdio.h>
#include <stdlib.h>

static void *allocate(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!p)
        exit(2);
    return p;
}

static void *read_array(int64_t n, size_t element) {
    void *p = allocate((size_t)n * element);
    if (fread(p, element, (size_t)n, stdin) != (size_t)n)
        exit(3);
    return p;
}

static qkv_output output(int64_t heads, int64_t tokens, int64_t channels, int64_t batch) {
    float *data = allocate((size_t)(batch * heads * tokens * channels) * sizeof(float));
    return (qkv_output){data, heads * tokens * channels, tokens * channels, channels};
}

static void write_floats(const void *x, int64_t n) {
    if (fwrite(x, sizeof(float), (size_t)n, stdout) != (size_t)n)
        exit(4);
}

static void require(qkv_status status, const char *what) {
    if (status == QKV_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, qkv_status_string(status));
    exit(1);
}

/* Threads do not matter for the bits; more than one makes the plan a wavefront, whose tasks this runs in turn. */
static void run_backward(const qkv_ctx *ctx, const qkv_attention_backward_desc *d, int32_t threads) {
    qkv_plan plan;
    require(qkv_attention_backward_plan(ctx, d, threads, &plan), "backward plan");
    require(qkv_attention_backward_run(&plan, d, allocate(plan.workspace_size), plan.workspace_size), "backward run");
}

int main(void) {
    const int64_t *n = read_array(16, sizeof(int64_t));
    const float *f = read_array(2, sizeof(float));
    const int64_t batch = n[0], hq = n[1], hkv = n[2], sq = n[3], sk = n[4], dk = n[5], dv = n[6];
    qkv_attention_desc a = {.size = sizeof a,
                            .batch = batch,
                            .num_heads = hq,
                            .num_kv_heads = hkv,
                            .seq_q = sq,
                            .seq_k = sk,
                            .head_dim = dk,
                            .head_dim_v = dv,
                            .scale = f[0],
                            .softcap = f[1],
                            .flags = (uint32_t)n[7],
                            .left = n[8],
                            .right = n[9],
                            .q_offset = n[10]};
    a.q = (qkv_input){read_array(batch * hq * sq * dk, 4), hq * sq * dk, sq * dk, dk};
    a.k = (qkv_input){read_array(batch * hkv * sk * dk, 4), hkv * sk * dk, sk * dk, dk};
    a.v = (qkv_input){read_array(batch * hkv * sk * dv, 4), hkv * sk * dv, sk * dv, dv};
    const qkv_input grad_out = {read_array(batch * hq * sq * dv, 4), hq * sq * dv, sq * dv, dv};
    if (n[11])
        a.keep = (qkv_matrix_input){read_array(hq * sq * sk, 1), 0, sq * sk, sk, 1};
    if (n[12])
        a.bias = (qkv_matrix_input){read_array(hq * sq * sk, 4), 0, sq * sk, sk, 1};
    if (n[13])
        a.sinks = read_array(hq, 4);
    a.out = output(hq, sq, dv, batch);
    a.lse = output(hq, sq, 1, batch);
    qkv_attention_backward_desc b = {.size = sizeof b,
                                     .grad_out = grad_out,
                                     .grad_q = output(hq, sq, dk, batch),
                                     .grad_k = output(hkv, sk, dk, batch),
                                     .grad_v = output(hkv, sk, dv, batch)};
    if (n[14])
        b.grad_lse = (qkv_input){read_array(batch * hq * sq, 4), hq * sq, sq, 1};
    if (n[12])
        b.grad_bias = (qkv_matrix_output){allocate((size_t)(hq * sq * sk) * sizeof(float)), 0, sq * sk, sk, 1};
    if (n[13])
        b.grad_sinks = allocate((size_t)hq * sizeof(float));
    qkv_ctx ctx;
    qkv_plan plan;
    const qkv_config config = {.size = sizeof config, .isa = getenv("QKV_ISA")};
    require(qkv_init(&ctx, &config), "context");
    require(qkv_attention_plan(&ctx, &a, 1, &plan), "forward plan");
    require(qkv_attention_run(&plan, &a, allocate(plan.workspace_size), plan.workspace_size), "forward run");
    b.forward = a;
    run_backward(&ctx, &b, (int32_t)n[15]);
    write_floats(a.out.data, batch * hq * sq * dv);
    write_floats(a.lse.data, batch * hq * sq);
    write_floats(b.grad_q.data, batch * hq * sq * dk);
    write_floats(b.grad_k.data, batch * hkv * sk * dk);
    write_floats(b.grad_v.data, batch * hkv * sk * dv);
    write_floats(b.grad_bias.data, n[12] ? hq * sq * sk : 0);
    write_floats(b.grad_sinks, n[13] ? hq : 0);
    return 0;
}
