/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "workers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* --------------------------------------------------------------------------------------- one round of tasks */

struct round {
    qkv_task task;
    void *arg;
    int64_t num_tasks;
    atomic_llong next_task; /* the first that nobody has taken */
    atomic_int next_worker;
};

static void join_round(void *round_pointer) {
    struct round *round = round_pointer;
    const int32_t worker = (int32_t)atomic_fetch_add(&round->next_worker, 1);
    for (int64_t i; (i = (int64_t)atomic_fetch_add(&round->next_task, 1)) < round->num_tasks;)
        round->task(round->arg, i, worker);
}

/* ---------------------------------------------------------------------------------------------- own threads */

/* One crew for the process. A caller that finds it busy, another thread of Python then, does its tasks alone. */
enum { MAX_CREW = 255 };
static struct {
    pthread_mutex_t in_use; /* held by the caller whose round it is */
    pthread_mutex_t mutex;  /* for all that follows */
    pthread_cond_t begin, done;
    int32_t size;    /* threads that exist */
    int32_t wanted;  /* threads with a lower index take part in this round */
    int32_t busy;    /* of them those that have not finished */
    uint64_t number; /* of the round */
    struct round *round;
} crew = {.in_use = PTHREAD_MUTEX_INITIALIZER,
          .mutex = PTHREAD_MUTEX_INITIALIZER,
          .begin = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static void *member(void *index_pointer) {
    const int32_t index = (int32_t)(intptr_t)index_pointer;
    pthread_mutex_lock(&crew.mutex);
    for (uint64_t seen = 0;;) {
        while (crew.number == seen || crew.round == NULL || index >= crew.wanted) {
            seen = crew.number;
            pthread_cond_wait(&crew.begin, &crew.mutex);
        }
        seen = crew.number;
        struct round *round = crew.round;
        pthread_mutex_unlock(&crew.mutex);
        join_round(round);
        pthread_mutex_lock(&crew.mutex);
        if (--crew.busy == 0)
            pthread_cond_signal(&crew.done);
    }
    return NULL;
}

static void forget_crew(void) { /* in the child of a fork, which has none of the threads */
    pthread_mutex_init(&crew.in_use, NULL);
    pthread_mutex_init(&crew.mutex, NULL);
    pthread_cond_init(&crew.begin, NULL);
    pthread_cond_init(&crew.done, NULL);
    crew.size = crew.wanted = crew.busy = 0;
    crew.round = NULL;
}

static void watch_forks(void) {
    pthread_atfork(NULL, NULL, forget_crew);
}

/* Starts what is missing; what can't be started does not take part. The caller holds mutex. */
static void grow_crew(int32_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    for (; crew.size < size && crew.size < MAX_CREW; crew.size++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, member, (void *)(intptr_t)crew.size) != 0)
            return;
        pthread_detach(thread);
    }
}

static void run_on_crew(struct round *round, int32_t others) {
    pthread_mutex_lock(&crew.mutex);
    grow_crew(others);
    crew.wanted = crew.busy = others < crew.size ? others : crew.size;
    crew.round = round;
    crew.number++;
    pthread_cond_broadcast(&crew.begin);
    pthread_mutex_unlock(&crew.mutex);

    join_round(round);

    pthread_mutex_lock(&crew.mutex);
    while (crew.busy > 0)
        pthread_cond_wait(&crew.done, &crew.mutex);
    crew.round = NULL;
    pthread_mutex_unlock(&crew.mutex);
}

void run_on_team(void *team_pointer, int64_t num_tasks, qkv_task task, void *arg) {
    const struct team *team = team_pointer;
    struct round round = {.task = task, .arg = arg, .num_tasks = num_tasks};
    const int32_t threads = num_tasks < team->num_threads ? (int32_t)num_tasks : team->num_threads;
    if (threads <= 1) {
        join_round(&round);
    } else if (team->openmp != NULL) {
        team->openmp(join_round, &round, (unsigned)threads, 0);
    } else if (pthread_mutex_trylock(&crew.in_use) == 0) {
        run_on_crew(&round, threads - 1);
        pthread_mutex_unlock(&crew.in_use);
    } else {
        join_round(&round);
    }
}

/* ------------------------------------------------------------------------------------------------- workspace */

enum { ALIGNMENT = 64 };
static const size_t most_kept = (size_t)64 << 20;
static _Atomic(void *) kept; /* begins with its size, in front of what the caller sees */

void *take_workspace(size_t bytes) {
    void *block = atomic_exchange(&kept, NULL);
    if (block != NULL && *(size_t *)block >= bytes)
        return (char *)block + ALIGNMENT;
    free(block);
    if (bytes > SIZE_MAX - 2 * ALIGNMENT)
        return NULL;
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    block = aligned_alloc(ALIGNMENT, bytes + ALIGNMENT);
    if (block == NULL)
        return NULL;
    *(size_t *)block = bytes;
    return (char *)block + ALIGNMENT;
}

void give_workspace(void *workspace) {
    if (workspace == NULL)
        return;
    void *block = (char *)workspace - ALIGNMENT;
    if (*(size_t *)block <= most_kept)
        block = atomic_exchange(&kept, block);
    free(block);
}
