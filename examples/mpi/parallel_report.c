/* What examples/mpi prints.  SPDX-License-Identifier: MIT */
#include "parallel_report.h"
#include "messages.h"
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void print_problem(const struct parallel_options *options, const char *isa) {
    const struct problem *p = &options->problem;
    printf("%lld queries, %lld keys, %lld heads on %lld, head_dim %lld", (long long)p->queries, (long long)p->keys,
           (long long)p->heads, (long long)p->kv_heads, (long long)p->dim);
    if (p->dim_v != p->dim)
        printf(" and %lld", (long long)p->dim_v);
    printf("%s", p->causal ? ", causal" : "");
    if (p->window)
        printf(", window %lld", (long long)p->window);
    if (options->attention.softcap > 0)
        printf(", softcap %g", (double)options->attention.softcap);
    printf("%s%s%s; %d rank%s, %lld queries at a time, kernel set %s\n", options->attention.has_sinks ? ", sinks" : "",
           options->attention.has_alibi ? ", ALiBi" : "", p->balanced ? "; keys dealt out by pairs" : "", num_ranks,
           num_ranks == 1 ? "" : "s", (long long)p->chunk_rows, isa);
}

/* Everybody's numbers to rank 0, [rank][count], or NULL elsewhere. */
static double *gather(const double *mine, int count) {
    size_t bytes = (size_t)count * sizeof *mine;
    if (my_rank > 0) {
        send_now(mine, bytes, 0, A_NOTE);
        return NULL;
    }
    double *all = allocate((size_t)(num_ranks * count), sizeof *all);
    memcpy(all, mine, bytes);
    for (int rank = 1; rank < num_ranks; rank++)
        receive_now(all + rank * count, bytes, rank, A_NOTE);
    return all;
}

static double share(double part, double other) {
    return part + other > 0 ? 100 * part / (part + other) : 100;
}

int print_pass(const struct sharding *s, const char *name, const struct pass_report *report, int64_t bytes) {
    enum { COUNT = sizeof *report / sizeof(double) };
    double mine[COUNT], sent = 0, there = 0, late = 0, slowest = 0;
    memcpy(mine, report, sizeof mine);
    double *all = gather(mine, COUNT);
    if (!all)
        return 1;
    printf("\n%-8s                               processor time       time passed\n"
           "    rank  key blocks  queries  units  computing  messages   waiting       all  there in time\n",
           name);
    for (int rank = 0; rank < num_ranks; rank++) {
        struct pass_report r;
        memcpy(&r, all + rank * COUNT, sizeof r);
        printf("%8d  %10lld  %7lld  %5.0f  %7.3f s %7.3f s %7.3f s %7.3f s         %4.0f %%\n", rank,
               (long long)(s->first_block[rank + 1] - s->first_block[rank]),
               (long long)(s->first_row[rank + 1] - s->first_row[rank]), r.steps, r.computing, r.messaging, r.waiting,
               r.seconds, share(r.bytes_there, r.bytes_late));
        sent += r.bytes_sent;
        there += r.bytes_there;
        late += r.bytes_late;
        slowest = r.seconds > slowest ? r.seconds : slowest;
    }
    free(all);
    printf("%s: %.3f s; %.0f bytes moved per query, %.0f computed; %.0f %% of what came was there when it was wanted\n",
           name, slowest, sent / (double)s->problem.queries, (double)bytes / (double)s->problem.queries,
           share(there, late));
    return sent == (double)bytes;
}

void print_memory(const struct sharding *s, size_t peak) {
    double mine = (double)peak, most = 0, *all = gather(&mine, 1);
    if (!all)
        return;
    printf("\nmemory of each rank at its peak, in MiB:");
    for (int rank = 0; rank < num_ranks; rank++) {
        printf(" %.2f", all[rank] / 1048576);
        most = all[rank] > most ? all[rank] : most;
    }
    printf("; the most is %.0f bytes a key\n", most / (double)s->problem.keys);
    free(all);
}
