/* Where a host would hold weights for ggml's own CPU backend.  SPDX-License-Identifier: MIT */
#ifndef CHOICE_OF_GGML_H
#define CHOICE_OF_GGML_H

#include <ggml-backend.h>
#include <stdbool.h>
#include <string.h>

/* The type of buffer: the first that is for an op by these weights, which have no memory yet. */
static inline ggml_backend_buffer_type_t choice_of_ggml(ggml_backend_dev_t cpu, struct ggml_tensor *weights,
                                                        const struct ggml_tensor *op) {
    void *address =
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_dev_get_extra_bufts_t get_types;
    memcpy(&get_types, &address, sizeof get_types);
    for (ggml_backend_buffer_type_t *type = address ? get_types(cpu) : NULL; type && *type; type++) {
        weights->buffer = ggml_backend_buft_alloc_buffer(*type, 0);
        const bool takes = ggml_backend_dev_supports_op(cpu, op);
        ggml_backend_buffer_free(weights->buffer);
        weights->buffer = NULL;
        if (takes)
            return *type;
    }
    return ggml_backend_dev_buffer_type(cpu);
}

#endif
