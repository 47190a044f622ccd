/* What the environment says to the adapter; the library itself reads none.  SPDX-License-Identifier: MIT */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

struct settings {
    const char *isa;   /* QKV_ISA: the kernel set, by name; NULL: the best one */
    bool off;          /* QKV_OFF=1: every op is left to ggml */
    bool log;          /* QKV_LOG=1: says what it is, and at the end what it did, on stderr */
    bool takes_weights[GGML_TYPE_COUNT], any_weights; /* QKV_WEIGHTS: types whose products are not left to ggml */
    int64_t min_work;  /* QKV_MIN_WORK: ops of fewer multiplications are left to ggml */
};

struct settings read_settings(void);

#endif
