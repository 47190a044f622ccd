/* Weights as files hold them to panels, without a change of value: rows of elements, or GGUF's rows of blocks, whose
 * columns come to lie side by side (../../ref/weights.h describes the panels).
 *
 * A block is taken apart in words of four bytes, each byte by itself, so that it is the same on any byte order.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "../ops.h"

int64_t qkv_weight_bytes(int64_t type) {
    static const uint8_t bytes[] = {
        [QKV_F32] = 4,   [QKV_F16] = 2,   [QKV_BF16] = 2,  [QKV_INT8] = 1,   [QKV_Q8_0] = 34,  [QKV_Q4_0] = 18,
        [QKV_Q4_1] = 20, [QKV_Q5_0] = 22, [QKV_Q5_1] = 24, [QKV_Q4_K] = 144, [QKV_Q5_K] = 176, [QKV_Q6_K] = 210};
    return bytes[type];
}

/* So many terms of a column are packed before the next column is begun, so that the groups written to stay in the L1
 * cache; and fetched so many columns ahead, as the runs are too short for a CPU to see them coming. */
enum { RUN_TERMS = 512, AHEAD = 2 };

/* ---------------------------------------------------------------------------------------------------------- words */

#if QKV_WITH(BLOCKS)

/* Eight bytes, of which what is done to one must not carry into another; and four. */
static inline uint64_t load8(const unsigned char *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline uint32_t load4(const unsigned char *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void store4(unsigned char *p, uint32_t x) {
    memcpy(p, &x, sizeof x);
}

/* The four bytes that come first in memory, and above them the others. */
static inline uint32_t join(uint64_t x, int shift) {
    uint32_t half[2];
    memcpy(half, &x, sizeof x);
    return half[0] | half[1] << shift;
}

static const uint64_t every_byte = UINT64_C(0x0101010101010101);

/* 16 bytes of which the low halves are terms 0 … 15 and the high halves 16 … 31: four words of a panel. */
static inline void pack_halves(unsigned char *to, const unsigned char *from) {
    for (int w = 0; w < 2; w++, to += QKV_WORD_ROW, from += 8) {
        uint64_t x = load8(from);
        store4(to, join(x & 15 * every_byte, 4));
        store4(to + 2 * QKV_WORD_ROW, join(x >> 4 & 15 * every_byte, 4));
    }
}

/* 32 bytes of which the halves from bit `shift` on are terms 0 … 31. */
static inline void pack_half_of(unsigned char *to, const unsigned char *from, int shift) {
    for (int w = 0; w < 4; w++, to += QKV_WORD_ROW, from += 8)
        store4(to, join(load8(from) >> shift & 15 * every_byte, 4));
}

/* Bit t of four bytes is of term t: to bit g of byte b for term 4·g + b. */
static inline void pack_fifth_bits(unsigned char *to, const unsigned char *from) {
    uint32_t h = 0; /* as a number, byte b from bit 8·b on */
    for (int g = 0; g < 8; g++)
        h |= ((from[g / 2] >> g % 2 * 4 & 15) * 0x00204081u & 0x01010101u) << g; /* bit b to 8·b */
    for (int b = 0; b < 4; b++)
        to[b] = (unsigned char)(h >> 8 * b);
}

/* The same of 32 bytes, whose bit `bit` it is. */
static inline void pack_fifth_bits_of(unsigned char *to, const unsigned char *from, int bit) {
    uint64_t h = 0;
    for (int g = 0; g < 8; g += 2)
        h |= (load8(from + 4 * g) >> bit & every_byte) << g;
    store4(to, join(h, 1));
}

/* Of 16 bytes, whose bits from `bit` on are two of terms 0 … 15. */
static inline void pack_upper_bits(unsigned char *to, const unsigned char *from, int bit) {
    uint64_t h = 0;
    for (int g = 0; g < 4; g += 2)
        h |= (load8(from + 4 * g) >> bit & 3 * every_byte) << 2 * g;
    store4(to, join(h, 2));
}

static inline void pack_bytes(unsigned char *to, const unsigned char *from, int words) {
    for (int w = 0; w < words; w++)
        store4(to + w * QKV_WORD_ROW, load4(from + 4 * w));
}

/* --------------------------------------------------------------------------------------------------------- blocks */

/* Group `to` is that of column 0; c is the column. */
static inline void pack_plain(unsigned char *to, const unsigned char *from, int64_t c, bool minimum, bool fifth) {
    for (int i = 0; i < 1 + minimum; i++, to += QKV_HALF_ROW, from += 2)
        memcpy(to + 2 * c, from, 2);
    to += 4 * c;
    if (fifth) {
        pack_fifth_bits(to, from);
        to += QKV_WORD_ROW;
        from += 4;
    }
    pack_halves(to, from);
}

static inline void pack_q8_0(unsigned char *to, const unsigned char *from, int64_t c) {
    memcpy(to + 2 * c, from, 2);
    pack_bytes(to + QKV_HALF_ROW + 4 * c, from + 2, 8);
}

/* Scales and minima are of 6 bits, eight each in 12 bytes: the first four of each in the low bits of bytes 0 … 7; of
 * the others the low halves in 8 … 11 and the rest in the upper bits of the first. */
static inline void pack_q4_5_k(unsigned char *to, const unsigned char *from, int64_t c, bool fifth) {
    const unsigned char *scales = from + 4, *high = from + 16, *halves = fifth ? high + 32 : high;
    memcpy(to + 2 * c, from, 2);
    memcpy(to + QKV_HALF_ROW + 2 * c, from + 2, 2);
    to += 2 * QKV_HALF_ROW;
    unsigned char of_terms[16]; /* scale, minimum of 32 terms each */
    for (int i = 0; i < 4; i++) {
        of_terms[2 * i] = scales[i] & 63;
        of_terms[2 * i + 1] = scales[i + 4] & 63;
        of_terms[2 * i + 8] = (unsigned char)((scales[i + 8] & 15) | (scales[i] >> 6) << 4);
        of_terms[2 * i + 9] = (unsigned char)((scales[i + 8] >> 4) | (scales[i + 4] >> 6) << 4);
    }
    for (int i = 0; i < 8; i++) {
        to[c] = of_terms[2 * i];
        to[QKV_PANEL + c] = of_terms[2 * i + 1];
        to += 2 * QKV_PANEL;
        if (fifth) {
            pack_fifth_bits_of(to + 4 * c, high, i);
            to += QKV_WORD_ROW;
        }
        pack_half_of(to + 4 * c, halves + i / 2 * 32, i % 2 * 4);
        to += 4 * QKV_WORD_ROW;
    }
}

/* Of 128 terms, term 32·i + t is low or high half of byte 32·(i % 2) + t of 64, and bits 2·i … of byte t of 32. */
static inline void pack_q6_k(unsigned char *to, const unsigned char *from, int64_t c) {
    const unsigned char *low = from, *high = from + 128, *scales = from + 192;
    memcpy(to + 2 * c, from + 208, 2);
    to += QKV_HALF_ROW;
    for (int i = 0; i < 8; i++) {
        to[c] = scales[2 * i];
        to[QKV_PANEL + c] = scales[2 * i + 1];
        to += 2 * QKV_PANEL;
        const unsigned char *bits = high + i / 4 * 32;
        for (int w = 0; w < 2; w++, to += QKV_WORD_ROW)
            pack_upper_bits(to + 4 * c, bits + 16 * w, i % 4 * 2);
        pack_half_of(to + 4 * c, low + i / 4 * 64 + i % 2 * 32, i % 4 / 2 * 4);
        to += 4 * QKV_WORD_ROW;
    }
}

static inline void turn_block(int type, unsigned char *to, const unsigned char *from, int64_t c) {
    switch (type) {
    case QKV_Q4_0: pack_plain(to, from, c, false, false); break;
    case QKV_Q4_1: pack_plain(to, from, c, true, false); break;
    case QKV_Q5_0: pack_plain(to, from, c, false, true); break;
    case QKV_Q5_1: pack_plain(to, from, c, true, true); break;
    case QKV_Q8_0: pack_q8_0(to, from, c); break;
    case QKV_Q4_K: pack_q4_5_k(to, from, c, false); break;
    case QKV_Q5_K: pack_q4_5_k(to, from, c, true); break;
    default: pack_q6_k(to, from, c); break;
    }
}

/* With a type that the compiler knows. */
QKV_INLINE void turn_blocks(int type, unsigned char *panel, const unsigned char *data, ptrdiff_t row, int64_t columns,
                            int64_t in_features) {
    const int64_t terms = qkv_weight_terms(type), bytes = qkv_weight_bytes(type), run = RUN_TERMS / terms;
    const int64_t group = (int64_t)qkv_weight_group_bytes(type), count = in_features / terms;
    for (int64_t first = 0; first < count; first += run) {
        int64_t n = qkv_min(run, count - first);
        for (int64_t c = 0; c < columns; c++) {
            const unsigned char *from = data + c * row + first * bytes;
            for (int64_t line = 0; line < n * bytes && c + AHEAD < columns; line += 64)
                __builtin_prefetch(from + AHEAD * row + line);
            for (int64_t g = 0; g < n; g++, from += bytes)
                turn_block(type, panel + (first + g) * group, from, c);
        }
    }
}

#endif

/* ------------------------------------------------------------------------------------------------------- elements */

/* Elements of `size` bytes from rows to columns, in runs as above. */
QKV_INLINE void turn_elements(size_t size, unsigned char *panel, const unsigned char *data, ptrdiff_t row,
                              int64_t columns, int64_t in_features) {
    for (int64_t first = 0; first < in_features; first += RUN_TERMS / 4) {
        int64_t n = qkv_min(RUN_TERMS / 4, in_features - first);
        for (int64_t c = 0; c < columns; c++) {
            const unsigned char *from = data + c * row + first * (int64_t)size;
            unsigned char *to = panel + (first * QKV_PANEL + c) * (int64_t)size;
            for (int64_t line = 0; line < n * (int64_t)size && c + AHEAD < columns; line += 64)
                __builtin_prefetch(from + AHEAD * row + line);
            for (int64_t x = 0; x < n; x++)
                memcpy(to + x * QKV_PANEL * (int64_t)size, from + x * (int64_t)size, size);
        }
    }
}

#if QKV_WITH(QUANTIZED)

/* Words of four rows' bytes. */
static void interleave(unsigned char *restrict to, const unsigned char *restrict row, ptrdiff_t in, int64_t columns) {
    const unsigned char *second = row + in, *third = second + in, *fourth = third + in;
    for (int64_t c = 0; c < columns; c++) {
        to[4 * c] = row[c];
        to[4 * c + 1] = second[c];
        to[4 * c + 2] = third[c];
        to[4 * c + 3] = fourth[c];
    }
}

/* int8: words of four terms. in, out: bytes from a term, or a column, to the next. What fills a last block up is 0. */
static void pack_int8(unsigned char *panel, const unsigned char *data, ptrdiff_t in, ptrdiff_t out, int64_t columns,
                      int64_t in_features) {
    int64_t whole = in_features / 4, end = qkv_round_up(in_features, QKV_BLOCK_TERMS) / 4;
    memset(panel + whole * QKV_WORD_ROW, 0, (size_t)((end - whole) * QKV_WORD_ROW));
    if (in == 1) {
        turn_elements(4, panel, data, out, columns, whole);
    } else {
        for (int64_t w = 0; w < whole; w++)
            interleave(panel + w * QKV_WORD_ROW, data + 4 * w * in, in, columns);
    }
    for (int64_t c = 0; c < columns && 4 * whole < in_features; c++) {
        for (int64_t x = 4 * whole; x < in_features; x++)
            panel[whole * QKV_WORD_ROW + 4 * c + x % 4] = data[x * in + c * out];
    }
}

#endif

void qkv_pack_panel(const qkv_kernels *kernels, void *to, const qkv_weight *w, int64_t stride, int64_t first,
                    int64_t columns, int64_t in_features) {
    const int type = (int)w->type;
    const bool in_out = w->layout == QKV_IN_OUT;
    const ptrdiff_t bytes = qkv_weight_bytes(type), row = stride / qkv_weight_terms(type) * bytes;
    const unsigned char *data = (const unsigned char *)w->data + first * (in_out ? bytes : row);
    unsigned char *panel = to;
    if (columns < QKV_PANEL)
        memset(panel, 0, (size_t)qkv_panel_bytes(type, in_features));
    switch (type) {
#if QKV_WITH(QUANTIZED)
    case QKV_INT8:
        memcpy(panel, w->scales + first, (size_t)columns * sizeof(float));
        pack_int8(panel + QKV_PANEL * sizeof(float), data, in_out ? row : 1, in_out ? 1 : row, columns, in_features);
        break;
#endif
    case QKV_F32:
    case QKV_F16:
    case QKV_BF16:
        for (int64_t k = 0; in_out && k < in_features; k++)
            memcpy(panel + k * QKV_PANEL * bytes, data + k * row, (size_t)(columns * bytes));
        if (!in_out && type == QKV_F32)
            kernels->pack(to, (const float *)(const void *)data, stride, (size_t)columns, (size_t)in_features);
        else if (!in_out)
            turn_elements(2, panel, data, row, columns, in_features);
        break;
#if QKV_WITH(BLOCKS)
#define BLOCKS(t)                                                                                                      \
    case t: turn_blocks(t, panel, data, row, columns, in_features); break;
        BLOCKS(QKV_Q8_0)
        BLOCKS(QKV_Q4_0)
        BLOCKS(QKV_Q4_1)
        BLOCKS(QKV_Q5_0)
        BLOCKS(QKV_Q5_1)
        BLOCKS(QKV_Q4_K)
        BLOCKS(QKV_Q5_K)
    default: turn_blocks(QKV_Q6_K, panel, data, row, columns, in_features);
#endif
    }
}
