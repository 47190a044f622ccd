/* qkv/openmp.h is the first include, comes twice, in C and C++, and runs in a program: sums tasks by three threads.
 * SPDX-License-Identifier: MIT */
#include <qkv/openmp.h>
#include <qkv/openmp.h>

static int64_t sums[3];

static void add(void *arg, int64_t index, int32_t worker) {
    (void)arg;
    sums[worker] += index;
}

int main(void) {
    qkv_plan plan;
    plan.max_workers = 3;
    qkv_openmp_for(&plan, 1000, add, sums);
    return sums[0] + sums[1] + sums[2] == 499500 ? 0 : 1;
}
