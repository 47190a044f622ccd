/* Template, for vector headers: sums of products of bytes where the multiplier takes signed ones, so that nothing is
 * biased. Needs d_zero, d_add, i_add and i_sum_dots.
 *
 * SPDX-License-Identifier: MIT */

QKV_INLINE vint i_biased(vint a) { return a; }
QKV_INLINE vdots d_bias(vdots dots, vint w) {
    (void)w;
    return dots;
}
QKV_INLINE void d_store(void *p, vdots dots) {
    (void)p;
    (void)dots;
}
QKV_INLINE vdots d_load(const void *p) {
    (void)p;
    return d_zero();
}
QKV_INLINE vdots d_add_biased(vdots dots, vint w, vint a) { return d_add(dots, w, a); }

/* Adds the four products of each word: any w, a within ±127, so two fit 16 bits. */
QKV_INLINE vint i_add_signed_dots(vint sum, vint w, vint a) { return i_add(sum, i_sum_dots(d_add(d_zero(), w, a))); }
