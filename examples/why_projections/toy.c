/* Two words, one question, and the keys that learn to tell them apart.  SPDX-License-Identifier: MIT */
#include "toy.h"

#include "calls.h"
#include "optimiser.h"
#include "random.h"
#include "support.h"

#include <stdio.h>
#include <string.h>

enum { Q, K, V };
enum { DOG, CAT };
enum { MAX_SENTENCES = 3, QUESTIONS = 2, WORDS = 2, WIDTH = 2, SIZE = MAX_SENTENCES * WORDS * WIDTH };

#define SGD_RATE 100.0f /* large, because dog and cat differ by 0.1 only and the gradient is in proportion */
#define ADAMW_RATE 0.05f
#define RIGHT 0.99f /* of the attention on the right word */
#define NEAR 0.02f  /* an answer to what it should be */

static const float dog_and_cat[WORDS * WIDTH] = {1.0f, 1.0f, 1.0f, 0.9f};
static const float identity[WIDTH * WIDTH] = {1.0f, 0.0f, 0.0f, 1.0f}; /* also the questions, and the tags */

/* A batch of sentences of at most two words, the same questions for each. */
struct toy {
    const qkv_ctx *ctx;
    int64_t sentences, questions, length[MAX_SENTENCES];
    float input[3][SIZE]; /* what becomes queries, keys and values: [sentence][question or word][WIDTH] */
    float w[3][WIDTH * WIDTH], dw[3][WIDTH * WIDTH];
    float y[3][SIZE], dy[3][SIZE]; /* input · w */
    float out[SIZE], target[SIZE], dout[SIZE], lse[MAX_SENTENCES * QUESTIONS];
    float attention[MAX_SENTENCES][QUESTIONS][WORDS];
};

static int64_t rows(const struct toy *toy, int part) {
    return toy->sentences * (part == Q ? toy->questions : WORDS);
}

static qkv_attention_desc attention_desc(struct toy *toy) {
    int64_t of_q = toy->questions * WIDTH, of_k = WORDS * WIDTH;
    return (qkv_attention_desc){
        .size = sizeof(qkv_attention_desc),
        .batch = toy->sentences,
        .num_heads = 1,
        .seq_q = toy->questions,
        .seq_k = WORDS,
        .head_dim = WIDTH,
        .kv_len = toy->length,
        .q = {.data = toy->y[Q], .batch = of_q, .token = WIDTH},
        .k = {.data = toy->y[K], .batch = of_k, .token = WIDTH},
        .v = {.data = toy->y[V], .batch = of_k, .token = WIDTH},
        .out = {.data = toy->out, .batch = of_q, .token = WIDTH},
        .lse = {.data = toy->lse, .batch = toy->questions, .token = 1},
        .probabilities = {.data = toy->attention, .batch = QUESTIONS * WORDS, .query = WORDS, .key = 1}};
}

static void forward(struct toy *toy) {
    for (int part = Q; part <= V; part++)
        project(toy->ctx, toy->input[part], toy->w[part], rows(toy, part), WIDTH, WIDTH, toy->y[part]);
    qkv_attention_desc desc = attention_desc(toy);
    attend(toy->ctx, &desc);
}

/* dWq, dWk, dWv of ½·Σ(out − target)². */
static void backward(struct toy *toy) {
    for (int64_t i = 0; i < rows(toy, Q) * WIDTH; i++)
        toy->dout[i] = toy->out[i] - toy->target[i];
    int64_t of_q = toy->questions * WIDTH, of_k = WORDS * WIDTH;
    qkv_attention_backward_desc desc = {.size = sizeof desc,
                                        .forward = attention_desc(toy),
                                        .grad_out = {.data = toy->dout, .batch = of_q, .token = WIDTH},
                                        .grad_q = {.data = toy->dy[Q], .batch = of_q, .token = WIDTH},
                                        .grad_k = {.data = toy->dy[K], .batch = of_k, .token = WIDTH},
                                        .grad_v = {.data = toy->dy[V], .batch = of_k, .token = WIDTH}};
    attend_backward(toy->ctx, &desc);
    for (int part = Q; part <= V; part++)
        project_backward(toy->ctx, toy->input[part], toy->dy[part], rows(toy, part), WIDTH, WIDTH, toy->dw[part]);
}

/* One sentence "dog … cat", the question who the subject is, all matrices the identity. */
static struct toy raw_toy(const qkv_ctx *ctx) {
    struct toy toy = {.ctx = ctx, .sentences = 1, .questions = 1, .length = {WORDS}};
    memcpy(toy.input[Q], identity, WIDTH * sizeof(float));
    memcpy(toy.input[K], dog_and_cat, sizeof dog_and_cat);
    memcpy(toy.input[V], dog_and_cat, sizeof dog_and_cat);
    for (int part = Q; part <= V; part++)
        memcpy(toy.w[part], identity, sizeof identity);
    return toy;
}

static float dot(const float *a, const float *b) {
    return a[0] * b[0] + a[1] * b[1];
}

/* For printing with two decimals: no "-0.00". */
static double tidy(float value) {
    return value > -0.005f && value < 0.005f ? 0.0 : (double)value;
}

static void print_matrix(const char *name, const float *w) {
    printf("   %s = | %6.2f %6.2f |\n        | %6.2f %6.2f |\n", name, tidy(w[0]), tidy(w[1]), tidy(w[2]), tidy(w[3]));
}

void tell_raw_attention(const qkv_ctx *ctx) {
    struct toy toy = raw_toy(ctx);
    const float *q = toy.input[Q], *dog = toy.input[K], *cat = dog + WIDTH;
    forward(&toy);
    puts("1. Raw attention: softmax(q·Xᵀ/√d)·X, no matrices\n"
         "\n"
         "   dog = (1, 1)   cat = (1, 0.9)   and a query q = (1, 0) that asks: who is the subject?\n"
         "\n"
         "          q·x   attention");
    printf("   dog   %.2f       %.3f\n", (double)dot(q, dog), (double)toy.attention[0][0][DOG]);
    printf("   cat   %.2f       %.3f\n\n", (double)dot(q, cat), (double)toy.attention[0][0][CAT]);
    printf("   Both scores are the same, so q gets (%.2f, %.2f): half a dog and half a cat. And there is\n"
           "   nothing in this formula that could be trained. Words that ask with their own embeddings fare no\n"
           "   better: for cat, dog·cat = %.2f beats cat·cat = %.2f. The longer vector wins, whatever is\n"
           "   asked.\n\n",
           (double)toy.out[0], (double)toy.out[1], (double)dot(dog, cat), (double)dot(cat, cat));
}

static void print_key_step(const struct toy *toy, int step) {
    const float *k = toy->y[K];
    printf("   %4d   (%5.2f, %4.2f)   (%5.2f, %4.2f)   %6.2f   %6.2f   %.3f   %.3f\n", step, (double)k[0], (double)k[1],
           (double)k[2], (double)k[3], (double)dot(toy->y[Q], k), (double)dot(toy->y[Q], k + WIDTH),
           (double)toy->attention[0][0][DOG], (double)toy->attention[0][0][CAT]);
}

/* Steps that a table shows: 0, 1, 3, 10, 30, 100, … */
static int is_shown(int step) {
    int shown = 0;
    for (int decade = 1; decade <= step; decade *= 10)
        shown |= step == decade || step == 3 * decade;
    return shown || step == 0;
}

static void learn_keys(const qkv_ctx *ctx, float enough, struct toy_result *result) {
    struct toy toy = raw_toy(ctx);
    memcpy(toy.input[V], identity, sizeof identity); /* the tags */
    toy.target[0] = 1.0f;
    puts("2. Learned keys: k = x·Wk, starting from raw (Wk = identity)\n"
         "\n"
         "   Let every word carry a name tag as its value, dog's (1, 0) and cat's (0, 1), so that what q\n"
         "   gets *is* its attention. The loss is ½·|what q gets − dog's tag|². qkv_attention_backward turns\n"
         "   it into a gradient of the keys, qkv_projection_backward that into one of Wk, and gradient\n"
         "   descent takes a step:\n"
         "\n"
         "   step        key of dog      key of cat      q·dog    q·cat     dog     cat   (attention)");
    int step = 0;
    for (;; step++) {
        forward(&toy);
        result->curve[step] = toy.attention[0][0][DOG];
        if (step == 0)
            memcpy(result->raw_keys, toy.y[K], sizeof result->raw_keys);
        int done = toy.attention[0][0][DOG] >= enough;
        if (done || is_shown(step))
            print_key_step(&toy, step);
        if (done)
            break;
        if (step == TOY_CURVE - 1)
            die("%d steps have not brought the subject %.2f of the attention", step, (double)enough);
        backward(&toy);
        sgd_step(toy.w[K], toy.dw[K], WIDTH * WIDTH, SGD_RATE);
    }
    memcpy(result->learned_keys, toy.y[K], sizeof result->learned_keys);
    result->num_steps = step;
    result->hash = hash_floats(result->hash, toy.w[K], WIDTH * WIDTH);
    puts("");
    print_matrix("Wk", toy.w[K]);
    float half = 0.5f * (toy.y[K][0] - toy.y[K][2]);
    printf("\n"
           "   The embeddings differ by (0, 0.1). Wk has turned that difference into the direction of q and\n"
           "   magnified it: the keys now differ by (%.2f, 0.1). Softmax sees differences only, so take the\n"
           "   mean off the keys: before they were (0, ±0.05), now they are (±%.2f, ±0.05).\n\n",
           2.0 * (double)half, (double)half);
}

/* Three sentences, "dog … cat", "dog" and "cat", and two questions: who is the subject, who is the object? A word that
 * stands alone answers both. That ties the values to the words: with the first sentence only, the pair of values could
 * be swapped and the attention with it. */
static struct toy full_toy(const qkv_ctx *ctx) {
    struct toy toy = raw_toy(ctx);
    static const int64_t length[MAX_SENTENCES] = {2, 1, 1};
    static const int answers[MAX_SENTENCES][QUESTIONS] = {{DOG, CAT}, {DOG, DOG}, {CAT, CAT}};
    toy.sentences = MAX_SENTENCES;
    toy.questions = QUESTIONS;
    memcpy(toy.length, length, sizeof length);
    for (int s = 0; s < MAX_SENTENCES; s++) {
        memcpy(toy.input[Q] + s * QUESTIONS * WIDTH, identity, sizeof identity);
        for (int i = 0; i < QUESTIONS; i++)
            toy.target[(s * QUESTIONS + i) * WIDTH + answers[s][i]] = 1.0f;
    }
    for (int part = K; part <= V; part++)
        for (int s = 1; s < MAX_SENTENCES; s++)
            memcpy(toy.input[part] + s * WORDS * WIDTH, dog_and_cat + (s - 1) * WIDTH, WIDTH * sizeof(float));
    return toy;
}

static int answers_are_right(const struct toy *toy) {
    if (toy->attention[0][0][DOG] < RIGHT || toy->attention[0][1][CAT] < RIGHT)
        return 0;
    for (int i = 0; i < QUESTIONS * WIDTH; i++)
        if (toy->out[i] - toy->target[i] > NEAR || toy->target[i] - toy->out[i] > NEAR)
            return 0;
    return 1;
}

static void print_full_step(const struct toy *toy, int step) {
    const float *out = toy->out;
    printf("   %4d      %.3f      %.3f        (%5.2f, %5.2f)    (%5.2f, %5.2f)\n", step,
           (double)toy->attention[0][0][DOG], (double)toy->attention[0][1][CAT], tidy(out[0]), tidy(out[1]),
           tidy(out[2]), tidy(out[3]));
}

static void learn_all(const qkv_ctx *ctx, struct toy_result *result) {
    static const char *const names[] = {"Wq", "Wk", "Wv"}, *const roles[] = {"query", "key", "value"};
    struct toy toy = full_toy(ctx);
    struct adamw adamw[3] = {new_adamw(WIDTH * WIDTH), new_adamw(WIDTH * WIDTH), new_adamw(WIDTH * WIDTH)};
    puts("   Now all three at once: q·Wq, x·Wk, x·Wv, again from the identity, by AdamW. Nobody hands out\n"
         "   tags any more: Wv has to make them from the embeddings. A second question q₂ = (0, 1) asks for\n"
         "   the object, and the sentences \"dog\" and \"cat\" stand beside \"dog … cat\", so that the\n"
         "   values mean the words:\n"
         "\n"
         "   step   q₁ on dog  q₂ on cat      q₁ gets           q₂ gets     (should be (1, 0) and (0, 1))");
    int step = 0;
    for (;; step++) {
        forward(&toy);
        int done = answers_are_right(&toy);
        if (done || is_shown(step))
            print_full_step(&toy, step);
        if (done)
            break;
        if (step == TOY_CURVE)
            die("%d steps have not taught Wq, Wk and Wv the two questions", step);
        backward(&toy);
        for (int part = Q; part <= V; part++)
            adamw_step(&adamw[part], toy.w[part], toy.dw[part], ADAMW_RATE);
    }
    puts("");
    for (int part = Q; part <= V; part++) {
        print_matrix(names[part], toy.w[part]);
        const float *y = toy.y[part];
        printf("        %s of %s (%.2f, %.2f), of %s (%.2f, %.2f)\n", roles[part], part == Q ? "q₁" : "dog", tidy(y[0]),
               tidy(y[1]), part == Q ? "q₂" : "cat", tidy(y[2]), tidy(y[3]));
        result->hash = hash_floats(result->hash, toy.w[part], WIDTH * WIDTH);
        free_adamw(&adamw[part]);
    }
    puts("\n"
         "   At first q₁ looks at the wrong word: it should get less of the second coordinate, cat's tag,\n"
         "   and in the raw embeddings cat has less of that than dog. When Wv has learned to name the words,\n"
         "   the attention turns round. Each matrix is of use only with the others, and the gradient finds\n"
         "   all three together.\n");
}

void tell_learned_keys(const qkv_ctx *ctx, float enough, struct toy_result *result) {
    *result = (struct toy_result){.hash = HASH_START};
    learn_keys(ctx, enough, result);
    learn_all(ctx, result);
}
