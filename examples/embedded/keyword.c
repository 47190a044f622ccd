/* The image that a microcontroller's user would start from: weights that lie packed in flash, static memory, and one
 * attention layer over the features of an utterance. It is qkv_layer_run in three calls, with the same bits: like that
 * the memory of Q, K and V is yours, the heads' output takes the place of Q, and the stack need not hold a layer's
 * descriptors. keyword_model.h is written by keyword_prepare.c.
 *
 * SPDX-License-Identifier: MIT */
#include "keyword.h"

#include <qkv.h>

#include "board.h"
#include "keyword_model.h"

/* Bytes. The plans say whether that is enough, and this program how many are needed if it is not. */
#ifndef KEYWORD_WORKSPACE
#define KEYWORD_WORKSPACE 26112
#endif

enum { ROW = 3 * WIDTH };

static float x[TOKENS * MODEL], qkv[TOKENS * ROW];
static _Alignas(64) unsigned char workspace[KEYWORD_WORKSPACE];

/* They name addresses that are known when the image is linked, so they lie in flash. */
#define PART(number)                                                                                                   \
    {                                                                                                                  \
        .out_features = WIDTH, .head_dim = DIM, .type = KEYWORD_TYPE, .out = {                                         \
            qkv + (number)*WIDTH,                                                                                      \
            .head = DIM,                                                                                               \
            .token = ROW                                                                                               \
        }                                                                                                              \
    }
static const qkv_projection_desc project = {.size = sizeof project,
                                            .batch = 1,
                                            .tokens = TOKENS,
                                            .in_features = MODEL,
                                            .num_parts = 3,
                                            .x = {x, .token = MODEL},
                                            .packed = keyword_w_qkv,
                                            .part = {PART(0), PART(1), PART(2)},
                                            .arithmetic = KEYWORD_ARITHMETIC};
static const qkv_attention_desc attend = {.size = sizeof attend,
                                          .batch = 1,
                                          .num_heads = HEADS,
                                          .seq_q = TOKENS,
                                          .seq_k = TOKENS,
                                          .head_dim = DIM,
                                          .q = {qkv, .head = DIM, .token = ROW},
                                          .k = {qkv + WIDTH, .head = DIM, .token = ROW},
                                          .v = {qkv + 2 * WIDTH, .head = DIM, .token = ROW},
                                          .out = {qkv, .head = DIM, .token = ROW}};
static const qkv_projection_desc combine = {
    .size = sizeof combine,
    .batch = 1,
    .tokens = TOKENS,
    .in_features = WIDTH,
    .num_parts = 1,
    .x = {qkv, .token = ROW},
    .packed = keyword_w_o,
    .part = {{.out_features = MODEL, .type = KEYWORD_TYPE, .out = {x, .token = MODEL}}},
    .arithmetic = KEYWORD_ARITHMETIC};
static qkv_plan plans[3];

/* Once, at the start: what is wrong, and how much workspace is needed. A run of these plans can't fail. */
static qkv_status make_plans(void) {
    qkv_ctx ctx;
    qkv_status status = qkv_init(&ctx, NULL);
    if (status == QKV_OK)
        status = qkv_projection_plan(&ctx, &project, 1, &plans[0]);
    if (status == QKV_OK)
        status = qkv_attention_plan(&ctx, &attend, 1, &plans[1]);
    if (status == QKV_OK)
        status = qkv_projection_plan(&ctx, &combine, 1, &plans[2]);
    if (status == QKV_OK)
        board_say(ctx.isa);
    return status;
}

/* For each utterance: x becomes the layer's output. Counts what each call takes. */
static qkv_status run_layer(uint64_t instructions[3]) {
    const uint64_t begin = board_instructions();
    qkv_status status = qkv_projection_run(&plans[0], &project, workspace, sizeof workspace);
    const uint64_t projected = board_instructions();
    if (status == QKV_OK)
        status = qkv_attention_run(&plans[1], &attend, workspace, sizeof workspace);
    const uint64_t attended = board_instructions();
    if (status == QKV_OK)
        status = qkv_projection_run(&plans[2], &combine, workspace, sizeof workspace);
    instructions[0] = projected - begin;
    instructions[1] = attended - projected;
    instructions[2] = board_instructions() - attended;
    return status;
}

int main(void) {
    const uint64_t start = board_instructions();
    qkv_status status = make_plans();
    if (status != QKV_OK) {
        board_say_number("no plan, status of qkv.h", (uint64_t)status);
        return 1;
    }
    const uint64_t planned = board_instructions();
    size_t needed = 0;
    for (int i = 0; i < 3; i++)
        needed = plans[i].workspace_size > needed ? plans[i].workspace_size : needed;
    board_say_number("bytes of workspace", needed);
    if (needed > sizeof workspace) {
        board_say("KEYWORD_WORKSPACE is smaller");
        return 1;
    }

    keyword_numbers(1, 1, x, TOKENS * MODEL);
    uint64_t instructions[3];
    status = run_layer(instructions);
    if (status != QKV_OK) {
        board_say_number("no result, status of qkv.h", (uint64_t)status);
        return 1;
    }

    board_say_number("instructions of the plans", planned - start);
    board_say_number("instructions of the projections", instructions[0] + instructions[2]);
    board_say_number("instructions of the attention", instructions[1]);
    board_say_number("bytes of stack", board_stack_used());
    if (keyword_checksum(x, TOKENS * MODEL) != KEYWORD_CHECKSUM) {
        board_say("the output has OTHER bits than on the computer that prepared the model");
        return 1;
    }
    board_say("the output has the bits of the computer that prepared the model");
    return 0;
}
