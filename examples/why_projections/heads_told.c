/* What is printed about the heads: part 3 of the story.  SPDX-License-Identifier: MIT */
#include "training.h"

#include <stdio.h>
#include <string.h>

static void print_sentence(const struct sentence *sentence) {
    fputs("     ", stdout);
    for (int i = 0; i < TOKENS; i++) {
        struct token token = sentence->tokens[i];
        printf("%s %s·%s·%s", i == CLAUSE ? "\n     " : "", word_names[token.word], role_names[token.role],
               number_names[token.number]);
    }
    puts("");
}

static void tell_task(const struct study *study) {
    const struct sentence *sentence = &study->test[0];
    const struct token *tokens = sentence->tokens;
    puts("3. Heads: a task that needs two views at once\n"
         "\n"
         "   A sentence has two clauses of four words. Each word has a role and a number; its vector is the\n"
         "   sum of one for the word, one for the role, one for the number and one for the clause. For every\n"
         "   word, name (a) the word of the same role and (b) the word that agrees in number in the other\n"
         "   clause. The first sentence of the test:\n");
    print_sentence(sentence);
    printf("\n"
           "   For \"%s\" the answers are \"%s\" and \"%s\". Training draws new sentences all the time. One in eight\n"
           "   combinations of word, role and number never occurs in them, and every sentence of the test has\n"
           "   at least one. All designs below have the same kind of output matrix Wo, see the same sentences\n"
           "   and take the same steps.\n\n",
           word_names[tokens[0].word], word_names[tokens[sentence->same_role[0]].word],
           word_names[tokens[sentence->same_number[0]].word]);
}

/* How many of the outputs of head 0 are those of head 1, bit for bit, in the first sentence of the test. */
static int count_same(const struct study *study, const struct outcome *outcome, int *of) {
    float heads[TOKENS][2][DIM];
    const struct design *design = outcome->model.design;
    int dim = design->head_dim, same = 0;
    float *flat = heads[0][0]; /* [TOKENS][num_heads][head_dim], narrower than the array when the heads are */
    heads_of_model(&outcome->model, study->test_x[0][0], flat);
    for (int token = 0; token < TOKENS; token++)
        for (int i = 0; i < dim; i++)
            same += memcmp(flat + 2 * token * dim + i, flat + (2 * token + 1) * dim + i, sizeof(float)) == 0;
    *of = TOKENS * dim;
    return same;
}

static void tell_same_heads(const struct study *study) {
    int raw_of, learned_of;
    int raw = count_same(study, &study->outcomes[RAW], &raw_of);
    int learned = count_same(study, &study->outcomes[TWO_HEADS], &learned_of);
    printf("   Two raw heads are one head twice: %d of %d outputs are the same, bit for bit. Two learned heads\n"
           "   are not: %d of %d.\n\n",
           raw, raw_of, learned, learned_of);
}

static void print_row(const struct outcome *outcome) {
    const struct design *design = outcome->model.design;
    printf("   %-31s %d × %-2d %9.1f %% %8.1f %% %8.1f %% %9.4f\n", design->name, design->num_heads, design->head_dim,
           100.0 * outcome->role, 100.0 * outcome->number, 100.0 * outcome->both, outcome->loss[LOSS_POINTS - 1]);
}

static void print_rows(const struct study *study, int first, int last) {
    for (int i = first; i <= last; i++)
        print_row(&study->outcomes[i]);
    puts("");
}

static void tell_accuracy(const struct study *study) {
    puts("                                   heads   same role  in number       both      loss");
    printf("   %-31s         %8.1f %% %8.1f %% %8.1f %%\n", "guessing one of 16 words", 100.0 / NUM_WORDS,
           100.0 / NUM_WORDS, 100.0 / NUM_WORDS / NUM_WORDS);
    print_rows(study, RAW, RAW_SELF_HIDDEN);
    print_rows(study, ONE_HEAD, FOUR_HEADS);
    print_rows(study, FOUR_WITHOUT_WQ, FOUR_WITHOUT_WV);
    print_rows(study, WIDE, WIDE_WITHOUT_BOTH);
    puts("   Raw attention is near chance, with the same kind of Wo and the same training: a token resembles\n"
         "   itself most, then words of its topic, and no training can change that. When it may not see\n"
         "   itself, it is right as often as if it picked one of the seven others. One learned head has one\n"
         "   pattern of attention, so it answers one of the questions and guesses at the other. Two heads\n"
         "   answer both.\n"
         "\n"
         "   Without Wq (or Wk) a head of width 8 must compare a fixed slice of the embedding, eight\n"
         "   coordinates in which word, role, number and clause are all mixed. Without Wv it must pass such\n"
         "   a slice on: often the word can be told from it, but the loss stays high. A head as wide as the\n"
         "   embedding hardly misses one matrix. Its scores are x·Wq·Wkᵀ·yᵀ, where Wk can learn the whole\n"
         "   product; its outputs are P·x·Wv·Wo, where Wo can. It only takes longer. Without both Wq and Wk\n"
         "   it looks where raw attention looks, and Wv does not help.\n");
}

static void tell_gaze(const struct study *study) {
    static const int shown[] = {RAW, ONE_HEAD, TWO_HEADS, FOUR_HEADS};
    puts("   Where the heads look, in the mean over the test:\n"
         "\n"
         "                      itself  same role  same number  others");
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        const struct outcome *outcome = &study->outcomes[shown[i]];
        for (int head = 0; head < outcome->model.design->num_heads; head++) {
            const struct gaze *gaze = &outcome->gaze[head];
            printf("   %-10s head %d  %5.1f %%    %5.1f %%      %5.1f %% %5.1f %%\n",
                   head > 0          ? ""
                   : shown[i] == RAW ? "raw"
                                     : outcome->model.design->name,
                   head + 1, 100.0 * gaze->self, 100.0 * gaze->same_role, 100.0 * gaze->same_number,
                   100.0 * gaze->others);
        }
    }
    puts("");
}

void tell_heads(const struct study *study) {
    tell_task(study);
    tell_same_heads(study);
    tell_accuracy(study);
    tell_gaze(study);
}
