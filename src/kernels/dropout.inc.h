/* Template: dropout, Philox with a counter in every lane.
 *
 * Needs the vector header of an instruction set, inside its target region, and ../ref/philox.h for the constants.
 *
 * SPDX-License-Identifier: MIT */

QKV_INLINE void v_philox(W words[4], K k0, K k1) {
    K m0 = k_set(QKV_PHILOX_M0), m1 = k_set(QKV_PHILOX_M1), w0 = k_set(QKV_PHILOX_W0), w1 = k_set(QKV_PHILOX_W1);
    for (int round = 0; round < QKV_PHILOX_ROUNDS; round++) {
        W x = w_multiply(words[0], m0), y = w_multiply(words[2], m1);
        words[0] = w_xor(w_high(y), words[1], k0);
        words[2] = w_xor(w_high(x), words[3], k1);
        words[1] = y;
        words[3] = x;
        k0 = k_add(k0, w0);
        k1 = k_add(k1, w1);
    }
}

static void dropout(float *t, size_t first, size_t end, const qkv_dropout *d) {
    V factor = v_set(d->scale);
    for (size_t group = first / QKV_PHILOX_KEYS; group * QKV_PHILOX_KEYS < end; group++) {
        for (size_t lane = 0; lane < QKV_LANES; lane += VL) {
            W words[4] = {w_count((d->first_group + (uint32_t)group) * QKV_LANES + (uint32_t)lane),
                          w_set(d->counter[0]), w_set(d->counter[1]), w_set(d->counter[2])};
            v_philox(words, k_set(d->key[0]), k_set(d->key[1]));
            QKV_UNROLL
            for (int w = 0; w < 4; w++) {
                size_t j = group * QKV_PHILOX_KEYS + (size_t)w * QKV_LANES;
                if (j >= first && j < end)
                    v_store(t + j + lane, v_mul(v_load(t + j + lane), v_keep(words[w], d->threshold, factor)));
            }
        }
    }
    v_leave();
}
