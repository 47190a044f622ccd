/* qkv/pthreads.h is the first include, comes twice, in C and C++, and runs in a program: sums tasks by three threads.
 * SPDX-License-Identifier: MIT */
#include <qkv/pthreads.h>
#include <qkv/pthreads.h>

static int64_t sums[3];

static void add(void *arg, int64_t index, int32_t worker) {
    (void)arg;
    sums[worker] += index;
}

int main(void) {
    qkv_pthreads pool;
    if (qkv_pthreads_start(&pool, 3, QKV_PTHREADS_SPINS) != 0)
        return 1;
    qkv_pthreads_for(&pool, 1000, add, sums);
    qkv_pthreads_stop(&pool);
    return sums[0] + sums[1] + sums[2] == 499500 ? 0 : 1;
}
