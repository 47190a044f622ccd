/* The same outside the library: compilers make one rounding of it, where the target has fma.
 * SPDX-License-Identifier: MIT */
float fused(float a, float b, float c);
float fused(float a, float b, float c) {
    return a * b + c;
}
