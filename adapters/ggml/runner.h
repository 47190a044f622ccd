/* What computes ops, one at a time.  SPDX-License-Identifier: MIT */
#ifndef RUNNER_H
#define RUNNER_H

#include "team.h"

#include <qkv.h>
#include <stddef.h>
#include <stdlib.h>

struct runner {
    qkv_ctx ctx;
    struct team team;
    void *workspace; /* grows and stays */
    size_t workspace_size;
};

/* Whether there is so much memory in the workspace. */
static inline int reserve_workspace(struct runner *runner, size_t size) {
    if (size > runner->workspace_size) {
        free(runner->workspace);
        runner->workspace = aligned_alloc(64, size);
        runner->workspace_size = runner->workspace ? size : 0;
    }
    return size <= runner->workspace_size;
}

#endif
