/* Memory in which ggml's weights lie as qkv multiplies them.  SPDX-License-Identifier: MIT */
#ifndef WEIGHTS_BUFFER_H
#define WEIGHTS_BUFFER_H

#include <ggml-backend-impl.h>
#include <qkv.h>
#include <stdbool.h>

/* The buffer type to be asked for memory, of this device, which packs by this context. */
ggml_backend_buffer_type_t weights_buffer_type(ggml_backend_dev_t device, const qkv_ctx *ctx);

/* Whether buffers of this type are such memory. */
bool is_weights_buffer_type(ggml_backend_buffer_type_t type);

/* Whether a tensor holds matrices whose data are panels. */
bool is_in_panels(const struct ggml_tensor *tensor);

#endif
