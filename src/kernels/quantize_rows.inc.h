/* Template: rows in 8 bits, 32 terms at a time. Needs quantize_terms(to, 32 floats).
 *
 * SPDX-License-Identifier: MIT */

QKV_INLINE void quantize_rows_by_terms(qkv_terms *dst, ptrdiff_t ldd, const float *x, ptrdiff_t ldx, size_t rows,
                                       size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *row = x + (ptrdiff_t)i * ldx;
        qkv_terms *to = dst + i;
        size_t left = k;
        for (; left >= QKV_BLOCK_TERMS; left -= QKV_BLOCK_TERMS, row += QKV_BLOCK_TERMS, to += ldd)
            quantize_terms(to, row);
        if (left > 0) {
            float last[QKV_BLOCK_TERMS] = {0};
            memcpy(last, row, left * sizeof *last);
            quantize_terms(to, last);
        }
    }
}
