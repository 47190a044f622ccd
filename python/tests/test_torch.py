"""qkv.torch against PyTorch in double.  SPDX-License-Identifier: MIT"""
import contextlib
import math
import random

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import qkv  # noqa: E402
import qkv.torch  # noqa: E402

U = 2.0 ** -24  # unit roundoff of float
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0 ** -11, torch.bfloat16: 2.0 ** -8}  # of a result in that type
sdpa = qkv.torch.scaled_dot_product_attention
pytorch = F.scaled_dot_product_attention


def draw(rng, generator):
    """Tensors and options of a call, as PyTorch takes them."""
    kv_heads, group = rng.choice([1, 2, 3]), rng.choice([1, 1, 2, 4])
    b, h, d = rng.choice([1, 1, 2, 3]), kv_heads * group, rng.choice([1, 8, 16, 33, 64])
    sq, sk, e = rng.choice([1, 2, 7, 33, 70]), rng.choice([1, 5, 33, 64, 130, 270]), rng.choice([d, d, 24])
    dtype = rng.choice([torch.float32] * 3 + [torch.float16, torch.bfloat16])

    def normal(heads, tokens, channels):
        shape = rng.choice([(b, heads, tokens, channels), (b, tokens, heads, channels)])
        x = torch.randn(shape, generator=generator).to(dtype)
        return x if shape[1:3] == (heads, tokens) else x.transpose(1, 2)
    options = {"scale": rng.choice([None, None, 0.3, -0.2]), "enable_gqa": group > 1}
    kind = rng.choice(["none", "causal", "padding", "keep", "rows", "bias", "hiding"])
    batches, heads = rng.choice([1, b]), rng.choice([1, h])
    if kind == "causal":
        options["is_causal"] = True
    elif kind == "padding":
        lengths = torch.randint(0, sk + 1, (b, 1, 1, 1), generator=generator)
        options["attn_mask"] = (torch.arange(sk) < lengths).expand(b, 1, sq, sk)
    elif kind == "keep":
        options["attn_mask"] = torch.rand(rng.choice([(sq, sk), (batches, heads, sq, sk)]), generator=generator) < 0.7
    elif kind == "rows":  # ranges that a mask draws, causal from the bottom right for one
        options["attn_mask"] = torch.ones(sq, sk, dtype=torch.bool).tril(sk - sq).expand(b, 1, sq, sk)
    elif kind == "bias":
        options["attn_mask"] = torch.randn(rng.choice([(sq, sk), (1, sk), (batches, heads, sq, sk)]),
                                           generator=generator).to(dtype)
    elif kind == "hiding":  # as a bias of 0 and −inf
        seen = torch.ones(sq, sk, dtype=torch.bool).tril(sk - sq)
        options["attn_mask"] = torch.zeros(sq, sk, dtype=dtype).masked_fill(~seen, -math.inf)
    return normal(h, sq, d), normal(kv_heads, sk, d), normal(kv_heads, sk, e), options


def exactly(q, k, v, options):
    """PyTorch's own in double. A negative scale, which makes NaNs there, goes to q."""
    if (options["scale"] or 1) < 0:
        q, options = -q, dict(options, scale=-options["scale"])
    return pytorch(q, k, v, **options)


def in_double(q, k, v, options):
    """That, of the numbers that the tensors hold; and the probabilities."""
    mask = options.get("attn_mask")
    exact = dict(options, attn_mask=mask.double() if mask is not None and mask.is_floating_point() else mask)
    out = exactly(q.double(), k.double(), v.double(), exact)
    eye = torch.eye(k.shape[2], dtype=torch.float64).expand(k.shape[0], k.shape[1], -1, -1)
    return out, exactly(q.double(), k.double(), eye, exact)


def logit_error(q, k, options):
    """The largest error of a logit: the product's, and the bias's rounding."""
    norm = q.double().norm(dim=-1).amax() * k.double().norm(dim=-1).amax() if k.numel() and q.numel() else 0.0
    mask = options.get("attn_mask")
    bias = mask[mask.isfinite()].double().abs().max() if mask is not None and mask.is_floating_point() else 0.0
    scale = q.shape[3] ** -0.5 if options["scale"] is None else abs(options["scale"])
    return ((q.shape[3] + 8) * norm * scale + 4 * bias) * U


def test_two_thousand_drawn_calls():
    rng, generator = random.Random(1), torch.Generator().manual_seed(1)
    counted = {}
    for number in range(2000):
        q, k, v, options = draw(rng, generator)
        with torch.no_grad():
            out, (want, _) = sdpa(q, k, v, **options), in_double(q, k, v, options)
        assert out.dtype == q.dtype and out.shape == want.shape
        most = (2 * logit_error(q, k, options) + (k.shape[2] + 32) * U) * v.double().abs().max()
        most = most + ROUNDING[q.dtype] * want.abs() + (2.0 ** -25 if q.dtype == torch.float16 else 0)
        assert bool(((out.double() - want).abs() <= most).all()), (number, options)
        counted[q.dtype] = counted.get(q.dtype, 0) + 1
    assert min(counted.values()) > 300


def test_gradients_of_drawn_calls():
    """A result in 16 bits counts as it was rounded, so δ = Σ dO·O and what follows from it are off by that rounding."""
    rng, generator = random.Random(2), torch.Generator().manual_seed(2)
    for number in range(400):
        q, k, v, options = draw(rng, generator)
        mask = options.get("attn_mask")
        with_grad = [t.detach().requires_grad_() for t in (q, k, v)]
        exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
        exact_options = dict(options)
        if mask is not None and mask.is_floating_point():
            options["attn_mask"] = mask.clone().requires_grad_()
            exact_options["attn_mask"] = mask.double().requires_grad_()
            with_grad.append(options["attn_mask"])
            exact.append(exact_options["attn_mask"])
        out, want = sdpa(*with_grad[:3], **options), exactly(*exact[:3], exact_options)
        grad_out = torch.randn(out.shape, generator=generator).to(out.dtype)
        got = torch.autograd.grad(out, with_grad, grad_out)
        wanted = torch.autograd.grad(want, exact, grad_out.double())
        with torch.no_grad():
            _, p = in_double(q, k, v, dict(options, attn_mask=mask))
            eps = ROUNDING[q.dtype]
            off = eps * (grad_out.double() * want).abs().sum(-1)[..., None]  # of δ, for each row
            scale = abs(options["scale"] or q.shape[3] ** -0.5)
            group = q.shape[1] // k.shape[1]
            of_q = scale * off * k.double().abs().amax()
            of_k = (scale * p.mT @ (off * q.double().abs())).unflatten(1, (-1, group)).sum(2)
            offs = [of_q, of_k, torch.zeros(()), (p * off).sum_to_size(mask.shape) if len(got) > 3 else None]
            for name, a, b, extra in zip(("q", "k", "v", "mask"), got, wanted, offs):
                finite = b.isfinite()  # −inf of a mask has no gradient to speak of
                most = 2e-5 * max(b[finite].abs().max().item(), 1.0) + 1.01 * (extra + eps * b.abs()) \
                    + (2.0 ** -25 if q.dtype == torch.float16 else 0)
                assert a.dtype == q.dtype
                assert bool(((a.double() - b).abs() <= most)[finite].all()), (number, name, options)


@pytest.mark.filterwarnings("ignore:Input .* is not a double")
def test_gradcheck():
    """PyTorch's own check by central differences, in float: steps of 2^-6 leave about 3e-4 of truncation."""
    generator = torch.Generator().manual_seed(3)
    q, k, v, bias, sinks = (torch.randn(shape, generator=generator).requires_grad_() for shape in
                            ((1, 2, 4, 6), (1, 1, 5, 6), (1, 1, 5, 3), (2, 4, 5), (2,)))
    for options in (dict(), dict(softcap=2.0), dict(causal=True), dict(scale=0.3)):
        def function(q, k, v, bias, sinks):
            return qkv.torch.attention(q, k, v, bias, sinks=sinks, **options)
        assert torch.autograd.gradcheck(function, (q, k, v, bias, sinks), eps=2 ** -6, atol=2e-3, rtol=1e-2,
                                        nondet_tol=0.0)


def test_dropout_is_that_of_its_mask():
    torch.manual_seed(4)
    q, k, v = (torch.randn(2, 3, 40, 16).requires_grad_() for _ in range(3))
    torch.manual_seed(5)
    seed = int(torch.randint(2 ** 62, ()))
    keep = torch.from_numpy(qkv.dropout_mask((2, 3, 40, 40), 0.3, seed)).double()
    torch.manual_seed(5)
    out = sdpa(q, k, v, dropout_p=0.3, is_causal=True)
    torch.manual_seed(5)
    assert torch.equal(out, sdpa(q, k, v, dropout_p=0.3, is_causal=True))
    assert not torch.equal(out, sdpa(q, k, v, dropout_p=0.3, is_causal=True))
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    s = (exact[0] @ exact[1].mT / 4).masked_fill(~torch.ones(40, 40, dtype=torch.bool).tril(), -math.inf)
    want = (s.softmax(-1) * keep / 0.7) @ exact[2]
    assert (out - want).abs().max() < 1e-5
    for a, b in zip(torch.autograd.grad(out.sum(), (q, k, v)), torch.autograd.grad(want.sum(), exact)):
        assert (a - b).abs().max() < 1e-5 * max(b.abs().max(), 1)


def test_other_ranks_and_strides():
    generator = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(3, 20, 8, generator=generator) for _ in range(3))
    out = sdpa(q, k, v, is_causal=True)
    assert out.shape == q.shape and torch.allclose(out, pytorch(q, k, v, is_causal=True), atol=1e-6)
    wide = torch.randn(2, 4, 8, 20, generator=generator).mT  # channels that are not contiguous
    assert torch.allclose(sdpa(wide, wide, wide), pytorch(wide, wide, wide), atol=1e-6)
    one = torch.randn(2, 1, 20, 8, generator=generator).requires_grad_()
    many = one.expand(2, 4, 20, 8)  # a stride of 0 in inputs and gradients
    for function in (sdpa, pytorch):
        function(many, many, many).square().sum().backward()
    twice = one.grad.clone()
    one.grad = None
    pytorch(many, many, many).square().sum().backward()
    assert torch.allclose(twice, 2 * one.grad, atol=1e-4)
    empty = torch.empty(2, 4, 0, 8)
    assert sdpa(torch.ones(2, 4, 3, 8), empty, empty).eq(0).all() and sdpa(empty, empty, empty).shape == (2, 4, 0, 8)


def test_views_that_are_to_be_negated():
    q, k, v, grad_out = (torch.randn(1, 2, 9, 8) for _ in range(4))
    for mask in (None, torch.randn(9, 9)):
        results = []
        for minus in (torch.neg, torch._neg_view):
            leaves = [t.clone().requires_grad_() for t in (q, k, v)]
            bias = None if mask is None else minus(mask)
            out = sdpa(*(minus(t) for t in leaves), attn_mask=bias)
            with torch.no_grad():
                assert torch.equal(out, sdpa(*(minus(t) for t in leaves), attn_mask=bias))
            results.append((out, *torch.autograd.grad(out, leaves, minus(grad_out))))
        assert all(torch.equal(a, b) for a, b in zip(*results))


def test_what_is_not_ours_is_pytorchs(monkeypatch):
    calls = []
    monkeypatch.setattr(qkv.torch, "_pytorch", lambda *a, **options: calls.append(1) or pytorch(*a, **options))
    q = torch.randn(1, 2, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool)
    sdpa(q.double(), q.double(), q.double())
    sdpa(q[0, 0], q[0, 0], q[0, 0])
    sdpa(q[None], q[None], q[None])
    torch.func.vmap(sdpa)(q[None], q[None], q[None])
    assert len(calls) == 4
    for wrong in (dict(attn_mask=mask, is_causal=True), dict(attn_mask=mask[:3]), dict(attn_mask=torch.ones(1, 1, 2, 5, 5))):
        with contextlib.suppress(RuntimeError):
            sdpa(q, q, q, **wrong)
    with pytest.raises(RuntimeError):
        sdpa(q, q, q.double())
    assert len(calls) == 8
    sdpa(q, q, q, mask)
    assert len(calls) == 8


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_pytorchs():
    flat = torch.nested.nested_tensor([torch.randn(n, 16) for n in (3, 5)])
    heads = torch.nested.nested_tensor([torch.randn(2, n, 8) for n in (3, 5)])
    jagged = torch.nested.nested_tensor([torch.randn(n, 16) for n in (3, 5)], layout=torch.jagged)
    for nested in (flat, heads, jagged.unflatten(-1, (2, 8)).transpose(1, 2)):  # of ranks 3, 4 and 4
        want = pytorch(nested, nested, nested)
        with qkv.torch.enable(always=True):
            enabled = F.scaled_dot_product_attention(nested, nested, nested)
        for got in (sdpa(nested, nested, nested), enabled):
            assert all(map(torch.equal, got.unbind(), want.unbind()))


def test_autocast():
    q = torch.randn(1, 2, 30, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out, want = sdpa(q, q, q), pytorch(q, q, q)
    assert out.dtype == want.dtype == torch.bfloat16 and (out - want).abs().max() < 0.05


def test_enable():
    torch.manual_seed(7)
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.randn(2, 50, 32)
    want = attention(x, x, x, need_weights=False)[0]
    with qkv.torch.enable(), qkv.torch.enable(always=True):
        assert F.scaled_dot_product_attention is sdpa
        got = attention(x, x, x, need_weights=False)[0]
    assert F.scaled_dot_product_attention is pytorch
    assert torch.allclose(got, want, atol=1e-6) and not torch.equal(got, want)
    first, second = qkv.torch.enable(always=True), qkv.torch.enable()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert F.scaled_dot_product_attention not in (sdpa, pytorch)
    second.__exit__(None, None, None)
    assert F.scaled_dot_product_attention is pytorch
    with pytest.raises(KeyError), qkv.torch.enable():
        raise KeyError
    assert F.scaled_dot_product_attention is pytorch


def test_enable_hands_back_what_pytorch_does_faster(monkeypatch):
    """The calls on both sides of each bound; the others' results, and gradients, are PyTorch's bits."""
    taken = []
    for name, of in (("scaled_dot_product_attention", "ours"), ("_pytorch", "theirs")):
        function = getattr(qkv.torch, name)
        monkeypatch.setattr(qkv.torch, name, lambda *a, f=function, of=of, **options: taken.append(of) or f(*a, **options))

    def who(queries, keys, heads=4, kv_heads=4, dim=64, dtype=torch.float32, grad=False, threads=1, **options):
        q, k, v = (torch.randn(1, h, n, dim).to(dtype).requires_grad_(grad)
                   for h, n in ((heads, queries), (kv_heads, keys), (kv_heads, keys)))
        torch.set_num_threads(threads)
        try:
            with qkv.torch.enable():
                out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
            want = pytorch(q, k, v, enable_gqa=True, **options)
        finally:
            torch.set_num_threads(1)
        same = torch.equal(out, want)
        if grad:
            same = same and all(map(torch.equal, torch.autograd.grad(out.sum(), (q, k, v)),
                                    torch.autograd.grad(want.sum(), (q, k, v))))
        assert same if taken[-1] == "theirs" else torch.allclose(out, want, atol=0.02 if dtype != torch.float32 else 2e-6)
        return taken.pop()
    mask = torch.ones(1, 1, 60, 60, dtype=torch.bool).tril()
    # A query over keys of its own, in float32, over as many as caches hold.
    assert who(1, 30) == who(1, 1000, threads=2) == "theirs"
    assert who(1, 30, kv_heads=2) == who(1, 6000) == who(1, 30, dtype=torch.float16) == who(2, 30) == "ours"
    # Gradients of few tokens, on one thread.
    assert who(50, 50, grad=True) == "theirs"
    assert who(120, 120, grad=True) == who(50, 50, grad=True, threads=2) == who(50, 50, grad=True, dropout_p=1e-9) == "ours"
    assert who(50, 50, grad=True, dtype=torch.bfloat16) == "ours"
    # Masks, and both.
    assert who(60, 60, attn_mask=mask) == who(60, 60, heads=8, attn_mask=mask, grad=True) == "theirs"
    assert who(1, 60, kv_heads=2, attn_mask=mask[:, :, -1:], threads=2) == "theirs"
    assert who(60, 60, attn_mask=mask, threads=2) == who(60, 60, heads=16, attn_mask=mask) == "ours"
    assert who(60, 60, heads=56, attn_mask=mask, grad=True) == "ours"
    # Not the function by its own name.
    q = torch.randn(1, 2, 1, 8)
    assert sdpa(q, q, q).shape == q.shape and not taken


def test_threads_change_no_bit():
    q, k, v = (torch.randn(2, 4, 300, 64).requires_grad_() for _ in range(3))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = sdpa(q, k, v, is_causal=True)
            results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result))


@pytest.mark.parametrize("dtype", ROUNDING)
def test_short_and_long_ways_agree(monkeypatch, dtype):
    """Calls that the extension takes at once, and the same by keyword arguments."""
    generator = torch.Generator().manual_seed(9)
    taken, at_once = [], qkv.torch._qkv.plain_attention
    at_once_backward = qkv.torch._qkv.plain_attention_backward

    def note(function):
        def noted(*arguments):
            result = function(*arguments)
            taken.append(result is not None)
            return result
        return noted
    for heads, kv_heads, queries, options in ((9, 9, 1, {}), (9, 3, 1, {"scale": 0.0}), (4, 2, 7, {"is_causal": True})):
        q = torch.randn(2, queries, heads, 16, generator=generator).to(dtype).transpose(1, 2)
        packed = torch.randn(2, 33, kv_heads, 2, 16, generator=generator).to(dtype)
        q, k, v = (t.requires_grad_() for t in (q, *packed.transpose(1, 2).unbind(3)))

        def results():
            with torch.no_grad():
                alone = sdpa(q, k, v, enable_gqa=True, **options)
            out = sdpa(q, k, v, enable_gqa=True, **options)
            assert out.requires_grad and not alone.requires_grad
            return alone, out, *torch.autograd.grad(out.square().sum(), (q, k, v))
        with monkeypatch.context() as patch:
            patch.setattr(qkv.torch._qkv, "plain_attention", note(at_once))
            patch.setattr(qkv.torch._qkv, "plain_attention_backward", note(at_once_backward))
            short = results()
        with monkeypatch.context() as patch:
            for name in ("plain_attention", "plain_attention_backward", "is_plain"):
                patch.setattr(qkv.torch._qkv, name, lambda *arguments: None)
            long = results()
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(short, long))
    assert taken == [True, True, dtype == torch.float32] * 3


def test_what_is_seen_by_pytorch_alone():
    """No short way around a mode, a transform, or what has other than strided memory."""
    q = torch.randn(1, 2, 5, 8)
    want = pytorch(q, q, q)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(q)
        assert type(sdpa(fake, fake, fake)) is type(fake)
    assert qkv.torch.plain(*[q.to("meta")] * 3, False, None, False) is None
    assert qkv.torch.plain(*[q.double()] * 3, False, None, False) is None
    assert qkv.torch.plain(*[q.to_sparse()] * 3, False, None, False) is None
    assert qkv.torch.plain(q, q[:, :1], q[:, :1], False, None, False) is None
    with pytest.raises(RuntimeError):
        sdpa(q, q[:, :, :, :3], q)
    assert torch.allclose(sdpa(torch.nn.Parameter(q), q, q), want, atol=1e-6)
    x = q.clone().requires_grad_()
    grad, = torch.autograd.grad(sdpa(x, x, x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_compile():
    torch.manual_seed(8)
    weights = torch.nn.Linear(32, 96)
    x, mask = torch.randn(2, 40, 32), torch.ones(40, 40, dtype=torch.bool).tril()

    def model(x, mask):
        q, k, v = weights(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        heads = sdpa(q, k, v, mask, scale=0.3) + sdpa(q, k, v, is_causal=True)
        return heads.transpose(1, 2).flatten(2).square().sum()
    want = torch.autograd.grad(model(x, mask), list(weights.parameters()))
    compiled = torch.compile(model, fullgraph=True)
    got = torch.autograd.grad(compiled(x, mask), list(weights.parameters()))
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(got, want))


def test_the_operators_are_what_pytorch_expects():
    q, k, v = (torch.randn(1, 2, 7, 8, requires_grad=True) for _ in range(3))
    bias = torch.randn(7, 7, requires_grad=True)
    for arguments in ((q, k, v, None, None, None, None, 0.0, True, None, 0.0),
                      (q, k, v, bias, None, None, None, 0.0, False, 0.3, 2.0)):
        torch.library.opcheck(torch.ops.qkv.attention.default, arguments,
                              test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))
