// Attention and projections on OpenBLAS, written as well as its interface allows.  SPDX-License-Identifier: MIT
#include "baselines.h"

#if defined(QKV_BENCH_OPENBLAS)
#include <cblas.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace bench {

#if !defined(QKV_BENCH_OPENBLAS)

std::string openblas_description() {
    return "";
}
OpenblasAttention::OpenblasAttention(const AttentionShape &, Pool &pool) : pool_(pool) {}
void OpenblasAttention::run(const float *, const float *, const float *, float *) {}
void openblas_projection(const ProjectionShape &, int32_t, const float *, const float *, const float *, float *,
                         int64_t) {}

#else

namespace {

// 16 lanes; the compiler makes one zmm, two ymm or four NEON registers of it.
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
constexpr int64_t kLanes = 16;

#define BENCH_INLINE inline __attribute__((always_inline))

// 2^y for −126 ≤ y ≤ 0, to 1 ulp: rounding by a large constant, a polynomial, and the exponent by an integer add.
BENCH_INLINE void exp2_lanes(Floats &y) {
    const float round = 0x1.8p23f;
    const Floats below = -126.0f - Floats{};
    y = y < below ? below : y;
    const Floats shifted = y + round, n = shifted - round, f = y - n;
    Floats p = 0x1.41fbbcp-13f * f + 0x1.5f3e52p-10f;
    p = p * f + 0x1.3b2d4cp-7f;
    p = p * f + 0x1.c6aee8p-5f;
    p = p * f + 0x1.ebfbdcp-3f;
    p = p * f + 0x1.62e430p-1f;
    p = p * f + 1.0f;
    Ints bits, exponent;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    std::memcpy(&y, &bits, sizeof y);
}

// t[0 … n) → exp2(t − max t), the rest of the row up to `width` → 0; returns 1/Σ. t holds base-2 logits.
BENCH_INLINE float softmax_lanes(float *t, int64_t n, int64_t width) {
    const int64_t whole = n / kLanes * kLanes;
    Floats top[4], sum[4] = {};
    for (Floats &lanes : top)
        lanes = Floats{} - HUGE_VALF;
    for (int64_t j = 0; j < whole; j += kLanes) {
        Floats x;
        std::memcpy(&x, t + j, sizeof x);
        Floats &lanes = top[j / kLanes % 4];
        lanes = x > lanes ? x : lanes;
    }
    float largest = -HUGE_VALF;
    for (const Floats &lanes : top) {
        for (int64_t l = 0; l < kLanes; l++)
            largest = std::max(largest, lanes[l]);
    }
    for (int64_t j = whole; j < n; j++)
        largest = std::max(largest, t[j]);
    for (int64_t j = 0; j < n; j += kLanes) {
        const size_t size = static_cast<size_t>(std::min(kLanes, n - j)) * sizeof(float);
        Floats x = Floats{} - HUGE_VALF;
        std::memcpy(&x, t + j, size == sizeof x ? sizeof x : size);
        x -= largest;
        exp2_lanes(x);
        if (size != sizeof x) {
            for (int64_t l = n - j; l < kLanes; l++)
                x[l] = 0;
        }
        sum[j / kLanes % 4] += x;
        std::memcpy(t + j, &x, size == sizeof x ? sizeof x : size);
    }
    std::memset(t + n, 0, static_cast<size_t>(width - n) * sizeof(float));
    const Floats lanes = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    float total = 0;
    for (int64_t l = 0; l < kLanes; l++)
        total += lanes[l];
    return 1.0f / total;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512vl,fma"))) float softmax_avx512(float *t, int64_t n, int64_t width) {
    return softmax_lanes(t, n, width);
}
__attribute__((target("avx2,fma"))) float softmax_avx2(float *t, int64_t n, int64_t width) {
    return softmax_lanes(t, n, width);
}
#endif
float softmax_plain(float *t, int64_t n, int64_t width) {
    return softmax_lanes(t, n, width);
}

float softmax_row(float *t, int64_t n, int64_t width) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) return softmax_avx512(t, n, width);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return softmax_avx2(t, n, width);
#endif
    return softmax_plain(t, n, width);
}

int as_int(int64_t n) {
    return static_cast<int>(n);
}

} // namespace

std::string openblas_description() {
    const char *forced = std::getenv("OPENBLAS_CORETYPE");
    return std::string(openblas_get_config()) + ", core " + openblas_get_corename() +
           (forced ? ", forced by OPENBLAS_CORETYPE" : "");
}

// Blocks of queries whose scores stay in the L2 cache; smaller ones where they save invisible pairs. With one query,
// the query heads of a KV head are the rows.
OpenblasAttention::OpenblasAttention(const AttentionShape &shape, Pool &pool) : shape_(shape), pool_(pool) {
    const int64_t half_l2 = (512 << 10) / 4 / std::max<int64_t>(1, shape.keys);
    const int64_t most = shape.causal ? std::clamp<int64_t>(shape.keys / 8, 64, 128) : 256; // what was fastest
    block_rows_ = std::min(shape.queries, std::clamp<int64_t>(half_l2, 64, most));
    const int64_t rows = shape.queries == 1 ? shape.heads / shape.kv_heads : block_rows_;
    scores_ = floats(pool.num_threads() * rows * shape.keys);
}

void OpenblasAttention::block(int64_t kv_head, int64_t first, int64_t rows, int64_t q_head, const float *q,
                              const float *k, const float *v, float *out, float *scores) const {
    const AttentionShape &s = shape_;
    const bool decode = s.queries == 1;
    const int64_t ldq = decode ? s.q_head : s.q_token, at = q_head * s.q_head + first * s.q_token;
    const int64_t seen = s.causal ? s.keys - s.queries + first + rows : s.keys; // by the block's last row
    const float scale = 0x1.715476p+0f / std::sqrt(static_cast<float>(s.dim));  // to base-2 logits
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, as_int(rows), as_int(seen), as_int(s.dim), scale, q + at,
                as_int(ldq), k + kv_head * s.kv_head, as_int(s.kv_token), 0.0f, scores, as_int(s.keys));
    float inverse[256];
    for (int64_t i = 0; i < rows; i++) {
        const int64_t n = s.causal && !decode ? seen - rows + i + 1 : seen;
        inverse[i] = softmax_row(scores + i * s.keys, n, seen);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(rows), as_int(s.dim), as_int(seen), 1.0f, scores,
                as_int(s.keys), v + kv_head * s.kv_head, as_int(s.kv_token), 0.0f, out + at, as_int(ldq));
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t c = 0; c < s.dim; c++)
            out[at + i * ldq + c] *= inverse[i];
    }
}

// The threads share out heads and blocks, each with a BLAS of its own: better than threads inside each small sgemm.
void OpenblasAttention::run(const float *q, const float *k, const float *v, float *out) {
    const AttentionShape &s = shape_;
    const int64_t group = s.heads / s.kv_heads, blocks = (s.queries + block_rows_ - 1) / block_rows_;
    const int64_t scores_size = static_cast<int64_t>(scores_.bytes() / sizeof(float)) / pool_.num_threads();
    openblas_set_num_threads(1);
    if (s.queries == 1) {
        pool_.for_each(s.kv_heads, [&](int64_t head, int32_t worker) {
            block(head, 0, group, head * group, q, k, v, out, scores_.as() + worker * scores_size);
        });
        return;
    }
    pool_.for_each(s.heads * blocks, [&](int64_t i, int32_t worker) {
        const int64_t head = i / blocks, first = (blocks - 1 - i % blocks) * block_rows_; // the longest first
        block(head / group, first, std::min(block_rows_, s.queries - first), head, q, k, v, out,
              scores_.as() + worker * scores_size);
    });
}

void openblas_projection(const ProjectionShape &s, int32_t threads, const float *x, const float *weights,
                         const float *bias, float *y, int64_t ldx) {
    openblas_set_num_threads(threads);
    for (int64_t i = 0; bias != nullptr && i < s.tokens; i++) {
        std::memcpy(y + i * s.out, bias, static_cast<size_t>(s.out) * sizeof(float));
    }
    if (s.tokens == 1) { // y = Wᵀ·x: sgemv streams the rows of W
        cblas_sgemv(CblasRowMajor, CblasTrans, as_int(s.in), as_int(s.out), 1.0f, weights, as_int(s.out), x, 1,
                    bias != nullptr ? 1.0f : 0.0f, y, 1);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(s.tokens), as_int(s.out), as_int(s.in), 1.0f, x,
                as_int(ldx != 0 ? ldx : s.in), weights, as_int(s.out), bias != nullptr ? 1.0f : 0.0f, y, as_int(s.out));
}

#endif

} // namespace bench
