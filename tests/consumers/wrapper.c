/* A library of a user's own that holds qkv: part of an outer package, of a plugin, of a Python extension.
 * SPDX-License-Identifier: MIT */
#include "wrapper.h"

#include <qkv.h>

const char *wrapper_version(void) {
    qkv_ctx ctx;
    return qkv_init(&ctx, NULL) == QKV_OK ? qkv_version() : "no kernel set";
}
