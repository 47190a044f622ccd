"""qkv: transformer self-attention on CPUs.

Arrays are NumPy arrays, or anything with a buffer or DLPack; they are read where they lie. Sizes are called

    B batch    H heads    G KV heads (H is a multiple of G)    Q queries    K keys    D, E channels of q and k, of v

and every axis but the last may have any stride, so ``x.transpose(0, 2, 1, 3)`` is as good as a copy. Results are the
same bits for any number of threads and on every CPU. While it computes, other threads of Python run.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from typing import Any

from . import _qkv
from ._arrays import Error
from ._attention import attention, attention_backward, alibi_slopes, dropout_mask, mask_ranges
from ._cache import Cache
from ._layer import Layer, Projection, rope_table

__all__ = ["attention", "attention_backward", "alibi_slopes", "Cache", "dropout_mask", "Error", "info", "Layer",
           "mask_ranges", "Projection", "rope_table"]


def info() -> dict[str, Any]:
    """Version, build, CPU, the kernel set that runs (``isa``), and why the others do not (``kernel_sets``)."""
    return _qkv.info()


__version__: str = info()["version"]
