"""The KV cache.  SPDX-License-Identifier: MIT"""
from __future__ import annotations

import numpy as np

from . import _qkv
from ._arrays import BF16, F16, F32, INT8, Array, ArrayLike, aligned_bytes

_TYPES = {"float32": F32, "float16": F16, "bfloat16": BF16, "int8": INT8}


class Cache:
    """Keys and values of one layer for many sequences, in pages of 64 tokens from a common pool.

    ``memory`` is all of it, bytes without addresses inside: copy it, save it, hand it to ``Cache.from_memory``.
    Types: "float32", "float16", "bfloat16", "int8". With ``window`` a query sees the last so many tokens and the first
    ``first_tokens``. num_pages = 0: as many as all sequences need. Not to be changed by two threads at the same time.
    """

    memory: Array
    num_sequences: int
    max_tokens: int
    num_pages: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    window: int
    first_tokens: int

    def __init__(self, num_sequences: int, max_tokens: int, num_kv_heads: int, head_dim: int, head_dim_v: int = 0, *,
                 num_pages: int = 0, k_type: str = "float32", v_type: str | None = None, window: int = 0,
                 first_tokens: int = 0) -> None:
        for name in (k_type, v_type or k_type):
            if name not in _TYPES:
                raise ValueError(f"cache: k_type and v_type are one of {', '.join(_TYPES)}, not {name!r}")
        fields = {"num_sequences": num_sequences, "max_tokens": max_tokens, "num_pages": num_pages,
                  "num_kv_heads": num_kv_heads, "head_dim": head_dim, "head_dim_v": head_dim_v,
                  "k_type": _TYPES[k_type], "v_type": _TYPES[v_type or k_type], "window": window,
                  "first_tokens": first_tokens}
        memory = aligned_bytes(_qkv.cache_init(**fields))
        _qkv.cache_init(memory=memory, **fields)
        self._take(memory)

    def _take(self, memory: Array) -> None:
        self.memory = memory
        for name, value in _qkv.cache_query(memory).items():
            if name in ("k_type", "v_type"):
                value = next(type for type, number in _TYPES.items() if number == value)
            setattr(self, name, value)

    @classmethod
    def from_memory(cls, memory: Array) -> Cache:
        """A copy of a block of bytes, uint8, that was a cache's memory. All of it is checked."""
        copy = aligned_bytes(len(memory))
        copy[:] = memory
        _qkv.cache_check(copy)
        cache = cls.__new__(cls)
        cache._take(copy)
        return cache

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        return _qkv.cache_length(self.memory, sequence)

    def lengths(self) -> Array:
        """Tokens of every sequence, (num_sequences,)."""
        return np.array([self.length(sequence) for sequence in range(self.num_sequences)], np.int64)

    def free_pages(self) -> int:
        """Pages that no sequence uses."""
        return _qkv.cache_free_pages(self.memory)

    def append(self, sequence: int, k: ArrayLike, v: ArrayLike) -> None:
        """Adds tokens at the end: k (G, tokens, D), v (G, tokens, E), float32. All fit, or qkv.Error."""
        _qkv.cache_append(self.memory, sequence, k, v)

    def extend(self, sequence: int, tokens: int) -> None:
        """Makes room at the end, for a Layer to store into."""
        _qkv.cache_extend(self.memory, sequence, tokens)

    def truncate(self, sequence: int, length: int) -> None:
        """Keeps the first ``length`` tokens."""
        _qkv.cache_truncate(self.memory, sequence, length)

    def fork(self, source: int, target: int) -> None:
        """``target`` becomes what ``source`` is, in the same pages."""
        _qkv.cache_fork(self.memory, source, target)
