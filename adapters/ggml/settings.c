/* The environment variables of the adapter.  SPDX-License-Identifier: MIT */
#include "settings.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* An op of its own device ends a region of ggml's threads and begins another one: below this many multiplications that
 * takes as long as a faster op saves. llama.cpp rounds the keys of an op up to 256. A query of SmolLM2 over 512 pays
 * (590,000); over 256 it does once most of them are seen, and not for the first tokens. */
#define USUAL_MIN_WORK 500000

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool is_set(const char *name) {
    const char *value = variable(name);
    return value && strcmp(value, "0") != 0;
}

struct settings read_settings(void) {
    const char *min_work = variable("QKV_MIN_WORK");
    return (struct settings){.isa = variable("QKV_ISA"),
                             .off = is_set("QKV_OFF"),
                             .log = is_set("QKV_LOG"),
                             .min_work = min_work ? strtoll(min_work, NULL, 10) : USUAL_MIN_WORK,
                             .weights = variable("QKV_WEIGHTS")};
}

bool names_weights(const char *weights, const char *type) {
    const size_t length = strlen(type);
    for (const char *at = weights; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncasecmp(at, type, length) == 0 && (at[length] == ',' || !at[length]))
            return true;
    return strcmp(weights, "1") == 0;
}
