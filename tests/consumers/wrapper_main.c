/* A program on wrapper.c; it knows nothing of qkv.  SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "wrapper.h"

int main(void) {
    printf("the wrapped qkv is %s\n", wrapper_version());
    return 0;
}
