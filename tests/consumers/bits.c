/* A program that says whether the library that it is linked with gives the recorded bits: the first half of qkv-info
 * --selftest, without the seconds of the second.  SPDX-License-Identifier: MIT */
#include <golden.h>

int main(void) {
    return golden();
}
