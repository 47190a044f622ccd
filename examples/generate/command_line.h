/* The command line.  SPDX-License-Identifier: MIT */
#ifndef COMMAND_LINE_H
#define COMMAND_LINE_H

#include "sampler.h"

#include <stddef.h>
#include <stdint.h>

struct settings {
    const char *model;
    const char *prompt;                         /* or NULL */
    const char *batch;                          /* file of prompts, one a line; "-": standard input; or NULL */
    const char *perplexity, *tokenize, *logits; /* files, or NULL */
    int interactive, raw, json;
    const char **stops;
    size_t num_stops;
    int64_t max_answer; /* tokens */
    int64_t speed;      /* tokens, or 0 */
    int64_t context, chunk, sequences;
    int32_t cache_type, num_threads;
    int64_t arithmetic, attention; /* QKV_ARITHMETIC_… of products by weights, and in attention */
    const char *cache_name, *isa;
    struct sampling sampling;
};

/* Reads the command line, or ends the program: after --help with status 0, else 1. */
void read_settings(struct settings *settings, int argc, char **argv);
void free_settings(struct settings *settings);

#endif
