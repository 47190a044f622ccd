// The machine's own limits: fused multiply-adds per second at each vector width, and read bandwidth. The loops hold
// nothing but independent FMAs (and the loop counter), or nothing but loads.  SPDX-License-Identifier: MIT
#include "peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <initializer_list>
#include <numeric>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bench {
namespace {

// A latency of 4 or 5 cycles on 2 pipes needs 10 chains; 12 leave room for the operands in 16 registers.
// x → 0.5·x + 1 approaches 2, far from subnormals and infinity; no chain starts there, or clang would drop it.
#define ACCUMULATORS(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
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

// Pairs of bf16, ½ and 2⁻²⁵: sums that grow slowly and stay finite.
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"), noinline)) float fma_loop_bf16(int64_t count) {
    const __m512bh half = (__m512bh)_mm512_set1_epi32(0x3f003f00), tiny = (__m512bh)_mm512_set1_epi32(0x33003300);
#define START(i) __m512 a##i = _mm512_set1_ps(static_cast<float>(i) + 0.25f);
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, half, tiny);
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

__attribute__((target("avx512f,avx512vnni"), noinline)) float fma_loop_int8(int64_t count) {
    const __m512i one = _mm512_set1_epi8(1);
#define START(i) __m512i a##i = _mm512_set1_epi32(i);
#define STEP(i) __asm__("vpdpbusd %1, %1, %0" : "+v"(a##i) : "v"(one)); // the intrinsic makes GCC 12 copy registers
#define SUM(i) sum = _mm512_add_epi32(sum, a##i);
    ACCUMULATORS(START)
    for (; count > 0; count--) {
        ACCUMULATORS(STEP)
    }
    __m512i sum = _mm512_setzero_si512();
    ACCUMULATORS(SUM)
    return _mm512_cvtss_f32(_mm512_castsi512_ps(sum));
#undef START
#undef STEP
#undef SUM
}

// Every read loop takes `streams` equal parts of the data side by side, 1 KiB of each in turn, so that the page walks
// of one overlap the loads of another; `ahead` floats are prefetched (0: none), which does no harm past the end.
constexpr size_t kChunk = 256;

__attribute__((target("avx2"), noinline)) float read_avx2(const float *data, size_t count, size_t streams,
                                                          size_t ahead) {
    __m256i sum[8] = {};
    const size_t part = count / streams;
    for (size_t i = 0; i + kChunk <= part; i += kChunk) {
        for (size_t s = 0; s < streams; s++) {
            const float *chunk = data + s * part + i;
            for (size_t x = 0; x < kChunk; x += 64) {
                for (size_t j = 0; ahead != 0 && j < 4; j++)
                    __builtin_prefetch(chunk + x + 16 * j + ahead);
                for (size_t j = 0; j < 8; j++) {
                    const void *at = chunk + x + 8 * j;
                    sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(static_cast<const __m256i *>(at)));
                }
            }
        }
    }
    for (size_t j = 1; j < 8; j++)
        sum[0] = _mm256_xor_si256(sum[0], sum[j]);
    return _mm256_cvtss_f32(_mm256_castsi256_ps(sum[0]));
}

__attribute__((target("avx512f"), noinline)) float read_avx512(const float *data, size_t count, size_t streams,
                                                               size_t ahead) {
    __m512i sum[8] = {};
    const size_t part = count / streams;
    for (size_t i = 0; i + kChunk <= part; i += kChunk) {
        for (size_t s = 0; s < streams; s++) {
            const float *chunk = data + s * part + i;
            for (size_t x = 0; x < kChunk; x += 128) {
                for (size_t j = 0; ahead != 0 && j < 8; j++)
                    __builtin_prefetch(chunk + x + 16 * j + ahead);
                for (size_t j = 0; j < 8; j++) {
                    sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(chunk + x + 16 * j));
                }
            }
        }
    }
    for (size_t j = 1; j < 8; j++)
        sum[0] = _mm512_xor_si512(sum[0], sum[j]);
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

constexpr size_t kChunk = 256;

__attribute__((noinline)) float read_neon(const float *data, size_t count, size_t streams, size_t ahead) {
    uint32x4_t sum[8] = {};
    const size_t part = count / streams;
    for (size_t i = 0; i + kChunk <= part; i += kChunk) {
        for (size_t s = 0; s < streams; s++) {
            const float *chunk = data + s * part + i;
            for (size_t x = 0; x < kChunk; x += 32) {
                for (size_t j = 0; ahead != 0 && j < 2; j++)
                    __builtin_prefetch(chunk + x + 16 * j + ahead);
                for (size_t j = 0; j < 8; j++) {
                    sum[j] = veorq_u32(sum[j], vreinterpretq_u32_f32(vld1q_f32(chunk + x + 4 * j)));
                }
            }
        }
    }
    for (size_t j = 1; j < 8; j++)
        sum[0] = veorq_u32(sum[0], sum[j]);
    return vgetq_lane_f32(vreinterpretq_f32_u32(sum[0]), 0);
}

#endif

__attribute__((noinline)) float read_scalar(const float *data, size_t count, size_t, size_t) {
    uint32_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        std::memcpy(&word, data + i, sizeof word);
        sum ^= word;
    }
    return static_cast<float>(sum);
}

// n dependent additions of a register: one a cycle on every CPU of the last decades.
__attribute__((noinline)) int64_t addition_loop(int64_t n) {
    int64_t sum = n, step = 3;
    for (int64_t i = 0; i < n; i += 16) {
#define ADD                                                                                                            \
    sum += step;                                                                                                       \
    __asm__ volatile("" : "+r"(sum), "+r"(step));
        ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD
#undef ADD
    }
    return sum;
}

using ReadLoop = float (*)(const float *, size_t, size_t, size_t);

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

struct FmaLoop {
    float (*loop)(int64_t) = nullptr;
    double flops = 0; // of one step
};

FmaLoop fma_loop(const std::string &isa) {
    const double chains = kChains;
#if defined(__x86_64__)
    if (isa == "avx2") return {fma_loop_avx2, 2 * 8 * chains};
    if (isa == "avx512") return {fma_loop_avx512, 2 * 16 * chains};
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    const bool zmm = (cpu.features & QKV_CPU_AVX512F) && (cpu.features & QKV_CPU_OS_ZMM);
    if (isa == "bf16" && zmm && __builtin_cpu_supports("avx512bf16")) return {fma_loop_bf16, 2 * 32 * chains};
    if (isa == "int8" && zmm && __builtin_cpu_supports("avx512vnni")) return {fma_loop_int8, 2 * 64 * chains};
#elif defined(__aarch64__)
    if (isa == "neon") return {fma_loop_neon, 2 * 4 * 2 * chains};
#endif
    return {};
}

std::atomic<float> sink;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

} // namespace

// Each thread takes its own time, so that waking the others does not count.
double fma_peak(const std::string &isa, Pool &pool, int tries, int64_t steps) {
    const FmaLoop fma = fma_loop(isa);
    if (fma.loop == nullptr) return 0;
    double best = 0;
    std::vector<double> rate(static_cast<size_t>(pool.num_threads()));
    for (int i = 0; i < tries; i++) {
        pool.in_every_thread([&](int32_t thread) {
            const auto start = Clock::now();
            sink = fma.loop(steps);
            rate[static_cast<size_t>(thread)] = 1e-9 * fma.flops * static_cast<double>(steps) / seconds_since(start);
        });
        best = std::max(best, std::accumulate(rate.begin(), rate.end(), 0.0));
    }
    return best;
}

double clock_ghz() {
    double best = 0;
    for (int i = 0; i < 20; i++) {
        const int64_t n = 1 << 20;
        const auto start = Clock::now();
        sink = static_cast<float>(addition_loop(n));
        best = std::max(best, 1e-9 * static_cast<double>(n) / seconds_since(start));
    }
    return best;
}

ReadBandwidth::ReadBandwidth(Pages pages, Pool &pool, size_t bytes)
    : pool_(pool), buffer_(random_floats(static_cast<int64_t>(bytes / sizeof(float)), 1.0f, 1, pages)) {
    const Loop loops[] = {{1, 0}, {1, 512}, {1, 2048}, {2, 0}, {4, 0}, {4, 512}, {8, 0}};
    for (const Loop &loop : loops) {
        for (int i = 0; i < 3; i++) {
            const double rate = pass(loop);
            if (rate > best_) best_ = rate, fastest_ = loop;
        }
    }
}

double ReadBandwidth::pass(const Loop &loop) {
    const size_t share = buffer_.bytes() / sizeof(float) / static_cast<size_t>(pool_.num_threads());
    const ReadLoop read = widest_read();
    const auto start = Clock::now();
    pool_.in_every_thread([&](int32_t thread) {
        sink = read(buffer_.as() + static_cast<size_t>(thread) * share, share, loop.streams, loop.ahead);
    });
    return 1e-9 * static_cast<double>(buffer_.bytes()) / seconds_since(start);
}

double ReadBandwidth::measure(int tries) {
    double best = 0;
    for (int i = 0; i < tries; i++)
        best = std::max(best, pass(fastest_));
    best_ = std::max(best_, best);
    return best;
}

} // namespace bench
