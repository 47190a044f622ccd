/* Runs tasks on the OpenMP team of ggml's CPU backend: on the very threads that computed the op before and will compute
 * the one after. Which library holds it is found through the CPU backend, so that a process with several OpenMP
 * runtimes, or one that loads libraries privately (Python), gets the right one; nothing has to be linked.
 *
 * SPDX-License-Identifier: MIT */
#include "team.h"

#include <dlfcn.h>
#include <ggml-backend.h>
#include <qkv/pthreads.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static int uses_openmp(ggml_backend_reg_t cpu, ggml_backend_get_features_t get_features) {
    const struct ggml_backend_feature *feature = get_features(cpu);
    for (; feature && feature->name; feature++)
        if (strcmp(feature->name, "OPENMP") == 0)
            return strcmp(feature->value, "0") != 0;
    return 0;
}

static void copy_symbol(void *function, size_t size, void *library, const char *name) {
    void *address = dlsym(library, name);
    memcpy(function, &address, size); /* C has no conversion from void * to a function */
}

void find_openmp(struct team *team) {
    ggml_backend_reg_t cpu = ggml_backend_reg_by_name("CPU");
    void *address = cpu ? ggml_backend_reg_get_proc_address(cpu, "ggml_backend_get_features") : NULL;
    ggml_backend_get_features_t get_features;
    memcpy(&get_features, &address, sizeof get_features);
    Dl_info info;
    if (!address || !uses_openmp(cpu, get_features) || !dladdr(address, &info))
        return;
    void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        library = dlopen(NULL, RTLD_LAZY); /* it is part of the program */
    if (!library)
        return;
    copy_symbol(&team->parallel, sizeof team->parallel, library, "GOMP_parallel"); /* LLVM's has it too */
    copy_symbol(&team->thread_num, sizeof team->thread_num, library, "omp_get_thread_num");
    if (!team->thread_num)
        team->parallel = NULL;
}

struct region {
    const struct team *team;
    qkv_task task;
    void *arg;
    int64_t num_tasks;
    atomic_llong next; /* the first task that nobody has taken */
};

static void region_body(void *data) {
    struct region *region = data;
    const int32_t worker = region->team->thread_num();
    for (int64_t i; (i = (int64_t)atomic_fetch_add(&region->next, 1)) < region->num_tasks;)
        region->task(region->arg, i, worker);
}

void team_for(void *data, int64_t num_tasks, qkv_task task, void *arg) {
    const struct team *team = data;
    if (team->parallel && team->num_threads > 1 && num_tasks > 1) {
        struct region region = {.team = team, .task = task, .arg = arg, .num_tasks = num_tasks};
        team->parallel(region_body, &region, (unsigned)team->num_threads, 0);
        return;
    }
    qkv_pthreads pool; /* of threads that begin and end here; of the calling one alone where they can't begin */
    if (qkv_pthreads_start(&pool, num_tasks < team->num_threads ? (int32_t)num_tasks : team->num_threads, 0) != 0)
        qkv_pthreads_start(&pool, 1, 0);
    qkv_pthreads_for(&pool, num_tasks, task, arg);
    qkv_pthreads_stop(&pool);
}
