"""What the package's functions share: threads, types, memory.  SPDX-License-Identifier: MIT"""
from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _qkv

#: Anything that lends its memory: a NumPy array, another object with a buffer, or one with DLPack.
ArrayLike = Any
Array = npt.NDArray[Any]

F32, F16, BF16, INT8 = 0, 1, 2, 4
LEFT, RIGHT, FROM_END, SCALE = 1, 2, 4, 0x100


class Error(ValueError):
    """The library refuses. The message names the field at fault; ``status`` is the number of its ``qkv_status``."""

    status: int
    __module__ = "qkv"


_qkv.start(os.environ.get("QKV_ISA") or None, Error)


def num_threads(threads: int | None) -> int:
    """The caller's choice, or one thread for each processor that this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_half(array: ArrayLike) -> bool:
    return getattr(array, "dtype", None) == np.float16 if isinstance(array, np.ndarray) else False


def integers(values: Any) -> Array | None:
    """Lengths, offsets, ranges: a few numbers, so that a copy does not matter."""
    return None if values is None else np.ascontiguousarray(values, dtype=np.int64)


def aligned_bytes(size: int) -> Array:
    """So many bytes, 64-byte aligned, not written."""
    block = np.empty(size + 63, np.uint8)
    start = -block.ctypes.data % 64
    return block[start:start + size]


def scale_fields(scale: float | None) -> tuple[float | None, int]:
    return (None, 0) if scale is None else (scale, SCALE)


def window_flags(causal: bool, left: int | None, right: int | None, from_end: bool) -> tuple[int | None, int]:
    """``right`` and the flags."""
    if causal:
        if right is not None:
            raise ValueError("attention: causal is right = 0, so right can't be given beside it")
        right = 0
    return right, (LEFT if left is not None else 0) | (RIGHT if right is not None else 0) | (
        FROM_END if from_end else 0)
