/* The command line.  SPDX-License-Identifier: MIT */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdint.h>

struct options {
    char *model;                   /* folder */
    const char *input;             /* file, "-" for standard input, or NULL */
    const char *heatmap;           /* file to write, or NULL */
    const char *isa;               /* kernel set, or NULL for the best */
    int64_t weights;               /* qkv_type */
    int64_t arithmetic, attention; /* QKV_ARITHMETIC_… of products by weights, and in attention */
    int64_t layer;                 /* 1 … num_layers, 0: not given */
    int32_t num_threads;
    int json;
    int tokens_only;
    char **sentences;
    int num_sentences;
};

/* Reads the command line, QKV_ISA and the default places. --help and mistakes end the program. */
void read_options(struct options *options, int argc, char **argv);

#endif
