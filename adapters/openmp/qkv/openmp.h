/* qkv over OpenMP: the tasks of a call by one team of threads. A header by itself; compile with -fopenmp.
 *
 *     qkv_attention_plan(&ctx, &desc, omp_get_max_threads(), &plan);
 *     qkv_attention_run_parallel(&plan, &desc, workspace, workspace_size, qkv_openmp_for, &plan);
 *
 * Every operation of qkv.h runs so. The team has as many threads as the plan has workers, whatever has become of
 * OpenMP's own number since. Plan with the number that your program uses elsewhere, as above: runtimes end and start
 * threads where a team differs from the one before.
 *
 * Called by one thread of a team of yours, the tasks run in that thread, unless you allow nested teams. To run them by
 * the whole team that is there already, share out qkv_attention_task by an `omp for` of your own: docs/integration.md.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_OPENMP_H
#define QKV_OPENMP_H

#include <omp.h>
#include <qkv.h>

#ifndef _OPENMP
#error "qkv/openmp.h needs -fopenmp: without it every task would run in one thread"
#endif

/* A qkv_parallel_for. `pool` is the plan that runs, a qkv_plan *. */
static inline void qkv_openmp_for(void *pool, int64_t num_tasks, qkv_task task, void *arg) {
#ifdef __cplusplus
    const int32_t num_threads = static_cast<const qkv_plan *>(pool)->max_workers;
#else
    const int32_t num_threads = ((const qkv_plan *)pool)->max_workers;
#endif
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
    for (int64_t i = 0; i < num_tasks; i++)
        task(arg, i, omp_get_thread_num());
}

#endif
