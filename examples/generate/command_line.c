/* The command line.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "command_line.h"

#include "decoder.h"
#include "support.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: generate --model FILE.gguf [OPTION]… [PROMPT]\n"
    "\n"
    "Continues a text, or answers where the model was made to, with a language model of Llama's kind.\n"
    "\n"
    "  -m, --model FILE        GGUF: llama, qwen2, qwen3, gemma2 or gemma3\n"
    "  -n, --tokens N          of an answer at most (default: 256)\n"
    "  -i, --interactive       a talk: a line is a turn; ends with the input\n"
    "  -r, --raw               the prompt as it is, not as a turn of a talk\n"
    "  -b, --batch-prompts FILE  a prompt a line, many at a time; - is standard input\n"
    "      --sequences N       so many (default: 4)\n"
    "      --stop TEXT         ends an answer before it; may come more than once\n"
    "  -j, --json              one object for each prompt; nothing else on standard output\n"
    "\n"
    "  -T, --temperature X     0: always the likeliest token (default), 1: as likely as the model says\n"
    "      --top-k N           of the N likeliest tokens (default: 40; 0: of all)\n"
    "      --top-p X           of the likeliest that together have this probability (default: 0.95)\n"
    "      --min-p X           of those at least X times as likely as the likeliest (default: 0.05)\n"
    "      --repeat-penalty X  makes the last 64 tokens less likely (default: 1, that is not)\n"
    "  -s, --seed N            (default: 1)\n"
    "\n"
    "  -c, --ctx N             tokens that a text can have (default: the model's, at most 8192)\n"
    "      --chunk N           tokens of a prompt that are taken at once (default: 256)\n"
    "      --kv TYPE           of keys and values: f32, f16, bf16 or int8 (default: f16)\n"
    "  -a, --arithmetic HOW    of products: f32 (default); int8 where weights are integers: faster;\n"
    "                          or bf16: for CPUs with AVX-512 BF16\n"
    "      --attention HOW     of products in attention: f32, bf16 or int8 (default: bf16 with -a bf16)\n"
    "  -t, --threads N         default: one for every CPU\n"
    "      --isa NAME          kernel set, one of those that qkv-info lists (default: QKV_ISA, else the best)\n"
    "\n"
    "      --perplexity FILE   of a text, and nothing else\n"
    "      --speed N           seconds and processor seconds of a prompt of N tokens, and of 32 steps behind it\n"
    "      --tokenize FILE     the tokens of each line as JSON, and nothing else; - is standard input\n"
    "      --logits FILE       writes the logits of every token of the prompt (float), and nothing else\n"
    "  -h, --help\n";

enum {
    STOP = 256,
    SEQUENCES,
    TOP_K,
    TOP_P,
    MIN_P,
    REPEAT,
    CHUNK,
    KV,
    ATTENTION,
    ISA,
    PERPLEXITY,
    SPEED,
    TOKENIZE,
    LOGITS
};

/* clang-format off */
static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},       {"tokens", required_argument, NULL, 'n'},
    {"interactive", no_argument, NULL, 'i'},       {"raw", no_argument, NULL, 'r'},
    {"batch-prompts", required_argument, NULL, 'b'}, {"sequences", required_argument, NULL, SEQUENCES},
    {"stop", required_argument, NULL, STOP},       {"json", no_argument, NULL, 'j'},
    {"temperature", required_argument, NULL, 'T'}, {"top-k", required_argument, NULL, TOP_K},
    {"top-p", required_argument, NULL, TOP_P},     {"min-p", required_argument, NULL, MIN_P},
    {"repeat-penalty", required_argument, NULL, REPEAT}, {"seed", required_argument, NULL, 's'},
    {"ctx", required_argument, NULL, 'c'},         {"chunk", required_argument, NULL, CHUNK},
    {"kv", required_argument, NULL, KV},           {"arithmetic", required_argument, NULL, 'a'},
    {"attention", required_argument, NULL, ATTENTION}, {"threads", required_argument, NULL, 't'},
    {"isa", required_argument, NULL, ISA},         {"perplexity", required_argument, NULL, PERPLEXITY},
    {"speed", required_argument, NULL, SPEED},
    {"tokenize", required_argument, NULL, TOKENIZE}, {"logits", required_argument, NULL, LOGITS},
    {"help", no_argument, NULL, 'h'},              {NULL, 0, NULL, 0},
};
/* clang-format on */

static float real_number(const char *text, const char *option, float low, float high) {
    char *end;
    const float value = strtof(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        die("--%s takes a number from %g to %g, not \"%s\"", option, (double)low, (double)high, text);
    return value;
}

static int32_t cache_type(const char *name) {
    static const char *const names[] = {[QKV_F32] = "f32", [QKV_F16] = "f16", [QKV_BF16] = "bf16", [QKV_INT8] = "int8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i] && strcmp(name, names[i]) == 0)
            return (int32_t)i;
    die("--kv takes f32, f16, bf16 or int8, not \"%s\"", name);
}

static int64_t arithmetic(const char *name, const char *option) {
    for (int64_t i = 0; i < 3; i++) {
        if (strcmp(name, arithmetic_names[i]) == 0)
            return i;
    }
    die("--%s takes f32, bf16 or int8, not \"%s\"", option, name);
}

static void add_stop(struct settings *settings, const char *stop) {
    if (!*stop)
        die("--stop takes a text that is not empty");
    settings->stops = reallocate(settings->stops, settings->num_stops + 1, sizeof *settings->stops);
    settings->stops[settings->num_stops++] = stop;
}

static int read_sampling(struct sampling *sampling, int option) {
    switch (option) {
    case 'T': sampling->temperature = real_number(optarg, "temperature", 0, 100); return 1;
    case TOP_K: sampling->top_k = (int32_t)whole_number(optarg, "top-k", 0, INT32_MAX); return 1;
    case TOP_P: sampling->top_p = real_number(optarg, "top-p", 0, 1); return 1;
    case MIN_P: sampling->min_p = real_number(optarg, "min-p", 0, 1); return 1;
    case REPEAT: sampling->repeat_penalty = real_number(optarg, "repeat-penalty", 0.01f, 100); return 1;
    case 's': sampling->seed = (uint64_t)whole_number(optarg, "seed", 0, INT64_MAX); return 1;
    default: return 0;
    }
}

static void read_setting(struct settings *settings, int option) {
    if (read_sampling(&settings->sampling, option))
        return;
    switch (option) {
    case 'm': settings->model = optarg; break;
    case 'n': settings->max_answer = whole_number(optarg, "tokens", 1, INT32_MAX); break;
    case 'i': settings->interactive = 1; break;
    case 'r': settings->raw = 1; break;
    case 'b': settings->batch = optarg; break;
    case SEQUENCES: settings->sequences = whole_number(optarg, "sequences", 1, 256); break;
    case STOP: add_stop(settings, optarg); break;
    case 'j': settings->json = 1; break;
    case 'c': settings->context = whole_number(optarg, "ctx", 2, 1 << 24); break;
    case CHUNK: settings->chunk = whole_number(optarg, "chunk", 1, 1 << 16); break;
    case KV: settings->cache_type = cache_type(optarg), settings->cache_name = optarg; break;
    case 'a': settings->arithmetic = arithmetic(optarg, "arithmetic"); break;
    case ATTENTION: settings->attention = arithmetic(optarg, "attention"); break;
    case 't': settings->num_threads = (int32_t)whole_number(optarg, "threads", 1, QKV_PTHREADS_MAX); break;
    case ISA: settings->isa = optarg; break;
    case PERPLEXITY: settings->perplexity = optarg; break;
    case SPEED: settings->speed = whole_number(optarg, "speed", 1, 1 << 24); break;
    case TOKENIZE: settings->tokenize = optarg; break;
    case LOGITS: settings->logits = optarg; break;
    default: end_options(option, help);
    }
}

void read_settings(struct settings *settings, int argc, char **argv) {
    *settings = (struct settings){
        .max_answer = 256,
        .chunk = 256,
        .sequences = 4,
        .cache_type = QKV_F16,
        .cache_name = "f16",
        .num_threads = num_cpus(),
        .isa = wanted_kernels(),
        .attention = -1,
        .sampling = {.top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1, .repeat_tokens = 64, .seed = 1}};
    for (int option; (option = getopt_long(argc, argv, "m:n:irb:jT:s:c:a:t:h", long_options, NULL)) != -1;)
        read_setting(settings, option);
    if (settings->attention < 0)
        settings->attention = settings->arithmetic == QKV_ARITHMETIC_BF16 ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_F32;
    if (!settings->model)
        die("--model FILE.gguf is missing; --help lists what can be asked for");
    if (argc - optind > 1)
        die("one prompt, please: put it in quotes, or several a line into a file for --batch-prompts");
    settings->prompt = argv[optind];
    const int whats =
        settings->interactive + !!settings->batch + !!settings->perplexity + !!settings->tokenize + !!settings->speed;
    if (whats + !!settings->prompt != 1)
        die("give one of: a prompt, --interactive, --batch-prompts, --perplexity, --speed, --tokenize");
    if (settings->interactive && settings->json)
        die("--interactive and --json don't go together");
    if (settings->logits && !settings->prompt)
        die("--logits is for a prompt");
}

void free_settings(struct settings *settings) {
    free(settings->stops);
}
