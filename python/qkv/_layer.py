"""Projections and layers.  SPDX-License-Identifier: MIT"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _qkv
from ._arrays import Array, ArrayLike, aligned_bytes, integers, num_threads, scale_fields, window_flags
from ._cache import Cache

_SCALINGS = {"default": 0, "linear": 1, "ntk": 2, "yarn": 3, "llama3": 4}


def _pack(*weights: ArrayLike) -> Array:
    packed = aligned_bytes(_qkv.pack(None, weights))
    _qkv.pack(packed, weights)
    return packed


def rope_table(num_positions: int, rotary_dim: int, *, base: float = 0.0, scaling: str = "default",
               **fields: Any) -> tuple[Array, Array]:
    """Cosines and sines of rotary embeddings, (num_positions, rotary_dim / 2) each.

    scaling: "default", "linear", "ntk", "yarn" or "llama3"; its numbers are fields of qkv_rope_table_desc: factor,
    original_positions, beta_fast, beta_slow, low_freq_factor, high_freq_factor, attention_factor, first_position, …
    """
    if scaling not in _SCALINGS:
        raise ValueError(f"rope_table: scaling is one of {', '.join(_SCALINGS)}, not {scaling!r}")
    if rotary_dim % 2:
        raise ValueError(f"rope_table: rotary_dim is odd ({rotary_dim})")
    cos, sin = (np.empty((num_positions, rotary_dim // 2), np.float32) for _ in range(2))
    _qkv.rope_table(cos=cos, sin=sin, base=base, scaling=_SCALINGS[scaling], **fields)
    return cos, sin


class Projection:
    """Up to four matrices that multiply the same x: ``x @ w.T + bias`` for each.

    weights: (out_features, in_features), as torch.nn.Linear holds them, float32; ``w.T`` of a matrix (in, out) is as
    good, and packed without a copy in between. biases: (out_features,) or None for each.
    """

    def __init__(self, *weights: ArrayLike, biases: Sequence[ArrayLike | None] = ()) -> None:
        self._biases = dict(enumerate(biases))
        if len(self._biases) > len(weights):
            raise ValueError(f"projection: {len(self._biases)} biases for {len(weights)} weights")
        self._shapes = [tuple(w.shape) for w in weights]
        self._packed = _pack(*weights)

    def _options(self, threads: int | None) -> dict[str, Any]:
        return {"packed": self._packed, "threads": num_threads(threads)}

    def __call__(self, x: ArrayLike, *, threads: int | None = None) -> Any:
        """x: (B, tokens, in_features). Returns (B, tokens, out_features), or a tuple of them for several weights."""
        out = tuple(np.empty((*x.shape[:2], shape[0]), np.float32) for shape in self._shapes)
        self._check(x)
        _qkv.projection(x=x, **{f"out{i}": y for i, y in enumerate(out)},
                        **{f"bias{i}": bias for i, bias in self._biases.items()}, **self._options(threads))
        return out if len(out) > 1 else out[0]

    def backward(self, x: ArrayLike, *grad_out: ArrayLike, threads: int | None = None) -> dict[str, Any]:
        """Given the gradients in the outputs, those in x, the weights (out, in) and the biases, as lists but for x."""
        self._check(x)
        grad_x = np.empty(tuple(x.shape), np.float32)
        weights = [np.empty(shape, np.float32) for shape in self._shapes]
        biases = [np.empty(shape[0], np.float32) for shape in self._shapes]
        _qkv.projection_backward(x=x, grad_x=grad_x, **{f"grad_out{i}": g for i, g in enumerate(grad_out)},
                                 **{f"grad{i}": g for i, g in enumerate(weights)},
                                 **{f"grad_bias{i}": g for i, g in enumerate(biases)}, **self._options(threads))
        return {"x": grad_x, "weights": weights, "biases": biases}

    def _check(self, x: ArrayLike) -> None:
        if len(x.shape) != 3 or x.shape[2] != self._shapes[0][1]:
            raise ValueError(f"projection: x has shape {tuple(x.shape)} in place of (B, tokens, {self._shapes[0][1]})")


class Layer:
    """One attention layer: x → Q, K, V (→ QK-norm → RoPE) → attention → w_o.

    w_q: (H·D, model), w_k: (G·D, kv), w_v: (G·E, kv), w_o: (out, H·E), float32, as torch.nn.Linear holds them; without
    w_o the heads stay side by side. biases: of "q", "k", "v", "o". norm_q, norm_k: (D,). rope: what ``rope_table`` returns.
    """

    def __init__(self, w_q: ArrayLike, w_k: ArrayLike, w_v: ArrayLike, w_o: ArrayLike = None, *, num_heads: int,
                 num_kv_heads: int | None = None, biases: dict[str, ArrayLike] | None = None,
                 norm_q: ArrayLike = None, norm_k: ArrayLike = None, norm_epsilon: float = 0.0,
                 rope: tuple[ArrayLike, ArrayLike] | None = None, rope_interleaved: bool = False) -> None:
        kv_heads = num_kv_heads or num_heads
        self._shapes = {"q": tuple(w_q.shape), "k": tuple(w_k.shape), "v": tuple(w_v.shape)}
        for name, heads in (("q", num_heads), ("k", kv_heads), ("v", kv_heads)):
            if self._shapes[name][0] % heads:
                raise ValueError(f"layer: w_{name} has {self._shapes[name][0]} rows, no multiple of {heads} heads")
        if self._shapes["k"][1] != self._shapes["v"][1]:
            raise ValueError("layer: w_k and w_v have different in_features")
        head_dim, head_dim_v = self._shapes["q"][0] // num_heads, self._shapes["v"][0] // kv_heads
        if self._shapes["k"][0] != kv_heads * head_dim:
            raise ValueError(f"layer: w_k has {self._shapes['k'][0]} rows, but w_q says {kv_heads * head_dim}")
        self._fields: dict[str, Any] = {
            "num_heads": num_heads, "num_kv_heads": kv_heads, "head_dim": head_dim, "head_dim_v": head_dim_v,
            "norm_q": norm_q, "norm_k": norm_k, "norm_epsilon": norm_epsilon}
        if self._shapes["q"][1] == self._shapes["k"][1]:
            self._fields["w_qkv"] = _pack(w_q, w_k, w_v)
        else:
            self._fields.update(w_qkv=_pack(w_q), w_kv=_pack(w_k, w_v))
        self._out_features = num_heads * head_dim_v
        if w_o is not None:
            if w_o.shape[1] != self._out_features:
                raise ValueError(f"layer: w_o has {w_o.shape[1]} columns, but the heads have {self._out_features}")
            self._shapes["o"] = tuple(w_o.shape)
            self._fields["w_o"] = _pack(w_o)
            self._out_features = w_o.shape[0]
        for name, bias in (biases or {}).items():
            if name not in self._shapes:
                raise ValueError(f"layer: there is no w_{name} for the bias {name!r}")
            self._fields["bias_" + name] = bias
        if rope is not None:
            self._fields.update(rope_cos=rope[0], rope_sin=rope[1], rope_layout=int(rope_interleaved))

    def _options(self, causal: bool, left: int | None, right: int | None, from_end: bool, scale: float | None,
                 options: dict[str, Any]) -> dict[str, Any]:
        right, flags = window_flags(causal, left, right, from_end)
        scale, scale_flag = scale_fields(scale)
        for name in ("kv_len", "q_offsets", "key_ranges", "positions_q", "positions_k"):
            options[name] = integers(options.get(name))
        return dict(options, right=right, left=left, flags=flags | scale_flag, scale=scale, **self._fields)

    def _check(self, x: ArrayLike, x_kv: ArrayLike) -> None:
        for name, array, width in (("x", x, self._shapes["q"][1]), ("x_kv", x_kv, self._shapes["k"][1])):
            if array is not None and (len(array.shape) != 3 or array.shape[2] != width):
                raise ValueError(f"layer: {name} has shape {tuple(array.shape)} in place of (B, tokens, {width})")
        if x_kv is None and self._shapes["q"][1] != self._shapes["k"][1]:
            raise ValueError("layer: x_kv is missing, w_k having another width than w_q")

    def __call__(self, x: ArrayLike, x_kv: ArrayLike = None, *, causal: bool = False, left: int | None = None,
                 right: int | None = None, from_end: bool = False, scale: float | None = None,
                 cache: Cache | None = None, first_sequence: int = 0, threads: int | None = None,
                 **options: Any) -> Array:
        """x: (B, Q, model). Returns (B, Q, out).

        x_kv: (B, K, kv), for cross-attention. With a cache x's tokens are stored at the ends of the sequences
        first_sequence … of it and see all that these have; room is made here. Options are those of ``attention``, and
        positions_q (B, Q) and positions_k (B, K) for RoPE.
        """
        self._check(x, x_kv)
        fields = self._options(causal, left, right, from_end, scale, options)
        out = np.empty((*x.shape[:2], self._out_features), np.float32)
        made: list[tuple[int, int]] = []
        try:
            if cache is not None:
                fields.update(cache=cache.memory, first_sequence=first_sequence)
                for sequence in range(first_sequence, first_sequence + x.shape[0]):
                    made.append((sequence, cache.length(sequence)))
                    cache.extend(sequence, x.shape[1])
            _qkv.layer(x=x, x_kv=x_kv, out=out, threads=num_threads(threads), **fields)
        except BaseException:
            for sequence, length in made:
                cache.truncate(sequence, length)
            raise
        return out

    def backward(self, grad_out: ArrayLike, x: ArrayLike, x_kv: ArrayLike = None, *, causal: bool = False,
                 left: int | None = None, right: int | None = None, from_end: bool = False,
                 scale: float | None = None, threads: int | None = None, **options: Any) -> dict[str, Array]:
        """Given that in its output (B, Q, out), the gradients of x, x_kv, the weights "q", "k", "v", "o" (out, in),
        those of the biases "bias_q" … that it has, of "norm_q" and "norm_k". The forward is computed anew."""
        self._check(x, x_kv)
        fields = self._options(causal, left, right, from_end, scale, options)
        grads = {"x": np.empty(tuple(x.shape), np.float32)}
        if x_kv is not None:
            grads["x_kv"] = np.empty(tuple(x_kv.shape), np.float32)
        for name, shape in self._shapes.items():
            grads[name] = np.empty(shape, np.float32)
            if fields.get("bias_" + name) is not None:
                grads["bias_" + name] = np.empty(shape[0], np.float32)
        for name in ("norm_q", "norm_k"):
            if fields[name] is not None:
                grads[name] = np.empty(fields["head_dim"], np.float32)
        _qkv.layer_backward(x=x, x_kv=x_kv, grad_out=grad_out, threads=num_threads(threads),
                            **{"grad_" + name: grad for name, grad in grads.items()}, **fields)
        return grads
