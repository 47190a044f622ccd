"""PyTorch: scaled_dot_product_attention, its gradient, linear, and a layer of them.

SPDX-License-Identifier: MIT
"""
import torch
import torch.nn.functional as F


class PyTorch:
    def __init__(self):
        mkl = "MKL" if torch.backends.mkl.is_available() else "no MKL"
        self.description = f"{torch.__version__}, core {torch.backends.cpu.get_cpu_capability()}, {mkl}"

        self.operations = {"attention": self.attention, "decode": self.attention, "backward": self.backward,
                           "projection": self.projection, "layer": self.layer}

    def can(self, case):
        if case.stored != "f32":
            return "it multiplies in the type that K and V have"
        if case.in_bf16 and case.operation not in ("attention", "decode"):
            return "it is not set up for this"
        return None if case.operation in self.operations else "it has no such operation"

    def prepare(self, case):
        torch.set_num_threads(case.threads)
        return self.operations[case.operation](case)

    @staticmethod
    def options(case):
        return {"is_causal": bool(case.causal), "enable_gqa": case.kv_heads != case.heads}

    def attention(self, case):
        q, k, v = (torch.from_numpy(operand) for operand in case.attention())
        if case.in_bf16:
            q, k, v = (t.bfloat16() for t in (q, k, v))
        ks = [k] + [k.clone() for _ in range(case.copies - 1)]
        vs = [v] + [v.clone() for _ in range(case.copies - 1)]
        options, out = self.options(case), [None]

        def run(i):
            with torch.inference_mode():
                out[0] = F.scaled_dot_product_attention(q, ks[i % case.copies], vs[i % case.copies], **options)
        return run, lambda: out[0].float().numpy()

    def backward(self, case):
        """The gradient alone: dq, dk and dv one after the other."""
        q, k, v = (torch.from_numpy(operand).requires_grad_() for operand in case.attention())
        d_out = torch.from_numpy(case.operand("d_out", 1, case.heads, case.queries, case.dim))
        out = F.scaled_dot_product_attention(q, k, v, **self.options(case))
        gradients = [None]

        def run(_):
            gradients[0] = torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True)
        return run, lambda: torch.cat([gradient.flatten() for gradient in gradients[0]]).numpy()

    def projection(self, case):
        x = torch.from_numpy(case.operand("x", case.tokens, getattr(case, "in")))
        # [out][in], as torch.nn.Linear keeps it
        w = torch.from_numpy(case.operand("w", getattr(case, "in"), case.out)).t().contiguous()
        ws = [w] + [w.clone() for _ in range(case.copies - 1)]
        bias = torch.from_numpy(case.operand("bias", case.out)) if case.has_operand("bias") else None
        out = [None]

        def run(i):
            with torch.inference_mode():
                out[0] = F.linear(x, ws[i % case.copies], bias)
        return run, lambda: out[0].numpy()

    def layer(self, case):
        n, h, g, d, e = case.keys, case.heads, case.kv_heads, case.dim, case.model
        width = (h + 2 * g) * d
        x = torch.from_numpy(case.operand("x", n, e))
        w_qkv = torch.from_numpy(case.operand("w_qkv", e, width)).t().contiguous()
        w_o = torch.from_numpy(case.operand("w_o", h * d, e)).t().contiguous()
        b_qkv = torch.from_numpy(case.operand("b_qkv", width)) if case.has_operand("b_qkv") else None
        b_o = torch.from_numpy(case.operand("b_o", e)) if case.has_operand("b_o") else None
        options, out = self.options(case), [None]

        def run(_):
            with torch.inference_mode():
                q, k, v = F.linear(x, w_qkv, b_qkv).split([h * d, g * d, g * d], dim=1)
                q, k, v = (t.view(1, n, -1, d).transpose(1, 2) for t in (q, k, v))
                heads = F.scaled_dot_product_attention(q, k, v, **options)
                out[0] = F.linear(heads.transpose(1, 2).reshape(n, h * d), w_o, b_o)
        return run, lambda: out[0].numpy()
