// What the benchmarks share: buffers, a thread pool, and the four steps of every qkv operation as one template.
// SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_H
#define QKV_BENCH_H

#include <qkv.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace bench {

// 64-byte aligned memory, freed at the end of its scope.
class Buffer {
public:
    explicit Buffer(size_t bytes = 0) : bytes_(bytes) {
        if (bytes == 0) return;
        data_.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
        if (!data_) throw std::bad_alloc();
        std::memset(data_.get(), 0, bytes);
    }
    template <typename T = float> T *as() const { return static_cast<T *>(data_.get()); }
    size_t bytes() const { return bytes_; }

private:
    struct Free {
        void operator()(void *p) const { std::free(p); }
    };
    std::unique_ptr<void, Free> data_;
    size_t bytes_;
};

// Floats drawn evenly from (−limit, limit); the same ones for the same seed.
inline Buffer random_floats(int64_t count, float limit, uint64_t seed) {
    Buffer buffer(static_cast<size_t>(count) * sizeof(float));
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int64_t i = 0; i < count; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        buffer.as()[i] = limit * (static_cast<float>(x >> 40) * 0x1p-23f - 1.0f);
    }
    return buffer;
}

// Threads that wait for a qkv_parallel_for; the caller is worker 0.
class Pool {
public:
    explicit Pool(int32_t num_threads) : num_threads_(num_threads) {
        for (int32_t worker = 1; worker < num_threads; worker++) {
            threads_.emplace_back([this, worker] { wait_and_work(worker); });
        }
    }
    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
        }
        start_.notify_all();
        for (auto &thread : threads_) thread.join();
    }
    int32_t num_threads() const { return num_threads_; }

    static void parallel_for(void *pool, int64_t num_tasks, qkv_task task, void *arg) {
        static_cast<Pool *>(pool)->run(num_tasks, task, arg);
    }

    void run(int64_t num_tasks, qkv_task task, void *arg) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = task, arg_ = arg, num_tasks_ = num_tasks, next_ = 0;
            working_ = static_cast<int32_t>(threads_.size());
            round_++;
        }
        start_.notify_all();
        work(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return working_ == 0; });
    }

private:
    void work(int32_t worker) {
        for (int64_t i; (i = next_.fetch_add(1)) < num_tasks_;) task_(arg_, i, worker);
    }
    void wait_and_work(int32_t worker) {
        for (uint64_t seen = 0;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                start_.wait(lock, [&] { return stop_ || round_ != seen; });
                if (stop_) return;
                seen = round_;
            }
            work(worker);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--working_ == 0) done_.notify_one();
        }
    }

    int32_t num_threads_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable start_, done_;
    qkv_task task_ = nullptr;
    void *arg_ = nullptr;
    int64_t num_tasks_ = 0;
    std::atomic<int64_t> next_{0};
    int32_t working_ = 0;
    uint64_t round_ = 0;
    bool stop_ = false;
};

// Best of several measurements, on all threads of the pool at once.
// Of the set's widest FMA, 0 for "ref": the best of `tries` runs of so many steps.
double fma_peak_gflops(const std::string &isa, Pool &pool, int tries, int64_t steps);
double read_bandwidth(size_t bytes, Pool &pool);            // GB/s of reading `bytes` again and again

inline void require(qkv_status status, const char *what) {
    if (status != QKV_OK) throw std::runtime_error(std::string(what) + ": " + qkv_status_string(status));
}

// One operation: its descriptor, plan and workspace. Desc decides which functions are called.
template <typename Desc> struct Api;
#define QKV_BENCH_API(op)                                                    \
    template <> struct Api<qkv_##op##_desc> {                                \
        static constexpr auto plan = qkv_##op##_plan;                        \
        static constexpr auto run = qkv_##op##_run;                          \
        static constexpr auto run_parallel = qkv_##op##_run_parallel;        \
    };
QKV_BENCH_API(projection)
QKV_BENCH_API(attention)
QKV_BENCH_API(layer)

template <typename Desc> class Operation {
public:
    Operation(const qkv_ctx &ctx, const Desc &desc, int32_t num_threads) : desc_(desc) {
        require(Api<Desc>::plan(&ctx, &desc_, num_threads, &plan_), "plan");
        workspace_ = Buffer(plan_.workspace_size);
    }
    void run() { require(Api<Desc>::run(&plan_, &desc_, workspace_.as<void>(), workspace_.bytes()), "run"); }
    void run(Pool &pool) {
        if (pool.num_threads() == 1) return run();
        require(Api<Desc>::run_parallel(&plan_, &desc_, workspace_.as<void>(), workspace_.bytes(), Pool::parallel_for,
                                        &pool),
                "run");
    }

private:
    Desc desc_;
    qkv_plan plan_;
    Buffer workspace_;
};

// A case with its data in place. The data is made once and used for every kernel set.
class Work {
public:
    virtual ~Work() = default;
    virtual std::function<void()> prepare(const qkv_ctx &ctx, Pool &pool) = 0; // plan and workspace; call it to run
    // Compares the rows of the last run with those of the reference: "" or the first difference.
    virtual std::string compare(const qkv_ctx &ref) = 0;
};

struct Case {
    std::string operation, label; // the benchmark is called operation/kernel set/label
    double flops, bytes;          // visible work only; bytes is 0 where memory is not the limit
    bool quick;                   // part of `qkv-bench --quick`
    std::function<std::unique_ptr<Work>()> make;
};

void add_projection_cases(std::vector<Case> &cases);
void add_attention_cases(std::vector<Case> &cases);
void add_layer_cases(std::vector<Case> &cases);

// At most `most` of count rows, the first and the last among them.
inline std::vector<int64_t> sample_rows(int64_t count, int64_t most) {
    if (count <= most) most = count;
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < most; i++) rows.push_back(most == 1 ? 0 : i * (count - 1) / (most - 1));
    return rows;
}

// "" if the words are equal, else the place.
inline std::string first_difference(const float *got, const float *expected, int64_t count, int64_t row) {
    if (std::memcmp(got, expected, static_cast<size_t>(count) * sizeof(float)) == 0) return "";
    for (int64_t i = 0; i < count; i++) {
        if (std::memcmp(&got[i], &expected[i], sizeof(float)) == 0) continue;
        char text[120];
        std::snprintf(text, sizeof text, "row %lld, element %lld: %.9g, the reference has %.9g",
                      static_cast<long long>(row), static_cast<long long>(i), static_cast<double>(got[i]),
                      static_cast<double>(expected[i]));
        return text;
    }
    return "";
}

} // namespace bench

#endif
