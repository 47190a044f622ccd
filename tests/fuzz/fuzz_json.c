/* JSON: a model's configuration and tokenizer, and any value of them.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "json.h"

#include "fuzz_reader.h"

static void read_values(const void *path) {
    cJSON *json = read_json(path, 0);
    json_bool(json, "bool", 0, "input");
    json_string(json, "string", "", "input");
    json_number(json, "number", 0, "input");
    json_integer(json, "integer", 1, 100, 1, "input");
    cJSON_Delete(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON_InitHooks(&(cJSON_Hooks){fuzz_malloc, fuzz_free});
    return fuzz_run(size, read_values, fuzz_path(data, size));
}
