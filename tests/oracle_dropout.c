/* Which pairs dropout keeps, from the description in docs/numerics.md.  SPDX-License-Identifier: MIT */
#include "oracle.h"

/* Philox 4x32-10: counter words 0 and 2 are multiplied, words 1 and 3 and the key are mixed into the high halves. */
void oracle_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t result[4]) {
    uint64_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    for (uint64_t round = 0; round < 10; round++) {
        const uint64_t k0 = (key[0] + round * 0x9E3779B9) % 0x100000000,
                       k1 = (key[1] + round * 0xBB67AE85) % 0x100000000;
        const uint64_t first = a * 0xD2511F53, second = c * 0xCD9E8D57;
        const uint64_t next_a = second / 0x100000000 ^ b ^ k0, next_c = first / 0x100000000 ^ d ^ k1;
        a = next_a;
        b = second % 0x100000000;
        c = next_c;
        d = first % 0x100000000;
    }
    const uint64_t words[4] = {a, b, c, d};
    for (int w = 0; w < 4; w++)
        result[w] = (uint32_t)words[w];
}

double oracle_dropout_factor(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i, int64_t j) {
    if (d->dropout == 0)
        return 1;
    const uint64_t p = (uint64_t)i + (uint64_t)(d->q_offsets ? d->q_offsets[b] : d->q_offset);
    const uint64_t plane = d->dropout_offset + (uint64_t)(b * d->num_heads + h);
    const uint32_t counter[4] = {(uint32_t)(j / 64 * 16 + j % 16), (uint32_t)p, (uint32_t)plane,
                                 (uint32_t)(plane >> 32)};
    const uint32_t key[2] = {(uint32_t)d->dropout_seed, (uint32_t)(d->dropout_seed >> 32)};
    uint32_t words[4];
    oracle_philox(counter, key, words);
    const double threshold = floor(ldexp((double)d->dropout, 32));
    return (double)words[j / 16 % 4] < threshold ? 0 : 1 / (1 - ldexp(threshold, -32));
}
