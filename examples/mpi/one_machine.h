/* The same attention on one machine, in one call, to compare with.  SPDX-License-Identifier: MIT */
#ifndef ONE_MACHINE_H
#define ONE_MACHINE_H

#include "shard.h"

/* Rank 0 computes the whole and compares every word with those of each rank; prints what it finds. All ranks call it.
 * Returns how many words differ, on rank 0. */
int64_t compare_with_one_machine(struct shard *shard, int64_t backward);

#endif
