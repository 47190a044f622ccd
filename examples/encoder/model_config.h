/* The sizes and options of a BERT model: config.json and its neighbours.  SPDX-License-Identifier: MIT */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <stdint.h>

struct model_config {
    int64_t hidden_size, num_layers, num_heads, head_dim, intermediate_size;
    int64_t vocab_size, max_positions, num_token_types;
    int64_t max_tokens; /* of a sentence, [CLS] and [SEP] included; what is longer is cut */
    float layer_norm_eps;
    int pool_cls; /* the embedding is that of [CLS], not the mean */
};

/* Reads config.json, and sentence_bert_config.json and 1_Pooling/config.json if they are there. A model that the
 * example can't compute ends the program with a message. */
void load_model_config(struct model_config *config, const char *directory);

#endif
