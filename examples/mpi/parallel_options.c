/* What can be asked for.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "parallel_options.h"
#include "messages.h"
#include "support.h"

#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: mpirun -n RANKS context_parallel [OPTION]…\n"
    "\n"
    "Attention over one sequence whose keys, values and queries are divided among ranks: prints what moves, how long\n"
    "it takes and how much memory each rank needs, and compares every bit with one machine.\n"
    "\n"
    "      --tokens N      keys (default: 4096)\n"
    "      --queries N     the last N tokens alone are queries (default: all)\n"
    "      --heads N       (default: 8)\n"
    "      --kv-heads N    heads of keys and values; divides --heads (default: 2)\n"
    "      --head-dim N    of queries and keys (default: 64)\n"
    "      --head-dim-v N  of values (default: that of keys)\n"
    "      --causal        no query sees keys after it\n"
    "      --window N      a query sees N keys, its own the last, and without --causal all after it\n"
    "      --softcap X     logits become X·tanh(logit/X)\n"
    "      --sinks         with a sink for each head\n"
    "      --alibi         with ALiBi\n"
    "      --backward      the gradients too\n"
    "      --chunk N       queries that travel together, a multiple of 64 (default: 256)\n"
    "      --slots N       units that a rank holds: 1 receives, works and sends in turn (default: 3, at most 8)\n"
    "      --balance       keys are dealt out by the pairs that they make: better for --causal, but takes more memory\n"
    "      --no-check      without the comparison, for which rank 0 takes memory for all\n"
    "      --timeout X     seconds after which a rank that waits asks who is still there (default: 30)\n"
    "      --isa NAME      kernel set, one of those that qkv-info lists (default: QKV_ISA, else the best)\n"
    "      --die R@N       rank R kills itself before its unit number N, to see what becomes of the others\n"
    "      --stop R@N      rank R stops there, and answers nobody any more\n"
    "  -h, --help\n";

enum {
    TOKENS = 256,
    QUERIES,
    HEADS,
    KV_HEADS,
    HEAD_DIM,
    HEAD_DIM_V,
    CAUSAL,
    WINDOW,
    SOFTCAP,
    SINKS,
    ALIBI,
    BACKWARD,
    CHUNK,
    SLOTS,
    BALANCE,
    NO_CHECK,
    TIMEOUT,
    ISA,
    DIE,
    STOP
};

static const struct option long_options[] = {
    {"tokens", required_argument, NULL, TOKENS},
    {"queries", required_argument, NULL, QUERIES},
    {"heads", required_argument, NULL, HEADS},
    {"kv-heads", required_argument, NULL, KV_HEADS},
    {"head-dim", required_argument, NULL, HEAD_DIM},
    {"head-dim-v", required_argument, NULL, HEAD_DIM_V},
    {"causal", no_argument, NULL, CAUSAL},
    {"window", required_argument, NULL, WINDOW},
    {"softcap", required_argument, NULL, SOFTCAP},
    {"sinks", no_argument, NULL, SINKS},
    {"alibi", no_argument, NULL, ALIBI},
    {"backward", no_argument, NULL, BACKWARD},
    {"chunk", required_argument, NULL, CHUNK},
    {"slots", required_argument, NULL, SLOTS},
    {"balance", no_argument, NULL, BALANCE},
    {"no-check", no_argument, NULL, NO_CHECK},
    {"timeout", required_argument, NULL, TIMEOUT},
    {"isa", required_argument, NULL, ISA},
    {"die", required_argument, NULL, DIE},
    {"stop", required_argument, NULL, STOP},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static double positive_number(const char *text, const char *option) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value > 0) || !(value < 1e9))
        die("--%s takes a number above 0, not \"%s\"", option, text);
    return value;
}

static struct accident accident_at(const char *text, const char *option, int signal) {
    long long rank, step;
    char rest;
    if (sscanf(text, "%lld@%lld%c", &rank, &step, &rest) != 2 || rank < 0 || rank >= num_ranks || step < 0)
        die("--%s takes RANK@UNIT with a rank below %d, not \"%s\"", option, num_ranks, text);
    return (struct accident){rank, step, signal};
}

static void complete(struct parallel_options *o) {
    struct problem *p = &o->problem;
    const int64_t most = INT64_C(1) << 29; /* floats of a message */
    p->queries = p->queries ? p->queries : p->keys;
    p->dim_v = p->dim_v ? p->dim_v : p->dim;
    if (p->queries > p->keys)
        die("--queries is above --tokens");
    if (p->heads % p->kv_heads != 0)
        die("--heads is no multiple of --kv-heads");
    if (p->chunk_rows % QUERY_ROWS != 0)
        die("--chunk is no multiple of %d", QUERY_ROWS);
    if (p->chunk_rows * p->heads > most / (3 * (p->dim + p->dim_v + 2)))
        die("--chunk times --heads is so large that a message would be of 2 GiB");
}

void read_parallel_options(struct parallel_options *o, int argc, char **argv) {
    const int64_t tokens = INT64_C(1) << 32, width = 1 << 16;
    const char *isa = wanted_kernels();
    struct problem *p = &o->problem;
    *p = (struct problem){.keys = 4096, .heads = 8, .kv_heads = 2, .dim = 64, .chunk_rows = 256};
    o->accident.rank = -1;
    o->timeout = 30;
    o->check = 1;
    o->slots = 3;
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        switch (option) {
        case TOKENS: p->keys = whole_number(optarg, "tokens", 1, tokens); break;
        case QUERIES: p->queries = whole_number(optarg, "queries", 1, tokens); break;
        case HEADS: p->heads = whole_number(optarg, "heads", 1, width); break;
        case KV_HEADS: p->kv_heads = whole_number(optarg, "kv-heads", 1, width); break;
        case HEAD_DIM: p->dim = whole_number(optarg, "head-dim", 1, width); break;
        case HEAD_DIM_V: p->dim_v = whole_number(optarg, "head-dim-v", 1, width); break;
        case CAUSAL: p->causal = 1; break;
        case WINDOW: p->window = whole_number(optarg, "window", 1, tokens); break;
        case SOFTCAP: o->attention.softcap = (float)positive_number(optarg, "softcap"); break;
        case SINKS: o->attention.has_sinks = 1; break;
        case ALIBI: o->attention.has_alibi = 1; break;
        case BACKWARD: o->backward = 1; break;
        case CHUNK: p->chunk_rows = whole_number(optarg, "chunk", QUERY_ROWS, 1 << 20); break;
        case SLOTS: o->slots = (int)whole_number(optarg, "slots", 1, MOST_SLOTS); break;
        case BALANCE: p->balanced = 1; break;
        case NO_CHECK: o->check = 0; break;
        case TIMEOUT: o->timeout = positive_number(optarg, "timeout"); break;
        case ISA: isa = optarg; break;
        case DIE: o->accident = accident_at(optarg, "die", SIGKILL); break;
        case STOP: o->accident = accident_at(optarg, "stop", SIGSTOP); break;
        case 'h':
            fputs(help, stdout);
            o->help = 1;
            return;
        default: end_options(option, help);
        }
    }
    if (optind < argc)
        die("\"%s\" is no option; --help lists what can be asked for", argv[optind]);
    if (isa && strlen(isa) >= sizeof o->isa)
        die("\"%s\" is no kernel set", isa);
    if (isa)
        strcpy(o->isa, isa);
    complete(o);
}
