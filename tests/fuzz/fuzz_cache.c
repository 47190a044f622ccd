/* Any descriptor of a KV cache, and the lives of those that can be: whole, every call leaves a cache that passes
 * qkv_cache_check and a refused one not a byte changed; with bytes damaged, or a forged header that passes the check,
 * no call leaves the block. For libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer: scripts/check/fuzz.sh.
 *
 * SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cache_rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BLOCK = 1 << 18, MOST_GROWTH = 150, MOST_DIM = 40, SEALED_WORDS = 19 };

static const uint8_t *input;
static size_t left;
static uint64_t state;

static int64_t pick(int64_t n) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t x = state >> 33;
    if (left > 0) {
        x = *input++;
        left--;
        state ^= x;
    }
    return (int64_t)(x % (uint64_t)n);
}

static void expect(bool condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz_cache: %s\n", what);
        abort();
    }
}

static int64_t odd(void) {
    static const int64_t some[] = {0, 1, -1, INT64_MIN, INT64_MAX, INT32_MAX, INT64_C(1) << 31, INT64_C(1) << 62, 64};
    return some[pick(9)];
}

static void draw_cache(qkv_cache_desc *d) {
    *d = (qkv_cache_desc){.size = sizeof *d,
                          .num_sequences = pick(5),
                          .max_tokens = pick(400),
                          .num_kv_heads = pick(4),
                          .head_dim = pick(20),
                          .head_dim_v = pick(3) ? 0 : pick(20),
                          .num_pages = pick(2) ? 0 : pick(20)};
    static const int32_t types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8, QKV_Q8_0};
    d->k_type = types[pick(40) ? pick(4) : 4];
    d->v_type = types[pick(40) ? pick(4) : 4];
    if (pick(2)) {
        d->window = 1 + pick(200);
        d->first_tokens = pick(3) ? 0 : pick(100);
    }
    if (pick(8) == 0)
        memcpy((char *)d + 8 * (1 + pick((int64_t)(sizeof *d / 8) - 1)), &(int64_t){odd()}, 8);
}

static float floats[4 * MOST_GROWTH * MOST_DIM];

static qkv_status call(const qkv_ctx *ctx, void *block, const qkv_cache_desc *d) {
    const int64_t s = pick(20) ? pick(d->num_sequences + 1) : odd(), other = pick(d->num_sequences + 1);
    const int64_t n = pick(20) ? pick(pick(3) ? 70 : MOST_GROWTH) : odd();
    const bool fits = d->num_kv_heads <= 4 && d->head_dim <= MOST_DIM && d->head_dim_v <= MOST_DIM;
    const qkv_input k = {floats, 0, MOST_GROWTH * MOST_DIM, MOST_DIM}, v = {floats, 0, MOST_DIM, 4 * MOST_DIM};
    int64_t x;
    switch (pick(7)) {
    case 0:
        if (!fits || n > MOST_GROWTH)
            return QKV_OK;
        return qkv_cache_append(ctx, block, s, n, k, v);
    case 1: return qkv_cache_extend(block, s, n);
    case 2: return qkv_cache_truncate(block, s, pick(20) ? pick(d->max_tokens < 500 ? d->max_tokens + 2 : 500) : n);
    case 3: return qkv_cache_fork(block, s, other);
    case 4: return qkv_cache_length(block, s, &x);
    case 5: return qkv_cache_free_pages(block, &x);
    default:
        if (fits && n <= MOST_GROWTH)
            store_rows(ctx->kernels, block, s, (int)pick(2), pick(d->num_kv_heads + 1), pick(400), n, floats, MOST_DIM);
        return QKV_OK;
    }
}

/* Bytes of the bookkeeping, or words of the header, which is sealed again. */
static void damage(unsigned char *block) {
    qkv_cache_view c;
    expect(qkv_cache_open(block, &c) == QKV_OK, "a cache does not open");
    const bool forged = pick(2);
    for (int64_t n = 1 + pick(4); n > 0; n--) {
        if (forged)
            memcpy(block + 8 * (2 + pick(SEALED_WORDS - 2)), &(int64_t){pick(2) ? odd() : pick(30)}, 8);
        else
            block[pick(256) * 256 % (c.k - block) + pick(256) % 64] ^= (unsigned char)(1 + pick(255));
    }
    if (forged) {
        int64_t words[SEALED_WORDS];
        memcpy(words, block, sizeof words);
        const uint64_t sum = qkv_checksum(words, SEALED_WORDS);
        memcpy(block + sizeof words, &sum, sizeof sum);
    }
}

static void live(const qkv_ctx *ctx, unsigned char *block, unsigned char *before, size_t bytes) {
    qkv_cache_desc d = {.size = sizeof d};
    const int calls = 5 + (int)pick(40);
    int64_t damaged = pick(2) ? pick(calls) : -1;
    for (int i = 0; i < calls; i++) {
        if (i == damaged) {
            damage(block);
            const qkv_status status = qkv_cache_check(block, bytes);
            expect(status == QKV_OK || status == QKV_ERROR_CACHE, "the check says something else");
            /* A header that is only refused for its size leads out of the block, as no other function knows it. */
            qkv_cache_view c;
            if (qkv_cache_open(block, &c) == QKV_OK && (size_t)c.bytes > bytes)
                return;
        }
        if (qkv_cache_query(block, &d) != QKV_OK)
            return;
        memcpy(before, block, bytes);
        const qkv_status status = call(ctx, block, &d);
        expect(status == QKV_OK || memcmp(before, block, bytes) == 0, "a refusal has written something");
        const bool whole = damaged < 0 || i < damaged;
        expect(!whole || qkv_cache_check(block, bytes) == QKV_OK, "a call has broken the cache");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qkv_ctx ctx;
    if (!ctx.isa && qkv_init(&ctx, NULL) != QKV_OK)
        expect(false, "no kernel set");
    input = data;
    left = size;
    state = size;
    for (size_t i = 0; i < size; i++)
        state = (state ^ data[i]) * UINT64_C(0x100000001b3);
    qkv_cache_desc d;
    size_t bytes;
    draw_cache(&d);
    if (qkv_cache_size(&d, &bytes) != QKV_OK || bytes > MOST_BLOCK)
        return 0;
    void *block = NULL, *before = NULL;
    if (posix_memalign(&block, 64, bytes) != 0 || posix_memalign(&before, 64, bytes) != 0)
        expect(false, "no memory");
    memset(block, 0xa5, bytes);
    expect(qkv_cache_init(&d, block, bytes) == QKV_OK, "a size, but no cache");
    live(&ctx, block, before, bytes);
    free(block);
    free(before);
    return 0;
}
