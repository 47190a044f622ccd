/* What the harness wants of the machine: harness_posix.c has it of POSIX, bare/harness_bare.c of C alone, for targets
 * without pages, threads and processes. There also belongs what harness.h declares as qt_parallel_for,
 * qt_num_processors and qt_in_child.  SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_HARNESS_HOST_H
#define QKV_TESTS_HARNESS_HOST_H

#include "harness.h"

size_t qt_page_size(void); /* memory is taken in multiples of it, and aligned to it */
size_t qt_margin(void);    /* bytes of poison at either end of a block, where no page guards it; else 0 */
size_t qt_most_kept(void); /* blocks up to this size stay mapped for the next of that size */

/* Memory between guard pages; lazy: zeros that take no room until they are written. NULL where the machine refuses. */
unsigned char *qt_map(size_t bytes, bool lazy);
void qt_unmap(unsigned char *p, size_t bytes);
bool qt_protect(unsigned char *p, size_t bytes, bool writable); /* false: writes can't be made faults here */

int qt_vformat(char *to, size_t size, const char *format, va_list args); /* vsnprintf */
void qt_unblock_faults(void);                                            /* before each test */
void qt_now_in_child(void); /* from qt_in_child: failures end the process from now on */

int64_t *qt_shuffled(int64_t n, uint64_t seed); /* 0 … n−1 in a random order, to be freed */

#endif
