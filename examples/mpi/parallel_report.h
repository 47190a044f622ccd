/* What examples/mpi prints.  SPDX-License-Identifier: MIT */
#ifndef PARALLEL_REPORT_H
#define PARALLEL_REPORT_H

#include "parallel_options.h"
#include "pipeline.h"

#include <stddef.h>

void print_problem(const struct parallel_options *options, const char *isa);

/* All ranks call these; rank 0 prints. Returns 0 on rank 0 if other bytes were sent than computed. */
int print_pass(const struct sharding *sharding, const char *name, const struct pass_report *report, int64_t bytes);
void print_memory(const struct sharding *sharding, size_t peak);

#endif
