/* The machine below the test harness, where it has POSIX: pages, threads, processes.  SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE
#include "harness_host.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------------- pages */

size_t qt_page_size(void) {
    static size_t size;
    if (size == 0)
        size = (size_t)sysconf(_SC_PAGESIZE);
    return size;
}

size_t qt_margin(void) {
    return 0;
}

size_t qt_most_kept(void) {
    return (size_t)16 << 20;
}

unsigned char *qt_map(size_t bytes, bool lazy) {
    const size_t page = qt_page_size();
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (lazy ? MAP_NORESERVE : 0);
    unsigned char *map = mmap(NULL, bytes + 2 * page, PROT_NONE, flags, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    if (mprotect(map + page, bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, bytes + 2 * page);
        return NULL;
    }
    return map + page;
}

void qt_unmap(unsigned char *p, size_t bytes) {
    munmap(p - qt_page_size(), bytes + 2 * qt_page_size());
}

bool qt_protect(unsigned char *p, size_t bytes, bool writable) {
    mprotect(p, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ);
    return true;
}

int qt_vformat(char *to, size_t size, const char *format, va_list args) {
    return vsnprintf(to, size, format, args);
}

/* ------------------------------------------------------------------------------------------------------- threads */

typedef struct job {
    qkv_task task;
    void *arg;
    int64_t num_tasks;
    const int64_t *order; /* NULL: ascending */
    _Atomic int64_t next;
} job;

typedef struct thread {
    pthread_t id;
    job *job;
    int32_t worker;
} thread;

static void *work(void *arg) {
    thread *t = arg;
    job *j = t->job;
    for (;;) {
        int64_t i = atomic_fetch_add(&j->next, 1);
        if (i >= j->num_tasks)
            return NULL;
        if (j->order != NULL && (j->order[i] & 3) == 0)
            sched_yield(); /* on few cores the threads would hardly mix otherwise */
        j->task(j->arg, j->order != NULL ? j->order[i] : i, t->worker);
    }
}

int qt_num_processors(void) {
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

void qt_parallel_for(void *pool, int64_t num_tasks, qkv_task task, void *arg) {
    const qt_pool *p = pool;
    int64_t *order = p->shuffle != 0 && num_tasks > 0 ? qt_shuffled(num_tasks, p->shuffle) : NULL;
    job j = {.task = task, .arg = arg, .num_tasks = num_tasks, .order = order};
    thread *threads = calloc((size_t)p->threads, sizeof *threads);
    for (int32_t i = 0; i < p->threads; i++) {
        threads[i] = (thread){.job = &j, .worker = i};
        if (i > 0 && pthread_create(&threads[i].id, NULL, work, &threads[i]) != 0) {
            fprintf(stderr, "pthread_create failed\n");
            abort();
        }
    }
    work(&threads[0]);
    for (int32_t i = 1; i < p->threads; i++)
        pthread_join(threads[i].id, NULL);
    free(threads);
    free(order);
}

/* ----------------------------------------------------------------------------------------------------- processes */

/* cmocka leaves a handler by longjmp, which keeps the signal blocked: the next fault would end the program. */
void qt_unblock_faults(void) {
    sigset_t faults;
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    sigprocmask(SIG_UNBLOCK, &faults, NULL);
}

static void exit_fault(int signal_number) {
    (void)signal_number;
    _Exit(QT_FAULT);
}

qt_outcome qt_in_child(void (*body)(void *arg), void *arg) {
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    if (pid < 0)
        qt_fail("fork failed: %s", strerror(errno));
    if (pid == 0) {
        qt_now_in_child();
        if (freopen("/dev/null", "w", stdout) == NULL || freopen("/dev/null", "w", stderr) == NULL)
            _Exit(QT_OTHER);
        signal(SIGSEGV, exit_fault);
        signal(SIGBUS, exit_fault);
        body(arg);
        _Exit(QT_PASSED);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) && WEXITSTATUS(status) < QT_OTHER ? (qt_outcome)WEXITSTATUS(status) : QT_OTHER;
}
