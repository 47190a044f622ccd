/* The self-test as an image of its own: the recorded results of tools/golden.c, on every kernel set that the library
 * was built with, and what the library expects of the processor.  SPDX-License-Identifier: MIT */
#include <float.h>

#include "../../tools/golden.h"
#include "board.h"

#if FLT_EVAL_METHOD != 0
#error "float arithmetic is not in float here"
#endif

/* A flushed subnormal, or another rounding than to nearest even, would show in the hashes; here it has a name. */
static int check_arithmetic(void) {
    volatile float subnormal = 0x1p-149f, normal = 0x1p-126f, one = 1, half_ulp = 0x1p-24f, step = 0x1p-23f;
    volatile float product = normal * 0.5f;
    if (!(subnormal * 0x1p100f > 0) || product * 2 != normal) { /* compared as they are, both sides would be flushed */
        board_say("subnormals are flushed to zero");
        return 1;
    }
    if (one + half_ulp != one || (one + step) + half_ulp != one + 2 * step || -one - half_ulp != -one) {
        board_say("the rounding is not to nearest even");
        return 1;
    }
    return 0;
}

int main(void) {
    qkv_ctx ctx, best;
    int failed = check_arithmetic(), count = 0;
    if (qkv_init(&best, 0) != QKV_OK)
        return 1;
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set set;
        if (qkv_kernel_set_query(&best, i, &set) != QKV_OK || !set.available)
            continue;
        const qkv_config config = {.size = sizeof config, .isa = set.name};
        failed |= qkv_init(&ctx, &config) != QKV_OK || golden(&ctx, board_say) != 0;
        count++;
    }
    board_say_number("bytes of stack", board_stack_used());
    return failed || count == 0;
}
