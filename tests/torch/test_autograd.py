"""Gradients of attention against PyTorch's autograd in double: an implementation that shares nothing with this one.

    python3 tests/torch/test_autograd.py PARITY_PROGRAM

Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77 without PyTorch.
SPDX-License-Identifier: MIT
"""
import random
import struct
import subprocess
import sys

CASES = 60
LEFT, RIGHT = 1, 2

try:
    import torch
except ImportError as error:
    print(f"skipped: PyTorch is not installed ({error})")
    sys.exit(77)


def draw(rng):
    """One configuration: sizes and options."""
    kv_heads = rng.choice([1, 2, 3])
    c = {
        "batch": rng.choice([1, 1, 2]), "heads": kv_heads * rng.choice([1, 1, 2, 3]), "kv_heads": kv_heads,
        "sq": rng.choice([1, 5, 63, 64, 65, 130, 300]), "sk": rng.choice([1, 7, 64, 130, 257, 520]),
        "dk": rng.choice([1, 8, 33, 64, 80]), "flags": rng.choice([0, RIGHT, RIGHT, LEFT | RIGHT]),
        "left": rng.choice([0, 10, 100]), "right": rng.choice([0, 0, 3]),
        "keep": rng.random() < 0.3, "bias": rng.random() < 0.3, "sinks": rng.random() < 0.3,
        "dlse": rng.random() < 0.4, "scale": rng.choice([0.0, 0.0, 0.2, -0.1]),
        "softcap": rng.choice([0.0, 0.0, 2.0, 20.0]), "threads": rng.choice([1, 1, 2, 5]),
    }
    c["dv"] = c["dk"] if rng.random() < 0.6 else rng.choice([1, 16, 40, 129])
    c["q_offset"] = rng.choice([0, c["sk"] - c["sq"], -3])
    return c


def tensors(c, generator):
    """What the program is given, in its order. Floats, so that both sides start from the same numbers."""
    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float32)
    b, h, kv, sq, sk = c["batch"], c["heads"], c["kv_heads"], c["sq"], c["sk"]
    t = {"q": normal(b, h, sq, c["dk"]), "k": normal(b, kv, sk, c["dk"]), "v": normal(b, kv, sk, c["dv"]),
         "dout": normal(b, h, sq, c["dv"])}
    if c["keep"]:
        t["keep"] = (torch.rand(h, sq, sk, generator=generator) < 0.7).to(torch.uint8)
    if c["bias"]:
        t["bias"] = normal(h, sq, sk)
    if c["sinks"]:
        t["sinks"] = normal(h)
    if c["dlse"]:
        t["dlse"] = normal(b, h, sq)
    return t


def visible(c, t):
    position = torch.arange(c["sq"])[:, None] + c["q_offset"]
    key = torch.arange(c["sk"])[None, :]
    seen = torch.ones(c["sq"], c["sk"], dtype=torch.bool)
    if c["flags"] & LEFT:
        seen &= key >= position - c["left"]
    if c["flags"] & RIGHT:
        seen &= key <= position + c["right"]
    return seen & (t["keep"] != 0) if c["keep"] else seen


def autograd(c, t):
    """The same in double, straight from the definition; gradients by autograd."""
    x = {name: value.double().requires_grad_() for name, value in t.items() if name not in ("keep", "dout", "dlse")}
    group = c["heads"] // c["kv_heads"]
    k, v = (x[name].repeat_interleave(group, 1) for name in ("k", "v"))
    s = (x["q"] @ k.mT) * (c["scale"] or c["dk"] ** -0.5)
    if c["softcap"]:
        s = c["softcap"] * torch.tanh(s / c["softcap"])
    if c["bias"]:
        s = s + x["bias"]
    seen = visible(c, t).expand_as(s)
    s = s.masked_fill(~seen, -torch.inf)
    if c["sinks"]:
        s = torch.cat([s, x["sinks"][None, :, None, None].expand(*s.shape[:3], 1)], -1)
    empty = torch.isinf(s).all(-1, keepdim=True)
    lse = torch.logsumexp(s.masked_fill(empty, 0), -1, keepdim=True)
    p = (s - lse).exp().masked_fill(empty, 0)[..., :c["sk"]]
    out = p @ v
    loss = (out * t["dout"].double()).sum()
    if c["dlse"]:
        loss = loss + (lse.masked_fill(empty, 0)[..., 0] * t["dlse"].double()).sum()
    loss.backward()
    return out, lse.masked_fill(empty, -torch.inf), x


def library(program, c, t):
    order = ("batch", "heads", "kv_heads", "sq", "sk", "dk", "dv", "flags", "left", "right", "q_offset", "keep", "bias",
             "sinks", "dlse", "threads")
    given = struct.pack("<16q2f", *(int(c[name]) for name in order), c["scale"], c["softcap"])
    for name in ("q", "k", "v", "dout", "keep", "bias", "sinks", "dlse"):
        if name in t:
            given += bytes(t[name].contiguous().flatten().view(torch.uint8).tolist())
    done = subprocess.run([program], input=given, stdout=subprocess.PIPE, check=True)
    return torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).double()


def check(program, c, t):
    """The largest difference of each result, as a share of its largest element."""
    out, lse, x = autograd(c, t)
    want = {"out": out, "lse": lse[..., 0], "dq": x["q"].grad, "dk": x["k"].grad, "dv": x["v"].grad}
    if c["bias"]:
        want["dbias"] = x["bias"].grad
    if c["sinks"]:
        want["dsink"] = x["sinks"].grad
    got = library(program, c, t)
    worst, at = {}, 0
    for name, value in want.items():
        value = value.detach().flatten()
        mine = got[at:at + value.numel()]
        at += value.numel()
        same = value == mine
        difference = (value - mine).abs().masked_fill(same, 0)
        size = value[torch.isfinite(value)].abs().max().item() if torch.isfinite(value).any() else 0
        worst[name] = difference.max().item() / max(size, 1)
        if torch.isnan(mine).any():
            worst[name] = float("inf")
    if at != got.numel():
        raise ValueError(f"{got.numel()} floats from the program, {at} expected")
    return worst


def main():
    rng, generator = random.Random(5), torch.Generator().manual_seed(5)
    torch.set_num_threads(1)
    failed, total = 0, {}
    for number in range(CASES):
        c = draw(rng)
        worst = check(sys.argv[1], c, tensors(c, generator))
        if not all(value <= 2e-5 for value in worst.values()):
            print(f"FAILED  case {number}: {worst}\n        {c}")
            failed += 1
        for name, value in worst.items():
            total[name] = max(total.get(name, 0), value)
    print(f"PyTorch {torch.__version__}; largest difference over the largest element: "
          + ", ".join(f"{name} {value:.1e}" for name, value in total.items()))
    print(f"{CASES - failed} passed, {failed} failed, 0 skipped")
    sys.exit(failed > 0)


main()
