/* The ring: units of queries go from rank to rank, each works on one while the next comes and the last one leaves.
 * SPDX-License-Identifier: MIT */
#ifndef PIPELINE_H
#define PIPELINE_H

#include "sharding.h"

enum { MOST_SLOTS = 8 };

/* A record is what travels of a unit: `inputs` floats for each query, then `results` floats for each. From the owner
 * come the inputs, from rank to rank goes all of it, to the owner return the results. */
struct pass {
    const struct sharding *sharding;
    int64_t groups, inputs, results;
    void (*pack)(void *arg, const struct unit *unit, float *inputs);
    void (*work)(void *arg, const struct unit *unit, float *inputs, float *results, int is_first);
    void (*unpack)(void *arg, const struct unit *unit, const float *results);
    void *arg;
    int slots; /* records at a station, up to MOST_SLOTS: with 1 it receives, works and sends in turn, with 3 at once */
};

struct pass_report {
    double seconds, computing, messaging, waiting; /* of one rank */
    double steps;                                  /* units that it has worked on */
    double bytes_sent;
    double bytes_there, bytes_late; /* of records that had come when they were wanted, and of others */
};

/* Runs this rank's part. All ranks call it with the same pass. */
struct pass_report run_pass(const struct pass *pass);

#endif
