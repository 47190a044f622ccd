/* qkv/openmp.h: its loops, the number of its threads, and the bits of what runs on them.
 *
 * SPDX-License-Identifier: MIT */
#include "adapter_cases.h"

#include <qkv/openmp.h>

static const int32_t numbers[] = {1, 2, 3, 8};

static void test_every_task_runs_once(void) {
    for (int n = 0; n < 4; n++) {
        qkv_plan plan = {.max_workers = numbers[n]};
        for (int own = 1; own <= 16; own += 15) { /* OpenMP's own number, as a program may change it after planning */
            omp_set_num_threads(own);
            adapter_expect_loops(qkv_openmp_for, &plan, numbers[n]);
        }
    }
}

static void test_threads_change_no_bit(void) {
    for (int n = 0; n < 4; n++)
        adapter_expect_bits(qkv_openmp_for, NULL, numbers[n]);
}

/* From within a team: each of its threads has a plan and a loop of its own. */
static void test_within_a_team(void) {
    static adapter_tally tallies[4];
#pragma omp parallel for num_threads(4)
    for (int i = 0; i < 4; i++) {
        qkv_plan plan = {.max_workers = 3};
        tallies[i] = (adapter_tally){.workers = 3};
        qkv_openmp_for(&plan, ADAPTER_TASKS, adapter_count, &tallies[i]);
    }
    for (int i = 0; i < 4; i++) {
        QT_EXPECT(tallies[i].bad_workers == 0, "loop %d: a worker of another team", i);
        for (int task = 0; task < ADAPTER_TASKS; task++)
            assert_int_equal(tallies[i].times[task], 1);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("every_task_runs_once", test_every_task_runs_once);
    qt_once("threads_change_no_bit", test_threads_change_no_bit);
    qt_once("within_a_team", test_within_a_team);
    return qt_run();
}
