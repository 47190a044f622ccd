/* A product and a sum as any source of the library may hold them: two roundings, by the pragmas of config.h.
 * SPDX-License-Identifier: MIT */
#include "config.h"

float kept(float a, float b, float c);
float kept(float a, float b, float c) {
    return a * b + c;
}
