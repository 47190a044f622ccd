/* The machine below the test harness, where there is nothing but C: no pages, threads or processes.
 *
 * An allocation has a margin of poison at either end in place of a guard page: a write there is found when the case
 * ends, a read is not. A write to an input shows by its sum. Tasks run one after the other, by worker after worker.
 *
 * SPDX-License-Identifier: MIT */
#include "harness_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 64, MARGIN = 256 };

size_t qt_page_size(void) {
    return UNIT;
}

size_t qt_margin(void) {
    return MARGIN;
}

size_t qt_most_kept(void) {
    return 0; /* memory may be small */
}

/* By malloc, as newlib has no aligned_alloc everywhere; what that returned lies before the memory. */
unsigned char *qt_map(size_t bytes, bool lazy) {
    unsigned char *raw = lazy ? NULL : malloc(bytes + UNIT + sizeof(void *));
    if (raw == NULL)
        return NULL;
    unsigned char *p = raw + sizeof(void *);
    p += (0 - (uintptr_t)p) & (UNIT - 1);
    memcpy(p - sizeof raw, &raw, sizeof raw);
    return p;
}

void qt_unmap(unsigned char *p, size_t bytes) {
    (void)bytes;
    unsigned char *raw;
    memcpy(&raw, p - sizeof raw, sizeof raw);
    free(raw);
}

bool qt_protect(unsigned char *p, size_t bytes, bool writable) {
    (void)p, (void)bytes, (void)writable;
    return false;
}

/* Some builds of newlib know no %a, %zu and %td, and would take the arguments behind them for others. */
int qt_vformat(char *to, size_t size, const char *format, va_list args) {
#if defined(__NEWLIB__) && !defined(_WANT_IO_C99_FORMATS)
    _Static_assert(sizeof(size_t) == sizeof(int), "a size is printed as an int");
    char known[512];
    size_t n = 0;
    bool inside = false; /* between % and the letter */
    for (; *format != '\0' && n + 1 < sizeof known; format++) {
        const bool letter = strchr("%acdefgiopsuxEGX", *format) != NULL;
        if (!inside || strchr("zt", *format) == NULL)
            known[n++] = inside && *format == 'a' ? 'e' : *format;
        inside = inside ? !letter : *format == '%';
    }
    known[n] = '\0';
    format = known;
#endif
    return vsnprintf(to, size, format, args);
}

void qt_unblock_faults(void) {
}

int qt_num_processors(void) {
    return 1;
}

void qt_parallel_for(void *pool, int64_t num_tasks, qkv_task task, void *arg) {
    const qt_pool *p = pool;
    int64_t *order = p->shuffle != 0 && num_tasks > 0 ? qt_shuffled(num_tasks, p->shuffle) : NULL;
    for (int64_t i = 0; i < num_tasks; i++)
        task(arg, order != NULL ? order[i] : i, (int32_t)(i % p->threads));
    free(order);
}

qt_outcome qt_in_child(void (*body)(void *arg), void *arg) {
    (void)body, (void)arg;
    qt_skip("no processes on this target");
}
