"""What a peer gets to know of a case.

SPDX-License-Identifier: MIT
"""
import os

import numpy as np


class Case:
    """The options of one line of bench/cases.txt, and the operands that qkv-bench left in a folder."""

    def __init__(self, words):
        options = dict(word.split("=", 1) for word in words)
        self.operation, self.name, self.folder = options["operation"], options["name"], options.get("dir")
        self.options = {key: int(value) for key, value in options.items() if key not in ("operation", "name", "dir")}

    def __getattr__(self, key):  # case.heads, case.threads …; 0 when the line has none
        options = self.__dict__["options"]
        other = {"kv_heads": "heads", "queries": "keys"}.get(key, key)
        return options.get(key, options.get(other, 0))

    @property
    def stored(self):
        """How K and V are stored."""
        return next((name for name in ("f16", "bf16", "q8_0", "int8") if name in self.options), "f32")

    def operand(self, name, *shape):
        """A copy in memory of its own, 64-byte aligned."""
        data = np.fromfile(f"{self.folder}/{name}.f32", dtype=np.float32)
        raw = np.empty(data.nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        array = raw[start:start + data.nbytes].view(np.float32).reshape(shape)
        array[...] = data.reshape(shape)
        return array

    def has_operand(self, name):
        return os.path.exists(f"{self.folder}/{name}.f32")

    def attention(self):
        """q, k, v as (1, heads, tokens, dim)."""
        return (self.operand("q", 1, self.heads, self.queries, self.dim),
                self.operand("k", 1, self.kv_heads, self.keys, self.dim),
                self.operand("v", 1, self.kv_heads, self.keys, self.dim))
