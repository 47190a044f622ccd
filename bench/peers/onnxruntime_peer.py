"""ONNX Runtime: the operators Attention (opset 23), com.microsoft MultiHeadAttention and GroupQueryAttention, MatMul.
Each gets the layout that it wants; bringing the operands there is not timed.

SPDX-License-Identifier: MIT
"""
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

F32, F16, I8, I32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT32

SCALE = 1 / 128  # of int8: kStep of bench_attention.cc


def model(op, inputs, outputs, attributes, domain="", initializers=()):
    """A model of one operator. inputs: (name, type, shape) or (name, None, None) for an initializer or, without a
    name, for one that is left out; outputs: (name, shape) or (name, shape, type)."""
    node = helper.make_node(op, [name for name, _, _ in inputs], [output[0] for output in outputs], domain=domain,
                            **attributes)
    graph = helper.make_graph(
        [node], "bench", [helper.make_tensor_value_info(*entry) for entry in inputs if entry[1] is not None],
        [helper.make_tensor_value_info(name, *(kind or [F32]), shape) for name, shape, *kind in outputs],
        list(initializers))
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def tokens_first(array):
    """(1, heads, tokens, dim) → (1, tokens, heads·dim)"""
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(1, array.shape[2], -1)


def heads_first(array, heads):
    return array.reshape(1, array.shape[1], heads, -1).transpose(0, 2, 1, 3)


def value(array):
    return ort.OrtValue.ortvalue_from_numpy(array)


class OnnxRuntime:
    def __init__(self, op):
        self.op = op
        self.description = f"{ort.__version__}, {ort.get_available_providers()[-1]}, {op}"

    def can(self, case):
        if case.operation not in (("projection",) if self.op == "matmul" else ("attention", "decode")):
            return "it has no such operation"
        if case.in_bf16:
            return "it has no bf16 on CPUs"
        if case.stored not in (("f32", "f16", "int8") if self.op == "gqa" else ("f32",)):
            return "it does not store K and V like that"
        if self.op == "mha" and case.kv_heads != case.heads:
            return "MultiHeadAttention has as many KV heads as heads"
        if self.op == "gqa" and not case.causal and case.queries != 1:
            return "GroupQueryAttention is causal"
        return None

    def prepare(self, case):
        return getattr(self, self.op)(case)

    @staticmethod
    def session(proto, threads):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def bound(self, session, feeds, outputs):
        """run(i) with the i-th of `feeds` (dicts name → OrtValue); everything is bound ahead of time."""
        bindings = []
        for feed in feeds:
            binding = session.io_binding()
            for name, entry in feed.items():
                binding.bind_ortvalue_input(name, entry)
            for name, entry in outputs(feed).items():
                binding.bind_ortvalue_output(name, entry)
            bindings.append(binding)
        return lambda i: session.run_with_iobinding(bindings[i % len(bindings)])

    def attention(self, case):
        q, k, v = case.attention()
        inputs = [("q", F32, q.shape), ("k", F32, k.shape), ("v", F32, v.shape)]
        proto = model("Attention", inputs, [("out", q.shape)], {"is_causal": int(case.causal)})
        out = value(np.zeros_like(q))
        feeds = [{"q": value(q), "k": value(k.copy()), "v": value(v.copy())} for _ in range(case.copies)]
        run = self.bound(self.session(proto, case.threads), feeds, lambda _: {"out": out})
        return run, lambda: out.numpy()

    def mha(self, case):
        q, k, v = (tokens_first(operand) for operand in case.attention())
        inputs = [("q", F32, q.shape), ("k", F32, k.shape), ("v", F32, v.shape)]
        attributes = {"num_heads": case.heads, "unidirectional": int(case.causal)}
        proto = model("MultiHeadAttention", inputs, [("out", q.shape)], attributes, "com.microsoft")
        out = value(np.zeros_like(q))
        feeds = [{"q": value(q), "k": value(k.copy()), "v": value(v.copy())} for _ in range(case.copies)]
        run = self.bound(self.session(proto, case.threads), feeds, lambda _: {"out": out})
        return run, lambda: heads_first(out.numpy(), case.heads)

    def gqa(self, case):
        """Causal always. Decode: the cache holds all keys, and the step writes the newest once more, in place. All
        operands are f16, or the cache is int8 with one scale."""
        kind, stored = {"f16": (F16, F16), "int8": (F32, I8)}.get(case.stored, (F32, F32))
        q, k, v = (t.astype(np.float16 if kind == F16 else np.float32) for t in case.attention())
        decode = case.queries != case.keys
        past = case.keys if decode else 0
        cache = (1, case.kv_heads, past, case.dim)
        newest = [tokens_first(t[:, :, -case.queries:]) for t in (k, v)]
        if stored == I8:
            k, v = ((t / SCALE).astype(np.int8) for t in (k, v))
        present = (1, case.kv_heads, case.keys, case.dim)
        q = tokens_first(q)
        inputs = [("q", kind, q.shape), ("k", kind, newest[0].shape), ("v", kind, newest[1].shape),
                  ("past_k", stored, cache), ("past_v", stored, cache), ("seqlens_k", I32, (1,)), ("total", I32, ())]
        outputs = [("out", q.shape, kind), ("present_k", present, stored), ("present_v", present, stored)]
        attributes = {"num_heads": case.heads, "kv_num_heads": case.kv_heads}
        constants = []
        if stored == I8:
            inputs += [("", None, None)] * 5 + [("scale", None, None)] * 2
            attributes |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
            constants = [onnx.numpy_helper.from_array(np.array([SCALE], np.float32), "scale")]
        proto = model("GroupQueryAttention", inputs, outputs, attributes, "com.microsoft", constants)
        out = value(np.zeros_like(q))
        fixed = {"q": value(q), "k": value(newest[0]), "v": value(newest[1]),
                 "seqlens_k": value(np.array([case.keys - 1], np.int32)),
                 "total": value(np.array(case.keys, np.int32))}
        feeds = []
        for _ in range(case.copies):
            past_k, past_v = (k.copy(), v.copy()) if decode else (np.zeros(cache, k.dtype),) * 2
            feeds.append({**fixed, "past_k": value(past_k), "past_v": value(past_v)})
        empty = [value(np.zeros(present, k.dtype)) for _ in range(0 if decode else 2)]

        def bind_outputs(feed):
            kept = (feed["past_k"], feed["past_v"]) if decode else empty
            return {"out": out, "present_k": kept[0], "present_v": kept[1]}
        run = self.bound(self.session(proto, case.threads), feeds, bind_outputs)
        return run, lambda: heads_first(out.numpy(), case.heads)

    def matmul(self, case):
        """The weights are constants, which the session packs when it is made."""
        x = case.operand("x", case.tokens, getattr(case, "in"))
        w = case.operand("w", getattr(case, "in"), case.out)
        shape = (case.tokens, case.out)
        bias = case.operand("bias", case.out) if case.has_operand("bias") else None
        inputs = [("x", F32, x.shape), ("w", None, None)] + ([("bias", None, None)] if bias is not None else [])
        constants = [onnx.numpy_helper.from_array(w, "w")]
        if bias is not None:
            constants.append(onnx.numpy_helper.from_array(bias, "bias"))
        proto = model("MatMul" if bias is None else "Gemm", inputs, [("out", shape)], {}, initializers=constants)
        out = value(np.zeros(shape, np.float32))
        runs = [self.bound(self.session(proto, case.threads), [{"x": value(x)}], lambda _: {"out": out})
                for _ in range(case.copies)]
        return lambda i: runs[i % case.copies](0), lambda: out.numpy()
