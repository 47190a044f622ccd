/* A kernel set against recorded results: qkv-info --selftest, and images for microcontrollers (docs/embedded.md).
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TOOLS_GOLDEN_H
#define QKV_TOOLS_GOLDEN_H

#include <qkv.h>

/* Runs the set of ctx on fixed inputs and says, line by line, what differs from the results recorded here. 0 if nothing
 * does. No heap, no input or output of its own. */
int golden(const qkv_ctx *ctx, void (*say)(const char *line));

#endif
