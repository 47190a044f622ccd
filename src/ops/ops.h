/* The operations as the layer uses them: prepare (check a descriptor and complete it), shape (cut it into tasks),
 * execute (run one task). The public functions of each operation are thin shells around these.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_OPS_H
#define QKV_OPS_H

#include "../plan.h"
#include "../ref/storage.h"
#include "../ref/weights.h"
#include "build_options.h"

QKV_INTERNAL_BEGIN

/* Bytes of a workspace, and of what it is made of. */
#define QKV_MOST_WORKSPACE (PTRDIFF_MAX / 4)

/* --- Packed weights: pack.c, pack_blocks.c. A part is so many columns of a type. */

/* Bytes of an element, or of a block, of weights in memory. Of a type that there is. */
int64_t qkv_weight_bytes(int64_t type);

/* Columns [first, first + columns) of a part to a panel; stride in elements, not 0 for contiguous rows. */
void qkv_pack_panel(const qkv_kernels *kernels, void *panel, const qkv_weight *w, int64_t stride, int64_t first,
                    int64_t columns, int64_t in_features);

/* Bytes of a packed panel; none without terms. */
static inline int64_t qkv_panel_bytes(int64_t type, int64_t in_features) {
    return in_features > 0 ? qkv_weight_panel_bytes((int)type, in_features) : 0;
}

/* Bytes of the panels of a valid part. Without outputs in_features may be any. */
static inline int64_t qkv_part_bytes(int64_t type, int64_t in_features, int64_t out_features) {
    return out_features > 0 ? qkv_ceil_div(out_features, QKV_PANEL) * qkv_panel_bytes(type, in_features) : 0;
}

/* Reverses the bytes of each of so many elements. */
void qkv_swap_bytes(void *elements, int64_t element_bytes, int64_t count);

/* What the descriptor of a packed matrix is refused for, by a type named `field`; blocks: what is said where blocks
 * don't divide the inputs ("… (%)", of type and in_features). The bytes of the part's panels are added to *bytes. */
qkv_status qkv_check_weights(int64_t type, int64_t in_features, int64_t out_features, const char *field, int32_t i,
                             const char *blocks, int64_t *bytes, qkv_problem *why);
/* That weights of a type have an arithmetic. */
qkv_status qkv_check_arithmetic(int64_t arithmetic, int64_t type, qkv_problem *why);

/* How a projection is cut: a task is block_rows rows (tokens) times task_panels panels of 64 columns. */
typedef struct qkv_projection_shape {
    int64_t batch, tokens; /* tokens of several batches are one run of rows where the strides allow */
    int64_t x_token, out_token[QKV_MAX_PARTS];
    int64_t block_rows, row_blocks;
    int64_t panels, task_panels, panel_groups;
    int64_t num_tasks, worker_size; /* bytes */
    /* Where in a worker's bytes: the tile is first; then positions of its rows, weights as floats, rows in 8 bits or
     * bfloat16. */
    int64_t at, widened, converted;
    /* Where such rows serve several tasks, a phase before them makes these, k_chunks tasks for each block of rows.
     * They begin at `shared` in the workspace, of shared_size bytes, and the workers' bytes at `workers`. */
    int64_t convert_tasks, k_chunks, shared, shared_size, workers;
} qkv_projection_shape;

/* Of a complete descriptor. */
static inline int64_t qkv_part_heads(const qkv_projection_part *part) {
    return part->head_dim > 0 ? part->out_features / part->head_dim : 0;
}

qkv_status qkv_projection_prepare(const qkv_projection_desc *desc, qkv_projection_desc *d, qkv_problem *why);
/* Of a descriptor inside another's: what 0 stands for, and all checks but those of tensors. */
void qkv_projection_defaults(qkv_projection_desc *d);
qkv_status qkv_projection_validate(const qkv_projection_desc *d, qkv_problem *why);
void qkv_projection_cut(const qkv_kernels *kernels, const qkv_projection_desc *d, int32_t max_workers,
                        qkv_projection_shape *shape);
void qkv_projection_convert(const qkv_kernels *kernels, const qkv_projection_shape *shape, const qkv_projection_desc *d,
                            void *workspace, int64_t index);
void qkv_projection_execute(const qkv_kernels *kernels, const qkv_projection_shape *shape, const qkv_projection_desc *d,
                            void *workspace, int64_t index, int32_t worker);

/* --- Steps on whole heads: projection_heads.c. */

enum { QKV_MAX_STEPS_DIM = 65536 }; /* of a head with steps: scratch tiles hold whole ones */

/* How many panels of a part hold whole heads: the heads of as many begin and end with them. */
static inline int64_t qkv_head_panels(int64_t head_dim) {
    return head_dim / qkv_min(head_dim & -head_dim, QKV_PANEL);
}

/* The rows of whole heads that a projection has just computed, X·W: row r is that of token t + r of batch b, counted on
 * over the batches that follow. The heads lie side by side in a scratch tile. */
typedef struct qkv_head_rows {
    float *tile;
    int64_t ld;
    int64_t b, t, rows;
    int64_t first_head, heads;
    ptrdiff_t *at; /* [rows], scratch: see qkv_kernels.rotate */
    const qkv_head_steps *steps;
    const struct qkv_cache_view *cache; /* where steps->store stores */
} qkv_head_rows;

/* The steps of part i as a task takes them: first_position is added to first_positions, if there are any. With a cache
 * these are where its sequences end. */
qkv_head_steps qkv_projection_steps(const qkv_projection_desc *d, int64_t i, const struct qkv_cache_view *cache);

/* Adds the bias, applies the steps of the part, stores: row r of head 0 at out + r·token, unless out is NULL. */
void qkv_projection_finish_heads(const qkv_kernels *kernels, const qkv_projection_desc *d, int64_t part,
                                 const qkv_head_rows *rows, float *out, int64_t token);

bool qkv_projection_stores(const qkv_projection_desc *d);
/* For a run of one that does: opens the cache; its shape and lengths are right. */
qkv_status qkv_check_stored_parts(const qkv_projection_desc *d, struct qkv_cache_view *cache, qkv_problem *why);

/* What a run finds: positions, and the cache, which is opened where a part is stored, and else left without bytes. */
qkv_status qkv_projection_check_values(const qkv_projection_desc *d, struct qkv_cache_view *cache, qkv_problem *why);

/* The steps alone, on rows of one head in place. at: of each row. */
void qkv_apply_head_steps(const qkv_kernels *kernels, const qkv_head_steps *steps, const qkv_rope *rope, float *x,
                          int64_t ld, const ptrdiff_t *at, int64_t rows, int64_t head_dim);

/* factors[r] = 1/√(mean x² + ε) of row r, rows ≤ QKV_MAX_ROWS. */
void qkv_inverse_rms(const qkv_kernels *kernels, const float *x, int64_t ld, int64_t rows, int64_t head_dim,
                     float epsilon, float *factors);

/* Where in the tables the rows of (b, t + r) are, of `tokens` tokens a batch. */
void qkv_find_positions(const qkv_head_steps *steps, const qkv_rope *rope, int64_t b, int64_t t, int64_t tokens,
                        int64_t rows, ptrdiff_t *at);

/* For a plan: names as "steps[].rotate", index -1 for none. For a run: that every position is one of the tables'. */
qkv_status qkv_check_rope(const qkv_rope *rope, int64_t head_dim, qkv_problem *why);
qkv_status qkv_check_positions(const qkv_head_steps *steps, const qkv_rope *rope, int64_t batch, int64_t tokens,
                               const char *const names[3], int32_t index, qkv_problem *why);
void qkv_add_rope(qkv_operands *o, int role, const qkv_rope *rope);
void qkv_add_positions(qkv_operands *o, int role, const char *field, const qkv_positions *positions, int64_t batch,
                       int64_t tokens, int32_t index);
enum { QKV_ROPE_FIELDS = 3, QKV_STEPS_FIELDS = 9 };
void qkv_rope_fields(const qkv_rope *rope, int64_t fields[QKV_ROPE_FIELDS]);
void qkv_steps_fields(const qkv_head_steps *steps, int64_t fields[QKV_STEPS_FIELDS]);

/* How attention is cut: the rows of one KV head (queries × heads of its group) in blocks; a task is one block. Where
 * that gives too few tasks, a task takes some of the key blocks that its rows see and leaves their states, which the
 * last phase folds. What rows see is known when they run; a plan knows how much it is at most. */
typedef struct qkv_attention_shape {
    int64_t group; /* query heads for each KV head */
    int64_t workers;
    int64_t rows, block_rows, row_blocks;
    int64_t key_blocks;           /* of QKV_KEY_BLOCK keys */
    int64_t num_tasks;            /* blocks of rows */
    int64_t key_chunks;           /* tasks for each block of rows */
    int64_t state_blocks;         /* key blocks that have a state in the workspace; 0: keys are not divided */
    int64_t head_states;          /* floats of the states of one KV head and key block */
    int64_t packed_blocks;        /* key blocks of a KV head packed for all tasks; 0: tasks pack their own keys */
    int64_t copies_values;        /* tasks copy each block of V to where its rows are aligned */
    int64_t keep_rows, bias_rows; /* rows of masks and biases that are gathered at once */
    int64_t packed_size, states_size, worker_size; /* bytes: K in panels, block states, scratch of one worker */
    int64_t key_bytes;                             /* of a key in panels */
    int64_t ld_q, ld_o;                            /* of the scratch tiles */
    float q_scale, cap;                            /* of the logits in base 2 */
} qkv_attention_shape;

qkv_status qkv_attention_prepare(const qkv_attention_desc *desc, qkv_attention_desc *d, qkv_problem *why);
void qkv_attention_defaults(qkv_attention_desc *d);
qkv_status qkv_attention_validate(const qkv_attention_desc *d, qkv_problem *why);
qkv_status qkv_attention_cut(const qkv_ctx *ctx, const qkv_attention_desc *d, int32_t max_workers,
                             qkv_attention_shape *shape);
/* The number of phases, and of the tasks in each. */
int32_t qkv_attention_phases(const qkv_attention_shape *shape, int64_t num_tasks[3]);
void qkv_attention_execute(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                           void *workspace, int32_t phase, int64_t index, int32_t worker);
/* What follows from a complete descriptor alone: group, key_blocks, ld_q, ld_o, q_scale, cap, keep_rows and bias_rows.
 * Returns the scale, 1/√head_dim where it is 0. */
float qkv_attention_measure(const qkv_attention_desc *d, qkv_attention_shape *shape);
/* Refuses packed sequences and pages where an operation reads plain tensors; storage types where it reads floats. */
qkv_status qkv_attention_only_plain(const qkv_attention_desc *d, qkv_problem *why);
/* keys: k and v, too. */
qkv_status qkv_attention_only_floats(const qkv_attention_desc *d, bool keys, qkv_problem *why);
/* What a run finds in its arrays of lengths and pages. */
qkv_status qkv_attention_check_values(const qkv_attention_desc *d, qkv_problem *why);
/* K, wherever it lies. */
void qkv_attention_add_keys(qkv_operands *o, const qkv_attention_desc *d, int role);
/* The tensors of the descriptor except q, k, v and out, which a layer brings itself. */
void qkv_attention_options(qkv_operands *o, const qkv_attention_desc *d);
void qkv_attention_optional_outputs(qkv_operands *o, const qkv_attention_desc *d);
/* All that a run may not change except whether there is an lse, which gradients require. */
enum { QKV_ATTENTION_FIELDS = 80 };
size_t qkv_attention_fields(const qkv_attention_desc *d, int64_t fields[QKV_ATTENTION_FIELDS]);

static inline bool qkv_attention_is_stored(const qkv_attention_desc *d) {
    return d->q_type != QKV_F32 || d->k_type != QKV_F32 || d->v_type != QKV_F32 || d->out_type != QKV_F32;
}

/* Whether there is an output element. */
static inline bool qkv_attention_writes(const qkv_attention_desc *d) {
    bool rows = d->batch > 0 && d->num_heads > 0 && d->seq_q > 0;
    bool keys = d->seq_k > 0 && (d->probabilities.data || d->scores.data || d->states.data);
    return rows && ((d->head_dim_v > 0 && !d->states.data) || d->lse.data || keys);
}

/* The bits of an operation's gradients, where QKV_ACCUMULATE stands for all of them. */
static inline uint32_t qkv_accumulated(uint32_t flags, uint32_t all) {
    return flags & QKV_ACCUMULATE ? flags | all : flags;
}

/* dbias, which has one element along an axis that it is summed over, also over nothing. */
void qkv_gradient_add_bias(qkv_operands *o, const qkv_attention_desc *d, const qkv_matrix_output *x);

/* As qkv_settle_matrix_output, except that a stride of 0 along an axis without elements would mean a sum over it. */
void qkv_settle_bias_gradient(qkv_matrix_output *x, const qkv_attention_desc *d);

/* dst[j] = src[j]·factor + 0.0f for j < n. */
static inline void qkv_scale_row(const qkv_kernels *kernels, float *dst, const float *src, float factor, size_t n) {
    kernels->scale(dst, 0, src, 0, &factor, 1, n);
}

QKV_INTERNAL_END

#endif
