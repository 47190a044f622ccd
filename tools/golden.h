/* qkv-info --selftest: the reference against recorded results.  SPDX-License-Identifier: MIT */
#ifndef QKV_TOOLS_GOLDEN_H
#define QKV_TOOLS_GOLDEN_H

#include <qkv.h>

/* Runs the reference on fixed inputs and prints what differs from the results recorded here. 0 if nothing does. */
int golden(void);

#endif
