"""The package without PyTorch: NumPy arrays, DLPack, errors, threads.  SPDX-License-Identifier: MIT"""
import ctypes
import os
import pathlib
import random
import threading
import time

import numpy as np
import pytest

import qkv

U = 2.0 ** -24  # unit roundoff of float


def reference(q, k, v, *, scale=None, seen=None, bias=None, softcap=0.0, sinks=None):
    """In double, straight from the definition. Returns out, lse and the probabilities."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], 1) for x in (k, v))
    s = q @ k.swapaxes(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if softcap:
        s = softcap * np.tanh(s / softcap)
    if bias is not None:
        s = s + bias
    if seen is not None:
        s = np.where(seen, s, -np.inf)
    sink = -np.inf if sinks is None else sinks[None, :, None]
    top = np.maximum(s.max(-1, initial=-1e300), sink)
    p = np.exp(s - top[..., None])
    total = p.sum(-1) + np.exp(sink - top)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.nan_to_num(p / total[..., None])
        return p @ v, np.log(total) + top, p


def bound(q, k, v, scale):
    """First-order bound of the error of out: of the logits, twice, and of the sum over the keys."""
    norm = np.sqrt((q.astype(np.float64) ** 2).sum(-1).max() * (k.astype(np.float64) ** 2).sum(-1).max())
    logit = (q.shape[3] + 8) * U * norm * abs(scale or q.shape[3] ** -0.5)
    return (2 * logit + (k.shape[2] + 32) * U) * abs(v).max()


def draw(rng, generator):
    kv_heads = rng.choice([1, 2, 3])
    b, h, d = rng.choice([1, 2]), kv_heads * rng.choice([1, 2]), rng.choice([1, 8, 33, 64])
    sq, sk, e = rng.choice([1, 5, 70]), rng.choice([1, 17, 130, 300]), rng.choice([d, 16])

    def normal(heads, tokens, channels):  # one of the layouts that need no copy
        shape = (b, tokens, heads, channels)
        x = generator.standard_normal(shape, np.float32)
        return x.transpose(0, 2, 1, 3) if rng.random() < 0.5 else np.ascontiguousarray(x.transpose(0, 2, 1, 3))
    q, k, v = normal(h, sq, d), normal(kv_heads, sk, d), normal(kv_heads, sk, e)
    options, seen = {"threads": rng.choice([1, 2, 3])}, np.ones((b, h, sq, sk), bool)
    i, j = np.arange(sq)[:, None], np.arange(sk)[None]
    if rng.random() < 0.3:
        options["q_offset"] = rng.choice([0, sk - sq, 3])
    p = i + options.get("q_offset", 0)
    if rng.random() < 0.4:
        options["causal"] = True
        seen &= j <= p
    if rng.random() < 0.3:
        options["left"] = rng.choice([0, 10])
        seen &= j >= p - options["left"]
    if rng.random() < 0.3:
        options["keep"] = generator.random((rng.choice([1, b]), rng.choice([1, h]), sq, sk)) < 0.7
        seen = seen & options["keep"]
    if rng.random() < 0.3:
        options["kv_len"] = [rng.randint(0, sk) for _ in range(b)]
        seen = seen & (j < np.array(options["kv_len"])[:, None, None, None])
    if rng.random() < 0.3:
        options["key_ranges"] = np.sort(generator.integers(0, sk + 1, (b, sq, 2)))
        seen = seen & (j >= options["key_ranges"][..., :1])[:, None] & (j < options["key_ranges"][..., 1:])[:, None]
    same = {}
    if rng.random() < 0.3:
        same["bias"] = generator.standard_normal((h, sq, sk), np.float32)
    if rng.random() < 0.3:
        same["softcap"] = 3.0
    if rng.random() < 0.3:
        same["sinks"] = generator.standard_normal(h, np.float32)
    if rng.random() < 0.3:
        same["scale"] = rng.choice([0.2, -0.1])
    return q, k, v, {**options, **same}, dict(same, seen=seen)


def test_drawn_calls_are_the_definition():
    rng, generator = random.Random(1), np.random.default_rng(1)
    for _ in range(300):
        q, k, v, options, same = draw(rng, generator)
        out, lse = qkv.attention(q, k, v, return_lse=True, **options)
        want, want_lse, _ = reference(q, k, v, **same)
        most = bound(q, k, v, same.get("scale"))
        assert abs(out - want).max() <= most, options
        rows = np.isfinite(lse)
        assert "sinks" in options or (rows == same["seen"].any(-1)).all()
        lse, want_lse = lse[rows], want_lse[rows]
        assert abs(lse - want_lse).max(initial=0) <= most / abs(v).max() + 8 * U * abs(want_lse).max(initial=1)


def test_gradients_are_those_of_the_definition():
    rng, generator = random.Random(2), np.random.default_rng(2)
    for _ in range(60):
        q, k, v, options, same = draw(rng, generator)
        for name in ("softcap", "sinks"):
            options.pop(name, None), same.pop(name, None)
        out, lse = qkv.attention(q, k, v, return_lse=True, **options)
        grad_out = generator.standard_normal(out.shape, np.float32)
        got = qkv.attention_backward(grad_out, q, k, v, out, lse, **options)
        want, _, p = reference(q, k, v, **same)
        group, scale = q.shape[1] // k.shape[1], same.get("scale", q.shape[3] ** -0.5)
        g, kk, vv = grad_out.astype(np.float64), np.repeat(k, group, 1), np.repeat(v, group, 1)
        ds = p * (g @ vv.swapaxes(2, 3) - (g * want).sum(-1, keepdims=True)) * scale

        def over_groups(x):
            return x.reshape(k.shape[0], k.shape[1], group, *x.shape[2:]).sum(2)
        for name, grad in (("q", ds @ kk), ("k", over_groups(ds.swapaxes(2, 3) @ q)),
                           ("v", over_groups(p.swapaxes(2, 3) @ g))):
            assert abs(got[name] - grad).max() <= 2e-5 * max(abs(grad).max(), 1), (name, options)


def test_threads_change_no_bit():
    generator = np.random.default_rng(3)
    q, k, v = (generator.standard_normal((2, 4, 300, 64), np.float32) for _ in range(3))
    want = qkv.attention(q, k, v, causal=True, threads=1)
    for threads in (2, 3, 7):
        assert (qkv.attention(q, k, v, causal=True, threads=threads) == want).all()

    results = [None] * 4  # several threads of Python at once

    def call(i):
        results[i] = qkv.attention(q, k, v, causal=True, threads=2)
    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((result == want).all() for result in results)


def test_other_threads_run_during_a_call():
    generator = np.random.default_rng(4)
    q = generator.standard_normal((1, 8, 1500, 64), np.float32)
    running, gaps = threading.Event(), [0.0]

    def tick():
        running.set()
        last = time.perf_counter()
        while running.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
    counter = threading.Thread(target=tick)
    counter.start()
    running.wait()
    begin = time.perf_counter()
    qkv._qkv.attention(q=q, k=q, v=q, out=np.empty_like(q), threads=1)
    taken = time.perf_counter() - begin
    running.clear()
    counter.join()
    assert max(gaps) < 0.6 * taken  # a held lock is one gap as long as the call


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_computes_with_threads():
    generator = np.random.default_rng(5)
    q = generator.standard_normal((2, 4, 200, 64), np.float32)
    want = qkv.attention(q, q, q, threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if (qkv.attention(q, q, q, threads=2) == want).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


class Lent:
    """An array that has DLPack and nothing else."""

    def __init__(self, array):
        self.array, self.shape, self.lent = array, array.shape, 0

    def __dlpack__(self, **options):
        self.lent += 1
        return self.array.__dlpack__(**options)


def test_dlpack_is_read_where_it_lies():
    generator = np.random.default_rng(6)
    q, k, v = (generator.standard_normal((1, 30, 2, 16), np.float32).transpose(0, 2, 1, 3) for _ in range(3))
    lent = [Lent(x) for x in (q, k, v)]
    assert (qkv.attention(*lent, causal=True) == qkv.attention(q, k, v, causal=True)).all()
    assert [x.lent for x in lent] == [1, 1, 1]
    assert (qkv.attention(q.astype(np.float16), k, v).dtype, qkv.attention(q, k, v).dtype) == (np.float16, np.float32)


def test_results_go_where_they_are_wanted():
    q = np.random.default_rng(7).standard_normal((1, 2, 5, 8), np.float32)
    rows = np.zeros((1, 5, 2, 8), np.float32)
    out = qkv.attention(q, q, q, out=rows.transpose(0, 2, 1, 3))
    assert np.shares_memory(out, rows) and (out == qkv.attention(q, q, q)).all()
    rows.flags.writeable = False
    with pytest.raises((ValueError, BufferError), match="read-only"):
        qkv.attention(q, q, q, out=rows.transpose(0, 2, 1, 3))


def test_errors_name_the_argument():
    q, k = np.zeros((2, 4, 5, 8), np.float32), np.zeros((2, 2, 7, 8), np.float32)
    cases = [
        (ValueError, "axis 3 of k", dict(k=k[..., :4])), (ValueError, "axis 1 of v", dict(v=k[:, :1])),
        (ValueError, "k has a size of 1 where q says 2", dict(k=k[:1], v=k[:1])),
        (TypeError, "attention: k has elements", dict(k=k.astype(np.float64))),
        (TypeError, "attention: keep is no array", dict(keep="abc")),
        (ValueError, "axis 1 of keep has length 3, but k says 7", dict(keep=np.ones((5, 3), bool))),
        (ValueError, "kv_len", dict(kv_len=[1, 2, 3])), (qkv.Error, "dropout is not in", dict(dropout=1.5)),
        (qkv.Error, "softcap", dict(softcap=-1.0)), (qkv.Error, "threads", dict(threads=0)),
        (ValueError, "right can't be given", dict(causal=True, right=3)),
        (ValueError, "q .*channels .* not contiguous", dict(q=np.zeros((2, 4, 8, 5), np.float32).swapaxes(2, 3))),
        (TypeError, "bias", dict(bias=np.zeros((5, 7)))), (qkv.Error, "num_heads", dict(q=q[:, :3])),
    ]
    for error, message, wrong in cases:
        with pytest.raises(error, match=message):
            qkv.attention(**{"q": q, "k": k, "v": k, **wrong})
    with pytest.raises(qkv.Error) as refusal:
        qkv.attention(q, k, k, dropout=1.5)
    assert refusal.value.status == 7
    with pytest.raises(ValueError, match="want names 'bias'"):
        qkv.attention_backward(q, q, k, k, q, q[..., 0], want=("bias",))


def test_dropout_drops_what_its_mask_says():
    generator = np.random.default_rng(8)
    q, k, v = (generator.standard_normal((2, 3, 40, 16), np.float32) for _ in range(3))
    keep = qkv.dropout_mask((2, 3, 40, 40), 0.25, seed=11, offset=5)
    _, _, p = reference(q, k, v)
    got = qkv.attention(q, k, v, dropout=0.25, dropout_seed=11, dropout_offset=5)
    assert abs(got - (p * keep / 0.75) @ v.astype(np.float64)).max() < 2 * bound(q, k, v, None) / 0.75
    assert 0.7 < keep.mean() < 0.8


def test_masks_become_ranges():
    assert (qkv.mask_ranges(np.tri(3, dtype=bool)[None]) == [[[0, 1], [0, 2], [0, 3]]]).all()
    assert qkv.mask_ranges(np.array([[[True, False, True]]])) is None


def test_projection():
    generator = np.random.default_rng(9)
    x = generator.standard_normal((2, 9, 40), np.float32)
    w, b = generator.standard_normal((70, 40), np.float32), generator.standard_normal(70, np.float32)
    other = generator.standard_normal((40, 8), np.float32)
    y, z = qkv.Projection(w, other.T, biases=[b])(x)
    assert np.allclose(y, x @ w.T + b, atol=1e-4) and np.allclose(z, x @ other, atol=1e-4)
    single = qkv.Projection(w, biases=[b])
    grads = single.backward(x, y)
    assert np.allclose(grads["x"], y @ w, atol=1e-2) and np.allclose(grads["biases"][0], y.sum((0, 1)), atol=1e-3)
    assert np.allclose(grads["weights"][0], np.einsum("bto,bti->oi", y, x), atol=1e-2)
    with pytest.raises(ValueError, match="x has shape"):
        single(x[..., :39])
    with pytest.raises(ValueError, match="different in_features"):
        qkv.Projection(w, other)


def layer_parts(generator, model=48, heads=4, kv_heads=2, dim=12):
    w = {name: generator.standard_normal((n * dim, model), np.float32) / 7 for name, n in
         (("q", heads), ("k", kv_heads), ("v", kv_heads))}
    w["o"] = generator.standard_normal((model, heads * dim), np.float32) / 7
    return w, dict(num_heads=heads, num_kv_heads=kv_heads,
                   biases={name: generator.standard_normal(len(w[name]), np.float32) for name in w})


def test_layer_is_its_parts_and_decodes_over_a_cache():
    generator = np.random.default_rng(10)
    w, options = layer_parts(generator)
    x = generator.standard_normal((2, 20, 48), np.float32)
    layer = qkv.Layer(w["q"], w["k"], w["v"], w["o"], rope=qkv.rope_table(64, 12), **options)
    whole = layer(x, causal=True)

    plain = qkv.Layer(w["q"], w["k"], w["v"], w["o"], **options)
    q, k, v = (qkv.Projection(w[n], biases=[options["biases"][n]])(x).reshape(2, 20, -1, 12).transpose(0, 2, 1, 3)
               for n in "qkv")
    heads = qkv.attention(q, k, v, causal=True).transpose(0, 2, 1, 3).reshape(2, 20, 48)
    assert (qkv.Projection(w["o"], biases=[options["biases"]["o"]])(heads) == plain(x, causal=True)).all()

    def turned(heads):  # RoPE, channel i with channel 6 + i
        angle = np.arange(20)[:, None] * 1e4 ** (-np.arange(6) / 6)
        a, b = heads[..., :6], heads[..., 6:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)
    heads, _, _ = reference(turned(q), turned(k), v, seen=np.tri(20, dtype=bool))
    want = heads.transpose(0, 2, 1, 3).reshape(2, 20, 48) @ w["o"].T + options["biases"]["o"]
    assert abs(whole - want).max() < 1e-5 * abs(want).max()

    cache = qkv.Cache(3, 40, 2, 12)
    steps = [layer(x[:, i:i + n], cache=cache, first_sequence=1, causal=True) for i, n in ((0, 13), (13, 1), (14, 6))]
    assert (np.concatenate(steps, 1) == whole).all()
    assert list(cache.lengths()) == [0, 20, 20]
    with pytest.raises(qkv.Error, match="cache"):
        layer(np.zeros((2, 30, 48), np.float32), cache=cache, first_sequence=1, causal=True)
    cache.truncate(1, 3)
    with pytest.raises(qkv.Error, match="cache"):  # the first of the two has room
        layer(np.zeros((2, 30, 48), np.float32), cache=cache, first_sequence=1, causal=True)
    assert list(cache.lengths()) == [0, 3, 20]


def test_layer_gradients():
    generator = np.random.default_rng(11)
    w, options = layer_parts(generator)
    x = generator.standard_normal((1, 10, 48), np.float32)
    direction = generator.standard_normal(x.shape, np.float32)

    def layer(w):
        return qkv.Layer(w["q"], w["k"], w["v"], w["o"], rope=qkv.rope_table(64, 12), **options)
    grad_out = generator.standard_normal(x.shape, np.float32)
    grads = layer(w).backward(grad_out, x, causal=True)

    def along(step):  # the derivative by central differences
        return ((layer(w)(x + step * direction, causal=True).astype(np.float64) * grad_out).sum())
    assert abs((along(2 ** -7) - along(-2 ** -7)) * 2 ** 6 - (grads["x"] * direction).sum()) < 2e-2
    for name in "qkvo":
        change = generator.standard_normal(w[name].shape, np.float32)
        ends = [(layer({**w, name: w[name] + step * change})(x, causal=True).astype(np.float64) * grad_out).sum()
                for step in (2 ** -8, -2 ** -8)]
        slope = (grads[name].astype(np.float64) * change).sum()
        assert abs((ends[0] - ends[1]) * 2 ** 7 - slope) < 2e-3 * max(abs(slope), 10), name


def test_cache():
    generator = np.random.default_rng(12)
    cache = qkv.Cache(2, 200, 2, 16, k_type="float16", v_type="int8")
    k, v = (generator.standard_normal((2, 150, 16), np.float32) for _ in range(2))
    cache.append(0, k[:, :100], v[:, :100])
    cache.append(0, k[:, 100:], v[:, 100:])
    cache.fork(0, 1)
    cache.truncate(1, 70)
    q = generator.standard_normal((2, 4, 3, 16), np.float32)
    out = qkv.attention(q, cache=cache, causal=True, from_end=True)
    rounded = k.astype(np.float16)[None]
    for sequence, length in ((0, 150), (1, 70)):
        want, _, _ = reference(q[sequence:sequence + 1], rounded[:, :, :length], v[None, :, :length],
                               seen=np.tri(3, length, length - 3, dtype=bool))
        assert abs(out[sequence] - want).max() < abs(v).max() / 127 + 1e-5
    again = qkv.Cache.from_memory(np.frombuffer(cache.memory.tobytes(), np.uint8))
    assert (qkv.attention(q, cache=again, causal=True, from_end=True) == out).all()
    assert list(again.lengths()) == [150, 70] and again.k_type == "float16" and again.free_pages() == cache.free_pages()
    with pytest.raises(qkv.Error) as full:
        cache.append(0, k[:, :60], v[:, :60])
    assert full.value.status == 19
    damaged = cache.memory.copy()
    damaged[192:200] = 255  # behind the header: the length of sequence 0
    with pytest.raises(qkv.Error, match="cache"):
        qkv.Cache.from_memory(damaged)
    with pytest.raises(ValueError, match="kv_heads"):
        cache.append(0, k[:1], v)


def test_rope_and_alibi_tables():
    cos, sin = qkv.rope_table(100, 32, base=5e5)
    angle = np.arange(100)[:, None] * 5e5 ** (-np.arange(0, 32, 2) / 32)
    assert abs(cos - np.cos(angle)).max() < 1e-7 and abs(sin - np.sin(angle)).max() < 1e-7
    assert np.allclose(qkv.alibi_slopes(8), 2.0 ** -np.arange(1, 9), rtol=1e-6)
    with pytest.raises(ValueError, match="scaling"):
        qkv.rope_table(4, 8, scaling="none")


def test_what_is_installed():
    info = qkv.info()
    assert info["version"] == qkv.__version__ and info["kernel_sets"][info["isa"]] == "selected"
    if os.environ.get("QKV_ISA"):
        assert info["isa"] == os.environ["QKV_ISA"]
    folder = pathlib.Path(qkv.__file__).parent
    assert (folder / "py.typed").exists()
    assert [path.name for path in folder.glob("_qkv*")] == ["_qkv.abi3.so"]
    library = ctypes.CDLL(str(folder / "_qkv.abi3.so"))
    assert not hasattr(library, "qkv_init")  # stays private to the module
