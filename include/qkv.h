/* qkv: transformer self-attention on CPUs.
 *
 *   Q = X·Wq, K = X·Wk, V = X·Wv        qkv_projection_*
 *   out = softmax(scale·Q·Kᵀ + …)·V     qkv_attention_*
 *   X → Q, K, V → heads → ·Wo           qkv_layer_*
 *   joining partial results             qkv_merge_*
 *   K and V of earlier tokens           qkv_cache_*
 *   gradients of the first three        qkv_*_backward_*
 *
 * Every operation follows the same four steps: fill a descriptor, make a plan (it says what is wrong and how much
 * workspace is needed, and touches nothing), bring that workspace, run. A run is a number of phases, a phase is a
 * number of independent tasks; run them in this thread, through a parallel_for of yours, or one by one.
 *
 * The library never allocates, starts threads, reads the environment, prints or aborts, and has no mutable global.
 * All functions may be called from any thread at any time; those that change a KV cache, one at a time for each.
 *
 * Tensors are pointers plus strides, counted in elements, not bytes; the channels of one token and head are contiguous.
 * No byte outside the described elements is read or written, not even in gaps.
 *
 *   inputs    strides may be any number, 0 (broadcast) and negative ones included; they may overlap each other.
 *   outputs   strides may be negative and leave gaps, but no two elements may meet: ordered by size, each stride steps
 *             over all that the smaller ones span (QKV_ERROR_STRIDES). The stride of an axis of one element is free.
 *   overlap   an output shares no element with an input, another output or the workspace (QKV_ERROR_ALIAS). In each
 *             other's gaps they may lie: packed [token][q|k|v][head], dQ, dK and dV in one buffer, an output beside its
 *             inputs. That is seen wherever both have the same strides, axis by axis from the largest down to where
 *             one lies in a gap of the other; others whose ranges of addresses intersect are taken to overlap.
 *   in place  out of attention may be q itself, and out of a layer with w_qkv its x: same data, sizes and strides.
 *
 * Results are the same bits on every CPU and kernel set, for any thread count, batch and split of the work, under
 * round-to-nearest and without flush-to-zero (docs/numerics.md).
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_H
#define QKV_H

#include <stddef.h>
#include <stdint.h>

/* What the library offers. Its own sources say how that is exported (src/config.h). */
#ifndef QKV_API
#if defined(__GNUC__) && !defined(_WIN32) && !defined(__CYGWIN__)
#define QKV_API __attribute__((visibility("default")))
#else
#define QKV_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define QKV_VERSION_MAJOR 0
#define QKV_VERSION_MINOR 1
#define QKV_VERSION_PATCH 0

/* "0.1.0": the version of the library that is linked, which need not be that of this header. */
QKV_API const char *qkv_version(void);

/* Version, compiler and target of the linked library, in one line for a bug report. */
QKV_API const char *qkv_build_info(void);

/* ---------------------------------------------------------------------------------------------------- status */

typedef enum qkv_status {
    QKV_OK = 0,
    QKV_ERROR_NULL = 1,         /* a required pointer is NULL */
    QKV_ERROR_SIZE = 2,         /* the `size` field names no version of the struct, or unknown bytes are not zero */
    QKV_ERROR_NEGATIVE = 3,     /* a size is negative */
    QKV_ERROR_OVERFLOW = 4,     /* sizes or strides exceed what memory can hold */
    QKV_ERROR_HEADS = 5,        /* num_heads is no multiple of num_kv_heads, or columns no multiple of head_dim */
    QKV_ERROR_FLAGS = 6,        /* an unknown flag, layout or count, or options that exclude each other */
    QKV_ERROR_VALUE = 7,        /* scale or softcap is NaN or infinite, softcap negative, dropout not in [0, 1), … */
    QKV_ERROR_SHAPE = 8,        /* fields of the descriptor contradict each other */
    QKV_ERROR_ALIAS = 9,        /* an output overlaps an input, another output or the workspace */
    QKV_ERROR_ALIGNMENT = 10,   /* workspace, packed weights or cache are not 64-byte aligned, a tensor not to its
                                 * element */
    QKV_ERROR_WORKSPACE = 11,   /* the workspace is smaller than plan.workspace_size, a cache's memory than its size */
    QKV_ERROR_WORKERS = 12,     /* max_workers is below 1, or the parallel_for is NULL */
    QKV_ERROR_PLAN = 13,        /* the plan is of another operation, or the descriptor changed more than addresses */
    QKV_ERROR_ISA_UNKNOWN = 14, /* no kernel set has that name */
    QKV_ERROR_ISA_UNAVAILABLE = 15, /* this CPU, operating system or build can't run that kernel set */
    QKV_ERROR_LSE = 16,             /* a gradient of attention needs the forward's lse, and it is NULL */
    QKV_ERROR_STRIDES = 17,         /* strides of an output let two of its elements meet */
    QKV_ERROR_INDEX = 18,           /* q_start or k_start decreases or leaves its tensor, or there is no such page,
                                     * sequence or position */
    QKV_ERROR_CAPACITY = 19,        /* a cache has no page or position left, or no longer what a position needs */
    QKV_ERROR_CACHE = 20,           /* memory holds no cache, a damaged one, one of another version or byte order, or
                                     * not what a projection or layer stores into */
    QKV_ERROR_LEFT_OUT = 21         /* this build of the library leaves out what is asked for (src/config.h) */
} qkv_status;

/* One line of English for a status; never NULL, also for a value that is none. qkv_<operation>_explain_plan and _run
 * say more: which field is at fault, and what it holds. */
QKV_API const char *qkv_status_string(qkv_status status);

/* --------------------------------------------------------------------------------------- context, kernel sets */

/* CPU features as the library sees them: the instruction exists and the operating system saves its registers. */
#define QKV_CPU_AVX2 (UINT64_C(1) << 0)
#define QKV_CPU_FMA (UINT64_C(1) << 1)
#define QKV_CPU_F16C (UINT64_C(1) << 2)
#define QKV_CPU_AVX512F (UINT64_C(1) << 3)
#define QKV_CPU_AVX512BW (UINT64_C(1) << 4)
#define QKV_CPU_AVX512DQ (UINT64_C(1) << 5)
#define QKV_CPU_AVX512VL (UINT64_C(1) << 6)
#define QKV_CPU_NEON (UINT64_C(1) << 7)
#define QKV_CPU_OS_YMM (UINT64_C(1) << 8) /* XCR0: 256-bit registers are saved */
#define QKV_CPU_OS_ZMM (UINT64_C(1) << 9) /* XCR0: 512-bit and mask registers are saved */
#define QKV_CPU_AVX512VNNI (UINT64_C(1) << 10)
#define QKV_CPU_AVX512BF16 (UINT64_C(1) << 11)
#define QKV_CPU_AVXVNNI (UINT64_C(1) << 12)
#define QKV_CPU_DOTPROD (UINT64_C(1) << 13)
#define QKV_CPU_I8MM (UINT64_C(1) << 14)
#define QKV_CPU_SVE (UINT64_C(1) << 15)     /* AArch64 SVE */
#define QKV_CPU_RVV (UINT64_C(1) << 16)     /* RISC-V V 1.0 */
#define QKV_CPU_MVE (UINT64_C(1) << 17)     /* Armv8.1-M's vectors of floats, where FPSCR tells of flushed subnormals */
#define QKV_CPU_SIMD128 (UINT64_C(1) << 18) /* WebAssembly, and the module is compiled for it */
#define QKV_CPU_RELAXED_FMA (UINT64_C(1) << 19) /* … whose relaxed multiply-add rounds once in this engine */

typedef struct qkv_cpu {
    char name[64];                      /* as the CPU calls itself; "" when it does not tell */
    uint64_t features;                  /* QKV_CPU_* */
    int64_t l1d_size, l2_size, l3_size; /* bytes; 0 when unknown */
} qkv_cpu;

QKV_API void qkv_cpu_query(qkv_cpu *cpu);

/* "avx2" for QKV_CPU_AVX2 and so on; NULL for a value that is not exactly one known bit. */
QKV_API const char *qkv_cpu_feature_name(uint64_t feature);

/* What a caller may ask for; zero (or a NULL config) means the best kernel set this CPU can run. */
typedef struct qkv_config {
    size_t size;                /* sizeof(qkv_config) */
    const char *isa;            /* run exactly this kernel set: "avx2", "neon", "ref", …, see qkv_kernel_set_query */
    const char *max_isa;        /* run none above this one in that list */
    uint64_t disabled_features; /* QKV_CPU_* bits to treat as missing */
} qkv_config;

/* A captured choice. Treat the fields as read-only; copy it freely. */
typedef struct qkv_ctx {
    const struct qkv_kernels *kernels; /* private */
    const char *isa;                   /* the name of the kernel set that will run */
    uint64_t features;                 /* those of the CPU less config.disabled_features */
    int64_t l1d_size, l2_size, l3_size;
    uint64_t allowed; /* private: bit i stands for kernel set i */
} qkv_ctx;

/* Detects the CPU and chooses a kernel set. On an error ctx is left untouched.
 * QKV_ERROR_NULL, _SIZE, _FLAGS (isa and max_isa together), _ISA_UNKNOWN, _ISA_UNAVAILABLE. */
QKV_API qkv_status qkv_init(qkv_ctx *ctx, const qkv_config *config);

typedef struct qkv_kernel_set {
    const char *name;
    int32_t available;    /* this build, CPU and operating system can run it */
    int32_t selected;     /* this context runs it */
    uint32_t arithmetics; /* bit 1 << QKV_ARITHMETIC_… is set: it has instructions for products in that one. The others
                           * have the same bits by other instructions, more slowly. */
    char reason[112]; /* why it is not selected: the missing feature by name, the caller's cap, …; "" when it is */
} qkv_kernel_set;

/* How many kernel sets the library knows, those of other architectures included. */
QKV_API int32_t qkv_num_kernel_sets(void);

/* Kernel set number index, the fastest first, "ref" last. QKV_ERROR_NULL, or _SHAPE when index is out of range. */
QKV_API qkv_status qkv_kernel_set_query(const qkv_ctx *ctx, int32_t index, qkv_kernel_set *set);

/* ----------------------------------------------------------------------------------------- tensors and plans */

/* f32 elements, unless a type beside says otherwise; element (b, h, t, c) is data[b·batch + h·head + t·token + c]. */
typedef struct qkv_input {
    const void *data;
    int64_t batch, head, token;
} qkv_input;

typedef struct qkv_output {
    void *data;
    int64_t batch, head, token;
} qkv_output;

/* One element for a (batch, head, query, key); the strides say which of the four matter (0: the same for all). */
typedef struct qkv_matrix_input {
    const void *data;
    int64_t batch, head, query, key;
} qkv_matrix_input;

typedef struct qkv_matrix_output {
    void *data;
    int64_t batch, head, query, key;
} qkv_matrix_output;

/* How the elements of a tensor are stored. Each stored value has one exact meaning as a float; the results of a call
 * are the bits of the same call on those floats, in every kernel set, subnormal, infinite and NaN values included. Only
 * QKV_INT8 has bits of its own, the same in every kernel set too. Strides count elements of the type. */
typedef enum qkv_type {
    QKV_F32 = 0,
    QKV_F16 = 1,  /* IEEE 754 binary16 */
    QKV_BF16 = 2, /* the upper half of a float */
    /* Rows of blocks of 32 channels, as in GGUF: a binary16 d and 32 int8 x, which mean d·x; 34 bytes, aligned to 2.
     * The channels of a row and all strides are multiples of 32 (else QKV_ERROR_SHAPE). */
    QKV_Q8_0 = 3,
    /* int8 x; with a float s for each token and KV head (k_scales, v_scales), of weights for each output, it is s·x */
    QKV_INT8 = 4,
    /* Of weights only, rows of blocks as in GGUF: of 32 terms, of 256 the last three. */
    QKV_Q4_0 = 5,
    QKV_Q4_1 = 6,
    QKV_Q5_0 = 7,
    QKV_Q5_1 = 8,
    QKV_Q4_K = 9,
    QKV_Q5_K = 10,
    QKV_Q6_K = 11
} qkv_type;

/* Keys [first, end) for a (batch, query): two int64_t at data[b·batch + t·query]. */
typedef struct qkv_ranges {
    const int64_t *data;
    int64_t batch, query;
} qkv_ranges;

#define QKV_MAX_STAGES 24

/* Filled by qkv_*_plan; a plain value that may be copied and used by many threads at once. */
typedef struct qkv_plan {
    size_t workspace_size; /* bytes, 64-byte aligned; 0 means that NULL will do. A smaller call may need more of them,
                            * as its work is divided otherwise: ask for each, and keep the largest */
    int32_t num_phases;    /* how many tasks phase number p < num_phases has: qkv_plan_num_tasks(plan, p) */
    int32_t max_workers;   /* worker indices of a task are below this */
    int64_t num_tasks[QKV_MAX_STAGES];   /* private from here on: tasks of each phase of stage s, … */
    int32_t more_phases[QKV_MAX_STAGES]; /* … which is 1 + more_phases[s] phases */
    const struct qkv_kernels *kernels;
    uint64_t operation, checksum;
    int64_t geometry[96];
} qkv_plan;

/* The number of tasks of a phase; 0 for a phase that the plan does not have. */
QKV_API int64_t qkv_plan_num_tasks(const qkv_plan *plan, int32_t phase);

/* One task of a phase. `worker` owns a part of the workspace: no two tasks with the same worker at the same time. */
typedef void (*qkv_task)(void *arg, int64_t index, int32_t worker);

/* Calls task(arg, i, worker) once for every i in [0, num_tasks), in any order, on any threads, and returns when all
 * are done. 0 ≤ worker < max_workers of the plan. `pool` is what the caller handed to qkv_*_run_parallel. */
typedef void (*qkv_parallel_for)(void *pool, int64_t num_tasks, qkv_task task, void *arg);

/* ------------------------------------------------------------------------------------------- packed matrices */

/* Weights are multiplied from a packed copy: columns in panels of 64, each part of it in the type that its weights came
 * in. A panel of QKV_F32 is [in_features][64] floats; docs/semantics.md has the others. The layout is the same on every
 * CPU, with numbers in its byte order, so packed weights can be saved, mapped and shared: qkv_packed_file_order.
 * Several matrices with the same in_features, Wq|Wk|Wv for example, are packed as parts of one; each part starts a
 * panel of its own, and its panels follow each other: threads may pack one matrix together, each some of its columns
 * from a multiple of 64 on. Columns that fill a last panel up are zero. */
#define QKV_PANEL 64
#define QKV_MAX_PARTS 4

#define QKV_IN_OUT 0 /* element (in, out) is data[in·stride + out]: Y = X·W */
#define QKV_OUT_IN 1 /* element (in, out) is data[out·stride + in]: PyTorch's Linear */

typedef struct qkv_weight {
    const void *data; /* read by qkv_pack */
    float *unpacked;  /* written by qkv_unpack; NULL: this part is left out */
    int64_t out_features;
    int64_t stride;      /* of data, or of unpacked, in elements; 0: contiguous rows */
    int64_t layout;      /* QKV_IN_OUT or QKV_OUT_IN, of data or of unpacked; types in blocks: data is QKV_OUT_IN */
    int64_t type;        /* qkv_type of data, and of the part as it is packed */
    const float *scales; /* QKV_INT8: [out_features], what each column's integers are multiplied by */
} qkv_weight;

typedef struct qkv_pack_desc {
    size_t size; /* sizeof(qkv_pack_desc) */
    int64_t in_features;
    int64_t num_parts; /* 1 … QKV_MAX_PARTS */
    qkv_weight part[QKV_MAX_PARTS];
} qkv_pack_desc;

/* Bytes of the packed matrix; a multiple of 64. Data pointers are not looked at. QKV_ERROR_FLAGS: a type that is none,
 * or one in blocks with QKV_IN_OUT; QKV_ERROR_SHAPE: in_features or stride is no multiple of its blocks. */
QKV_API qkv_status qkv_packed_size(const qkv_pack_desc *desc, size_t *bytes);

/* Writes the packed matrix, all packed_size bytes of it; `packed` is 64-byte aligned. */
QKV_API qkv_status qkv_pack(const qkv_ctx *ctx, const qkv_pack_desc *desc, void *packed);

/* The inverse: writes part[i].unpacked in the layout and stride given, bit for bit what was packed means as floats. */
QKV_API qkv_status qkv_unpack(const qkv_pack_desc *desc, const void *packed);

/* Files are little-endian. On a CPU that is not, this turns a packed matrix in place from the order of files into that
 * of the CPU, to be multiplied, and from that into the order of files, to be saved: the same bytes as on other CPUs. On
 * little-endian CPUs it changes nothing. Of desc only sizes and types count. */
QKV_API qkv_status qkv_packed_file_order(const qkv_pack_desc *desc, void *packed);

/* Why they refuse: "packing: part[0].data is NULL". Written to text, cut to size bytes with its 0; returns text. */
QKV_API const char *qkv_pack_explain(const qkv_pack_desc *desc, const void *packed, char *text, size_t size);
QKV_API const char *qkv_unpack_explain(const qkv_pack_desc *desc, const void *packed, char *text, size_t size);

/* ------------------------------------------------------------------------------------------- rotary embeddings */

/* Which channels of a head make a pair, r being rotary_dim. Channels from r on stay as they are. */
#define QKV_ROPE_HALF 0        /* i and r/2 + i: GPT-NeoX; Llama, Qwen and Gemma as Hugging Face stores them */
#define QKV_ROPE_INTERLEAVED 1 /* 2i and 2i + 1: RoFormer, GPT-J; Llama as Meta stores it */

/* RoPE (Su et al., 2021): pair i of a head at position p is turned by the angle whose cosine and sine are element
 * [p][i] of the tables: (x0, x1) becomes (x0·cos − x1·sin, x1·cos + x0·sin). A row of a table need not be of a
 * position: with sections of several positions (M-RoPE) it may be put together for a token, its number the position. */
typedef struct qkv_rope {
    const float *cos, *sin; /* [num_positions][rotary_dim/2], by qkv_rope_table or otherwise */
    int64_t num_positions;
    int64_t rotary_dim; /* even, at most head_dim; 0: head_dim */
    int64_t layout;     /* QKV_ROPE_HALF or QKV_ROPE_INTERLEAVED */
} qkv_rope;

/* The position of token t in batch b: data[b·batch + t·token]. */
typedef struct qkv_positions {
    const int64_t *data;
    int64_t batch, token;
} qkv_positions;

/* How a table's frequencies base^(−2i/rotary_dim), in radians a position, are scaled for contexts longer than those
 * trained on, original_positions. Defined as in Hugging Face Transformers ("rope_type") and llama.cpp. */
#define QKV_ROPE_UNSCALED 0u
#define QKV_ROPE_LINEAR 1u /* divided by factor: position interpolation (Chen et al., 2023) */
#define QKV_ROPE_NTK 2u    /* of base·factor^(r/(r − 2)) in place of base: the lowest one is divided by factor */
/* Divided by factor where a pair makes fewer than beta_slow turns in original_positions, kept where it makes more than
 * beta_fast, a mixture linear in i between (Peng et al., 2023). base must be above 1. */
#define QKV_ROPE_YARN 3u
/* Divided by factor below low_freq_factor turns, kept above high_freq_factor, a mixture linear in the turns between. */
#define QKV_ROPE_LLAMA3 4u

typedef struct qkv_rope_table_desc {
    size_t size;            /* sizeof(qkv_rope_table_desc) */
    int64_t first_position; /* of the table's first row; may be negative */
    int64_t num_positions;
    int64_t rotary_dim;          /* even */
    double base;                 /* 0: 10000 */
    uint32_t scaling;            /* QKV_ROPE_UNSCALED … */
    uint32_t untruncated;        /* 1: the ends of YaRN's mixture are not rounded to whole pairs: gpt-oss */
    double factor;               /* 0: 1 */
    int64_t original_positions;  /* for QKV_ROPE_YARN and QKV_ROPE_LLAMA3 */
    double beta_fast, beta_slow; /* 0: 32 and 1 */
    double low_freq_factor, high_freq_factor; /* 0: 1 and 4; the first is the smaller one */
    double attention_factor;   /* multiplies cos and sin; 0: 1, or for QKV_ROPE_YARN 1 + ln(factor)/10 if factor > 1 */
    const float *pair_factors; /* optional, [rotary_dim/2]: each divides its pair's frequency too: LongRoPE */
} qkv_rope_table_desc;

/* Writes cos and sin, [num_positions][rotary_dim/2] each: cosine and sine of frequency·position. Their bits are the
 * same for every compiler and CPU. With attention_factor = 1 each is within half an ulp, plus 2^−53·(1 + |position|)
 * where frequencies are at most 1 (docs/numerics.md); each factor may add 2^−51 of the angle. qkv_rope counts rows of
 * the table: a table that begins at another first_position wants positions less that.
 *
 * QKV_ERROR_NULL; _SIZE; _NEGATIVE; _OVERFLOW; _SHAPE: rotary_dim is odd; _FLAGS: scaling is none, or untruncated
 * neither 0 nor 1; _VALUE: a factor, beta or base is no number from 2^−64 to 2^64, original_positions is 0 where it is
 * needed, low_freq_factor ≥ high_freq_factor; _ALIAS: cos is sin. Nothing is written on an error. */
QKV_API qkv_status qkv_rope_table(const qkv_rope_table_desc *desc, float *cos, float *sin);

/* ---------------------------------------------------------------------------------------------- projections */

/* One part of the packed matrix and where its columns go: column c of token t in batch b is element
 * (b, h = c / head_dim, t, c % head_dim) of out. */
typedef struct qkv_projection_part {
    int64_t out_features;
    int64_t head_dim;  /* 0: out_features, that is one head; else it divides out_features */
    const float *bias; /* [out_features], or NULL */
    qkv_output out;
    int64_t type; /* qkv_type that this part of the matrix is packed in */
} qkv_projection_part;

/* What becomes of each head's row of a part before it is stored, in this order: all zero is nothing. */
typedef struct qkv_head_steps {
    const float *norm; /* optional, [head_dim]: QK-norm (RMSNorm over the head): x becomes norm·x/√(mean x² + ε) */
    float norm_epsilon;     /* ε ≥ 0. Without one a row of zeros becomes NaN. */
    uint32_t rotate;        /* 1: RoPE, by the tables of the descriptor */
    int64_t first_position; /* of token 0 of every batch; if a part is stored: from where the sequence had ended */
    const int64_t *first_positions; /* optional, [batch]: in place of first_position; not if a part is stored */
    qkv_positions positions;        /* optional: a position for each (batch, token), in place of both */
    int64_t store; /* QKV_STORE_K or QKV_STORE_V: heads go into the descriptor's cache, as its K or V */
} qkv_head_steps;

#define QKV_STORE_K 1 /* each for one part at most */
#define QKV_STORE_V 2

/* In what arithmetic weights are multiplied; those of attention: qkv_attention_desc.arithmetic. */
#define QKV_ARITHMETIC_F32 0 /* as the floats that they mean: the bits of the same call on those */
/* x in int8 with a scale for each 32 terms of a row, products of integers, sums of these in f32 (docs/numerics.md):
 * bits of its own, the same on every CPU. For weights in QKV_INT8 or in blocks; else QKV_ERROR_FLAGS. */
#define QKV_ARITHMETIC_INT8 1
/* x and weights of any type rounded to bfloat16, sums of products in f32, two terms at a time (docs/numerics.md): bits
 * of its own, the same on every CPU. Magnitudes below 2⁻⁵⁶ are taken as 0. */
#define QKV_ARITHMETIC_BF16 2

/* Y = X·W + bias. A sum of more than 128 terms is cut into chains of 128 (docs/numerics.md).
 *
 * Steps on heads: a position outside [0, rope.num_positions) is QKV_ERROR_INDEX when a run finds it; rotary_dim that is
 * odd or above head_dim QKV_ERROR_SHAPE; norm_epsilon that is negative, infinite or NaN QKV_ERROR_VALUE; rotate or
 * layout that is none QKV_ERROR_FLAGS; a head_dim above 65536 with steps QKV_ERROR_OVERFLOW.
 *
 * Parts may go into a KV cache, head h of the part as KV head h, rounded as the cache stores it. The tokens of batch b
 * are the last ones of sequence first_sequence + b, which qkv_cache_extend has made room for; store before you fork.
 * `out` of such a part is optional. QKV_ERROR_CACHE when a run finds other heads, fewer tokens, or pages that the
 * sequence shares or has released. Without a part that is stored the cache is not looked at. */
typedef struct qkv_projection_desc {
    size_t size; /* sizeof(qkv_projection_desc) */
    int64_t batch, tokens, in_features, num_parts;
    qkv_input x;        /* (b, t, c): the head stride is not used */
    const void *packed; /* by qkv_pack, with the same in_features, out_features and types; 64-byte aligned */
    qkv_projection_part part[QKV_MAX_PARTS];
    qkv_head_steps steps[QKV_MAX_PARTS]; /* of each part */
    qkv_rope rope;          /* for all parts that rotate (rotary_dim 0: head_dim of the first); else not looked at */
    void *cache;            /* where parts are stored that say so */
    int64_t first_sequence; /* a run may change it */
    int64_t arithmetic;     /* QKV_ARITHMETIC_…, of all parts */
} qkv_projection_desc;

/* Checks desc and fills plan. Addresses belong to the run: those that are required may still be missing here, and each
 * run may bring others. Nothing else may change (QKV_ERROR_PLAN), also not whether an optional pointer is NULL. */
QKV_API qkv_status qkv_projection_plan(const qkv_ctx *ctx, const qkv_projection_desc *desc, int32_t max_workers,
                                       qkv_plan *plan);
/* Runs every phase in this thread. Nothing is written on an error. */
QKV_API qkv_status qkv_projection_run(const qkv_plan *plan, const qkv_projection_desc *desc, void *workspace,
                                      size_t workspace_size);
QKV_API qkv_status qkv_projection_run_parallel(const qkv_plan *plan, const qkv_projection_desc *desc, void *workspace,
                                               size_t workspace_size, qkv_parallel_for parallel_for, void *pool);
/* Checks what a run checks and does no work: for callers of qkv_projection_task. */
QKV_API qkv_status qkv_projection_check(const qkv_plan *plan, const qkv_projection_desc *desc, const void *workspace,
                                        size_t workspace_size);
/* One task; can't fail. All tasks of a phase must have ended before one of the next begins. */
QKV_API void qkv_projection_task(const qkv_plan *plan, const qkv_projection_desc *desc, void *workspace, int32_t phase,
                                 int64_t index, int32_t worker);
/* Why the plan, or a run, of the same arguments refuses, in one line: "projection: part[1].head_dim is negative (-3)",
 * "projection: x is NULL", "projection: no error". Written to text, cut to size bytes with its 0; returns text. Does
 * all of the call's checks once more and nothing else; a plan or parallel_for that is NULL it can't see. */
QKV_API const char *qkv_projection_explain_plan(const qkv_ctx *ctx, const qkv_projection_desc *desc,
                                                int32_t max_workers, char *text, size_t size);
QKV_API const char *qkv_projection_explain_run(const qkv_plan *plan, const qkv_projection_desc *desc,
                                               const void *workspace, size_t workspace_size, char *text, size_t size);

/* ------------------------------------------------------------------------------------------------ attention */

/* clang-format off */
#define QKV_LEFT 1u  /* only keys j ≥ p − left are visible */
#define QKV_RIGHT 2u /* only keys j ≤ p + right are visible; with right = 0 this is causal attention */
#define QKV_FROM_END 4u /* positions count from the end of a sequence's keys: its n queries are the last n of kv_len */
#define QKV_SCALE 0x100u      /* scale is used as given, 0 included */
#define QKV_HEAD_DIM_V 0x200u /* head_dim_v is used as given, 0 included: lse or probabilities alone */
/* clang-format on */

/* Stages of qkv_attention_desc.scores, as ONNX's qk_matmul_output_mode. */
#define QKV_SCORES_SCALED 0u /* scale·(q·k) */
#define QKV_SCORES_CAPPED 1u /* after the softcap */
#define QKV_SCORES_MASKED 2u /* after ALiBi and bias; −inf where the key is not visible */

#define QKV_KEY_BLOCK 256 /* keys are summed in blocks of 256, counted from key 0 */

/* How k lies in memory. In panels of 64 keys, the last of which is there as a whole too, channel c of key j is element
 * (j / 64)·64·head_dim + c·64 + j % 64, as qkv_pack lays out weights; k.token is not used. Scores then need no turning
 * of rows into columns. */
#define QKV_KEY_ROWS 0
#define QKV_KEY_PANELS 1

/* For query i of [0, seq_q), key j of [0, seq_k), head h, KV head ⌊h / (num_heads/num_kv_heads)⌋, with the absolute
 * position p = i + q_offset, or with QKV_FROM_END p = i + kv_len − seq_q + q_offset:
 *
 *   s = scale·(q·k);  softcap: s = softcap·tanh(s/softcap);  s += alibi_slopes[h]·(j − p);  s += bias
 *   visible: j < kv_len, keep ≠ 0, the window of flags/left/right around p (both ends included), s ≠ −inf; keys
 *   j < first_tokens are visible whatever QKV_LEFT says
 *   out = Σ exp(s)·v / (Σ exp(s) + exp(sink)) over the visible keys;  lse = ln(Σ exp(s) + exp(sink))
 *   dropout: exp(s) of the first sum, not of the others, becomes 0 or exp(s)/(1 − dropout)
 *
 *   causal, seq_q = 3, seq_k = 5:    q_offset = 0 (top-left)     q_offset = 2 (bottom-right: kv_len − seq_q)
 *                                    ■ □ □ □ □                   ■ ■ ■ □ □
 *                                    ■ ■ □ □ □                   ■ ■ ■ ■ □
 *                                    ■ ■ ■ □ □                   ■ ■ ■ ■ ■
 *
 * Keys that are not visible take no part: NaN, infinity or uninitialised memory in their k and v changes no bit. A
 * bias of −inf makes a key invisible; a large finite negative one is a number. A NaN in a visible q, k or bias, or a
 * visible s of +inf, gives a NaN row; one in a visible v a NaN in its channel. A row without a visible key gives
 * out = +0, probabilities 0 and lse = −inf, or the sink, rounded as every lse is. seq_k = 0 is legal and makes all rows
 * such rows. Without an output element nothing is touched.
 *
 * A descriptor that is zero but for size, sizes and q, k, v, out is full attention at 1/√head_dim. */
typedef struct qkv_attention_desc {
    size_t size; /* sizeof(qkv_attention_desc) */
    int64_t batch;
    int64_t num_heads;
    int64_t num_kv_heads; /* divides num_heads; 0: num_heads */
    int64_t seq_q, seq_k;
    int64_t head_dim;   /* of q and k */
    int64_t head_dim_v; /* of v and out; 0: head_dim, unless flags has QKV_HEAD_DIM_V */
    qkv_input q, k, v;  /* q: (batch, num_heads, seq_q, head_dim); k, v: (batch, num_kv_heads, seq_k, …) */
    qkv_output out;     /* (batch, num_heads, seq_q, head_dim_v) */
    qkv_output lse;     /* optional: natural log of the sum, one float a (batch, head, token) */
    float scale;        /* 0: 1/√head_dim, unless flags has QKV_SCALE; negative values are used as given */
    float softcap;      /* 0: none */
    uint32_t flags;     /* QKV_LEFT, QKV_RIGHT, QKV_FROM_END, QKV_SCALE, QKV_HEAD_DIM_V */
    uint32_t reserved;  /* 0 */
    int64_t left, right;
    int64_t q_offset;
    const int64_t *q_offsets;  /* optional, [batch]: in place of q_offset */
    const int64_t *kv_len;     /* optional, [batch]: keys in use; taken as 0 below 0 and as seq_k above seq_k */
    const float *alibi_slopes; /* optional, [num_heads] */
    /* optional, [num_heads]: a logit that enters the denominator only; −inf: none. Logits count in base 2, so a finite
     * sink below −2.36e38 (−FLT_MAX·ln 2) is taken as that. */
    const float *sinks;
    qkv_matrix_input bias;           /* optional, float: added to the logits */
    qkv_matrix_input keep;           /* optional, uint8_t: 0 hides the key, anything else keeps it */
    qkv_matrix_output probabilities; /* optional, float, for looking at: (batch, num_heads, seq_q, seq_k) */
    /* optional: the state of every block of QKV_KEY_BLOCK keys, in place of out, lse and probabilities, which must be
     * NULL then. A state is head_dim_v + 2 floats: the weighted sum of v, the maximum m of the base-2 logits and the
     * sum ℓ of exp2(logit − m); (0, …, 0, −FLT_MAX, 0) without a visible key. Sinks take no part. State number
     * ⌊j / 256⌋ of (b, h, t) begins at data[b·batch + h·head + t·query + ⌊j/256⌋·key]. */
    qkv_matrix_output states;
    float dropout;         /* the rate, 0 ≤ dropout < 1, at which probabilities are dropped in training; 0: none */
    uint32_t scores_stage; /* QKV_SCORES_… */
    uint64_t dropout_seed, dropout_offset; /* see qkv_dropout_mask; a run may change both */
    /* optional, float, for looking at: s of every pair (batch, num_heads, seq_q, seq_k) as it is after scores_stage, in
     * natural-log units. The first two stages don't ask who is visible. −inf for j ≥ kv_len. NULL with states. */
    qkv_matrix_output scores;
    /* How q, k, v and out are stored (qkv_type). QKV_Q8_0 and QKV_INT8 are for k and v. An out of 16 bits is the f32
     * result, rounded once to nearest even. */
    int32_t q_type, k_type, v_type, out_type;

    /* Sequences of different lengths, one after the other without padding. q_start: optional, [batch + 1], not
     * decreasing: sequence b has the tokens q_start[b] … q_start[b + 1] − 1 of q, and so of out, lse and of whatever
     * has queries, which have seq_q tokens in all; their batch strides are not used, and tokens of no sequence stay as
     * they are. k_start: likewise for the tokens of k and v, seq_k in all. Positions and keys of bias, keep and
     * key_ranges count within a sequence. Either comes without the other; kv_len and q_offsets stand beside them.
     * QKV_ERROR_INDEX when a run finds other values. */
    const int64_t *q_start, *k_start;

    /* Keys and values in pages. page_table: optional: token j of sequence b is token j mod page_tokens of page
     * page_table[b·table_stride + ⌊j / page_tokens⌋] of num_pages. The batch strides of k and v are those of pages, and
     * page_tokens is a multiple of 16. Sequences may share pages. Entries beyond kv_len, of pages
     * before the first that QKV_LEFT leaves to any query (first_tokens, scores: to none), and of sequences without
     * queries are not looked at; QKV_ERROR_INDEX when a run finds another that is no page. Not with k_start. */
    const int32_t *page_table;
    int64_t table_stride, page_tokens, num_pages;

    /* optional: a mask as a range of keys for each query, which costs nothing a pair; beside all others. Any values are
     * legal: keys below 0 or beyond the last there are not. */
    qkv_ranges key_ranges;

    /* Where k_type or v_type is QKV_INT8: a float for each (batch, KV head, token), in pages as k and v are. A key's
     * scale multiplies q·k, a value's the probability: (Σ q·x)·s and Σ (p·s)·x, in that order. Else not looked at. */
    qkv_input k_scales, v_scales;

    int64_t k_layout;     /* QKV_KEY_ROWS or QKV_KEY_PANELS: not with QKV_Q8_0 or k_start; pages are of whole panels */
    int64_t first_tokens; /* with QKV_LEFT: keys that stay visible; 0: none. (Attention sinks, after StreamingLLM.) */

    /* QKV_ARITHMETIC_F32, or for the two products, with other bits than in F32 but the same in every kernel set:
     *   QKV_ARITHMETIC_BF16  q·scale, k, v and exp(s) are rounded to bfloat16, magnitudes below 2^−56 taken as 0
     *   QKV_ARITHMETIC_INT8  q·scale and k to 8 bits with a scale for each row, as qkv_cache_append rounds; a k of
     *                        QKV_INT8 is used as it is stored. An infinite q or k makes s NaN. exp(s), v to bfloat16
     * Sums, softmax and all options stay in f32. Gradients are those of F32 and BF16. */
    int64_t arithmetic;

    /* optional, float, in QKV_ARITHMETIC_INT8, for a k of other types than QKV_INT8: (batch, num_kv_heads, 1, head_dim)
     * numbers that are subtracted from the channels of k before they are rounded, and made up for in s. With those of
     * qkv_attention_key_means what all keys have in common costs no precision. */
    qkv_input k_means;
} qkv_attention_desc;

/* The workspace holds three things. K in panels, for all tasks, where a KV head's queries are several tasks and it
 * takes at most 64 MiB: batch·num_kv_heads·keys·head_dim floats, in bfloat16 arithmetic of up to one channel more, of 2
 * or 4 bytes, in 8 bits of up to three more, of 1 or 4 bytes, and a scale; beyond that a task packs what it sees, block
 * by block.
 * Block states, where there are too few queries for all workers: at most batch·num_heads·seq_q·⌈keys/256⌉ of
 * head_dim_v + 32 floats. A share for each worker that does not grow with seq_q or seq_k. `keys` is seq_k, or what
 * a window with both ends can reach from seq_q queries. How many of them a run sees costs time, not memory. */
QKV_API qkv_status qkv_attention_plan(const qkv_ctx *ctx, const qkv_attention_desc *desc, int32_t max_workers,
                                      qkv_plan *plan);
QKV_API qkv_status qkv_attention_run(const qkv_plan *plan, const qkv_attention_desc *desc, void *workspace,
                                     size_t workspace_size);
QKV_API qkv_status qkv_attention_run_parallel(const qkv_plan *plan, const qkv_attention_desc *desc, void *workspace,
                                              size_t workspace_size, qkv_parallel_for parallel_for, void *pool);
QKV_API qkv_status qkv_attention_check(const qkv_plan *plan, const qkv_attention_desc *desc, const void *workspace,
                                       size_t workspace_size);
QKV_API void qkv_attention_task(const qkv_plan *plan, const qkv_attention_desc *desc, void *workspace, int32_t phase,
                                int64_t index, int32_t worker);

/* Which pairs of a row (b, h, i) dropout keeps: keep[j] = 1 or 0 for all j < seq_k, visible or not.
 *
 * A pair's fate follows from rate, seed, dropout_offset + b·num_heads + h, the position p = i + q_offset (mod 2^32)
 * and j alone, by Philox 4x32-10 (docs/numerics.md): not from threads, kernel sets, or what else the call computes. So
 * the gradients drop what their forward dropped. In training, keep the seed and let dropout_offset grow by
 * batch·num_heads after each call of forward and backward together; calls of several layers take offsets after each
 * other, or seeds of their own. A batch in parts takes dropout_offset + b·num_heads for the part that begins at b;
 * queries in parts take their q_offset.
 *
 * QKV_ERROR_SHAPE when b, h or i is out of range; else what the plan of desc would say. */
QKV_API qkv_status qkv_dropout_mask(const qkv_attention_desc *desc, int64_t b, int64_t h, int64_t i, uint8_t *keep);
QKV_API const char *qkv_attention_explain_plan(const qkv_ctx *ctx, const qkv_attention_desc *desc, int32_t max_workers,
                                               char *text, size_t size);
QKV_API const char *qkv_attention_explain_run(const qkv_plan *plan, const qkv_attention_desc *desc,
                                              const void *workspace, size_t workspace_size, char *text, size_t size);

/* means[(b·num_kv_heads + g)·head_dim + c] = the mean of channel c over the keys of sequence b and KV head g, those
 * below kv_len that QKV_LEFT leaves to the first of the sequence's queries, and first_tokens; other masks don't count,
 * so a NaN in a key that they hide is one in the mean. 0 without such keys, or without queries. desc is one that
 * attention would take, but of q, v and out nothing is looked at. QKV_ERROR_FLAGS: k is of QKV_INT8; QKV_ERROR_INDEX,
 * _NULL, _ALIGNMENT, _ALIAS for k and means. */
QKV_API qkv_status qkv_attention_key_means(const qkv_ctx *ctx, const qkv_attention_desc *desc, float *means);

/* The ranges of a mask, one for each of its rows: ranges[2·i] and ranges[2·i + 1] are the first key and the end of what
 * row i sees, both 0 where that is nothing. Element (i, j) is mask[i·query_stride + j]; in QKV_F32, QKV_F16, QKV_BF16
 * −inf hides a key and ±0 keeps it, in QKV_INT8 (or uint8_t) 0 hides it and all else keeps it. QKV_ERROR_VALUE, and
 * ranges untouched, where a row keeps keys on both sides of one that it hides, or has other numbers: then it is a keep
 * or a bias. QKV_ERROR_NULL, _NEGATIVE, _FLAGS (another type). */
QKV_API qkv_status qkv_mask_ranges(const void *mask, int32_t type, int64_t queries, int64_t keys, int64_t query_stride,
                                   int64_t *ranges);

/* ALiBi's slopes for num_heads heads, as its authors compute them for any number of heads (a power of two: 2^(−8h/n)
 * for h = 1 … n). Each is within one ulp. */
QKV_API qkv_status qkv_alibi_slopes(int64_t num_heads, float *slopes);

/* ---------------------------------------------------------------------------------------------------- merge */

/* Joins partial results over disjoint sets of keys, in order. Each part is either an (out, lse) pair of an attention
 * call without sinks, or a block state. Folding the block states of all keys in ascending order gives the bits of the
 * undivided call; pairs, and states of other splits, give its value within the error bound of docs/numerics.md.
 *
 * A fold may stop and go on later, or elsewhere: `state` is what the parts come to. As the first of the states of the
 * next merge it stands for all of them, bit for bit. */
typedef struct qkv_merge_desc {
    size_t size; /* sizeof(qkv_merge_desc) */
    int64_t batch, num_heads, seq_q, head_dim_v;
    int64_t num_parts;       /* 0 is legal: every row is empty */
    qkv_input part_out;      /* (batch, num_heads, seq_q, head_dim_v) of part 0 */
    int64_t part_out_stride; /* from a part to the next */
    qkv_input part_lse;      /* (batch, num_heads, seq_q) of part 0 */
    int64_t part_lse_stride;
    qkv_matrix_input states; /* in place of part_out and part_lse: as qkv_attention_desc.states wrote them */
    const float *sinks;      /* optional, [num_heads] */
    qkv_output out;
    qkv_output lse; /* optional */
    /* optional: the folded state of (b, h, t), head_dim_v + 2 floats as in `states`, in place of out, lse and sinks,
     * which must be NULL then: the last merge brings the sinks. */
    qkv_output state;
} qkv_merge_desc;

QKV_API qkv_status qkv_merge_plan(const qkv_ctx *ctx, const qkv_merge_desc *desc, int32_t max_workers, qkv_plan *plan);
QKV_API qkv_status qkv_merge_run(const qkv_plan *plan, const qkv_merge_desc *desc, void *workspace,
                                 size_t workspace_size);
QKV_API qkv_status qkv_merge_run_parallel(const qkv_plan *plan, const qkv_merge_desc *desc, void *workspace,
                                          size_t workspace_size, qkv_parallel_for parallel_for, void *pool);
QKV_API qkv_status qkv_merge_check(const qkv_plan *plan, const qkv_merge_desc *desc, const void *workspace,
                                   size_t workspace_size);
QKV_API void qkv_merge_task(const qkv_plan *plan, const qkv_merge_desc *desc, void *workspace, int32_t phase,
                            int64_t index, int32_t worker);
QKV_API const char *qkv_merge_explain_plan(const qkv_ctx *ctx, const qkv_merge_desc *desc, int32_t max_workers,
                                           char *text, size_t size);
QKV_API const char *qkv_merge_explain_run(const qkv_plan *plan, const qkv_merge_desc *desc, const void *workspace,
                                          size_t workspace_size, char *text, size_t size);

/* ---------------------------------------------------------------------------------------------------- layer */

/* One attention layer: x → Q, K, V → attention → ·Wo → out.
 *
 * `attention` gives sizes and options; its seq_q and seq_k are both the number of tokens, its q, k, v and out stay
 * NULL. With x_kv it is cross-attention: K and V come from x_kv's seq_k tokens, Q and out belong to x's seq_q.
 *
 * w_qkv holds the parts Wq [model_dim][num_heads·head_dim], Wk [model_dim][num_kv_heads·head_dim] and
 * Wv [model_dim][num_kv_heads·head_dim_v]; w_o is [num_heads·head_dim_v][out_features]. Where x_kv has another width,
 * kv_dim, w_qkv holds Wq alone and w_kv the parts Wk [kv_dim][…] and Wv [kv_dim][…]; with equal widths it may do so.
 *
 * Q and K may pass through QK-norm and RoPE on their way, in that order (qkv_head_steps). Query i then has the position
 * i + attention.q_offset (or q_offsets[b]), which counts for masks too, with QKV_FROM_END from the end, and key j the
 * position j; positions_q and positions_k are others, each by itself, for RoPE alone. Beside QKV_FROM_END with kv_len
 * or q_offsets positions_q is needed.
 *
 * With a cache the layer decodes: K and V of x's seq_q tokens go to the ends of the sequences first_sequence … (one for
 * each batch), where qkv_cache_extend has made room for them, and Q sees all that these sequences have. Positions count
 * from where a sequence ended before, as with QKV_FROM_END; flags say QKV_RIGHT for causal. attention brings batch,
 * num_heads, seq_q and options; num_kv_heads, head_dim, head_dim_v, seq_k and types are the cache's (0, or equal to it:
 * seq_k is max_tokens, the width of bias, keep, probabilities and scores), and so is the window: no QKV_LEFT. kv_len,
 * q_offsets and x_kv are NULL. Here a plan reads the cache's header, and a run may bring another cache of the same
 * description. No gradients.
 *
 * w_qkv = NULL is raw attention: Q = K = V = x, or K = V = x_kv, every head over the whole embedding (head_dim =
 * head_dim_v = model_dim, num_kv_heads = num_heads or 1), which makes all heads the same.
 * w_o = NULL leaves the heads side by side: out_features = num_heads·head_dim_v. */
typedef struct qkv_layer_desc {
    size_t size; /* sizeof(qkv_layer_desc) */
    int64_t model_dim;
    int64_t out_features;
    qkv_input x;                           /* (batch, token, model_dim): the head stride is not used */
    const void *w_qkv;                     /* by qkv_pack: 3 parts */
    const float *bias_q, *bias_k, *bias_v; /* optional */
    const void *w_o;                       /* by qkv_pack: 1 part */
    const float *bias_o;                   /* optional */
    qkv_output out;                        /* (batch, token, out_features): the head stride is not used */
    qkv_input x_kv;               /* optional, (batch, token of seq_k, kv_dim); not NULL, for cross-attention, without
                                   * tokens either */
    int64_t kv_dim;               /* 0: model_dim */
    const void *w_kv;             /* by qkv_pack: 2 parts; NULL: Wk and Wv are parts of w_qkv */
    const float *norm_q, *norm_k; /* optional, [head_dim]: QK-norm of every head's row of Q and of K */
    float norm_epsilon;           /* of both */
    uint32_t reserved;            /* 0 */
    qkv_rope rope;                /* optional: cos is NULL without; then the rest is not looked at */
    qkv_positions positions_q, positions_k;     /* optional: of each (batch, token of seq_q), and of seq_k */
    void *cache;                                /* optional: see above */
    int64_t first_sequence;                     /* a run may change it */
    int32_t wq_type, wk_type, wv_type, wo_type; /* qkv_type that Wq, Wk, Wv and Wo are packed in */
    int64_t arithmetic;                         /* of all projections: QKV_ARITHMETIC_… */
    qkv_attention_desc attention;
} qkv_layer_desc;

/* QKV_ERROR_SHAPE: w_kv without x_kv or w_qkv, kv_dim ≠ model_dim without w_kv, seq_k ≠ seq_q without x_kv; norm_q,
 * norm_k or rope without w_qkv; else as a projection with such steps. */
QKV_API qkv_status qkv_layer_plan(const qkv_ctx *ctx, const qkv_layer_desc *desc, int32_t max_workers, qkv_plan *plan);
QKV_API qkv_status qkv_layer_run(const qkv_plan *plan, const qkv_layer_desc *desc, void *workspace,
                                 size_t workspace_size);
QKV_API qkv_status qkv_layer_run_parallel(const qkv_plan *plan, const qkv_layer_desc *desc, void *workspace,
                                          size_t workspace_size, qkv_parallel_for parallel_for, void *pool);
QKV_API qkv_status qkv_layer_check(const qkv_plan *plan, const qkv_layer_desc *desc, const void *workspace,
                                   size_t workspace_size);
QKV_API void qkv_layer_task(const qkv_plan *plan, const qkv_layer_desc *desc, void *workspace, int32_t phase,
                            int64_t index, int32_t worker);
QKV_API const char *qkv_layer_explain_plan(const qkv_ctx *ctx, const qkv_layer_desc *desc, int32_t max_workers,
                                           char *text, size_t size);
QKV_API const char *qkv_layer_explain_run(const qkv_plan *plan, const qkv_layer_desc *desc, const void *workspace,
                                          size_t workspace_size, char *text, size_t size);

/* ------------------------------------------------------------------------------------------------- KV cache */

/* K and V of one attention layer for many sequences, in one block of memory that the caller brings.
 *
 * Sequences grow by tokens at their end, in pages of QKV_CACHE_PAGE tokens from a common pool. A fork shares all pages
 * of another sequence; a shared page that is only partly filled is copied when one of them grows, so no sequence ever
 * sees what another one stores. A page returns to the pool when the last sequence leaves it.
 *
 * The block holds no addresses: it may be copied, saved, mapped at another place and go on there, on any CPU and kernel
 * set of the same byte order (else: qkv_cache_file_order). It is 64-byte aligned wherever it is used. Every function
 * looks at the header first and at each index before it is used, so damage gives QKV_ERROR_CACHE or wrong numbers, but
 * no access outside the block, as long as the header's checksum finds it; what someone could have written on purpose
 * needs qkv_cache_check.
 *
 * On an error not one byte is written. Functions that take a const cache, and attention over it, may run at the same
 * time; one that changes the cache runs alone.
 *
 * QKV_ERROR_NULL, _ALIGNMENT and _CACHE are for the block in every function, _INDEX for a sequence that it lacks. */
#define QKV_CACHE_PAGE 64

typedef struct qkv_cache_desc {
    size_t size;           /* sizeof(qkv_cache_desc) */
    int64_t num_sequences; /* 0 … num_sequences − 1, each empty at first */
    int64_t max_tokens;    /* positions that a sequence can reach */
    int64_t num_pages;     /* of the pool. 0: so many that every sequence can reach max_tokens, or with a window hold
                            * what that needs when it grows by at most QKV_CACHE_PAGE tokens at a time */
    int64_t num_kv_heads;
    int64_t head_dim;       /* of K */
    int64_t head_dim_v;     /* of V; 0: head_dim */
    int32_t k_type, v_type; /* QKV_F32, QKV_F16, QKV_BF16, QKV_INT8 */
    int64_t window;         /* 0: all tokens are kept. Else a query sees of a sequence the last `window` tokens, its
                             * own included, … */
    int64_t first_tokens;   /* … and the first so many (the sinks of StreamingLLM). 0 without window */
} qkv_cache_desc;

/* Bytes of the block, a multiple of 64. QKV_ERROR_SIZE, _NEGATIVE, _FLAGS (a type), _SHAPE (first_tokens without
 * window), _OVERFLOW (also for more than 2^31 − 1 sequences or pages). */
QKV_API qkv_status qkv_cache_size(const qkv_cache_desc *desc, size_t *bytes);

/* Makes a cache of empty sequences in the first qkv_cache_size bytes of memory (else QKV_ERROR_WORKSPACE). The pool
 * itself is not written: memory that takes no room until it is used stays that way. */
QKV_API qkv_status qkv_cache_init(const qkv_cache_desc *desc, void *memory, size_t bytes);

/* Looks at all of a block of so many bytes that comes from elsewhere, except what K and V hold: header, lengths, page
 * numbers; reference counts are the number of references. Only a block that passes is safe whatever its bytes. Time
 * grows with sequences times pages of each, for every 384 pages of the pool anew. */
QKV_API qkv_status qkv_cache_check(const void *memory, size_t bytes);

/* Files are little-endian. On a CPU that is not, a cache in the order of files gets that of the CPU, and one in that of
 * the CPU the order of files, in which all other functions refuse it; on little-endian CPUs nothing changes. Of the
 * block it checks the header alone: one that comes from elsewhere has to pass qkv_cache_check afterwards. */
QKV_API qkv_status qkv_cache_file_order(void *cache, size_t bytes);

/* The descriptor, with what 0 stands for; desc->size is set by the caller. */
QKV_API qkv_status qkv_cache_query(const void *cache, qkv_cache_desc *desc);

/* Tokens of a sequence, those that its window has released included. */
QKV_API qkv_status qkv_cache_length(const void *cache, int64_t sequence, int64_t *tokens);

/* Pages of the pool that no sequence uses. */
QKV_API qkv_status qkv_cache_free_pages(const void *cache, int64_t *pages);

/* The sequence gets n ≥ 0 more tokens, whose K and V are still to be stored; until then they hold anything. Either all
 * n fit, or nothing changes: QKV_ERROR_CAPACITY. n = 0 does nothing.
 *
 * With a window this also returns pages: those without one of the first first_tokens tokens, whose last token is before
 * old length + 1 − window. So all n queries still find what they see, and the pages serve the new tokens at once. */
QKV_API qkv_status qkv_cache_extend(void *cache, int64_t sequence, int64_t n);

/* Extends by n tokens and stores them. k and v: float, (num_kv_heads, n, head_dim or head_dim_v); their batch strides
 * are not used. QKV_ERROR_NULL, _ALIGNMENT, _OVERFLOW and _ALIAS are for them, too.
 *
 * 16 bits: rounded to nearest even. QKV_INT8: each token and KV head gets a scale s of its own, its largest |x| / 127,
 * and integers that are off by at most 0.5001·s; a row whose largest |x| is below 2^−100 becomes 0, one with NaN or
 * infinity becomes NaN. The same bits on every kernel set (docs/numerics.md). */
QKV_API qkv_status qkv_cache_append(const qkv_ctx *ctx, void *cache, int64_t sequence, int64_t n, qkv_input k,
                                    qkv_input v);

/* Keeps the first `length` tokens; 0 empties the sequence, which is always possible. QKV_ERROR_CAPACITY when there are
 * fewer, or when the window has released tokens that a query at position `length` sees, or the page it would lie in. */
QKV_API qkv_status qkv_cache_truncate(void *cache, int64_t sequence, int64_t length);

/* Sequence `to` forgets what it had and gets all tokens of `from`, in the same pages; those that are still to be stored
 * too, so store first. This never lacks a page; what follows may. A sequence as its own fork stays as it is. */
QKV_API qkv_status qkv_cache_fork(void *cache, int64_t from, int64_t to);

/* Makes the cache the keys and values of an attention: its batch b is sequence first_sequence + b, whose tokens are the
 * keys. Sets num_kv_heads, head_dim, head_dim_v, seq_k (max_tokens), k, v and all that says how they are stored, kv_len
 * and, with a window, QKV_LEFT, left and first_tokens; the caller sets batch before, and the rest as for any call:
 *
 *   qkv_attention_desc d = {.size = sizeof d, .batch = 1, .num_heads = 32, .seq_q = n, .q = …, .out = …,
 *                           .flags = QKV_RIGHT | QKV_FROM_END};     the n tokens appended last, causal
 *   qkv_cache_attach(cache, sequence, &d);
 *
 * Lengths are read when it runs, so a plan serves all steps with the same number of queries. Sequences without queries
 * in q_start cost nothing, so that one call may take any of them. A window of the descriptor stays if the cache has
 * none. With a window at most the tokens of the last extension are queries, and `scores` of tokens that it has released
 * are any numbers. QKV_ERROR_INDEX for sequences beyond the last; _SIZE; _HEADS for a cache without heads. */
QKV_API qkv_status qkv_cache_attach(const void *cache, int64_t first_sequence, qkv_attention_desc *desc);

/* ------------------------------------------------------------------------------------------------- gradients */

/* Of a number L that depends on the outputs of an operation, the gradients in its inputs, given those in its outputs.
 * Same four steps as the forward. A gradient whose data is NULL is not wanted and costs nothing. They are the same bits
 * for any thread count too, and no gradient depends on which others are wanted.
 *
 * Which gradients are NULL is part of the plan. They are outputs: see above on strides and overlap. None may be
 * computed in place of an input. */

/* These gradients are added to what is there, others overwritten. Bits are named after fields, those of weights mean
 * their bias too. One that the operation lacks is refused (QKV_ERROR_FLAGS), one of an unwanted gradient ignored. */
#define QKV_ACCUMULATE 1u /* all */
#define QKV_ACCUMULATE_Q 2u
#define QKV_ACCUMULATE_K 4u
#define QKV_ACCUMULATE_V 8u
#define QKV_ACCUMULATE_O 0x10u
#define QKV_ACCUMULATE_BIAS 0x20u
#define QKV_ACCUMULATE_SINKS 0x40u
#define QKV_ACCUMULATE_X 0x80u
#define QKV_ACCUMULATE_X_KV 0x1000u
#define QKV_ACCUMULATE_PART(i) (0x100u << (i)) /* grad[i] of a projection */

/* dQ, dK, dV, and those of bias and sinks, from one attention call as it ran, `forward`. Its q, k, v and options must
 * be as they were; its out and lse are inputs here: what it wrote. lse is required (QKV_ERROR_LSE), states is not
 * allowed (QKV_ERROR_SHAPE), probabilities and scores are not looked at.
 *
 *   δ = Σ dO·O − dLSE;  dT = P·(dO·Vᵀ − δ);  dS = dT·(1 − tanh²) with a softcap
 *   dQ = scale·dS·K;  dK = scale·dSᵀ·Q;  dV = Pᵀ·dO;  dbias = dT;  dsink = −Σ exp(sink − lse)·δ
 *
 * With QKV_ARITHMETIC_BF16, which the forward must have run in, the operands of all five products are rounded to
 * bfloat16: dO, V, dS, K, Q and P. Sums, δ, dbias and dsink stay in f32. dO and dS below 2^−56 in magnitude count as 0:
 * scale a loss whose gradients are that small by a power of two, which loses nothing (docs/numerics.md).
 *
 * q, k, v, out and grad_out may be stored in 16 bits; out then counts as it was rounded. Gradients are floats. No
 * QKV_Q8_0, QKV_INT8, q_start, k_start, page_table, panels of keys or first_tokens (QKV_ERROR_FLAGS).
 *
 * dK and dV of a KV head are sums over the heads of its group. Keys that a query does not see take no part, as in the
 * forward; gradients of a key that no query sees, and of a query that sees no key, are 0, whatever their operands hold.
 * Memory grows with seq_q + seq_k, never with their product. */
typedef struct qkv_attention_backward_desc {
    size_t size;        /* sizeof(qkv_attention_backward_desc) */
    uint32_t flags;     /* QKV_ACCUMULATE, or of it _Q, _K, _V, _BIAS, _SINKS */
    uint32_t reserved;  /* 0 */
    qkv_input grad_out; /* as forward.out: (batch, num_heads, seq_q, head_dim_v), stored as out_type says */
    qkv_input grad_lse; /* optional: one float a (batch, head, token) */
    qkv_output grad_q, grad_k, grad_v; /* each optional; sizes as q, k and v */
    /* optional: (batch, num_heads, seq_q, seq_k), also where forward.bias is NULL and so zero. A stride of 0 sums over
     * that axis, as the gradient of a bias that was broadcast wants it; the sum of nothing is 0. */
    qkv_matrix_output grad_bias;
    float *grad_sinks;          /* optional, [num_heads] */
    qkv_attention_desc forward; /* last, so that it can grow */
} qkv_attention_backward_desc;

QKV_API qkv_status qkv_attention_backward_plan(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc,
                                               int32_t max_workers, qkv_plan *plan);
QKV_API qkv_status qkv_attention_backward_run(const qkv_plan *plan, const qkv_attention_backward_desc *desc,
                                              void *workspace, size_t workspace_size);
QKV_API qkv_status qkv_attention_backward_run_parallel(const qkv_plan *plan, const qkv_attention_backward_desc *desc,
                                                       void *workspace, size_t workspace_size,
                                                       qkv_parallel_for parallel_for, void *pool);
QKV_API qkv_status qkv_attention_backward_check(const qkv_plan *plan, const qkv_attention_backward_desc *desc,
                                                const void *workspace, size_t workspace_size);
QKV_API void qkv_attention_backward_task(const qkv_plan *plan, const qkv_attention_backward_desc *desc, void *workspace,
                                         int32_t phase, int64_t index, int32_t worker);
QKV_API const char *qkv_attention_backward_explain_plan(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc,
                                                        int32_t max_workers, char *text, size_t size);
QKV_API const char *qkv_attention_backward_explain_run(const qkv_plan *plan, const qkv_attention_backward_desc *desc,
                                                       const void *workspace, size_t workspace_size, char *text,
                                                       size_t size);

/* Gradients of one part of a packed matrix, laid out as an optimiser holds weights, so that qkv_pack can take them. */
typedef struct qkv_weight_grad {
    float *data;    /* optional; shape, layout and stride as in qkv_weight */
    int64_t stride; /* 0: contiguous rows */
    int64_t layout; /* QKV_IN_OUT or QKV_OUT_IN */
    float *bias;    /* optional, [out_features] */
} qkv_weight_grad;

/* dX = Σ dY·Wᵀ over the parts, dW = Xᵀ·dY, dbias = Σ dY over batches and tokens. forward.steps, the parts' types and
 * arithmetic must be zero (QKV_ERROR_FLAGS): weights are floats. */
typedef struct qkv_projection_backward_desc {
    size_t size;                       /* sizeof(qkv_projection_backward_desc) */
    uint32_t flags;                    /* QKV_ACCUMULATE, or of it _X, _PART(i) for each i < num_parts */
    uint32_t reserved;                 /* 0 */
    qkv_output grad_x;                 /* optional (b, t, c): the head stride is not used */
    qkv_input grad_out[QKV_MAX_PARTS]; /* as forward.part[i].out: column c of token t is (b, c / head_dim, t, …) */
    qkv_weight_grad grad[QKV_MAX_PARTS];
    qkv_projection_desc forward; /* its outputs and biases are not looked at; x and packed only where needed. Last, so
                                  * that it can grow */
} qkv_projection_backward_desc;

QKV_API qkv_status qkv_projection_backward_plan(const qkv_ctx *ctx, const qkv_projection_backward_desc *desc,
                                                int32_t max_workers, qkv_plan *plan);
QKV_API qkv_status qkv_projection_backward_run(const qkv_plan *plan, const qkv_projection_backward_desc *desc,
                                               void *workspace, size_t workspace_size);
QKV_API qkv_status qkv_projection_backward_run_parallel(const qkv_plan *plan, const qkv_projection_backward_desc *desc,
                                                        void *workspace, size_t workspace_size,
                                                        qkv_parallel_for parallel_for, void *pool);
QKV_API qkv_status qkv_projection_backward_check(const qkv_plan *plan, const qkv_projection_backward_desc *desc,
                                                 const void *workspace, size_t workspace_size);
QKV_API void qkv_projection_backward_task(const qkv_plan *plan, const qkv_projection_backward_desc *desc,
                                          void *workspace, int32_t phase, int64_t index, int32_t worker);
QKV_API const char *qkv_projection_backward_explain_plan(const qkv_ctx *ctx, const qkv_projection_backward_desc *desc,
                                                         int32_t max_workers, char *text, size_t size);
QKV_API const char *qkv_projection_backward_explain_run(const qkv_plan *plan, const qkv_projection_backward_desc *desc,
                                                        const void *workspace, size_t workspace_size, char *text,
                                                        size_t size);

/* Gradients of a whole layer. Q, K, V and the heads' outputs are computed anew from forward.x and x_kv in the
 * workspace: of the forward it needs only the descriptor, without out. forward.attention.lse, probabilities and scores
 * are not written. Without forward.w_qkv (raw attention) grad_q, _k and _v, without w_o grad_o must be empty.
 * forward.attention.arithmetic is that of the attention's gradients too, forward.arithmetic QKV_ARITHMETIC_F32. */
typedef struct qkv_layer_backward_desc {
    size_t size;        /* sizeof(qkv_layer_backward_desc) */
    uint32_t flags;     /* QKV_ACCUMULATE, or of it _X, _X_KV, _Q, _K, _V, _O, _BIAS, _SINKS */
    uint32_t reserved;  /* 0 */
    qkv_input grad_out; /* as forward.out: (b, t, c), the head stride is not used */
    qkv_output grad_x;  /* optional (b, t, c) */
    qkv_weight_grad grad_q, grad_k, grad_v, grad_o; /* of Wq, Wk, Wv, Wo and their biases */
    qkv_matrix_output grad_bias;                    /* optional: of forward.attention.bias */
    float *grad_sinks;                              /* optional, [num_heads] */
    qkv_output grad_x_kv; /* optional (b, t, c), of forward.x_kv, which must not be NULL then */
    /* optional, [head_dim]: of forward.norm_q and norm_k, which must not be NULL then. QKV_ACCUMULATE_Q, _K mean them
     * too. */
    float *grad_norm_q, *grad_norm_k;
    qkv_layer_desc forward; /* last, so that it can grow */
} qkv_layer_backward_desc;

QKV_API qkv_status qkv_layer_backward_plan(const qkv_ctx *ctx, const qkv_layer_backward_desc *desc, int32_t max_workers,
                                           qkv_plan *plan);
QKV_API qkv_status qkv_layer_backward_run(const qkv_plan *plan, const qkv_layer_backward_desc *desc, void *workspace,
                                          size_t workspace_size);
QKV_API qkv_status qkv_layer_backward_run_parallel(const qkv_plan *plan, const qkv_layer_backward_desc *desc,
                                                   void *workspace, size_t workspace_size,
                                                   qkv_parallel_for parallel_for, void *pool);
QKV_API qkv_status qkv_layer_backward_check(const qkv_plan *plan, const qkv_layer_backward_desc *desc,
                                            const void *workspace, size_t workspace_size);
QKV_API void qkv_layer_backward_task(const qkv_plan *plan, const qkv_layer_backward_desc *desc, void *workspace,
                                     int32_t phase, int64_t index, int32_t worker);
QKV_API const char *qkv_layer_backward_explain_plan(const qkv_ctx *ctx, const qkv_layer_backward_desc *desc,
                                                    int32_t max_workers, char *text, size_t size);
QKV_API const char *qkv_layer_backward_explain_run(const qkv_plan *plan, const qkv_layer_backward_desc *desc,
                                                   const void *workspace, size_t workspace_size, char *text,
                                                   size_t size);

#ifdef __cplusplus
}
#endif

#endif
