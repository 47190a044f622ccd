/* The command line.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "options.h"

#include "support.h"
#include "rounding.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_NAME "all-MiniLM-L6-v2"

static const char help[] =
    "usage: encoder [OPTION]… [SENTENCE]…\n"
    "\n"
    "Turns sentences into vectors of unit length with a BERT model; sentences of like meaning come out close.\n"
    "Without a sentence it takes a few of its own.\n"
    "\n"
    "  -m, --model DIR     folder with config.json, vocab.txt and model.safetensors\n"
    "                      (default: what scripts/model.sh fetches)\n"
    "  -i, --input FILE    one sentence a line; - is standard input\n"
    "  -j, --json          one object a line: text, tokens, embedding; nothing else on standard output\n"
    "      --tokens        the same without embedding; the model's weights are not loaded\n"
    "  -H, --heatmap FILE  draw what every head of a layer attends to in the first sentence, as SVG\n"
    "  -l, --layer N       the layer for the heat map and the table of heads (default: 1, the first)\n"
    "  -w, --weights TYPE  round the model's matrices to bf16, int8 or q8_0, which takes less memory; the\n"
    "                      report says how close the vectors stay to those of f32 (default: f32)\n"
    "  -a, --arithmetic HOW  of products: f32; int8, the default where weights are integers; bf16, faster on\n"
    "                      CPUs that have instructions for it (qkv-info says so)\n"
    "      --attention HOW of products in attention: f32, bf16 or int8 (default: bf16 with --arithmetic bf16)\n"
    "  -t, --threads N     default: one for every CPU\n"
    "      --isa NAME      kernel set, one of those that qkv-info lists (default: QKV_ISA, else the best)\n"
    "  -h, --help\n";

enum { OPTION_ISA = 256, OPTION_TOKENS, OPTION_ATTENTION };

/* clang-format off */
static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},   {"input", required_argument, NULL, 'i'},
    {"json", no_argument, NULL, 'j'},          {"tokens", no_argument, NULL, OPTION_TOKENS},
    {"heatmap", required_argument, NULL, 'H'}, {"layer", required_argument, NULL, 'l'},
    {"weights", required_argument, NULL, 'w'}, {"arithmetic", required_argument, NULL, 'a'},
    {"threads", required_argument, NULL, 't'}, {"isa", required_argument, NULL, OPTION_ISA},
    {"attention", required_argument, NULL, OPTION_ATTENTION},
    {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
};
/* clang-format on */

/* Where scripts/model.sh puts the model. */
static char *default_model(void) {
    static const char folder[] = "qkv/" MODEL_NAME;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache)
        return join_path(cache, folder);
    char *below_home = join_path(home ? home : ".", ".cache");
    char *path = join_path(below_home, folder);
    free(below_home);
    return path;
}

static void read_option(struct options *options, int option) {
    switch (option) {
    case 'm':
        free(options->model);
        options->model = join_path(optarg, ".");
        options->model[strlen(optarg)] = '\0';
        break;
    case 'i': options->input = optarg; break;
    case 'j': options->json = 1; break;
    case 'H': options->heatmap = optarg; break;
    case 'l': options->layer = whole_number(optarg, "layer", 1, 1000); break;
    case 'w':
        options->weights = weight_type(optarg);
        if (options->weights < 0)
            die("--weights %s: there are f32, bf16, int8 and q8_0", optarg);
        break;
    case 'a':
        options->arithmetic = arithmetic(optarg);
        if (options->arithmetic < 0)
            die("--arithmetic %s: there are f32, int8 and bf16", optarg);
        break;
    case OPTION_ATTENTION:
        options->attention = arithmetic(optarg);
        if (options->attention < 0)
            die("--attention %s: there are f32, int8 and bf16", optarg);
        break;
    case 't': options->num_threads = (int32_t)whole_number(optarg, "threads", 1, 1024); break;
    case OPTION_ISA: options->isa = optarg; break;
    case OPTION_TOKENS: options->json = options->tokens_only = 1; break;
    default: end_options(option, help);
    }
}

void read_options(struct options *options, int argc, char **argv) {
    *options = (struct options){.num_threads = num_cpus(), .isa = wanted_kernels(), .arithmetic = -1, .attention = -1};
    for (int option; (option = getopt_long(argc, argv, "m:i:jH:l:w:a:t:h", long_options, NULL)) != -1;)
        read_option(options, option);
    options->sentences = argv + optind;
    options->num_sentences = argc - optind;
    if (options->input && options->num_sentences > 0)
        die("give sentences or --input, not both");
    if (options->json && options->heatmap)
        die("--json and --heatmap don't go together");
    const int64_t usual = weight_arithmetic(options->weights);
    if (options->arithmetic < 0)
        options->arithmetic = usual;
    if (options->arithmetic == QKV_ARITHMETIC_INT8 && usual != QKV_ARITHMETIC_INT8)
        die("--arithmetic int8 is for --weights int8 and q8_0");
    if (options->attention < 0)
        options->attention = options->arithmetic == QKV_ARITHMETIC_BF16 ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_F32;
    if (!options->model)
        options->model = default_model();
}
