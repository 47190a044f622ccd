/* A buffer type whose matrices of quantised blocks are packed once, when they are written.
 *
 * ggml asks one type for two kinds of memory. Of the weights of a model the data must not be touched but through the
 * buffer, as they are not what ggml thinks they are: that is what a type says that is not "host". What the scheduler
 * takes for the results of this device's ops is plain memory, which the CPU shall read and write without a copy:
 * "host". Which of them a buffer is, is known when its tensors are placed: the scheduler marks its own before. So there
 * are two types: buffers are made of the one that says host, as that is what the scheduler plans by; one that is not
 * the scheduler's becomes the other with its first matrix of blocks.
 *
 * SPDX-License-Identifier: MIT */
#include "weights_buffer.h"

#include "blocks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, HUGE_PAGE = 1 << 21 };

static struct ggml_backend_buffer_type plain_type, packed_type;

bool is_weights_buffer_type(ggml_backend_buffer_type_t type) {
    return type == &plain_type || type == &packed_type;
}

bool is_in_panels(const struct ggml_tensor *tensor) {
    return tensor->buffer && tensor->buffer->buft == &packed_type && holds_matrices_of_blocks(tensor);
}

/* --------------------------------------------------------------------------------------------------------- buffers */

static void buffer_free(ggml_backend_buffer_t buffer) {
    free(buffer->context);
}

static void *buffer_base(ggml_backend_buffer_t buffer) {
    return buffer->context;
}

static enum ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor) {
    if (buffer->usage != GGML_BACKEND_BUFFER_USAGE_COMPUTE && holds_matrices_of_blocks(tensor))
        buffer->buft = &packed_type;
    return GGML_STATUS_SUCCESS;
}

/* The tensor in panels that a tensor is, or is a view of; then its offset counts from that. NULL: plain data. */
static const struct ggml_tensor *in_panels(const struct ggml_tensor *tensor, size_t *offset) {
    const struct ggml_tensor *all = tensor->view_src ? tensor->view_src : tensor;
    if (!is_in_panels(all))
        return NULL;
    *offset += tensor->view_src ? tensor->view_offs : 0;
    return all;
}

static void need(bool done) {
    if (!done) {
        fprintf(stderr, "qkv: out of memory\n"); /* ggml lets a buffer report no error */
        abort();
    }
}

static void buffer_set(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor, const void *data, size_t offset,
                       size_t size) {
    const struct ggml_tensor *all = in_panels(tensor, &offset);
    if (all)
        need(write_blocks(buffer->buft->context, all, all->data, data, offset, size));
    else
        memcpy((char *)tensor->data + offset, data, size);
}

static void buffer_get(ggml_backend_buffer_t buffer, const struct ggml_tensor *tensor, void *data, size_t offset,
                       size_t size) {
    (void)buffer;
    const struct ggml_tensor *all = in_panels(tensor, &offset);
    if (all)
        need(read_blocks(all, all->data, data, offset, size));
    else
        memcpy(data, (const char *)tensor->data + offset, size);
}

static void buffer_memset(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor, uint8_t value, size_t offset,
                          size_t size) {
    void *bytes = malloc(size);
    need(bytes != NULL);
    memset(bytes, value, size);
    buffer_set(buffer, tensor, bytes, offset, size);
    free(bytes);
}

/* 0, which is 0 in blocks too; ggml's hosts clear with nothing else. */
static void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    memset(buffer->context, value, buffer->size);
}

static const struct ggml_backend_buffer_i buffer_interface = {.free_buffer = buffer_free,
                                                              .get_base = buffer_base,
                                                              .init_tensor = buffer_init_tensor,
                                                              .memset_tensor = buffer_memset,
                                                              .set_tensor = buffer_set,
                                                              .get_tensor = buffer_get,
                                                              .clear = buffer_clear};

/* ----------------------------------------------------------------------------------------------------------- types */

static const char *type_name(ggml_backend_buffer_type_t type) {
    (void)type;
    return "QKV";
}

static ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    (void)type;
    const size_t alignment = size < HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
    size = (size + alignment - 1) / alignment * alignment;
    void *data = aligned_alloc(alignment, size);
#ifdef MADV_HUGEPAGE
    if (data && size >= HUGE_PAGE)
        madvise(data, size, MADV_HUGEPAGE);
#endif
    return data ? ggml_backend_buffer_init(&plain_type, buffer_interface, data, size) : NULL;
}

static size_t type_alignment(ggml_backend_buffer_type_t type) {
    (void)type;
    return ALIGNMENT;
}

static size_t type_alloc_size(ggml_backend_buffer_type_t type, const struct ggml_tensor *tensor) {
    (void)type;
    const size_t plain = ggml_nbytes(tensor);
    const size_t packed = holds_matrices_of_blocks(tensor) ? bytes_in_panels(tensor) : 0;
    return packed > plain ? packed : plain;
}

static bool plain_is_host(ggml_backend_buffer_type_t type) {
    (void)type;
    return true;
}

ggml_backend_buffer_type_t weights_buffer_type(ggml_backend_dev_t device, const qkv_ctx *ctx) {
    packed_type = (struct ggml_backend_buffer_type){.iface = {.get_name = type_name,
                                                              .alloc_buffer = type_alloc,
                                                              .get_alignment = type_alignment,
                                                              .get_alloc_size = type_alloc_size},
                                                    .device = device,
                                                    .context = (void *)ctx};
    plain_type = packed_type;
    plain_type.iface.is_host = plain_is_host;
    return &plain_type;
}
