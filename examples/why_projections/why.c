/* Why does self-attention learn the matrices Wq, Wk and Wv instead of taking dot products of the raw embeddings?
 * A story in four parts that trains everything it shows, from nothing, with the library's own gradients.
 *
 *   toy.c          1, 2  raw attention and learned keys      model.c       a layer and its training: qkv at work
 *   training.c     3     heads, and what each matrix is for   optimiser.c   SGD and AdamW
 *   heads_told.c         … in words                           language.c    the generated sentences
 *   latent.c       4     the spaces that heads compare in     draw_*.c      the pictures
 *
 * docs/why-projections.md explains what it prints. Standard output and the pictures are the same, byte for byte, on
 * every machine, kernel set and number of threads.
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "latent.h"
#include "pictures.h"
#include "support.h"
#include "toy.h"
#include "training.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char program_name[] = "why_projections";

/* Steps of each layer, and the subject's share of the attention at which the toy has learned enough. */
enum { STEPS = 400, QUICK_STEPS = 10 };
#define SHARE 0.99f
#define QUICK_SHARE 0.9f

static const char help[] =
    "usage: why_projections [OPTION]…\n"
    "\n"
    "Shows why self-attention learns Wq, Wk and Wv: trains small layers with and without them, prints and draws what\n"
    "comes of it.\n"
    "\n"
    "  -o, --output DIR  folder for the pictures, made if need be (default: why-pictures)\n"
    "  -s, --seed N      another language, other sentences, other first weights (default: 1)\n"
    "  -q, --quick       ten steps a layer in place of 400: for testing, little is learned\n"
    "  -t, --threads N   default: 1; the layers are so small that more of them gain nothing\n"
    "      --isa NAME    kernel set, one of those that qkv-info lists (default: QKV_ISA, else the best)\n"
    "  -h, --help\n";

/* clang-format off */
static const struct option long_options[] = {
    {"output", required_argument, NULL, 'o'},  {"seed", required_argument, NULL, 's'},
    {"quick", no_argument, NULL, 'q'},         {"threads", required_argument, NULL, 't'},
    {"isa", required_argument, NULL, 'i'},     {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
/* clang-format on */

struct options {
    const char *folder, *isa;
    uint64_t seed;
    int32_t num_threads;
    int quick;
};

static void read_options(struct options *options, int argc, char **argv) {
    *options = (struct options){.folder = "why-pictures", .isa = wanted_kernels(), .seed = 1, .num_threads = 1};
    for (int option; (option = getopt_long(argc, argv, "o:s:qt:h", long_options, NULL)) != -1;) {
        switch (option) {
        case 'o': options->folder = optarg; break;
        case 's': options->seed = (uint64_t)whole_number(optarg, "seed", 0, INT64_MAX); break;
        case 'q': options->quick = 1; break;
        case 't': options->num_threads = (int32_t)whole_number(optarg, "threads", 1, 1024); break;
        case 'i': options->isa = optarg; break;
        default: end_options(option, help);
        }
    }
    if (optind < argc)
        die("\"%s\" is no option; --help lists what can be asked for", argv[optind]);
}

static void draw(const struct options *options, const struct toy_result *toy, const struct study *study,
                 const struct latent *latent, int steps) {
    if (mkdir(options->folder, 0777) != 0 && errno != EEXIST)
        die("%s: %s", options->folder, strerror(errno));
    char *paths[] = {join_path(options->folder, "keys.svg"), join_path(options->folder, "loss.svg"),
                     join_path(options->folder, "heads.svg"), join_path(options->folder, "spaces.svg")};
    draw_toy(paths[0], toy);
    draw_curves(paths[1], study, steps);
    draw_heads(paths[2], study);
    draw_latent(paths[3], latent);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        free(paths[i]);
    fflush(stdout); /* both may go to one place */
    fprintf(stderr, "pictures: keys.svg, loss.svg, heads.svg and spaces.svg in %s\n", options->folder);
}

int main(int argc, char **argv) {
    struct options options;
    qkv_ctx ctx;
    double start = seconds_now();
    read_options(&options, argc, argv);
    choose_kernels(&ctx, options.isa);
    int steps = options.quick ? QUICK_STEPS : STEPS;
    qkv_pthreads pool;
    start_threads(&pool, options.num_threads);
    struct toy_result *toy = allocate(1, sizeof *toy);
    struct study *study = allocate(1, sizeof *study);
    struct latent *latent = allocate(1, sizeof *latent);

    printf("Why does self-attention learn Wq, Wk and Wv instead of taking dot products of the raw embeddings?\n"
           "Everything below is trained here and now, from nothing. Seed %llu.\n\n",
           (unsigned long long)options.seed);
    tell_raw_attention(&ctx);
    tell_learned_keys(&ctx, options.quick ? QUICK_SHARE : SHARE, toy);
    fflush(stdout);
    run_study(study, &ctx, &pool, options.seed, steps);
    tell_heads(study);
    find_latent(latent, study, &ctx);
    tell_latent(latent);

    uint64_t hash = toy->hash;
    for (int i = 0; i < NUM_DESIGNS; i++)
        hash = hash_model(hash, &study->outcomes[i].model);
    printf("The answer: a projection gives each head a space of its own to compare tokens in. No fixed space will\n"
           "do, because what should be close depends on the question. So it is learned, and learned means gradients.\n"
           "\n"
           "Hash of all trained weights: %016llx\n",
           (unsigned long long)hash);
    draw(&options, toy, study, latent, steps);
    fprintf(stderr, "%.1f s with kernel set %s on %d thread%s\n", seconds_now() - start, ctx.isa, options.num_threads,
            options.num_threads == 1 ? "" : "s");
    free_study(study);
    free(latent);
    free(study);
    free(toy);
    qkv_pthreads_stop(&pool);
    if (fclose(stdout) != 0)
        die("standard output: %s", strerror(errno));
    return 0;
}
