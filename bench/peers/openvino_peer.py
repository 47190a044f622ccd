"""OpenVINO: scaled_dot_product_attention and MatMul, in f32 (its default on CPUs with bf16 would be bf16), or in bf16 where a
case asks for that.

It has no grouped KV heads here: K and V are repeated to all heads ahead of time.

SPDX-License-Identifier: MIT
"""
import sys

import numpy as np

sys.modules["openvino_telemetry"] = None  # it would start a process of its own and report the use of OpenVINO
import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402


class OpenVINO:
    def __init__(self):
        self.core = ov.Core()
        capabilities = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.has_bf16 = "BF16" in capabilities
        self.description = f"{ov.__version__.split('-')[0]}, CPU plugin in f32 (has {' '.join(capabilities)})"

    def can(self, case):
        if case.stored != "f32":
            return "it is not set up for this"
        if case.in_bf16 and not self.has_bf16:
            return "it has no bf16 on this CPU"
        return None if case.operation in ("attention", "decode", "projection") else "it is not set up for this"

    def prepare(self, case):
        return self.projection(case) if case.operation == "projection" else self.attention(case)

    def request(self, outputs, parameters, case):
        model = ov.Model(outputs, parameters, "bench")
        return self.core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": "bf16" if case.in_bf16 else "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(case.threads), "ENABLE_CPU_PINNING": "NO"}).create_infer_request()

    def attention(self, case):
        q, k, v = case.attention()
        group = case.heads // case.kv_heads
        k, v = (np.ascontiguousarray(np.repeat(t, group, axis=1)) for t in (k, v))
        parameters = [ops.parameter(t.shape, np.float32) for t in (q, k, v)]
        attention = ops.scaled_dot_product_attention(*parameters, causal=bool(case.causal))
        request = self.request([attention], parameters, case)
        request.set_input_tensor(0, ov.Tensor(q, shared_memory=True))
        copies = [[ov.Tensor(t.copy(), shared_memory=False) for t in (k, v)] for _ in range(case.copies)]

        def run(i):
            key, values = copies[i % case.copies]
            request.set_input_tensor(1, key)
            request.set_input_tensor(2, values)
            request.infer()
        run.keep = q  # shared with the request
        return run, lambda: request.get_output_tensor(0).data

    def projection(self, case):
        x = case.operand("x", case.tokens, getattr(case, "in"))
        w = case.operand("w", getattr(case, "in"), case.out)
        bias = case.operand("bias", case.out) if case.has_operand("bias") else None
        requests = []
        for _ in range(case.copies):
            parameter = ops.parameter(x.shape, np.float32)
            result = ops.matmul(parameter, ops.constant(w), False, False)
            if bias is not None:
                result = ops.add(result, ops.constant(bias))
            requests.append(self.request([result], [parameter], case))
            requests[-1].set_input_tensor(0, ov.Tensor(x, shared_memory=True))

        def run(i):
            requests[i % case.copies].infer()
        run.keep = x
        return run, lambda: requests[0].get_output_tensor(0).data
