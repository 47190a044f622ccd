/* The same tokens as embeddings and as the keys of each head.  SPDX-License-Identifier: MIT */
#include "latent.h"

#include "calls.h"
#include "plane.h"

#include <math.h>
#include <stdio.h>

/* The points of one space: dim floats each, DIM apart. */
struct space {
    const float *points;
    int dim;
};

static struct space space_of(const struct latent *latent, int which) {
    if (which == EMBEDDINGS)
        return (struct space){latent->x[0], DIM};
    int head = which == ROLE_KEYS ? latent->role_head : latent->number_head;
    return (struct space){latent->keys[0] + head * (DIM / 2), DIM / 2};
}

static double distance(struct space space, int a, int b) {
    double sum = 0.0;
    for (int i = 0; i < space.dim; i++) {
        double d = (double)space.points[a * DIM + i] - (double)space.points[b * DIM + i];
        sum += d * d;
    }
    return sqrt(sum);
}

enum kinship { ANY, SAME_WORD, SAME_TOPIC, SAME_ROLE, SAME_NUMBER, NUM_KINSHIPS };

static int are_kin(struct token a, struct token b, enum kinship kinship) {
    switch (kinship) {
    case SAME_WORD: return a.word == b.word;
    case SAME_TOPIC: return a.word != b.word && topic_of(a.word) == topic_of(b.word);
    case SAME_ROLE: return a.role == b.role;
    case SAME_NUMBER: return a.number == b.number;
    default: return 1;
    }
}

static double mean_distance(const struct latent *latent, int which, enum kinship kinship) {
    struct space space = space_of(latent, which);
    double sum = 0.0;
    int count = 0;
    for (int a = 0; a < NUM_POINTS; a++)
        for (int b = a + 1; b < NUM_POINTS; b++)
            if (are_kin(latent->tokens[a], latent->tokens[b], kinship)) {
                sum += distance(space, a, b);
                count++;
            }
    return sum / count;
}

void find_latent(struct latent *latent, const struct study *study, const qkv_ctx *ctx) {
    const struct outcome *outcome = &study->outcomes[TWO_HEADS];
    latent->role_head = outcome->gaze[0].same_role < outcome->gaze[1].same_role;
    latent->number_head = !latent->role_head;
    for (int word = 0; word < NUM_WORDS; word++)
        for (int role = 0; role < NUM_ROLES; role++)
            for (int number = 0; number < NUM_NUMBERS; number++) {
                int point = point_of(word, role, number);
                latent->tokens[point] = (struct token){word, role, number, 0};
                embed(&study->language, latent->tokens[point], latent->x[point]);
            }
    project(ctx, latent->x[0], outcome->model.matrices[WK].values, NUM_POINTS, DIM, DIM, latent->keys[0]);
    for (int i = 0; i < NUM_SPACES; i++) {
        struct space space = space_of(latent, i);
        latent->share[i] = project_on_plane(space.points, NUM_POINTS, space.dim, DIM, latent->plane[i]);
        latent->scale[i] = mean_distance(latent, i, ANY);
    }
}

static void print_kinship(const struct latent *latent, const char *name, enum kinship kinship) {
    printf("   %-41s", name);
    for (int i = 0; i < NUM_SPACES; i++)
        printf("      %5.2f", mean_distance(latent, i, kinship) / latent->scale[i]);
    puts("");
}

static void print_pair(const struct latent *latent, const char *name, int a, int b) {
    printf("   %-41s", name);
    for (int i = 0; i < NUM_SPACES; i++)
        printf("      %5.2f", distance(space_of(latent, i), a, b) / latent->scale[i]);
    puts("");
}

void tell_latent(const struct latent *latent) {
    enum { DOG = 0, CAT = 1, BOAT = 8, SUBJECT = 0, OBJECT = 1, ONE = 0, MANY = 3 };
    puts("4. Latent space: the tokens as embeddings, and as keys x·Wk of the two heads\n"
         "\n"
         "   Distances between tokens, where 1 is the mean of all pairs of the same space:\n");
    printf("   %-41s  embeddings     head %d     head %d\n", "", latent->role_head + 1, latent->number_head + 1);
    print_kinship(latent, "the same word", SAME_WORD);
    print_kinship(latent, "two words of one topic", SAME_TOPIC);
    print_kinship(latent, "the same role", SAME_ROLE);
    print_kinship(latent, "the same number", SAME_NUMBER);
    puts("");
    int dog = point_of(DOG, SUBJECT, ONE);
    print_pair(latent, "dog (subject, one), cat (object, one)", dog, point_of(CAT, OBJECT, ONE));
    print_pair(latent, "dog (subject, one), boat (subject, many)", dog, point_of(BOAT, SUBJECT, MANY));
    printf("\n"
           "   As embeddings, dog and cat are neighbours whatever their roles. Head %d has learned a space in\n"
           "   which only the role counts, head %d one in which only the number does.\n\n",
           latent->role_head + 1, latent->number_head + 1);
}
