/* A small pool of threads. Work comes in rounds: the caller publishes a task and its count, wakes everybody, takes
 * part, and waits until all have gone back to sleep.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "threads.h"

#include "support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    int32_t index;
};

struct thread_pool {
    struct worker *workers; /* number 0 is the caller and has no thread */
    int32_t num_threads;

    pthread_mutex_t mutex;
    pthread_cond_t begin, done;
    uint64_t round;         /* counts up when a new task is published */
    int32_t busy;           /* threads that have not finished this round */
    int stop;

    qkv_task task;
    void *arg;
    int64_t num_tasks;
    atomic_llong next;      /* the first task that nobody has taken */
};

static void take_tasks(struct thread_pool *pool, int32_t worker) {
    for (int64_t i; (i = (int64_t)atomic_fetch_add(&pool->next, 1)) < pool->num_tasks;)
        pool->task(pool->arg, i, worker);
}

static void *worker_main(void *arg) {
    struct worker *worker = arg;
    struct thread_pool *pool = worker->pool;
    pthread_mutex_lock(&pool->mutex);
    for (uint64_t seen = 0;;) {
        while (pool->round == seen && !pool->stop)
            pthread_cond_wait(&pool->begin, &pool->mutex);
        if (pool->stop)
            break;
        seen = pool->round;
        pthread_mutex_unlock(&pool->mutex);
        take_tasks(pool, worker->index);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->busy == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

struct thread_pool *start_threads(int32_t num_threads) {
    struct thread_pool *pool = allocate(1, sizeof *pool);
    pool->workers = allocate((size_t)num_threads, sizeof *pool->workers);
    pool->num_threads = num_threads;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int32_t i = 1; i < num_threads; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .index = i};
        if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0)
            die("thread %d of %d can't be started; try a smaller --threads", i + 1, num_threads);
    }
    return pool;
}

void stop_threads(struct thread_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 1; i < pool->num_threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->begin);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

int32_t pool_size(const struct thread_pool *pool) {
    return pool->num_threads;
}

void parallel_for(void *pool_pointer, int64_t num_tasks, qkv_task task, void *arg) {
    struct thread_pool *pool = pool_pointer;
    if (pool->num_threads == 1 || num_tasks <= 1) {
        for (int64_t i = 0; i < num_tasks; i++)
            task(arg, i, 0);
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    pool->task = task;
    pool->arg = arg;
    pool->num_tasks = num_tasks;
    atomic_store(&pool->next, 0);
    pool->busy = pool->num_threads - 1;
    pool->round++;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);

    take_tasks(pool, 0);

    pthread_mutex_lock(&pool->mutex);
    while (pool->busy > 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

int32_t num_cpus(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > 256 ? 256 : (int32_t)count;
}
