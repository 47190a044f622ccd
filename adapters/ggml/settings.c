/* The environment variables of the adapter.  SPDX-License-Identifier: MIT */
#include "settings.h"

#include "blocks.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* An op of its own device ends a region of ggml's threads and begins another one: below this many multiplications that
 * takes as long as a faster op saves. 1024 keys of SmolLM2 pay, 1.2 million; where less begins to is not measured. */
#define USUAL_MIN_WORK 1000000

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool is_set(const char *name) {
    const char *value = variable(name);
    return value && strcmp(value, "0") != 0;
}

static bool is_named(const char *names, const char *name) {
    const size_t length = strlen(name);
    for (const char *at = names; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncasecmp(at, name, length) == 0 && (at[length] == ',' || !at[length]))
            return true;
    return strcmp(names, "1") == 0;
}

/* Types of weights that the setting names, by commas: "q4_1,q5_0"; all for 1, none for 0. */
static void read_weights(struct settings *s) {
    const char *names = variable("QKV_WEIGHTS");
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        int64_t unused;
        if (!type_of_blocks((enum ggml_type)type, &unused))
            continue;
        s->takes_weights[type] = names ? is_named(names, ggml_type_name((enum ggml_type)type)) : false;
        s->any_weights |= s->takes_weights[type];
    }
}

struct settings read_settings(void) {
    const char *min_work = variable("QKV_MIN_WORK");
    struct settings s = {.isa = variable("QKV_ISA"), .off = is_set("QKV_OFF"), .log = is_set("QKV_LOG"),
                             .min_work = min_work ? strtoll(min_work, NULL, 10) : USUAL_MIN_WORK};
    read_weights(&s);
    return s;
}
