// Threads that wait for a qkv_parallel_for; the caller is worker 0.  SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_POOL_H
#define QKV_BENCH_POOL_H

#include <qkv.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bench {

// Cores that this process may use.
int32_t num_cores();

class Pool {
public:
    explicit Pool(int32_t num_threads) : num_threads_(num_threads), spins_(num_threads <= num_cores() ? 20000 : 0) {
        for (int32_t worker = 1; worker < num_threads; worker++) {
            threads_.emplace_back([this, worker] { wait_and_work(worker); });
        }
    }
    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
            round_.fetch_add(1);
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
            working_ = num_threads_ - 1;
            round_.fetch_add(1, std::memory_order_release);
        }
        start_.notify_all();
        work(0);
        while (working_.load(std::memory_order_acquire) != 0) pause();
    }

    // task(i, worker) for every i < num_tasks.
    void for_each(int64_t num_tasks, std::function<void(int64_t, int32_t)> task) {
        run(num_tasks,
            [](void *arg, int64_t i, int32_t worker) {
                (*static_cast<std::function<void(int64_t, int32_t)> *>(arg))(i, worker);
            },
            &task);
    }

    // task(thread) once in every thread, all of them at the same time.
    void in_every_thread(std::function<void(int32_t)> task) {
        std::atomic<int32_t> arrived{0};
        for_each(num_threads_, [&](int64_t, int32_t worker) {
            arrived.fetch_add(1);
            while (arrived.load() < num_threads_) pause();
            task(worker);
        });
    }

private:
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }
    void work(int32_t worker) {
        for (int64_t i; (i = next_.fetch_add(1)) < num_tasks_;) task_(arg_, i, worker);
    }
    // A worker looks for work for a while before it sleeps, as the pools of OpenMP do: waking takes some 50 µs.
    void wait_and_work(int32_t worker) {
        for (uint64_t seen = 0;;) {
            for (int32_t i = 0; i < spins_ && round_.load(std::memory_order_acquire) == seen; i++) pause();
            {
                std::unique_lock<std::mutex> lock(mutex_);
                start_.wait(lock, [&] { return round_.load() != seen; });
                if (stop_) return;
                seen = round_.load();
            }
            work(worker);
            working_.fetch_sub(1, std::memory_order_release);
        }
    }

    int32_t num_threads_, spins_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable start_;
    qkv_task task_ = nullptr;
    void *arg_ = nullptr;
    int64_t num_tasks_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<int32_t> working_{0};
    std::atomic<uint64_t> round_{0};
    bool stop_ = false;
};

} // namespace bench

#endif
