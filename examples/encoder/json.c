/* Reading a model's JSON files with cJSON.  SPDX-License-Identifier: MIT */
#include "json.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

cJSON *parse_json(const char *text, size_t size) {
    if (strlen(text) != size) /* cJSON would take a byte 0 for white space */
        return NULL;
    cJSON *json = cJSON_ParseWithLengthOpts(text, size + 1, NULL, 1); /* 1: nothing may follow the object */
    if (cJSON_IsObject(json))
        return json;
    cJSON_Delete(json);
    return NULL;
}

cJSON *read_json(const char *path, int optional) {
    size_t size;
    char *text = read_file(path, &size, optional);
    if (!text)
        return NULL;
    cJSON *json = parse_json(text, size);
    if (!json)
        die("%s: not a JSON object; the file is damaged or no part of a model", path);
    free(text);
    return json;
}

static const cJSON *member(const cJSON *object, const char *name) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNull(value) ? NULL : value;
}

int json_bool(const cJSON *object, const char *name, int otherwise, const char *path) {
    const cJSON *value = member(object, name);
    if (value && !cJSON_IsBool(value))
        die("%s: \"%s\" must be true or false", path, name);
    return value ? cJSON_IsTrue(value) : otherwise;
}

const char *json_string(const cJSON *object, const char *name, const char *otherwise, const char *path) {
    const cJSON *value = member(object, name);
    if (value && !cJSON_IsString(value))
        die("%s: \"%s\" must be a string", path, name);
    return value ? value->valuestring : otherwise;
}

double json_number(const cJSON *object, const char *name, double otherwise, const char *path) {
    const cJSON *value = member(object, name);
    if (value && !cJSON_IsNumber(value))
        die("%s: \"%s\" must be a number", path, name);
    return value ? value->valuedouble : otherwise;
}

int64_t json_integer(const cJSON *object, const char *name, int64_t low, int64_t high, int64_t otherwise,
                     const char *path) {
    int64_t number = otherwise;
    const cJSON *value = member(object, name);
    if (!value && otherwise < low)
        die("%s: \"%s\" is missing; this is no BERT model", path, name);
    if (value && (!json_is_size(value, &number) || number < low || number > high))
        die("%s: \"%s\" must be a whole number from %lld to %lld", path, name, (long long)low, (long long)high);
    return number;
}

int json_is_size(const cJSON *number, int64_t *value) {
    if (!cJSON_IsNumber(number) || !(number->valuedouble >= 0.0 && number->valuedouble <= 9007199254740992.0) ||
        number->valuedouble != floor(number->valuedouble))
        return 0;
    *value = (int64_t)number->valuedouble;
    return 1;
}
