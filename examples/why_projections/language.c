/* A generated language.  SPDX-License-Identifier: MIT */
#include "language.h"

const char *const topic_names[NUM_TOPICS] = {"animals", "food", "vehicles", "buildings"};
const char *const word_names[NUM_WORDS] = {"dog",  "cat",   "horse", "cow",  "bread", "apple",  "soup", "cheese",
                                           "boat", "train", "bus",   "bike", "house", "school", "shop", "church"};
const char *const role_names[NUM_ROLES] = {"subject", "object", "owner", "place"};
const char *const number_names[NUM_NUMBERS] = {"one", "two", "few", "many"};

#define SPREAD 0.5f /* of the words of a topic, against the topics */
#define ACCENT 0.5f /* of role, number and clause: weak beside the word, as they are in real embeddings */

static void random_vector(float *x, struct random *random, float scale) {
    for (int i = 0; i < DIM; i++)
        x[i] = scale * random_float(random);
}

void make_language(struct language *language, struct random *random) {
    float topics[NUM_TOPICS][DIM];
    for (int i = 0; i < NUM_TOPICS; i++)
        random_vector(topics[i], random, 1.0f);
    for (int i = 0; i < NUM_WORDS; i++) {
        random_vector(language->words[i], random, SPREAD);
        for (int k = 0; k < DIM; k++)
            language->words[i][k] += topics[topic_of(i)][k];
    }
    for (int i = 0; i < NUM_ROLES; i++)
        random_vector(language->roles[i], random, ACCENT);
    for (int i = 0; i < NUM_NUMBERS; i++)
        random_vector(language->numbers[i], random, ACCENT);
    for (int i = 0; i < 2; i++)
        random_vector(language->clauses[i], random, ACCENT);
}

void embed(const struct language *language, struct token token, float *x) {
    for (int i = 0; i < DIM; i++)
        x[i] = language->words[token.word][i] + language->roles[token.role][i] + language->numbers[token.number][i] +
               language->clauses[token.clause][i];
}

int is_kept_for_test(struct token token) {
    return (token.word + 3 * token.role + 5 * token.number) % 8 == 0;
}

/* The position in the other clause where values[] is the same as at i. */
static int partner(const int *values, int i) {
    int j = i < CLAUSE ? CLAUSE : 0;
    while (values[j] != values[i])
        j++;
    return j;
}

/* A sentence, or 0 when the draw must be repeated. */
static int draw(struct sentence *sentence, struct random *random, int for_test) {
    int words[NUM_WORDS], roles[TOKENS], numbers[TOKENS], kept = 0;
    for (int i = 0; i < NUM_WORDS; i++)
        words[i] = i;
    for (int i = 0; i < TOKENS; i++)
        roles[i] = numbers[i] = i % CLAUSE;
    shuffle(random, words, NUM_WORDS); /* the first eight: no word occurs twice */
    for (int clause = 0; clause < TOKENS; clause += CLAUSE) {
        shuffle(random, roles + clause, CLAUSE);
        shuffle(random, numbers + clause, CLAUSE);
    }
    for (int i = 0; i < TOKENS; i++) {
        struct token token = {words[i], roles[i], numbers[i], i / CLAUSE};
        sentence->tokens[i] = token;
        sentence->same_role[i] = partner(roles, i);
        sentence->same_number[i] = partner(numbers, i);
        if (sentence->same_role[i] == sentence->same_number[i])
            return 0; /* one view would answer both questions */
        kept += is_kept_for_test(token);
    }
    return (kept > 0) == for_test;
}

void make_sentence(struct sentence *sentence, struct random *random, int for_test) {
    while (!draw(sentence, random, for_test))
        continue;
}
