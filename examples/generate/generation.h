/* Many texts that a model continues at the same time.  SPDX-License-Identifier: MIT */
#ifndef GENERATION_H
#define GENERATION_H

#include "decoder.h"
#include "sampler.h"
#include "stream.h"
#include "text_tokens.h"

#include <signal.h>

enum ending { GOES_ON, ENDED_BY_MODEL, ENDED_BY_STOP, ENDED_BY_LENGTH, ENDED_BY_CONTEXT, ENDED_BY_USER };

/* "the model", "a stop string", … */
const char *ending_name(enum ending ending);

/* One text: tokens of the prompt and after it. */
struct text {
    struct token_list tokens;
    size_t num_prompt;  /* of them, the last prompt's end: what follows is the model's */
    size_t done;        /* of them, how many the decoder has taken */
    int64_t sequence;   /* of the decoder; −1: waits for one */
    size_t most_tokens; /* after the prompt */
    struct sampler sampler;
    struct stream stream;
    enum ending ending;
};

struct generation {
    struct decoder *decoder;
    const struct text_tokens *tokens;
    volatile sig_atomic_t *interrupted; /* not 0: end what goes on */
    float *logits;                      /* [num_sequences][num_tokens] */
    struct choice *choices;             /* [num_tokens], room for sampling */
    void (*show)(struct text *text);    /* optional: called when text may have grown or has ended */
    /* What the closing line says. */
    double prompt_seconds, answer_seconds;
    size_t prompt_tokens, answer_tokens;
};

void start_generation(struct generation *generation, struct decoder *decoder, const struct text_tokens *tokens,
                      volatile sig_atomic_t *interrupted);
void free_generation(struct generation *generation);

/* Continues all texts, at most num_sequences at a time: when one ends, the next takes its place. A text without a
 * sequence begins with an empty one; one that has a sequence keeps it, for its next turn. */
void generate_texts(struct generation *generation, struct text *texts, size_t count, int keep_sequences);

void free_text(struct text *text);

#endif
