/* A generated language. A sentence has two clauses of four words. Every word has a role and a number; each of the four
 * roles and each of the four numbers occurs once in a clause, so that a word has one partner of its role and one of its
 * number in the other clause. The task: name both.
 *
 *   dog·subject·one  bread·place·few  boat·object·many  house·owner·two  |  cat·object·two  train·subject·few  …
 *   for "dog": the other subject is "train", the other singular …
 *
 * What the network sees of a word is the sum of four vectors (as in BERT, where word, position and segment are added):
 * the word's, its role's, its number's and its clause's. Words of one topic lie close together.
 * SPDX-License-Identifier: MIT */
#ifndef LANGUAGE_H
#define LANGUAGE_H

#include "random.h"

enum {
    DIM = 32,
    NUM_TOPICS = 4,
    NUM_WORDS = 16, /* four a topic */
    NUM_ROLES = 4,
    NUM_NUMBERS = 4,
    CLAUSE = 4, /* words */
    TOKENS = 8, /* a sentence */
};

extern const char *const topic_names[NUM_TOPICS], *const word_names[NUM_WORDS], *const role_names[NUM_ROLES],
                                                                                    *const number_names[NUM_NUMBERS];

struct language {
    float words[NUM_WORDS][DIM], roles[NUM_ROLES][DIM], numbers[NUM_NUMBERS][DIM], clauses[2][DIM];
};

struct token {
    int word, role, number, clause;
};

struct sentence {
    struct token tokens[TOKENS];
    int same_role[TOKENS], same_number[TOKENS]; /* the position of each token's partners; never the same one */
};

void make_language(struct language *language, struct random *random);

/* The vector of a token: word + role + number + clause. */
void embed(const struct language *language, struct token token, float *x);

static inline int topic_of(int word) {
    return word / (NUM_WORDS / NUM_TOPICS);
}

/* One in eight combinations of word, role and number is kept from training. A sentence for training has none of them;
 * one for the test has at least one, so that the two sets have no sentence in common. */
int is_kept_for_test(struct token token);
void make_sentence(struct sentence *sentence, struct random *random, int for_test);

#endif
