/* Who has which keys and queries, and which way queries take.  SPDX-License-Identifier: MIT */
#include "sharding.h"
#include "support.h"

#include <stdlib.h>

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t parts(int64_t n, int64_t of) {
    return (n + of - 1) / of;
}

/* The position of a query. */
static int64_t position(const struct problem *p, int64_t row) {
    return p->keys - p->queries + row;
}

/* Pairs of a block's keys and all queries, about. */
static double pairs_of_block(const struct problem *p, int64_t block) {
    double keys = (double)(smaller(p->keys, (block + 1) * QKV_KEY_BLOCK) - block * QKV_KEY_BLOCK);
    int64_t middle = block * QKV_KEY_BLOCK + QKV_KEY_BLOCK / 2, offset = p->keys - p->queries;
    int64_t first = p->causal ? larger(0, middle - offset) : 0;
    int64_t end = p->window ? smaller(p->queries, middle + p->window - offset) : p->queries;
    return keys * (double)larger(0, end - first);
}

/* Blocks for each rank, the first ranks one more where they don't come out even. */
static void deal_evenly(int64_t *first, int64_t n, int ranks) {
    for (int rank = 0; rank <= ranks; rank++)
        first[rank] = rank * (n / ranks) + smaller(rank, n % ranks);
}

/* Blocks so that each rank has about as many pairs. */
static void deal_pairs(int64_t *first, const struct problem *p, int64_t blocks, int ranks) {
    double all = 0, sum = 0;
    int rank = 0;
    for (int64_t block = 0; block < blocks; block++)
        all += pairs_of_block(p, block);
    first[0] = 0;
    for (int64_t block = 0; block < blocks; block++) {
        double half = pairs_of_block(p, block) / 2;
        while (rank + 1 < ranks && sum + half > all * (rank + 1) / ranks && first[rank] < block)
            first[++rank] = block;
        sum += 2 * half;
    }
    while (rank < ranks)
        first[++rank] = blocks;
}

void open_sharding(struct sharding *s, const struct problem *problem, int ranks) {
    s->problem = *problem;
    s->ranks = ranks;
    s->first_block = allocate((size_t)ranks + 1, sizeof *s->first_block);
    s->first_row = allocate((size_t)ranks + 1, sizeof *s->first_row);
    int64_t blocks = parts(problem->keys, QKV_KEY_BLOCK);
    if (problem->balanced)
        deal_pairs(s->first_block, problem, blocks, ranks);
    else
        deal_evenly(s->first_block, blocks, ranks);
    deal_evenly(s->first_row, parts(problem->queries, QUERY_ROWS), ranks);
    for (int rank = 0; rank <= ranks; rank++)
        s->first_row[rank] = smaller(problem->queries, s->first_row[rank] * QUERY_ROWS);
    s->problem.chunk_rows = smaller(problem->chunk_rows, s->first_row[1]); /* no rank has more than the first */
}

void close_sharding(struct sharding *s) {
    free(s->first_block);
    free(s->first_row);
}

int64_t first_key(const struct sharding *s, int rank) {
    return smaller(s->problem.keys, s->first_block[rank] * QKV_KEY_BLOCK);
}

static int64_t chunks_of(const struct sharding *s, int rank) {
    return parts(s->first_row[rank + 1] - s->first_row[rank], s->problem.chunk_rows);
}

int64_t num_units(const struct sharding *s, int64_t groups) {
    int64_t chunks = 0;
    for (int rank = 0; rank < s->ranks; rank++)
        chunks += chunks_of(s, rank);
    return groups * chunks;
}

static int rank_of_block(const struct sharding *s, int64_t block) {
    int rank = 0;
    while (s->first_block[rank + 1] <= block)
        rank++;
    return rank;
}

struct unit unit_at(const struct sharding *s, int64_t index) {
    const struct problem *p = &s->problem;
    int64_t chunks = num_units(s, 1), chunk = index % chunks;
    struct unit u = {.group = index / chunks};
    for (; chunk >= chunks_of(s, u.owner); u.owner++)
        chunk -= chunks_of(s, u.owner);
    u.first_row = s->first_row[u.owner] + chunk * p->chunk_rows;
    u.rows = smaller(p->chunk_rows, s->first_row[u.owner + 1] - u.first_row);
    int64_t first = p->window ? larger(0, position(p, u.first_row) + 1 - p->window) : 0;
    int64_t end = p->causal ? position(p, u.first_row + u.rows) : p->keys;
    u.first_block = first / QKV_KEY_BLOCK;
    u.end_block = parts(end, QKV_KEY_BLOCK);
    u.first_rank = rank_of_block(s, u.first_block);
    u.last_rank = rank_of_block(s, u.end_block - 1);
    return u;
}

struct unit part_at(const struct sharding *s, const struct unit *unit, int rank) {
    struct unit u = *unit;
    u.first_block = larger(u.first_block, s->first_block[rank]);
    u.end_block = smaller(u.end_block, s->first_block[rank + 1]);
    return u;
}

int64_t bytes_to_move(const struct sharding *s, int64_t groups, int64_t inputs, int64_t results) {
    int64_t floats = 0;
    for (int64_t i = 0; i < num_units(s, groups); i++) {
        struct unit u = unit_at(s, i);
        floats += u.rows * ((u.owner != u.first_rank) * inputs + (u.last_rank - u.first_rank) * (inputs + results) +
                            (u.owner != u.last_rank) * results);
    }
    return floats * (int64_t)sizeof(float);
}
