/* The library takes descriptors of the sizes that abi/ records: those of programs that were built with the release.
 * scripts/check/abi.sh writes recorded.h, a RECORDED(name, bytes) for each struct that begins with its size, and links.
 *
 * SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qkv.h>

enum {
#define RECORDED(name, bytes) SIZE_OF_##name = bytes,
#include "recorded.h"
#undef RECORDED
    CACHE_BYTES = 1 << 16
};

static qkv_ctx ctx;
static _Alignas(64) unsigned char cache[CACHE_BYTES];

/* A descriptor of zeros as a program of the release has it: not one byte longer. */
static void *recorded(size_t size) {
    void *desc = calloc(1, size);
    if (desc == NULL)
        exit(2);
    memcpy(desc, &size, sizeof size);
    return desc;
}

static void inner(void *desc, size_t offset, size_t size) {
    memcpy((unsigned char *)desc + offset, &size, sizeof size);
}

static int refused(const char *call, qkv_status status) {
    if (status == QKV_ERROR_SIZE)
        printf("%s refuses a descriptor of the recorded size\n", call);
    return status == QKV_ERROR_SIZE;
}

#define PLAN(operation, desc) refused("qkv_" #operation "_plan", qkv_##operation##_plan(&ctx, desc, 1, &plan))

/* Each is handed a descriptor and returns how many calls have refused it for its size. */
#define EACH(name) static int take_##name(void *desc)
EACH(qkv_config) {
    return refused("qkv_init", qkv_init(&ctx, desc));
}
EACH(qkv_pack_desc) {
    size_t bytes;
    return refused("qkv_packed_size", qkv_packed_size(desc, &bytes)) +
           refused("qkv_pack", qkv_pack(&ctx, desc, cache)) + refused("qkv_unpack", qkv_unpack(desc, cache));
}
EACH(qkv_rope_table_desc) {
    float cosines[2], sines[2];
    return refused("qkv_rope_table", qkv_rope_table(desc, cosines, sines));
}
EACH(qkv_projection_desc) {
    qkv_plan plan;
    return PLAN(projection, desc);
}
EACH(qkv_attention_desc) {
    qkv_plan plan;
    uint8_t keep[1];
    float means[1];
    return PLAN(attention, desc) + refused("qkv_dropout_mask", qkv_dropout_mask(desc, 0, 0, 0, keep)) +
           refused("qkv_attention_key_means", qkv_attention_key_means(&ctx, desc, means)) +
           refused("qkv_cache_attach", qkv_cache_attach(cache, 0, desc));
}
EACH(qkv_merge_desc) {
    qkv_plan plan;
    return PLAN(merge, desc);
}
EACH(qkv_layer_desc) {
    qkv_plan plan;
    inner(desc, offsetof(qkv_layer_desc, attention), SIZE_OF_qkv_attention_desc);
    return PLAN(layer, desc);
}
EACH(qkv_cache_desc) {
    size_t bytes;
    return refused("qkv_cache_size", qkv_cache_size(desc, &bytes)) +
           refused("qkv_cache_init", qkv_cache_init(desc, cache, sizeof cache)) +
           refused("qkv_cache_query", qkv_cache_query(cache, desc));
}
EACH(qkv_attention_backward_desc) {
    qkv_plan plan;
    inner(desc, offsetof(qkv_attention_backward_desc, forward), SIZE_OF_qkv_attention_desc);
    return PLAN(attention_backward, desc);
}
EACH(qkv_projection_backward_desc) {
    qkv_plan plan;
    inner(desc, offsetof(qkv_projection_backward_desc, forward), SIZE_OF_qkv_projection_desc);
    return PLAN(projection_backward, desc);
}
EACH(qkv_layer_backward_desc) {
    qkv_plan plan;
    const size_t forward = offsetof(qkv_layer_backward_desc, forward);
    inner(desc, forward, SIZE_OF_qkv_layer_desc);
    inner(desc, forward + offsetof(qkv_layer_desc, attention), SIZE_OF_qkv_attention_desc);
    return PLAN(layer_backward, desc);
}

int main(void) {
    int failures = 0, structs = 0;
    const qkv_cache_desc empty = {.size = sizeof empty, .num_kv_heads = 1, .head_dim = 1};
    if (qkv_init(&ctx, NULL) != QKV_OK || qkv_cache_init(&empty, cache, sizeof cache) != QKV_OK)
        return 2;
    void *desc;
#define RECORDED(name, bytes)                                                                                          \
    desc = recorded(bytes);                                                                                            \
    failures += take_##name(desc);                                                                                     \
    structs++;                                                                                                         \
    free(desc);
#include "recorded.h"
    printf("%d descriptors of recorded sizes, %d calls refuse one\n", structs, failures);
    return failures != 0;
}
