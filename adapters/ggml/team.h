/* The threads that an op runs on: those of the host.  SPDX-License-Identifier: MIT */
#ifndef TEAM_H
#define TEAM_H

#include <qkv.h>
#include <stdint.h>

struct team {
    int32_t num_threads;
    /* The host's OpenMP, whose threads wait in a loop for the next region: others beside them would fight for the same
     * cores. NULL where ggml was built without it: then threads are started for each op and end with it. */
    void (*parallel)(void (*body)(void *), void *data, unsigned num_threads, unsigned flags);
    int (*thread_num)(void);
};

/* Finds the OpenMP of ggml's CPU backend; ggml has loaded that by the time a graph is computed. */
void find_openmp(struct team *team);

/* A qkv_parallel_for: `team` is a struct team. */
void team_for(void *team, int64_t num_tasks, qkv_task task, void *arg);

#endif
