// The machine's own limits: fused multiply-adds per second at each vector width, and read bandwidth. The loops hold
// nothing but independent FMAs (and the loop counter), or nothing but loads.  SPDX-License-Identifier: MIT
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <initializer_list>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bench {
namespace {

// A latency of 4 or 5 cycles on 2 pipes needs 10 chains; 12 leave room for the operands in 16 registers.
// x → 0.5·x + 1 approaches 2, far from subnormals and infinity; no chain starts there, or clang would drop it.
#define ACCUMULATORS(op) \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
constexpr int64_t kChains = 12;

#if defined(__x86_64__)

__attribute__((target("avx2,fma"), noinline)) float fma_loop_avx2(int64_t count) {
    const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
#define START(i) __m256 a##i = _mm256_set1_ps(static_cast<float>(i) + 0.25f);
#define STEP(i) a##i = _mm256_fmadd_ps(a##i, half, one);
#define SUM(i) sum = _mm256_add_ps(sum, a##i);
    ACCUMULATORS(START)
    for (; count > 0; count--) {
        ACCUMULATORS(STEP)
    }
    __m256 sum = _mm256_setzero_ps();
    ACCUMULATORS(SUM)
    return _mm256_cvtss_f32(sum);
#undef START
#undef STEP
#undef SUM
}

__attribute__((target("avx512f"), noinline)) float fma_loop_avx512(int64_t count) {
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
#define START(i) __m512 a##i = _mm512_set1_ps(static_cast<float>(i) + 0.25f);
#define STEP(i) a##i = _mm512_fmadd_ps(a##i, half, one);
#define SUM(i) sum = _mm512_add_ps(sum, a##i);
    ACCUMULATORS(START)
    for (; count > 0; count--) {
        ACCUMULATORS(STEP)
    }
    __m512 sum = _mm512_setzero_ps();
    ACCUMULATORS(SUM)
    return _mm512_cvtss_f32(sum);
#undef START
#undef STEP
#undef SUM
}

// `ahead` floats are prefetched; far past the data that does no harm.
__attribute__((target("avx2"), noinline)) float read_avx2(const float *data, size_t count, size_t ahead) {
    __m256i sum[8] = {};
    for (size_t i = 0; i + 64 <= count; i += 64) {
        for (size_t j = 0; ahead != 0 && j < 4; j++) __builtin_prefetch(data + i + 16 * j + ahead);
        for (size_t j = 0; j < 8; j++) {
            const void *at = data + i + 8 * j;
            sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(static_cast<const __m256i *>(at)));
        }
    }
    for (size_t j = 1; j < 8; j++) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
    return _mm256_cvtss_f32(_mm256_castsi256_ps(sum[0]));
}

__attribute__((target("avx512f"), noinline)) float read_avx512(const float *data, size_t count, size_t ahead) {
    __m512i sum[8] = {};
    for (size_t i = 0; i + 128 <= count; i += 128) {
        for (size_t j = 0; ahead != 0 && j < 8; j++) __builtin_prefetch(data + i + 16 * j + ahead);
        for (size_t j = 0; j < 8; j++) sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(data + i + 16 * j));
    }
    for (size_t j = 1; j < 8; j++) sum[0] = _mm512_xor_si512(sum[0], sum[j]);
    return _mm512_cvtss_f32(_mm512_castsi512_ps(sum[0]));
}

#elif defined(__aarch64__)

// A latency of 4 cycles on 4 pipes: twice the chains. This FMA adds to its own register: x → x + 0.5.
__attribute__((noinline)) float fma_loop_neon(int64_t count) {
    const float32x4_t half = vdupq_n_f32(0.5f), one = vdupq_n_f32(1.0f);
#define START(i) float32x4_t a##i = vdupq_n_f32(static_cast<float>(i) + 0.25f), b##i = vaddq_f32(a##i, a##i);
#define STEP(i) a##i = vfmaq_f32(a##i, half, one), b##i = vfmaq_f32(b##i, half, one);
#define SUM(i) sum = vaddq_f32(sum, vaddq_f32(a##i, b##i));
    ACCUMULATORS(START)
    for (; count > 0; count--) {
        ACCUMULATORS(STEP)
    }
    float32x4_t sum = vdupq_n_f32(0.0f);
    ACCUMULATORS(SUM)
    return vgetq_lane_f32(sum, 0);
#undef START
#undef STEP
#undef SUM
}

__attribute__((noinline)) float read_neon(const float *data, size_t count, size_t ahead) {
    uint32x4_t sum[8] = {};
    for (size_t i = 0; i + 32 <= count; i += 32) {
        for (size_t j = 0; ahead != 0 && j < 2; j++) __builtin_prefetch(data + i + 16 * j + ahead);
        for (size_t j = 0; j < 8; j++) {
            sum[j] = veorq_u32(sum[j], vreinterpretq_u32_f32(vld1q_f32(data + i + 4 * j)));
        }
    }
    for (size_t j = 1; j < 8; j++) sum[0] = veorq_u32(sum[0], sum[j]);
    return vgetq_lane_f32(vreinterpretq_f32_u32(sum[0]), 0);
}

#endif

__attribute__((noinline)) float read_scalar(const float *data, size_t count, size_t ahead) {
    float sum = 0;
    for (size_t i = 0; i < count; i++) sum += data[i];
    return ahead == 0 ? sum : 0;
}

using ReadLoop = float (*)(const float *, size_t, size_t);

// The widest loads this CPU has; the library knows what the operating system enabled.
ReadLoop widest_read() {
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
#if defined(__x86_64__)
    if ((cpu.features & QKV_CPU_AVX512F) && (cpu.features & QKV_CPU_OS_ZMM)) return read_avx512;
    if ((cpu.features & QKV_CPU_AVX2) && (cpu.features & QKV_CPU_OS_YMM)) return read_avx2;
#elif defined(__aarch64__)
    return read_neon;
#endif
    return read_scalar;
}

volatile float sink;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Seconds that every thread of the pool needs to run work(thread) at the same time; the best of `tries`.
double best_time(Pool &pool, int tries, std::function<void(int64_t)> work) {
    qkv_task task = [](void *arg, int64_t i, int32_t) { (*static_cast<std::function<void(int64_t)> *>(arg))(i); };
    double best = 1e30;
    for (int i = 0; i < tries; i++) {
        auto start = Clock::now();
        pool.run(pool.num_threads(), task, &work);
        best = std::min(best, seconds_since(start));
    }
    return best;
}

} // namespace

double fma_peak_gflops(const std::string &isa, Pool &pool, int tries, int64_t steps) {
    float (*loop)(int64_t) = nullptr;
    double lanes = 0, chains = kChains;
#if defined(__x86_64__)
    if (isa == "avx2") loop = fma_loop_avx2, lanes = 8;
    if (isa == "avx512") loop = fma_loop_avx512, lanes = 16;
#elif defined(__aarch64__)
    if (isa == "neon") loop = fma_loop_neon, lanes = 4, chains = 2 * kChains;
#endif
    if (loop == nullptr) return 0;
    double seconds = best_time(pool, tries, [&](int64_t) { sink = loop(steps); });
    return 2e-9 * lanes * chains * static_cast<double>(steps) * pool.num_threads() / seconds;
}

double read_bandwidth(size_t bytes, Pool &pool) {
    Buffer buffer = random_floats(static_cast<int64_t>(bytes / sizeof(float)), 1.0f, 1);
    size_t share = bytes / sizeof(float) / static_cast<size_t>(pool.num_threads());
    size_t repeats = std::max<size_t>(1, (size_t{32} << 20) / bytes);
    const ReadLoop loop = widest_read();
    double seconds = 1e30;
    for (size_t ahead : {size_t{0}, size_t{512}}) { // helps in memory, costs in caches
        seconds = std::min(seconds, best_time(pool, 10, [&](int64_t thread) {
            const float *data = buffer.as() + static_cast<size_t>(thread) * share;
            for (size_t i = 0; i < repeats; i++) sink = loop(data, share, ahead);
        }));
    }
    return 1e-9 * static_cast<double>(bytes) * static_cast<double>(repeats) / seconds;
}

} // namespace bench
