/* qkv/pthreads.h: its loops, its threads that wait awake or asleep, and the bits of what runs on them.
 *
 * SPDX-License-Identifier: MIT */
#include "adapter_cases.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static int threads_left = 1 << 20; /* that the system would still start */

static int limited_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *arg) {
    return threads_left-- > 0 ? pthread_create(thread, attributes, body, arg) : EAGAIN;
}

#define pthread_create limited_create
#include <qkv/pthreads.h>

static const int32_t numbers[] = {1, 2, 3, 8};

static void test_every_task_runs_once(void) {
    for (int n = 0; n < 4; n++)
        for (int32_t spins = 0; spins <= QKV_PTHREADS_SPINS; spins += QKV_PTHREADS_SPINS) {
            qkv_pthreads pool;
            assert_int_equal(qkv_pthreads_start(&pool, numbers[n], spins), 0);
            assert_int_equal(pool.num_threads, numbers[n]);
            adapter_expect_loops(qkv_pthreads_for, &pool, numbers[n]);
            qkv_pthreads_stop(&pool);
        }
}

static void test_start_and_stop(void) {
    for (int32_t wanted = -1; wanted < 20; wanted++) { /* at once: threads that have not begun to wait must see it */
        qkv_pthreads pool;
        assert_int_equal(qkv_pthreads_start(&pool, wanted, wanted % 2 ? 0 : QKV_PTHREADS_SPINS), 0);
        assert_int_equal(pool.num_threads, wanted < 1 ? 1 : wanted);
        qkv_pthreads_stop(&pool);
    }
}

static int num_threads_of_process(void) {
    int number = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "Threads: %d", &number);
    if (file)
        fclose(file);
    return number;
}

static void test_threads_that_do_not_start(void) {
    qkv_pthreads pool;
    assert_int_equal(qkv_pthreads_start(&pool, 2, 0), 0); /* ThreadSanitizer then has its own thread, too */
    qkv_pthreads_stop(&pool);
    usleep(10000);
    const int before = num_threads_of_process();
    for (int last = 0; last < 7; last++) {
        threads_left = last;
        assert_int_equal(qkv_pthreads_start(&pool, 8, last % 2 ? 0 : QKV_PTHREADS_SPINS), EAGAIN);
        for (int wait = 0; wait < 1000 && num_threads_of_process() > before; wait++)
            usleep(1000); /* a thread that was joined is still counted for a moment */
        assert_int_equal(num_threads_of_process(), before);
    }
    threads_left = 1 << 20;
}

static void test_threads_change_no_bit(void) {
    for (int n = 0; n < 4; n++) {
        qkv_pthreads pool;
        assert_int_equal(qkv_pthreads_start(&pool, numbers[n], numbers[n] == 2 ? QKV_PTHREADS_SPINS : 0), 0);
        adapter_expect_bits(qkv_pthreads_for, &pool, numbers[n]);
        qkv_pthreads_stop(&pool);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("every_task_runs_once", test_every_task_runs_once);
    qt_once("start_and_stop", test_start_and_stop);
    qt_once("threads_that_do_not_start", test_threads_that_do_not_start);
    qt_once("threads_change_no_bit", test_threads_change_no_bit);
    return qt_run();
}
