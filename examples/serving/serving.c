/* What a serving engine does: sequences that come and go, their keys and values in 16 bits in pages of one pool, and
 * in each step one call for all, a chunk of a prompt here, a decoded token there. At the end every sequence is computed
 * again alone, at once and from plain floats: each output must be the same bytes.
 *
 * SPDX-License-Identifier: MIT */
#include <qkv.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 8, KV_HEADS = 2, DIM = 64, SEQUENCES = 3, MOST = 96, PAGE = 16, PAGES = 20, STEPS = 24 };

/* Which step brings which sequence how many tokens. */
static int tokens_of(int sequence, int step) {
    if (sequence == 0) /* a long prompt in chunks, then decoding */
        return step < 9 ? 7 : 1;
    if (sequence == 1) /* decoding from the start */
        return 1;
    return step < 10 ? 0 : step == 10 ? 33 : 1; /* joins later, with its prompt at once */
}

/* What a model's projections would give: queries, keys and values of every token. */
static float q[SEQUENCES][MOST][HEADS][DIM], k[SEQUENCES][MOST][KV_HEADS][DIM], v[SEQUENCES][MOST][KV_HEADS][DIM];
static float out[SEQUENCES][MOST][HEADS][DIM], alone[MOST][HEADS][DIM];

/* The pool of pages, [page][token][head][channel], and which pages a sequence has. */
static uint16_t k_pool[PAGES][PAGE][KV_HEADS][DIM], v_pool[PAGES][PAGE][KV_HEADS][DIM];
static int32_t page_table[SEQUENCES][MOST / PAGE];
static int64_t kv_len[SEQUENCES], q_start[SEQUENCES + 1], q_offsets[SEQUENCES];
static int used_pages;

static float number(void) {
    return (float)(rand() % 2001 - 1000) / 500;
}

/* The nearest bfloat16; x becomes what it means. */
static uint16_t to_bfloat16(float *x) {
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(x, &bits, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static void append(int s) {
    int64_t at = kv_len[s]++;
    if (at % PAGE == 0)
        page_table[s][at / PAGE] = used_pages++;
    int32_t page = page_table[s][at / PAGE];
    for (int h = 0; h < KV_HEADS; h++)
        for (int c = 0; c < DIM; c++) {
            k_pool[page][at % PAGE][h][c] = to_bfloat16(&k[s][at][h][c]);
            v_pool[page][at % PAGE][h][c] = to_bfloat16(&v[s][at][h][c]);
        }
}

static void attend(const qkv_ctx *ctx, const qkv_attention_desc *desc) {
    qkv_plan plan;
    qkv_status status = qkv_attention_plan(ctx, desc, 1, &plan);
    void *workspace = plan.workspace_size ? aligned_alloc(64, plan.workspace_size) : NULL;
    if (status == QKV_OK)
        status = qkv_attention_run(&plan, desc, workspace, plan.workspace_size);
    free(workspace);
    if (status != QKV_OK) {
        fprintf(stderr, "%s\n", qkv_status_string(status));
        exit(1);
    }
}

int main(void) {
    const int64_t row = HEADS * DIM, kv_row = KV_HEADS * DIM;
    static float step_q[MOST * SEQUENCES][HEADS][DIM], step_out[MOST * SEQUENCES][HEADS][DIM];
    qkv_ctx ctx;
    qkv_init(&ctx, NULL);
    for (int s = 0; s < SEQUENCES; s++)
        for (int i = 0; i < MOST * HEADS * DIM; i++) {
            (&q[s][0][0][0])[i] = number();
            if (i < MOST * KV_HEADS * DIM) {
                (&k[s][0][0][0])[i] = number();
                (&v[s][0][0][0])[i] = number();
            }
        }
    for (int step = 0; step < STEPS; step++) {
        for (int s = 0; s < SEQUENCES; s++) {
            q_offsets[s] = kv_len[s];
            q_start[s + 1] = q_start[s] + tokens_of(s, step);
            for (int64_t t = q_start[s]; t < q_start[s + 1]; t++) {
                memcpy(step_q[t], q[s][kv_len[s]], sizeof step_q[t]);
                append(s);
            }
        }
        attend(&ctx, &(qkv_attention_desc){.size = sizeof(qkv_attention_desc),
                                           .batch = SEQUENCES,
                                           .num_heads = HEADS,
                                           .num_kv_heads = KV_HEADS,
                                           .seq_q = q_start[SEQUENCES],
                                           .seq_k = MOST,
                                           .head_dim = DIM,
                                           .flags = QKV_RIGHT,
                                           .q = {step_q, 0, DIM, row},
                                           .out = {step_out, 0, DIM, row},
                                           .q_start = q_start,
                                           .k = {k_pool, PAGE * kv_row, DIM, kv_row},
                                           .v = {v_pool, PAGE * kv_row, DIM, kv_row},
                                           .k_type = QKV_BF16,
                                           .v_type = QKV_BF16,
                                           .kv_len = kv_len,
                                           .q_offsets = q_offsets,
                                           .page_table = &page_table[0][0],
                                           .table_stride = MOST / PAGE,
                                           .page_tokens = PAGE,
                                           .num_pages = PAGES});
        for (int s = 0; s < SEQUENCES; s++)
            memcpy(out[s][q_offsets[s]], step_out[q_start[s]],
                   (size_t)(q_start[s + 1] - q_start[s]) * sizeof *step_out);
    }
    int different = 0;
    for (int s = 0; s < SEQUENCES; s++) {
        attend(&ctx, &(qkv_attention_desc){.size = sizeof(qkv_attention_desc),
                                           .batch = 1,
                                           .num_heads = HEADS,
                                           .num_kv_heads = KV_HEADS,
                                           .seq_q = kv_len[s],
                                           .seq_k = kv_len[s],
                                           .head_dim = DIM,
                                           .flags = QKV_RIGHT,
                                           .q = {q[s], 0, DIM, row},
                                           .k = {k[s], 0, DIM, kv_row},
                                           .v = {v[s], 0, DIM, kv_row},
                                           .out = {alone, 0, DIM, row}});
        int same = memcmp(alone, out[s], (size_t)kv_len[s] * sizeof *alone) == 0;
        different += !same;
        printf("sequence %d: %lld tokens in %lld pages, %s\n", s, (long long)kv_len[s],
               (long long)((kv_len[s] + PAGE - 1) / PAGE), same ? "the same bytes as alone, at once" : "OTHER BYTES");
    }
    return different > 0;
}
