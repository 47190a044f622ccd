/* Threads and memory of a run.  SPDX-License-Identifier: MIT */
#ifndef QKV_PYTHON_WORKERS_H
#define QKV_PYTHON_WORKERS_H

#include <qkv.h>

/* Threads of the host, by OpenMP's entry for a parallel region as GCC calls it: those of PyTorch, say, which wait in
 * a loop after each of its operations and would fight threads of our own for the processors. */
typedef void (*openmp_parallel)(void (*body)(void *), void *arg, unsigned num_threads, unsigned flags);

/* A qkv_parallel_for; its pool is a struct team. */
struct team {
    int32_t num_threads;
    openmp_parallel openmp; /* NULL: threads of this module, started when first needed */
};
void run_on_team(void *team, int64_t num_tasks, qkv_task task, void *arg);

/* A 64-byte aligned block, the one given back last if it is large enough; NULL when there is no memory. */
void *take_workspace(size_t bytes);
void give_workspace(void *workspace);

#endif
