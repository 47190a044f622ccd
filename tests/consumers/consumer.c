/* A program as a user of the installed library writes it: one query, two keys with equal logits, so the result is the
 * mean of the two values.  SPDX-License-Identifier: MIT */
#include <qkv.h>

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    const float q[2] = {1, 0}, k[4] = {0, 1, 0, 2}, v[4] = {1, 2, 3, 6};
    float out[2] = {0, 0};
    qkv_ctx ctx;
    qkv_plan plan;
    qkv_attention_desc desc = {0};
    desc.size = sizeof desc;
    desc.batch = desc.num_heads = desc.seq_q = 1;
    desc.seq_k = desc.head_dim = 2;
    desc.q.data = q, desc.q.token = 2;
    desc.k.data = k, desc.k.token = 2;
    desc.v.data = v, desc.v.token = 2;
    desc.out.data = out, desc.out.token = 2;

    qkv_status status = qkv_init(&ctx, NULL);
    if (status == QKV_OK)
        status = qkv_attention_plan(&ctx, &desc, 1, &plan);
    if (status == QKV_OK) {
        void *memory = malloc(plan.workspace_size + 64);
        status = qkv_attention_run(&plan, &desc, (char *)memory + (64 - (uintptr_t)memory % 64), plan.workspace_size);
        free(memory);
    }
    printf("qkv %s (%s): %s, %g %g\n", qkv_version(), ctx.isa, qkv_status_string(status), (double)out[0],
           (double)out[1]);
    return status == QKV_OK && out[0] == 2 && out[1] == 4 ? 0 : 1;
}
