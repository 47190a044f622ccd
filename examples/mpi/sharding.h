/* Who has which keys and queries, and which way queries take.  SPDX-License-Identifier: MIT */
#ifndef SHARDING_H
#define SHARDING_H

#include <stdint.h>

/* One attention over one sequence: queries are the last tokens of the keys. */
struct problem {
    int64_t queries, keys, heads, kv_heads, dim, dim_v;
    int64_t window;     /* a query sees so many keys, its own the last; 0: all of them */
    int64_t causal;     /* no key after the query */
    int64_t chunk_rows; /* queries that travel together at most; a multiple of QUERY_ROWS */
    int64_t balanced;   /* keys are dealt out by the pairs they make, not by their number */
};

/* Gradients of keys are summed over 64 queries at a time, counted from query 0, so only whole ones are separated. */
enum { QUERY_ROWS = 64 };

struct sharding {
    struct problem problem;
    int ranks;
    int64_t *first_block; /* [ranks + 1]: of the key blocks of each rank */
    int64_t *first_row;   /* [ranks + 1]: of its queries */
};

void open_sharding(struct sharding *sharding, const struct problem *problem, int ranks);
void close_sharding(struct sharding *sharding);

/* Tokens of a rank's keys are [first_key(rank), first_key(rank + 1)). */
int64_t first_key(const struct sharding *sharding, int rank);

/* Queries that travel together, each with `1/groups` of its heads: they start at their owner, visit the ranks whose
 * keys they see, in ascending order, and end at their owner. */
struct unit {
    int64_t group, first_row, rows;
    int64_t first_block, end_block; /* the key blocks that they see */
    int owner, first_rank, last_rank;
};

int64_t num_units(const struct sharding *sharding, int64_t groups);

/* Unit number index: of group 0 all queries in order, then of group 1, … This is the order of every rank. */
struct unit unit_at(const struct sharding *sharding, int64_t index);

/* The same with the key blocks that they see of a rank alone. */
struct unit part_at(const struct sharding *sharding, const struct unit *unit, int rank);

/* Bytes that the units of so many groups should move, given the floats a query brings along and what becomes of it. */
int64_t bytes_to_move(const struct sharding *sharding, int64_t groups, int64_t inputs, int64_t results);

#endif
