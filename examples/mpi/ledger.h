/* What a rank spends: seconds by what it does, bytes of memory.  SPDX-License-Identifier: MIT */
#ifndef LEDGER_H
#define LEDGER_H

#include <stddef.h>
#include <stdint.h>

enum activity { OTHER, COMPUTING, MESSAGING, WAITING, NUM_ACTIVITIES };

/* From now on the time is spent on this; returns on what it was until now. */
enum activity begin_activity(enum activity activity);
enum activity current_activity(void);

/* Seconds of each so far: those of the processor, of WAITING those that have passed. */
void read_seconds(double seconds[NUM_ACTIVITIES]);

/* 64-byte aligned floats, set to 0, counted until they are released. Never NULL. */
float *take_floats(int64_t count);
void release_floats(float *floats);

/* The most bytes that were taken at one time. */
size_t peak_bytes(void);

#endif
