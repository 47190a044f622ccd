/* A small pool of threads with a parallel_for that qkv_*_run_parallel takes as it is.  SPDX-License-Identifier: MIT */
#ifndef THREADS_H
#define THREADS_H

#include <qkv.h>
#include <stdint.h>

struct thread_pool;

/* A pool of num_threads ≥ 1, the calling thread included. */
struct thread_pool *start_threads(int32_t num_threads);
void stop_threads(struct thread_pool *pool);

int32_t pool_size(const struct thread_pool *pool);

/* A qkv_parallel_for: `pool` is a struct thread_pool. Called by one thread at a time. */
void parallel_for(void *pool, int64_t num_tasks, qkv_task task, void *arg);

/* How many threads this machine can run at once. */
int32_t num_cpus(void);

#endif
