/* Template: stored elements to floats and back.
 *
 * Needs the vector header of an instruction set, inside its target region, and ../ref/storage.h.
 *
 * SPDX-License-Identifier: MIT */

/* Calls function(type, …) by a switch, so that type is a constant in it. */
#define BY_STORED_TYPE(function, type, ...)                                                                            \
    switch (type) {                                                                                                    \
    case QKV_F16: function(QKV_F16, __VA_ARGS__); break;                                                               \
    case QKV_BF16: function(QKV_BF16, __VA_ARGS__); break;                                                             \
    case QKV_INT8: function(QKV_INT8, __VA_ARGS__); break;                                                             \
    case QKV_Q8_0: function(QKV_Q8_0, __VA_ARGS__); break;                                                             \
    default: function(QKV_F32, __VA_ARGS__);                                                                           \
    }

/* VLEN elements of a type, which is a constant. */
QKV_INLINE vec v_load_stored(int type, const unsigned char *p) {
    return type == QKV_F16    ? v_load_f16(p)
           : type == QKV_BF16 ? v_load_bf16(p)
           : type == QKV_INT8 ? v_load_i8(p)
                              : v_load((const float *)(const void *)p);
}

QKV_INLINE void v_store_stored(int type, unsigned char *p, vec x) {
    if (type == QKV_F16)
        v_store_f16(p, x);
    else if (type == QKV_BF16)
        v_store_bf16(p, x);
    else
        v_store((float *)(void *)p, x);
}

QKV_INLINE void widen_rows(int type, float *dst, ptrdiff_t ldd, const unsigned char *src, ptrdiff_t stride, size_t rows,
                           size_t n) {
    const size_t size = (size_t)qkv_stored_bytes(type, 1);
    for (; rows > 0; rows--, dst += ldd) {
        size_t j = 0;
        for (; j + VLEN <= n; j += VLEN)
            v_store(dst + j, v_load_stored(type, src + j * size));
        if (j < n) {
            unsigned char rest[VLEN * sizeof(float)] = {0};
            memcpy(rest, src + j * size, (n - j) * size);
            v_store_tail(dst + j, v_load_stored(type, rest), v_tail(n - j));
        }
        src += rows > 1 ? stride : 0;
    }
}

QKV_INLINE void widen_blocks(float *dst, ptrdiff_t ldd, const unsigned char *src, ptrdiff_t stride, size_t rows,
                             size_t n) {
    for (; rows > 0; rows--, dst += ldd) {
        const unsigned char *block = src;
        for (size_t j = 0; j < n; j += QKV_Q8_0_CHANNELS, block += QKV_Q8_0_BYTES) {
            vec scale = v_set_f16(block);
            for (size_t x = 0; x < QKV_Q8_0_CHANNELS; x += VLEN)
                v_store(dst + j + x, v_mul(scale, v_load_i8(block + 2 + x)));
        }
        src += rows > 1 ? stride : 0;
    }
}

static void widen(float *dst, ptrdiff_t ldd, const void *src, ptrdiff_t stride, int type, size_t rows, size_t n) {
    switch (type) {
    case QKV_F16: widen_rows(QKV_F16, dst, ldd, src, stride, rows, n); break;
    case QKV_BF16: widen_rows(QKV_BF16, dst, ldd, src, stride, rows, n); break;
    case QKV_INT8: widen_rows(QKV_INT8, dst, ldd, src, stride, rows, n); break;
    case QKV_Q8_0: widen_blocks(dst, ldd, src, stride, rows, n); break;
    default: widen_rows(QKV_F32, dst, ldd, src, stride, rows, n);
    }
    v_leave();
}

QKV_INLINE void narrow_rows(int type, unsigned char *dst, ptrdiff_t stride, const float *src, ptrdiff_t lds,
                            size_t rows, size_t n) {
    const size_t size = (size_t)qkv_stored_bytes(type, 1);
    for (; rows > 0; rows--, src += lds) {
        size_t j = 0;
        for (; j + VLEN <= n; j += VLEN)
            v_store_stored(type, dst + j * size, v_load(src + j));
        if (j < n) {
            unsigned char rest[VLEN * sizeof(float)];
            v_store_stored(type, rest, v_load_tail(src + j, v_tail(n - j)));
            memcpy(dst + j * size, rest, (n - j) * size);
        }
        dst += rows > 1 ? stride : 0;
    }
}

static void narrow(void *dst, ptrdiff_t stride, const float *src, ptrdiff_t lds, int type, size_t rows, size_t n) {
    switch (type) {
    case QKV_F16: narrow_rows(QKV_F16, dst, stride, src, lds, rows, n); break;
    case QKV_BF16: narrow_rows(QKV_BF16, dst, stride, src, lds, rows, n); break;
    default: narrow_rows(QKV_F32, dst, stride, src, lds, rows, n);
    }
    v_leave();
}
