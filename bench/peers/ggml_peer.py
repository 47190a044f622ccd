"""llama.cpp: the operation of its attention, ggml_flash_attn_ext, with K and V in f16 and q8_0. Few queries
are rounded as K is stored, and their sums over f16 values are kept in f16; many are computed in f32.

The library is ggml alone, made for this CPU of the sources in the package llama-cpp-python (scripts/bench.sh ggml).

SPDX-License-Identifier: MIT
"""
import ctypes
import pathlib
import sys

import numpy as np

F32, F16, Q8_0 = 0, 1, 8
POINTER, INT = ctypes.c_void_p, ctypes.c_int
Q8_0_BLOCK = np.dtype([("d", "<f2"), ("x", "i1", 32)])


class Parameters(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", POINTER), ("no_alloc", ctypes.c_bool)]


def library(name):
    folder = pathlib.Path(sys.prefix) / "ggml"
    found = sorted(folder.rglob(f"lib{name}.so")) + sorted(folder.rglob(f"lib{name}.dylib"))
    if not found:
        raise ImportError(f"there is no {name} in {folder} (sh scripts/bench.sh ggml makes it)")
    return ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)


def function(owner, name, result, *arguments):
    entry = getattr(owner, name)
    entry.restype, entry.argtypes = result, arguments
    return entry


def stored(array, kind):
    """As bytes, exactly: the values are multiples of 1/128."""
    if kind == F16:
        return array.astype(np.float16)
    blocks = np.empty(array.size // 32, Q8_0_BLOCK)
    blocks["d"], blocks["x"] = 1 / 128, (array * 128).reshape(-1, 32)
    return blocks


class Ggml:
    def __init__(self):
        base, cpu = library("ggml-base"), library("ggml-cpu")
        self.init = function(base, "ggml_init", POINTER, Parameters)
        self.tensor = function(base, "ggml_new_tensor_4d", POINTER, POINTER, INT, *[ctypes.c_int64] * 4)
        self.data = function(base, "ggml_get_data", POINTER, POINTER)
        self.attend = function(base, "ggml_flash_attn_ext", POINTER, *[POINTER] * 5, *[ctypes.c_float] * 3)
        self.new_graph = function(base, "ggml_new_graph", POINTER, POINTER)
        self.expand = function(base, "ggml_build_forward_expand", None, POINTER, POINTER)
        self.compute = function(base, "ggml_backend_graph_compute", INT, POINTER, POINTER)
        self.free = function(base, "ggml_free", None, POINTER)
        self.set_threads = function(cpu, "ggml_backend_cpu_set_n_threads", None, POINTER, INT)
        self.backend = function(cpu, "ggml_backend_cpu_init", POINTER)()
        features = [name for name in ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon", "dotprod", "sve")
                    if function(cpu, f"ggml_cpu_has_{name}", INT)()]
        version = function(base, "ggml_version", ctypes.c_char_p)().decode()
        self.description = f"ggml {version}, core {' '.join(features)}"
        self.context = None

    def can(self, case):
        return None if case.operation in ("attention", "decode") and case.stored in ("f16", "q8_0") else \
            "it is there for K and V in f16 and q8_0"

    def filled(self, kind, array, *shape):
        """A tensor of the context; shape from the last axis on, as ggml has it."""
        tensor = self.tensor(self.context, kind, *shape)
        ctypes.memmove(self.data(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def prepare(self, case):
        if self.context:
            self.free(self.context)
        q, k, v = case.attention()
        kind = F16 if case.stored == "f16" else Q8_0
        kv = [stored(t, kind) for t in (k, v)]
        mask_bytes = 2 * case.keys * case.queries if case.causal else 0
        each = kv[0].nbytes + kv[1].nbytes + q.nbytes + (1 << 20)  # the graph and the tensors' headers too
        room = (1 << 20) + q.nbytes + mask_bytes + case.copies * each
        self.context = self.init(Parameters(room, None, False))
        self.set_threads(self.backend, case.threads)
        query = self.filled(F32, q, case.dim, case.queries, case.heads, 1)
        mask = None
        if case.causal:
            seen = np.arange(case.keys) <= np.arange(case.queries)[:, None] + case.keys - case.queries
            mask = self.filled(F16, np.where(seen, 0, -np.inf).astype(np.float16), case.keys, case.queries, 1, 1)
        graphs = []
        for _ in range(case.copies):
            keys, values = (self.filled(kind, t, case.dim, case.keys, case.kv_heads, 1) for t in kv)
            out = self.attend(self.context, query, keys, values, mask, case.dim ** -0.5, 0, 0)
            graphs.append((self.new_graph(self.context), out))
            self.expand(*graphs[-1])
        last = [None]

        def run(i):
            graph, last[0] = graphs[i % case.copies]
            self.compute(self.backend, graph)

        def result():
            shape = (case.queries, case.heads, case.dim)
            flat = (ctypes.c_float * int(np.prod(shape))).from_address(self.data(last[0]))
            return np.array(flat, np.float32).reshape(shape).transpose(1, 0, 2)
        return run, result
