/* What can be asked for.  SPDX-License-Identifier: MIT */
#ifndef PARALLEL_OPTIONS_H
#define PARALLEL_OPTIONS_H

#include "passes.h"

/* No pointers: it is sent from rank to rank as it is. */
struct parallel_options {
    struct problem problem;
    struct attention_options attention;
    struct accident accident;
    double timeout;
    int64_t backward, check, help;
    int slots;
    char isa[32];
};

void read_parallel_options(struct parallel_options *options, int argc, char **argv);

#endif
