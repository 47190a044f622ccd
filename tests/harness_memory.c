/* Guarded memory, poison and random numbers of the test harness.  SPDX-License-Identifier: MIT */
#include "harness_host.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ random numbers */

/* The finalizer of splitmix64: a bijection that mixes every bit into every other. */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t qt_u64(qt_rng *rng) {
    rng->counter++;
    return mix(mix(rng->seed) + rng->counter * UINT64_C(0x9e3779b97f4a7c15));
}

int64_t qt_range(qt_rng *rng, int64_t low, int64_t high) {
    uint64_t span = (uint64_t)high - (uint64_t)low + 1;
    uint64_t x = qt_u64(rng);
    return (int64_t)((uint64_t)low + (span == 0 ? x : x % span));
}

bool qt_chance(qt_rng *rng, int percent) {
    return qt_range(rng, 0, 99) < percent;
}

float qt_uniform(qt_rng *rng, float low, float high) {
    double unit = (double)(qt_u64(rng) >> 11) * 0x1p-53;
    return (float)(low + ((double)high - low) * unit);
}

/* The sum of eight 16-bit numbers: near enough to a normal distribution, and without libm the same everywhere. */
float qt_normal(qt_rng *rng) {
    int64_t sum = 0;
    for (int draw = 0; draw < 2; draw++) {
        uint64_t x = qt_u64(rng);
        for (int i = 0; i < 4; i++)
            sum += (int64_t)(x >> (16 * i) & 0xffff);
    }
    return (float)((double)(2 * sum - 8 * 0xffff) * (0.5 / (65536.0 * 0.81649658092772603)));
}

uint32_t qt_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float qt_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float qt_nasty(qt_rng *rng) {
    /* clang-format off */
    static const uint32_t special[] = {
        0x00000000, /* 0 */
        0x00000001, /* the smallest subnormal */
        0x007fffff, /* the largest subnormal */
        0x00800000, /* FLT_MIN */
        0x7f7fffff, /* FLT_MAX */
        0x3f800000, /* 1 */
        0x7f800000, /* inf */
        0x7fc00000, /* the usual NaN */
        0x7f800001, /* a signalling NaN */
        0xc2fc0000, /* −126: where exp2 is cut */
        0xc2fc0001, 0xc2fbffff,
        0x3f400000, /* 0.75: where tanh changes branch */
        0x3f3fffff,
        0x4b000000, /* 2²³: no fraction bits from here on */
        0x4f000000, /* 2³¹: beyond int32 */
    };
    /* clang-format on */
    uint64_t x = qt_u64(rng);
    uint32_t sign = (uint32_t)(x >> 63) << 31, bits = (uint32_t)(x >> 8);
    switch (x & 7) {
    case 0:
    case 1:
    case 2: return qt_from_bits(special[bits % (sizeof special / sizeof special[0])] ^ sign);
    case 3: /* a power of two, or one of its neighbours */
        return qt_from_bits(sign | ((((bits % 254 + 1) << 23) + (bits >> 16) % 3) - 1));
    case 4: /* a subnormal */ return qt_from_bits(sign | (bits & 0x007fffff));
    case 5: /* a NaN with a payload */ return qt_from_bits(sign | 0x7f800000 | (bits & 0x007fffff) | 1);
    default: /* anything */ return qt_from_bits((uint32_t)(x >> 16));
    }
}

float qt_nasty_finite(qt_rng *rng) {
    for (;;) {
        float x = qt_nasty(rng);
        if (isfinite(x))
            return x;
    }
}

const char *qt_kind_name(qt_kind kind) {
    static const char *const names[QT_NUM_KINDS] = {"normal", "integer",      "wide",  "subnormal",
                                                    "huge",   "nasty-finite", "nasty", "sprinkled"};
    return names[kind];
}

/* ±2^exponent at most; what falls below FLT_MIN is rounded to a subnormal or zero. */
static float draw_scaled(qt_rng *rng, int low, int high) {
    int exponent = (int)qt_range(rng, low, high);
    return ldexpf(qt_uniform(rng, -1, 1), exponent);
}

float qt_draw(qt_rng *rng, qt_kind kind) {
    switch (kind) {
    case QT_INTEGER: return (float)qt_range(rng, -8, 8);
    case QT_WIDE: return draw_scaled(rng, -40, 40);
    case QT_SUBNORMAL: return draw_scaled(rng, -148, -124);
    case QT_HUGE: return draw_scaled(rng, 104, 128);
    case QT_NASTY_FINITE: return qt_nasty_finite(rng);
    case QT_NASTY: return qt_nasty(rng);
    case QT_SPRINKLED: return qt_range(rng, 0, 15) == 0 ? qt_nasty(rng) : qt_normal(rng);
    case QT_NORMAL:
    case QT_NUM_KINDS: break;
    }
    return qt_normal(rng);
}

void qt_fill(qt_rng *rng, float *x, size_t n, qt_kind kind) {
    for (size_t i = 0; i < n; i++)
        x[i] = qt_draw(rng, kind);
}

/* ------------------------------------------------------------------------------------------------ guarded memory */

typedef struct block {
    unsigned char *inner; /* between the guard pages */
    size_t inner_size;
    unsigned char *data;
    size_t bytes;
    bool live, sparse;
    bool summed; /* read-only where writes are no faults: they change this sum */
    uint32_t sum;
} block;

/* Blocks that are not live keep their mapping for the next allocation of the same size. */
#define MAX_BLOCKS 1024
static block blocks[MAX_BLOCKS];
static size_t num_blocks;

static unsigned char poison_at(const unsigned char *p) {
    return (unsigned char)(QT_POISON >> (8 * ((uintptr_t)p & 3)));
}

static void fill_poison(unsigned char *p, size_t bytes) {
    size_t i = 0;
    for (; i < bytes && ((uintptr_t)(p + i) & 3) != 0; i++)
        p[i] = poison_at(p + i);
    const uint32_t word = QT_POISON;
    for (; i + 4 <= bytes; i += 4)
        memcpy(p + i, &word, 4);
    for (; i < bytes; i++)
        p[i] = poison_at(p + i);
}

static size_t first_not_poison(const unsigned char *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != poison_at(p + i))
            return i;
    return bytes;
}

static uint32_t sum_of(const block *b) {
    uint32_t sum = 0, word;
    for (size_t i = 0; i < b->inner_size; i += 4) {
        memcpy(&word, b->inner + i, 4);
        sum = (sum ^ word) * UINT32_C(0x9e3779b1);
    }
    return sum;
}

static void unmap(block *b) {
    qt_unmap(b->inner, b->inner_size);
    *b = blocks[--num_blocks];
}

static block *new_block(size_t inner_size) {
    for (size_t i = 0; i < num_blocks; i++)
        if (!blocks[i].live && blocks[i].inner_size == inner_size)
            return &blocks[i];
    for (size_t i = 0; i < num_blocks && num_blocks > MAX_BLOCKS / 2; i++)
        if (!blocks[i].live)
            unmap(&blocks[i]);
    if (num_blocks == MAX_BLOCKS)
        qt_fail("more than %d allocations live at once", MAX_BLOCKS);
    unsigned char *inner = qt_map(inner_size, false);
    if (inner == NULL)
        qt_fail("no memory for %zu bytes", inner_size);
    block *b = &blocks[num_blocks++];
    *b = (block){.inner = inner, .inner_size = inner_size};
    return b;
}

void *qt_alloc(size_t bytes, size_t align, int place) {
    const size_t page = qt_page_size(), margin = qt_margin();
    const size_t front = place > 0 && align <= 4 ? (size_t)place * 4 : 0, spare = align > page ? align : 0;
    const size_t needed = bytes + front + spare > 0 ? bytes + front + spare : 1;
    block *b = new_block((needed + page - 1) / page * page + 2 * margin);
    unsigned char *begin = b->inner + margin, *end = b->inner + b->inner_size - margin;
    begin += (0 - (uintptr_t)begin) & (align - 1);
    b->data = place == QT_TAIL ? end - bytes - ((uintptr_t)(end - bytes) & (align - 1)) : begin + front;
    b->bytes = bytes;
    b->live = true;
    b->summed = false;
    fill_poison(b->inner, b->inner_size);
    if (bytes == 0) /* inside a guard page: any access is a fault; or where all is poison */
        b->data = place == QT_TAIL ? end : margin == 0 ? b->inner - align : begin;
    return b->data;
}

int qt_place(qt_rng *rng) {
    return qt_chance(rng, 50) ? QT_TAIL : QT_HEAD + (int)qt_range(rng, 0, 31);
}

float *qt_floats(size_t n, int place) {
    return qt_alloc(n * sizeof(float), sizeof(float), place);
}

float *qt_tile(size_t rows, size_t ld, int place) {
    return qt_alloc(rows * ld * sizeof(float), 64, place);
}

void *qt_sparse(size_t bytes) {
    size_t page = qt_page_size();
    if (num_blocks == MAX_BLOCKS || bytes > SIZE_MAX - 4 * page)
        return NULL;
    size_t inner_size = (bytes + page - 1) / page * page;
    unsigned char *inner = qt_map(inner_size, true);
    if (inner == NULL)
        return NULL;
    blocks[num_blocks++] =
        (block){.inner = inner, .inner_size = inner_size, .data = inner, .bytes = bytes, .live = true, .sparse = true};
    return inner;
}

/* The allocation that holds address p. */
static block *find_block(const void *p) {
    const unsigned char *at = p;
    for (size_t i = 0; i < num_blocks; i++)
        if (blocks[i].live && (at == blocks[i].data || (at >= blocks[i].data && at < blocks[i].data + blocks[i].bytes)))
            return &blocks[i];
    qt_fail("%p is in no allocation of the harness", p);
}

void qt_read_only(const void *p) {
    block *b = find_block(p);
    b->summed = !qt_protect(b->inner, b->inner_size, false);
    if (b->summed)
        b->sum = sum_of(b);
}

static void check_sum(const block *b) {
    if (b->summed && b->sum != sum_of(b))
        qt_fail("write into an input of %zu bytes", b->bytes);
}

void qt_read_write(const void *p) {
    block *b = find_block(p);
    check_sum(b);
    b->summed = false;
    qt_protect(b->inner, b->inner_size, true);
}

void qt_poison(void *p) {
    block *b = find_block(p);
    fill_poison(b->data, b->bytes);
}

/* Where in the poison around a block something was written: a byte offset from its first byte; 0 for nowhere, which
 * can't be confused because byte 0 is the caller's. An empty block has no data: all of it is poison. */
static ptrdiff_t damage(const block *b) {
    if (b->bytes == 0) {
        size_t at = first_not_poison(b->inner, b->inner_size);
        return at == b->inner_size ? 0 : (ptrdiff_t)at + 1;
    }
    size_t before = (size_t)(b->data - b->inner), after = b->inner_size - before - b->bytes;
    size_t at = first_not_poison(b->inner, before);
    if (at < before)
        return (ptrdiff_t)at - (ptrdiff_t)before;
    at = first_not_poison(b->data + b->bytes, after);
    return at < after ? (ptrdiff_t)(b->bytes + at) : 0;
}

void qt_check_memory(void) {
    for (size_t i = 0; i < num_blocks; i++) {
        ptrdiff_t at = blocks[i].live && !blocks[i].sparse ? damage(&blocks[i]) : 0;
        if (at != 0)
            qt_fail("write outside an allocation of %zu bytes: at byte %td", blocks[i].bytes, at);
        if (blocks[i].live)
            check_sum(&blocks[i]);
    }
}

void qt_free_all(void) {
    qt_check_memory();
    qt_drop_all();
}

void qt_drop_all(void) {
    for (size_t i = num_blocks; i-- > 0;) {
        block *b = &blocks[i];
        if (!b->live)
            continue;
        b->live = false;
        if (b->sparse || b->inner_size > qt_most_kept())
            unmap(b);
        else
            qt_protect(b->inner, b->inner_size, true);
    }
}

/* ---------------------------------------------------------------------------------------------------------- gaps */

qt_view qt_view_rows(const float *base, size_t rows, size_t cols, ptrdiff_t ld) {
    return (qt_view){base, sizeof(float), 2, {(int64_t)rows, (int64_t)cols}, {ld, 1}};
}

qt_view qt_view_output(const qkv_output *out, int64_t batch, int64_t heads, int64_t tokens, int64_t channels) {
    return (qt_view){
        out->data, sizeof(float), 4, {batch, heads, tokens, channels}, {out->batch, out->head, out->token, 1}};
}

/* Sets taken[i] for each element i of the block that belongs to the view. */
static void mark(const block *b, const qt_view *view, unsigned char *taken) {
    int64_t index[QT_MAX_RANK] = {0};
    int64_t element = (int64_t)view->element;
    for (int d = 0; d < view->rank; d++)
        if (view->size[d] <= 0)
            return;
    for (;;) {
        int64_t at = (const unsigned char *)view->base - b->data;
        for (int d = 0; d < view->rank; d++)
            at += index[d] * view->stride[d] * element;
        if (at < 0 || at + element > (int64_t)b->bytes || at % element != 0)
            qt_fail("the test's own view leaves its allocation at byte %lld", (long long)at);
        taken[at / element] = 1;
        int d = view->rank - 1;
        while (d >= 0 && ++index[d] == view->size[d])
            index[d--] = 0;
        if (d < 0)
            return;
    }
}

void qt_expect_gaps(const char *what, const qt_view *view) {
    const block *b = find_block(view->base);
    size_t elements = b->bytes / view->element;
    unsigned char *taken = calloc(elements + 1, 1);
    mark(b, view, taken);
    size_t bad = b->bytes;
    for (size_t i = 0; i < elements && bad == b->bytes; i++) {
        const unsigned char *p = b->data + i * view->element;
        size_t at = taken[i] ? view->element : first_not_poison(p, view->element);
        if (at < view->element)
            bad = i * view->element + at;
    }
    free(taken);
    if (bad < b->bytes)
        qt_fail("%s: write into a gap: element %lld from the base (byte %zu of the allocation)", what,
                (long long)(((const unsigned char *)b->data + bad - (const unsigned char *)view->base) /
                            (ptrdiff_t)view->element),
                bad);
}

void qt_expect_untouched(const char *what, const void *p) {
    const block *b = find_block(p);
    size_t at = first_not_poison(b->data, b->bytes);
    QT_EXPECT(at == b->bytes, "%s: byte %zu was written, nothing should be", what, at);
}
