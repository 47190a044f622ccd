/* What a model folder says about its tokenizer: vocab.txt, tokenizer.json, tokenizer_config.json.
 * SPDX-License-Identifier: MIT */
#include "json.h"
#include "support.h"
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

static int32_t required_word(const struct tokenizer *tokenizer, const char *word, const char *directory) {
    int32_t id = find_word(&tokenizer->vocabulary, word, strlen(word));
    if (id < 0)
        die("%s/vocab.txt: the word %s is missing; the file is damaged or not BERT's", directory, word);
    return id;
}

static void add_token(struct tokenizer *tokenizer, const char *text, int32_t id, int single_word, int normalized) {
    struct code_points raw = {0}, normal = {0};
    for (size_t i = 0, size = strlen(text); i < size;) {
        int32_t c;
        i += decode_utf8(text + i, size - i, &c);
        append_code_point(&raw, c);
    }
    if (normalized)
        normalize(tokenizer, raw.data, raw.length, &normal);
    struct code_points *kept = normalized ? &normal : &raw;
    free(normalized ? raw.data : normal.data);
    if (kept->length == 0) {
        free(kept->data);
        return;
    }
    tokenizer->added = reallocate(tokenizer->added, tokenizer->num_added + 1, sizeof *tokenizer->added);
    tokenizer->added[tokenizer->num_added++] = (struct added_token){
        .text = kept->data, .length = kept->length, .id = id, .single_word = single_word, .normalized = normalized};
}

/* Without tokenizer.json: the five that every BERT has. */
static void add_usual_tokens(struct tokenizer *tokenizer) {
    static const char *const usual[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        int32_t id = find_word(&tokenizer->vocabulary, usual[i], strlen(usual[i]));
        if (id >= 0)
            add_token(tokenizer, usual[i], id, 0, 0);
    }
}

static void set_accents(struct tokenizer *tokenizer, const cJSON *json, const char *path) {
    tokenizer->strip_accents = json_bool(json, "strip_accents", tokenizer->lower_case, path);
}

static void read_tokenizer_config(struct tokenizer *tokenizer, const cJSON *json, const char *path) {
    tokenizer->lower_case = json_bool(json, "do_lower_case", 1, path);
    tokenizer->chinese_apart = json_bool(json, "tokenize_chinese_chars", 1, path);
    set_accents(tokenizer, json, path);
}

static void require_type(const cJSON *object, const char *part, const char *type, const char *path) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, part);
    const char *found = cJSON_IsObject(value) ? json_string(value, "type", "", path) : "nothing";
    if (strcmp(found, type) != 0)
        die("%s: its \"%s\" is %s, not %s; this is not BERT's tokenizer", path, part, found, type);
}

/* vocab.txt must say the same: a truncated or altered one would give wrong numbers without a word. */
static void compare_vocabularies(const struct tokenizer *tokenizer, const cJSON *words, const char *path) {
    size_t count = 0;
    for (const cJSON *word = words ? words->child : NULL; word; word = word->next, count++) {
        int64_t id;
        if (!json_is_size(word, &id) || id != find_word(&tokenizer->vocabulary, word->string, strlen(word->string)))
            die("%s: \"%s\" stands elsewhere in vocab.txt; one of the two files is damaged", path, word->string);
    }
    if (count != tokenizer->vocabulary.num_words)
        die("%s: %zu words, but vocab.txt has %zu; one of the two files is damaged", path, count,
            tokenizer->vocabulary.num_words);
}

static void read_added_tokens(struct tokenizer *tokenizer, const cJSON *json, const char *path) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "added_tokens"), *item;
    cJSON_ArrayForEach(item, list) {
        int64_t id = json_integer(item, "id", 0, INT32_MAX, -1, path);
        const char *content = json_string(item, "content", NULL, path);
        if (!content)
            die("%s: an added token has no \"content\"", path);
        add_token(tokenizer, content, (int32_t)id, json_bool(item, "single_word", 0, path),
                  json_bool(item, "normalized", 0, path));
    }
}

static void read_tokenizer_json(struct tokenizer *tokenizer, const cJSON *json, const char *path) {
    const cJSON *normalizer = cJSON_GetObjectItemCaseSensitive(json, "normalizer");
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(json, "model");
    require_type(json, "normalizer", "BertNormalizer", path);
    require_type(json, "pre_tokenizer", "BertPreTokenizer", path);
    if (!cJSON_IsObject(model) || strcmp(json_string(model, "type", "WordPiece", path), "WordPiece") != 0 ||
        strcmp(json_string(model, "continuing_subword_prefix", "##", path), "##") != 0)
        die("%s: its \"model\" is not WordPiece with the prefix ##; this is not BERT's tokenizer", path);
    tokenizer->clean_text = json_bool(normalizer, "clean_text", 1, path);
    tokenizer->chinese_apart = json_bool(normalizer, "handle_chinese_chars", 1, path);
    tokenizer->lower_case = json_bool(normalizer, "lowercase", 1, path);
    set_accents(tokenizer, normalizer, path);
    tokenizer->longest_word = (size_t)json_integer(model, "max_input_chars_per_word", 1, INT32_MAX, 100, path);
    compare_vocabularies(tokenizer, cJSON_GetObjectItemCaseSensitive(model, "vocab"), path);
    read_added_tokens(tokenizer, json, path);
}

void load_tokenizer(struct tokenizer *tokenizer, const char *directory) {
    char *vocab_path = join_path(directory, "vocab.txt");
    char *path = join_path(directory, "tokenizer.json"), *config_path = join_path(directory, "tokenizer_config.json");
    *tokenizer = (struct tokenizer){
        .clean_text = 1, .chinese_apart = 1, .strip_accents = 1, .lower_case = 1, .longest_word = 100};
    load_vocabulary(&tokenizer->vocabulary, vocab_path);
    tokenizer->cls = required_word(tokenizer, "[CLS]", directory);
    tokenizer->sep = required_word(tokenizer, "[SEP]", directory);
    tokenizer->unk = required_word(tokenizer, "[UNK]", directory);

    cJSON *config = read_json(config_path, 1), *json = read_json(path, 1);
    if (config)
        read_tokenizer_config(tokenizer, config, config_path);
    if (json)
        read_tokenizer_json(tokenizer, json, path);
    else
        add_usual_tokens(tokenizer);
    cJSON_Delete(config);
    cJSON_Delete(json);
    free(vocab_path);
    free(config_path);
    free(path);
}

void free_tokenizer(struct tokenizer *tokenizer) {
    for (size_t i = 0; i < tokenizer->num_added; i++)
        free(tokenizer->added[i].text);
    free(tokenizer->added);
    free_vocabulary(&tokenizer->vocabulary);
}
