/* qkv-info --selftest: every kernel set against the reference.  SPDX-License-Identifier: MIT */
#ifndef QKV_TOOLS_SELFTEST_H
#define QKV_TOOLS_SELFTEST_H

/* Runs random cases for about two seconds and prints a line for each available kernel set, or for `isa` alone when it
 * is not NULL. 0 if all words are equal, else 1. */
int selftest(const char *isa);

#endif
