/* What the environment says to the adapter; the library itself reads none.  SPDX-License-Identifier: MIT */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

struct settings {
    const char *isa;     /* QKV_ISA: the kernel set, by name; NULL: the best one */
    bool off;            /* QKV_OFF=1: every op is left to ggml */
    bool log;            /* QKV_LOG=1: says what it is, and at the end what it did, on stderr */
    const char *weights; /* QKV_WEIGHTS: the types whose products qkv computes, "q4_1,q5_0"; 1: all; 0: none; NULL:
                          * those in which it is faster than ggml */
    int64_t min_work;    /* QKV_MIN_WORK: ops of fewer multiplications are left to ggml */
};

struct settings read_settings(void);

/* Whether the setting names the type. */
bool names_weights(const char *weights, const char *type);

#endif
