/* A program that says whether the library that it is linked with gives the recorded bits: the first half of qkv-info
 * --selftest, without the seconds of the second.  SPDX-License-Identifier: MIT */
#include <golden.h>
#include <stdio.h>

static void say(const char *line) {
    puts(line);
}

int main(void) {
    const qkv_config config = {.size = sizeof config, .isa = "ref"};
    qkv_ctx ref;
    return qkv_init(&ref, &config) != QKV_OK || golden(&ref, say) != 0;
}
