/* qkv over POSIX threads: a pool that you start once and that runs the tasks of one call after the other. A header by
 * itself; link with -pthread.
 *
 *     qkv_pthreads pool;
 *     qkv_pthreads_start(&pool, num_threads, QKV_PTHREADS_SPINS);
 *     qkv_attention_plan(&ctx, &desc, pool.num_threads, &plan);
 *     qkv_attention_run_parallel(&plan, &desc, workspace, workspace_size, qkv_pthreads_for, &pool);
 *     …
 *     qkv_pthreads_stop(&pool);
 *
 * Every operation of qkv.h runs so, and any loop of yours that is written as a qkv_task. A plan has at least as many
 * workers as the pool has threads.
 *
 * Does your program have threads of its own, such as OpenMP's? Then let those run the tasks, not a second pool: the
 * threads of either wait for work by spinning, each on a CPU that the other needs (docs/integration.md has figures).
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_PTHREADS_H
#define QKV_PTHREADS_H

#include <pthread.h>
#include <qkv.h>

#ifdef __cplusplus
#define QKV_PTHREADS_NULL nullptr
extern "C" {
#else
#define QKV_PTHREADS_NULL NULL
#endif

#define QKV_PTHREADS_MAX 256

/* How often a thread looks for work before it sleeps: for some tens of microseconds, as long as waking it takes. Take 0
 * where there are more threads than CPUs, or other threads to leave them to. */
#define QKV_PTHREADS_SPINS 4000

/* Stays where it is while its threads run. */
typedef struct qkv_pthreads {
    int32_t num_threads; /* the calling one included: worker 0; private from here on */
    int32_t spins;
    pthread_t thread[QKV_PTHREADS_MAX];
    pthread_mutex_t mutex;
    pthread_cond_t begin, done;
    uint32_t round;        /* counts up with each loop */
    int32_t started, busy; /* threads that have an index; that are still at this round */
    int stop;
    qkv_task task;
    void *arg;
    int64_t num_tasks, next; /* next: the first task that nobody has taken */
} qkv_pthreads;

/* Between two looks: leaves the core's other thread, and its power, to others. */
static inline void qkv_pthreads_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static inline void qkv_pthreads_take(qkv_pthreads *pool, int32_t worker) {
    for (int64_t i; (i = __atomic_fetch_add(&pool->next, 1, __ATOMIC_RELAXED)) < pool->num_tasks;)
        pool->task(pool->arg, i, worker);
}

static inline void *qkv_pthreads_main(void *arg) {
#ifdef __cplusplus
    qkv_pthreads *pool = static_cast<qkv_pthreads *>(arg);
#else
    qkv_pthreads *pool = (qkv_pthreads *)arg;
#endif
    const int32_t worker = __atomic_add_fetch(&pool->started, 1, __ATOMIC_RELAXED);
    for (uint32_t seen = 0;; seen++) { /* no round is missed: each waits for all threads */
        for (int32_t i = 0; i < pool->spins && __atomic_load_n(&pool->round, __ATOMIC_ACQUIRE) == seen; i++)
            qkv_pthreads_pause();
        if (__atomic_load_n(&pool->round, __ATOMIC_ACQUIRE) == seen) {
            pthread_mutex_lock(&pool->mutex);
            while (__atomic_load_n(&pool->round, __ATOMIC_ACQUIRE) == seen)
                pthread_cond_wait(&pool->begin, &pool->mutex);
            pthread_mutex_unlock(&pool->mutex);
        }
        if (pool->stop)
            return QKV_PTHREADS_NULL;
        qkv_pthreads_take(pool, worker);
        if (__atomic_sub_fetch(&pool->busy, 1, __ATOMIC_ACQ_REL) == 0) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

/* Lets the threads begin a round. */
static inline void qkv_pthreads_begin(qkv_pthreads *pool) {
    pthread_mutex_lock(&pool->mutex);
    __atomic_store_n(&pool->round, pool->round + 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);
}

/* Ends the threads. No loop may be running. */
static inline void qkv_pthreads_stop(qkv_pthreads *pool) {
    pool->stop = 1;
    qkv_pthreads_begin(pool);
    for (int32_t i = 1; i < pool->num_threads; i++)
        pthread_join(pool->thread[i], QKV_PTHREADS_NULL);
    pthread_cond_destroy(&pool->begin);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->mutex);
}

/* Starts num_threads − 1 threads, 1 … QKV_PTHREADS_MAX with the calling one. Returns 0, or what pthread_create says
 * (EAGAIN): then none is left running. Other numbers of threads count as the nearest of these. */
static inline int qkv_pthreads_start(qkv_pthreads *pool, int32_t num_threads, int32_t spins) {
    const int32_t wanted = num_threads < 1 ? 1 : num_threads > QKV_PTHREADS_MAX ? QKV_PTHREADS_MAX : num_threads;
    pool->spins = spins;
    pool->round = 0;
    pool->started = pool->busy = 0;
    pool->stop = 0;
    pthread_mutex_init(&pool->mutex, QKV_PTHREADS_NULL);
    pthread_cond_init(&pool->begin, QKV_PTHREADS_NULL);
    pthread_cond_init(&pool->done, QKV_PTHREADS_NULL);
    for (pool->num_threads = 1; pool->num_threads < wanted; pool->num_threads++) {
        const int error = pthread_create(&pool->thread[pool->num_threads], QKV_PTHREADS_NULL, qkv_pthreads_main, pool);
        if (error != 0) {
            qkv_pthreads_stop(pool);
            return error;
        }
    }
    return 0;
}

/* A qkv_parallel_for: `pool` is a qkv_pthreads *. One loop at a time, none from within a task. */
static inline void qkv_pthreads_for(void *pool_pointer, int64_t num_tasks, qkv_task task, void *arg) {
#ifdef __cplusplus
    qkv_pthreads *pool = static_cast<qkv_pthreads *>(pool_pointer);
#else
    qkv_pthreads *pool = (qkv_pthreads *)pool_pointer;
#endif
    if (pool->num_threads == 1 || num_tasks <= 1) {
        for (int64_t i = 0; i < num_tasks; i++)
            task(arg, i, 0);
        return;
    }
    pool->task = task;
    pool->arg = arg;
    pool->num_tasks = num_tasks;
    pool->next = 0;
    pool->busy = pool->num_threads - 1;
    qkv_pthreads_begin(pool);
    qkv_pthreads_take(pool, 0);
    for (int32_t i = 0; i < pool->spins && __atomic_load_n(&pool->busy, __ATOMIC_ACQUIRE) != 0; i++)
        qkv_pthreads_pause();
    if (__atomic_load_n(&pool->busy, __ATOMIC_ACQUIRE) != 0) {
        pthread_mutex_lock(&pool->mutex);
        while (__atomic_load_n(&pool->busy, __ATOMIC_ACQUIRE) != 0)
            pthread_cond_wait(&pool->done, &pool->mutex);
        pthread_mutex_unlock(&pool->mutex);
    }
}

#undef QKV_PTHREADS_NULL
#ifdef __cplusplus
}
#endif

#endif
