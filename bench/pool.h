// Threads that wait for a qkv_parallel_for; the caller is worker 0.  SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_POOL_H
#define QKV_BENCH_POOL_H

#include <qkv.h>
#include <qkv/pthreads.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <stdexcept>

namespace bench {

// Cores that this process may use.
int32_t num_cores();

class Pool {
  public:
    explicit Pool(int32_t num_threads) {
        if (qkv_pthreads_start(&pool_, num_threads, num_threads <= num_cores() ? SPINS : 0) != 0)
            throw std::runtime_error("threads can't be started");
    }
    ~Pool() { qkv_pthreads_stop(&pool_); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
    int32_t num_threads() const { return pool_.num_threads; }

    static void parallel_for(void *pool, int64_t num_tasks, qkv_task task, void *arg) {
        qkv_pthreads_for(&static_cast<Pool *>(pool)->pool_, num_tasks, task, arg);
    }

    // task(i, worker) for every i < num_tasks.
    void for_each(int64_t num_tasks, std::function<void(int64_t, int32_t)> task) {
        parallel_for(
            this, num_tasks,
            [](void *arg, int64_t i, int32_t worker) {
                (*static_cast<std::function<void(int64_t, int32_t)> *>(arg))(i, worker);
            },
            &task);
    }

    // task(thread) once in every thread, all of them at the same time.
    void in_every_thread(std::function<void(int32_t)> task) {
        std::atomic<int32_t> arrived{0};
        for_each(num_threads(), [&](int64_t, int32_t worker) {
            arrived.fetch_add(1);
            while (arrived.load() < num_threads())
                qkv_pthreads_pause();
            task(worker);
        });
    }

  private:
    // Between two calls of a measurement threads don't fall asleep: waking takes some 50 µs.
    static constexpr int32_t SPINS = 20000;

    qkv_pthreads pool_;
};

} // namespace bench

#endif
