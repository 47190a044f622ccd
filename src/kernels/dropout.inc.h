/* Template: dropout, Philox with a counter in every lane.
 *
 * Needs the vector header of an instruction set, inside its target region, and ../ref/philox.h for the constants.
 *
 * SPDX-License-Identifier: MIT */

QKV_INLINE void v_philox(vwords state[4], vword k0, vword k1) {
    vword m0 = k_set(QKV_PHILOX_M0), m1 = k_set(QKV_PHILOX_M1), w0 = k_set(QKV_PHILOX_W0), w1 = k_set(QKV_PHILOX_W1);
    for (int round = 0; round < QKV_PHILOX_ROUNDS; round++) {
        vwords x = w_multiply(state[0], m0), y = w_multiply(state[2], m1);
        state[0] = w_xor(w_high(y), state[1], k0);
        state[2] = w_xor(w_high(x), state[3], k1);
        state[1] = y;
        state[3] = x;
        k0 = k_add(k0, w0);
        k1 = k_add(k1, w1);
        QKV_OPAQUE(round); /* unrolled, the keys of all rounds would be worked out beforehand and kept on the stack */
    }
}

/* Lanes of 16 keys, if they are among those wanted. */
QKV_INLINE void drop_lanes(float *t, size_t lane, size_t j, size_t first, size_t end, vwords word,
                           const qkv_dropout *d) {
    if (j >= first && j < end)
        v_store(t + j + lane, v_mul(v_load(t + j + lane), v_keep(word, d->threshold, v_set(d->scale))));
}

static void dropout(float *t, size_t first, size_t end, const qkv_dropout *d) {
    for (size_t group = first / QKV_PHILOX_KEYS; group * QKV_PHILOX_KEYS < end; group++) {
        for (size_t lane = 0; lane < QKV_LANES; lane += VLEN) {
            vwords state[4] = {w_count((d->first_group + (uint32_t)group) * QKV_LANES + (uint32_t)lane),
                               w_set(d->counter[0]), w_set(d->counter[1]), w_set(d->counter[2])};
            v_philox(state, k_set(d->key[0]), k_set(d->key[1]));
            size_t j = group * QKV_PHILOX_KEYS;
            QKV_OPAQUE(j); /* or GCC compares before the loop, and keeps the answers on the stack */
            drop_lanes(t, lane, j, first, end, state[0], d);
            drop_lanes(t, lane, j + QKV_LANES, first, end, state[1], d);
            drop_lanes(t, lane, j + 2 * QKV_LANES, first, end, state[2], d);
            drop_lanes(t, lane, j + 3 * QKV_LANES, first, end, state[3], d);
        }
    }
    v_leave();
}
