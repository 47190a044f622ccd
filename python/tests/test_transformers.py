"""Models of Hugging Face Transformers with attention "qkv" and as PyTorch computes them.  SPDX-License-Identifier: MIT"""
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import models  # noqa: E402
import qkv.torch  # noqa: E402
import qkv.transformers  # noqa: E402

qkv.transformers.register(always=True)
transformers.logging.set_verbosity_error()
NAMES = list(models.configs())
TOKENS, PADDING = 70, 20


def pair(name):
    """The model twice, with the same weights. What "sdpa" does not have, softcap and sinks, is compared with "eager"."""
    base = "eager" if name in ("Gemma2", "gpt-oss") else "sdpa"
    ours, theirs = models.build(name, "qkv"), models.build(name, base)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(name, padded):
    """Tokens, padded on one side as the kind of model wants it, and labels where there are tokens."""
    ids = torch.randint(1, 99, (3, TOKENS), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :PADDING] = 0
        if name in ("BERT", "T5"):
            mask[2, -PADDING:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    if padded:
        labels[1, PADDING] = -100  # a decoder would predict it from padding, whose row is empty: +0 here, a mean in eager
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward(name, padded, monkeypatch):
    calls = []

    def count(function):
        def counted(*arguments, **options):
            out = function(*arguments, **options)
            calls.extend([1] * (out is not None))
            return out
        return counted
    for function in ("plain", "attention"):
        monkeypatch.setattr(qkv.transformers, function, count(getattr(qkv.transformers, function)))
    ours, theirs = pair(name)
    given = inputs(name, padded)
    got, want = ours(**given), theirs(**given)
    assert len(calls) == {"T5": 6}.get(name, 3)  # every layer
    rows = given["attention_mask"].bool()
    assert (got.logits - want.logits)[rows].abs().max() < 2e-6 * want.logits[rows].abs().max()
    got.loss.backward()
    want.loss.backward()
    largest = max(p.grad.abs().max() for p in theirs.parameters() if p.grad is not None)
    for (parameter, a), b in zip(ours.named_parameters(), theirs.parameters()):
        assert (a.grad is None) == (b.grad is None), parameter
        assert a.grad is None or (a.grad - b.grad).abs().max() < 2e-6 * largest, parameter


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "BERT"])
def test_generate(name, cache):
    if name == "T5" and cache == "static":
        pytest.skip("encoder-decoder models have no static cache of this kind here")
    ours, theirs = pair(name)
    given = inputs(name, True)
    options = dict(input_ids=given["input_ids"][:, :30], attention_mask=given["attention_mask"][:, :30],
                   max_new_tokens=30, do_sample=False, output_logits=True, return_dict_in_generate=True,
                   disable_compile=True)
    if cache == "static":
        options["cache_implementation"] = "static"
    got, want = ours.generate(**options), theirs.generate(**options)
    assert torch.equal(got.sequences, want.sequences)
    for a, b in zip(got.logits, want.logits):
        assert (a - b).abs().max() < 2e-6 * b.abs().max()


@pytest.mark.parametrize("name", ["Llama", "Gemma3"])
def test_no_mask_grows_with_the_square(name, monkeypatch):
    seen = []
    attention = qkv.transformers.attention

    def watch(q, k, v, mask=None, *, ranges=None, **options):
        seen.append((mask, ranges))
        return attention(q, k, v, mask, ranges=ranges, **options)
    monkeypatch.setattr(qkv.transformers, "attention", watch)
    monkeypatch.setattr(qkv.transformers, "sdpa_mask", lambda **options: pytest.fail("a whole mask"))
    model, given = models.build(name, "qkv"), inputs(name, True)
    with torch.no_grad():
        model(**given)
        model.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=3)
    assert all(mask is None for mask, _ in seen) and any(ranges is not None for _, ranges in seen)
    assert all(ranges is None or ranges.shape[1:] in ((TOKENS, 2), (1, 2)) for _, ranges in seen)


def test_masks_that_are_no_ranges():
    ours, theirs = pair("Llama")
    given = inputs("Llama", False)
    given["attention_mask"][0, 20:25] = 0  # in the midst of a sequence
    rows = given["attention_mask"].bool()
    with torch.no_grad():
        assert (ours(**given).logits - theirs(**given).logits)[rows].abs().max() < 2e-6
        given["attention_mask"] = torch.rand(3, 1, TOKENS, TOKENS) < 0.8
        given["attention_mask"] |= torch.eye(TOKENS, dtype=torch.bool)
        assert (ours(**given).logits - theirs(**given).logits).abs().max() < 2e-6


def test_packed_sequences():
    ours, theirs = pair("Llama")
    ids = torch.randint(1, 99, (1, 60), generator=torch.Generator().manual_seed(5))
    positions = torch.cat([torch.arange(20), torch.arange(35), torch.arange(5)])[None]
    with torch.no_grad():
        got, want = (model(input_ids=ids, position_ids=positions, use_cache=False).logits for model in (ours, theirs))
    assert (got - want).abs().max() < 2e-6


def test_double_goes_to_sdpa():
    ours, theirs = (model.double() for model in pair("Llama"))
    given = inputs("Llama", True)
    with torch.no_grad():
        assert (ours(**given).logits - theirs(**given).logits).abs().max() < 1e-12


def test_bfloat16():
    ours, theirs = (model.bfloat16() for model in pair("Qwen3"))
    given = inputs("Qwen3", True)
    with torch.no_grad():
        got, want = ours(**given).logits, theirs(**given).logits
    rows = given["attention_mask"].bool()
    assert got.dtype == torch.bfloat16 and (got - want)[rows].abs().max() < 0.05 * want[rows].abs().max()


def test_enable_replaces_that_of_sdpa():
    _, theirs = pair("Llama")
    given = inputs("Llama", True)
    with torch.no_grad():
        want = theirs(**given).logits
        with qkv.torch.enable(always=True):
            got = theirs(**given).logits
    assert not torch.equal(got, want) and (got - want)[given["attention_mask"].bool()].abs().max() < 2e-6


def test_compiled_model():
    ours, theirs = pair("Llama")
    given = inputs("Llama", True)
    got, want = torch.compile(ours, backend="aot_eager")(**given), theirs(**given)
    assert abs(got.loss - want.loss) < 1e-5
    got.loss.backward()
    want.loss.backward()
    largest = max(p.grad.abs().max() for p in theirs.parameters())
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert (a.grad - b.grad).abs().max() < 2e-6 * largest


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Gemma2", "gpt-oss")]) # softcap, sinks
def test_small_calls_go_to_sdpa(name, monkeypatch):
    """Where that is faster: the very bits of "sdpa", with the masks that it would have had."""
    monkeypatch.setattr(qkv.transformers, "attention", lambda *a, **options: pytest.fail("not handed back"))
    monkeypatch.setattr(qkv.transformers, "plain", lambda *a, **options: pytest.fail("not handed back"))
    qkv.transformers.register()
    try:
        ours, theirs = pair(name)
        given = inputs(name, True)
        given = {key: value[:, -30:].contiguous() for key, value in given.items()}
        got, want = ours(**given), theirs(**given)
        got.loss.backward()
        want.loss.backward()
    finally:
        qkv.transformers.register(always=True)
    rows = given["attention_mask"].bool()
    assert torch.equal(got.logits[rows], want.logits[rows])
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters()) if b.grad is not None)


def test_calls_that_pay_stay(monkeypatch):
    calls = []
    monkeypatch.setattr(qkv.transformers, "_by_sdpa", lambda *a, **options: pytest.fail("handed back"))
    monkeypatch.setattr(qkv.transformers, "attention", lambda q, *a, **options: calls.append(1) or q)
    monkeypatch.setattr(qkv.transformers, "plain", lambda *a: None)
    module = torch.nn.Module()
    q, k = torch.randn(1, 6, 40, 16), torch.randn(1, 2, 40, 16)
    with torch.no_grad():
        qkv.transformers._faster_attention(module, q, k, k, None)
    long = torch.randn(1, 6, 400, 16, requires_grad=True)
    qkv.transformers._faster_attention(module, long, long, long, None)
    qkv.transformers._faster_attention(module, q, k, k, None, softcap=2.0)
    qkv.transformers._faster_attention(module, q[:, :, :1], q, q, None, s_aux=torch.zeros(6))
    assert len(calls) == 4
