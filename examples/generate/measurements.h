/* What is measured of a model: perplexity, logits, speed.  SPDX-License-Identifier: MIT */
#ifndef MEASUREMENTS_H
#define MEASUREMENTS_H

#include "decoder.h"
#include "generation.h"
#include "text_tokens.h"

#include <signal.h>

/* As llama.cpp counts it: in pieces of 512 tokens, of each the second half, given all before it in the piece. */
void measure_perplexity(struct decoder *decoder, const struct text_tokens *tokens, const char *path,
                        volatile sig_atomic_t *interrupted);

/* Writes the logits of every token of the text as it is, floats in the machine's byte order. */
void write_logits(struct decoder *decoder, const struct text_tokens *tokens, const char *text, const char *path);

/* A prompt of so many tokens, of no meaning, and steps behind it: prints the seconds and processor seconds of both. */
void measure_speed(struct decoder *decoder, int64_t tokens, int64_t steps);

/* Speed, memory, kernel set, where the time went, on standard error. */
void print_closing_line(const struct generation *generation, const char *cache_name);

#endif
