/* The two passes over the ring: the attention, and its gradients.  SPDX-License-Identifier: MIT */
#ifndef PASSES_H
#define PASSES_H

#include "pipeline.h"
#include "shard.h"

/* What happens to a rank for the sake of the tests: before unit `step` of the forward it gets a signal. −1: nothing. */
struct accident {
    int64_t rank, step, signal;
};

/* Fills out and lse of each rank's queries. */
struct pass_report run_forward(struct shard *shard, int slots, const struct accident *accident);

/* Fills grad_q of each rank's queries, grad_k and grad_v of its keys and, on all ranks, grad_sinks. */
struct pass_report run_backward(struct shard *shard, int slots);

/* Bytes that all ranks together should send. */
int64_t forward_bytes(const struct sharding *sharding);
int64_t backward_bytes(const struct sharding *sharding);

#endif
