/* Vectors of 4 floats: Armv8.1-M's vector extension (MVE, "Helium"), and when their results may be used.
 *
 * MVE's float instructions take a subnormal operand for a zero, and give a zero where the result would be subnormal,
 * whatever FPSCR says. The scalar FPU does neither, and its results are the ones promised. But MVE says what it did:
 * FPSCR.IDC is set where an operand was flushed, FPSCR.UFC where a result was. So products clear both, run, and look at
 * them before anything is stored: where one is set, that tile is calculated once more by the scalar FPU. src/cpu.c
 * tries whether both rise, else this set does not run. Functions for which a flush makes no difference say why.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_SIMD_HELIUM_H
#define QKV_SIMD_HELIUM_H

typedef float32x4_t vec;
enum { VLEN = 4 };

/* x is in a register here, and calculated before what follows with another of these. */
#define V_ORDERED(x) __asm__ volatile("" : "+w"(x))

/* -------------------------------------------------------------------------------------------------------- flushes */

enum { FLUSH_FLAGS = 1 << 7 | 1 << 3 }; /* IDC, UFC */

QKV_INLINE uint32_t fpscr_read(void) {
    uint32_t x;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(x) : : "memory");
    return x;
}
QKV_INLINE void fpscr_write(uint32_t x) { __asm__ volatile("vmsr fpscr, %0" : : "r"(x) : "memory"); }

/* Whether a vector's operand or result was flushed since they were cleared. Of what comes before only that counts
 * which V_ORDERED has seen. */
QKV_INLINE int was_flushed(void) { return (fpscr_read() & FLUSH_FLAGS) != 0; }

/* Every entry that looks at the flags stands between these two: the caller's are as set afterwards as before. */
QKV_INLINE uint32_t flushes_begin(void) {
    const uint32_t before = fpscr_read();
    if (before & FLUSH_FLAGS)
        fpscr_write(before & ~(uint32_t)FLUSH_FLAGS);
    return before & FLUSH_FLAGS;
}
QKV_INLINE void flushes_end(uint32_t before) {
    if (before)
        fpscr_write(fpscr_read() | before);
}

/* The scalar FPU raises UFC, too. */
#define FLUSHES_CLEAR() fpscr_write(fpscr_read() & ~(uint32_t)FLUSH_FLAGS)

/* ----------------------------------------------------------------------------------------------------------- lanes */

/* The first n lanes, all of them from n = VLEN on. */
QKV_INLINE mve_pred16_t lanes_of(size_t n) { return vctp32q((uint32_t)n); }

/* From lane to lane so many bytes; any sign, addresses are mod 2³². */
QKV_INLINE uint32x4_t lane_offsets(ptrdiff_t bytes) { return vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)bytes); }

/* Binary16 in the lower half of each lane. In q0 alone, as GNU as 2.40 assembles this instruction wrongly for any other
 * register. No conversion flushes: its result is a normal number or 0. */
QKV_INLINE vec from_f16(uint32x4_t halves) {
    register uint32x4_t x __asm__("q0") = halves;
    __asm__("vcvtb.f32.f16 q0, q0" : "+w"(x));
    return vreinterpretq_f32_u32(x);
}

/* Stored elements at p, those of other lanes +0; nothing of them is read. type is a constant, and not
 * QKV_Q8_0. */
QKV_INLINE vec load_stored_lanes(int type, const unsigned char *p, mve_pred16_t lanes) {
    const uint16_t *halves = (const uint16_t *)(const void *)p;
    switch (type) {
    case QKV_F16: return from_f16(vldrhq_z_u32(halves, lanes));
    case QKV_BF16: return vreinterpretq_f32_u32(vshlq_n_u32(vldrhq_z_u32(halves, lanes), 16));
    case QKV_INT8: return vcvtq_f32_s32(vldrbq_z_s32((const int8_t *)p, lanes));
    default: return vldrwq_z_f32((const float *)(const void *)p, lanes);
    }
}

/* The same with offsets in bytes from lane to lane. */
QKV_INLINE vec gather_stored_lanes(int type, const unsigned char *p, uint32x4_t offsets, mve_pred16_t lanes) {
    const uint16_t *halves = (const uint16_t *)(const void *)p;
    switch (type) {
    case QKV_F16: return from_f16(vldrhq_gather_offset_z_u32(halves, offsets, lanes));
    case QKV_BF16: return vreinterpretq_f32_u32(vshlq_n_u32(vldrhq_gather_offset_z_u32(halves, offsets, lanes), 16));
    case QKV_INT8: return vcvtq_f32_s32(vldrbq_gather_offset_z_s32((const int8_t *)p, offsets, lanes));
    default: return vldrwq_gather_offset_z_f32((const float *)(const void *)p, offsets, lanes);
    }
}

/* The binary16 at p. */
QKV_INLINE float set_f16(const unsigned char *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return vgetq_lane_f32(from_f16(vdupq_n_u32(half)), 0);
}

#endif
