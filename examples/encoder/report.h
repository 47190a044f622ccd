/* What the example prints.  SPDX-License-Identifier: MIT */
#ifndef REPORT_H
#define REPORT_H

#include "encoder.h"

/* One object a line: text, tokens and, for encoded sentences, embedding. */
void print_json(const struct encoder *encoder, const struct sentence *sentences, size_t count);

/* One line on standard error if some were longer than the model reads; `first` is the number of the first sentence. */
void warn_of_cuts(const struct encoder *encoder, const struct sentence *sentences, size_t count, size_t first);

/* How close the meanings are: the products of the unit vectors. */
void print_similarities(const struct encoder *encoder, const struct sentence *sentences, size_t count);

void print_speed(const struct encoder *encoder, const struct sentence *sentences, size_t count,
                 double sentences_per_second);

/* How close vectors are to those of `plain`, the same sentences with weights in f32. */
void print_closeness(const struct encoder *encoder, const struct sentence *sentences, const struct sentence *plain,
                     size_t count, double plain_sentences_per_second);

/* Which token each head of layer 1 … num_layers attends to most. */
void print_heads(const struct encoder *encoder, const struct sentence *sentence, int64_t layer,
                 const struct attention_view *view);

#endif
