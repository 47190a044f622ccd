/* Reading a model's JSON files with cJSON.  SPDX-License-Identifier: MIT */
#ifndef JSON_H
#define JSON_H

#include <cJSON.h>
#include <stddef.h>
#include <stdint.h>

/* The JSON object that `size` bytes of text, followed by a byte 0, are from end to end; NULL if they are not. */
cJSON *parse_json(const char *text, size_t size);

/* Parses a whole file; its top level must be an object. Without the file: NULL if optional, else die(). */
cJSON *read_json(const char *path, int optional);

/* The value of a member, or `otherwise` when it is missing or null; die() names `path` when its type is wrong. */
int json_bool(const cJSON *object, const char *name, int otherwise, const char *path);
const char *json_string(const cJSON *object, const char *name, const char *otherwise, const char *path);
double json_number(const cJSON *object, const char *name, double otherwise, const char *path);
/* A whole number in [low, high]; otherwise < low: the member is required. */
int64_t json_integer(const cJSON *object, const char *name, int64_t low, int64_t high, int64_t otherwise,
                     const char *path);

/* Whether number is a whole number from 0 to 2⁵³, put into *value. */
int json_is_size(const cJSON *number, int64_t *value);

#endif
