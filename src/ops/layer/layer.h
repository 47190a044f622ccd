/* What the layer and its gradients share.  SPDX-License-Identifier: MIT */
#ifndef QKV_OPS_LAYER_H
#define QKV_OPS_LAYER_H

#include "../ops.h"

QKV_INTERNAL_BEGIN

/* Where in a workspace the tensors between a layer's operations lie: floats from its base. */
typedef struct layer_tensors {
    int64_t q, k, v, heads;
} layer_tensors;

/* The operations of a layer as the library's own descriptors. in_kv: of K and V in cross-attention. */
typedef struct layer_calls {
    qkv_projection_desc in, in_kv, out;
    qkv_attention_desc attention;
} layer_calls;

/* Of a descriptor inside another's: what 0 stands for; the sizes of the structs; all checks but those of tensors. */
qkv_status qkv_layer_complete_inner(qkv_layer_desc *d, size_t size, qkv_problem *why);
qkv_status qkv_layer_validate(const qkv_layer_desc *d, qkv_problem *why);

/* The cache's shape, pages and lengths become the attention's, which has brought none of them (layer_cache.c). */
qkv_status qkv_layer_attach_cache(qkv_layer_desc *d, qkv_problem *why);

/* Bytes of the packed weights of a valid descriptor. */
int64_t qkv_layer_packed_qkv(const qkv_layer_desc *d);
int64_t qkv_layer_packed_kv(const qkv_layer_desc *d);
int64_t qkv_layer_packed_o(const qkv_layer_desc *d);

/* Whether the heads' outputs have elements that something reads, or the attention writes more than them. Else neither
 * it nor the projection before it has anything to do. */
bool qkv_layer_attends(const qkv_layer_desc *d);

/* What Q, or K, goes through before attention; and its part in checksums, operands and what a run checks. */
qkv_head_steps qkv_layer_steps(const qkv_layer_desc *d, bool keys);
enum { QKV_LAYER_STEPS_FIELDS = 11 + QKV_ROPE_FIELDS };
void qkv_layer_steps_fields(const qkv_layer_desc *d, int64_t fields[QKV_LAYER_STEPS_FIELDS]);
void qkv_layer_steps_operands(qkv_operands *o, int role, const qkv_layer_desc *d);
qkv_status qkv_layer_check_positions(const qkv_layer_desc *d, qkv_problem *why);

/* Contiguous [batch][head][token][channel]. */
qkv_output qkv_layer_heads(int64_t tokens, int64_t heads, int64_t head_dim, float *data);

/* Connects the operations. base may be NULL while nothing runs: then so are the tensors in the workspace. */
void qkv_layer_connect(const qkv_layer_desc *d, const layer_tensors *tensors, float *base, layer_calls *calls);

QKV_INTERNAL_END

#endif
