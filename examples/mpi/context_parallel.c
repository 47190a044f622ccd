/* Attention over a sequence that no machine holds: keys and values lie on many ranks, queries visit them, and what
 * comes out, forward and backward, has the bits of one machine. README.md beside this file explains how.
 *
 *   sharding.c   who has what           passes.c           the attention and its gradients
 *   pipeline.c   the ring               shard.c            a rank's tensors, calls of the library
 *   messages.c   MPI, and dead ranks    one_machine.c      the whole at once, to compare with
 *   ledger.c     seconds and bytes      parallel_report.c  what is printed
 *
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "ledger.h"
#include "messages.h"
#include "one_machine.h"
#include "parallel_options.h"
#include "parallel_report.h"
#include "passes.h"
#include "support.h"

#include <stdio.h>
#include <string.h>

const char program_name[] = "context_parallel";

/* Rank 0 reads the options, the others get them: one message where something is wrong with them. */
static struct parallel_options share_options(int argc, char **argv) {
    struct parallel_options options;
    memset(&options, 0, sizeof options);
    if (my_rank == 0)
        read_parallel_options(&options, argc, argv);
    for (int rank = 1; rank < num_ranks && my_rank == 0; rank++)
        send_now(&options, sizeof options, rank, A_NOTE);
    if (my_rank > 0)
        receive_now(&options, sizeof options, 0, A_NOTE);
    return options;
}

int main(int argc, char **argv) {
    messages_start(&argc, &argv);
    struct parallel_options options = share_options(argc, argv);
    int64_t differ = 0;
    if (!options.help) {
        struct sharding sharding;
        struct shard shard;
        qkv_ctx ctx;
        messages_set_timeout(options.timeout);
        choose_kernels(&ctx, *options.isa ? options.isa : NULL);
        open_sharding(&sharding, &options.problem, num_ranks);
        open_shard(&shard, &ctx, &sharding, &options.attention, my_rank, options.backward);
        struct pass_report forward = run_forward(&shard, options.slots, &options.accident), backward = {0};
        if (options.backward)
            backward = run_backward(&shard, options.slots);
        size_t peak = peak_bytes();
        if (my_rank == 0)
            print_problem(&options, ctx.isa);
        int as_computed = print_pass(&sharding, "forward", &forward, forward_bytes(&sharding));
        if (options.backward)
            as_computed &= print_pass(&sharding, "backward", &backward, backward_bytes(&sharding));
        print_memory(&sharding, peak);
        if (options.check)
            differ = compare_with_one_machine(&shard, options.backward);
        differ += !as_computed;
        close_shard(&shard);
        close_sharding(&sharding);
    }
    messages_end();
    return differ != 0;
}
