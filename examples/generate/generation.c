/* Continuous batching: each step takes the next token of every text that is being written, and of new ones as much of
 * their prompt as fits.  SPDX-License-Identifier: MIT */
#include "generation.h"

#include "support.h"

#include <stdlib.h>

const char *ending_name(enum ending ending) {
    static const char *const names[] = {"nothing",     "the model", "a stop string", "the number of tokens",
                                        "the context", "the user"};
    return names[ending];
}

void start_generation(struct generation *generation, struct decoder *decoder, const struct text_tokens *tokens,
                      volatile sig_atomic_t *interrupted) {
    const size_t count = (size_t)(decoder->options.num_sequences * decoder->config.num_tokens);
    *generation =
        (struct generation){.decoder = decoder,
                            .tokens = tokens,
                            .interrupted = interrupted,
                            .logits = allocate_floats(count),
                            .choices = allocate((size_t)decoder->config.num_tokens, sizeof *generation->choices)};
}

void free_generation(struct generation *generation) {
    free(generation->logits);
    free(generation->choices);
    *generation = (struct generation){0};
}

void free_text(struct text *text) {
    free(text->tokens.ids);
    free_stream(&text->stream);
    *text = (struct text){0};
}

/* ------------------------------------------------------------------------------------------------ one step */

static void end_text(struct generation *generation, struct text *text, enum ending ending) {
    text->ending = ending;
    if (generation->show)
        generation->show(text);
}

static void take_token(struct generation *generation, struct text *text, float *logits) {
    const int32_t token = sample_token(&text->sampler, logits, (int32_t)generation->decoder->config.num_tokens,
                                       text->tokens.ids, text->tokens.count, generation->choices);
    if (ends_answer(generation->tokens, token)) {
        end_text(generation, text, ENDED_BY_MODEL);
        return;
    }
    append_token(&text->tokens, token);
    generation->answer_tokens++;
    const struct gguf_string bytes = token_text(generation->tokens, token);
    append_to_stream(&text->stream, bytes.text, bytes.size);
    if (text->stream.stopped)
        end_text(generation, text, ENDED_BY_STOP);
    else if (text->tokens.count - text->num_prompt >= text->most_tokens)
        end_text(generation, text, ENDED_BY_LENGTH);
    else if (text->tokens.count > (size_t)generation->decoder->options.max_tokens)
        end_text(generation, text, ENDED_BY_CONTEXT);
    else if (generation->show)
        generation->show(text);
}

/* One call of the decoder for all texts that have a sequence. Those that are being written come first: a long prompt
 * does not hold them up for longer than a call takes. */
static void run_step(struct generation *generation, struct text **active, int64_t count) {
    struct decoder *decoder = generation->decoder;
    struct run *runs = allocate((size_t)count, sizeof *runs);
    int64_t room = decoder->options.max_rows - count, num_runs = 0;
    size_t prompt_rows = 0, rows = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct text *text = active[i];
        const int64_t wanted = (int64_t)(text->tokens.count - text->done) - 1, more = wanted < room ? wanted : room;
        room -= more;
        runs[num_runs++] = (struct run){.sequence = text->sequence,
                                        .tokens = text->tokens.ids + text->done,
                                        .num_tokens = 1 + more,
                                        .num_logits = more == wanted};
        rows += (size_t)(1 + more);
        if (text->done < text->num_prompt)
            prompt_rows += (size_t)(1 + more);
    }
    const double start = seconds_now();
    run_decoder(decoder, runs, num_runs, generation->logits);
    float *logits = generation->logits;
    for (int64_t i = 0; i < num_runs; i++) {
        active[i]->done += (size_t)runs[i].num_tokens;
        if (runs[i].num_logits == 0)
            continue;
        take_token(generation, active[i], logits);
        logits += decoder->config.num_tokens;
    }
    free(runs);
    /* A step's time is shared out by its rows. */
    const double seconds = seconds_now() - start, share = (double)prompt_rows / (double)rows;
    generation->prompt_seconds += seconds * share;
    generation->answer_seconds += seconds * (1 - share);
    generation->prompt_tokens += prompt_rows;
}

/* ------------------------------------------------------------------------------------------------ all texts */

static void begin_text(struct generation *generation, struct text *text, int64_t sequence) {
    text->sequence = sequence;
    truncate_sequence(generation->decoder, sequence, 0);
}

static void interrupt_texts(struct generation *generation, struct text *texts, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (texts[i].ending == GOES_ON)
            end_text(generation, &texts[i], ENDED_BY_USER);
}

void generate_texts(struct generation *generation, struct text *texts, size_t count, int keep_sequences) {
    const size_t num_sequences = (size_t)generation->decoder->options.num_sequences;
    struct text **by_sequence = allocate(num_sequences, sizeof *by_sequence); /* NULL: nobody has it */
    struct text **active = allocate(num_sequences, sizeof *active);
    size_t next = 0; /* all before it have or had a sequence */
    for (size_t i = 0; i < count; i++)
        if (texts[i].sequence >= 0)
            by_sequence[texts[i].sequence] = &texts[i];
    for (;;) {
        int64_t num_active = 0;
        for (size_t s = 0; s < num_sequences; s++) {
            if (!by_sequence[s]) {
                while (next < count && texts[next].sequence >= 0)
                    next++;
                if (next == count)
                    continue;
                by_sequence[s] = &texts[next++];
                begin_text(generation, by_sequence[s], (int64_t)s);
            }
            active[num_active++] = by_sequence[s];
        }
        if (num_active == 0)
            break;
        if (*generation->interrupted) {
            interrupt_texts(generation, texts, count);
            break;
        }
        run_step(generation, active, num_active);
        for (int64_t i = 0; i < num_active; i++) {
            if (active[i]->ending == GOES_ON)
                continue;
            by_sequence[active[i]->sequence] = NULL;
            if (!keep_sequences)
                active[i]->sequence = -1;
        }
    }
    free(active);
    free(by_sequence);
}
