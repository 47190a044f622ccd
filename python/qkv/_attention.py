"""Attention and its gradients.  SPDX-License-Identifier: MIT"""
from __future__ import annotations

from typing import Any

import numpy as np

from . import _qkv
from ._arrays import Array, ArrayLike, integers, is_half, num_threads, scale_fields, window_flags
from ._cache import Cache


def _options(causal: bool, left: int | None, right: int | None, from_end: bool, scale: float | None,
             **options: Any) -> dict[str, Any]:
    """The fields of the C descriptor that both directions share."""
    right, flags = window_flags(causal, left, right, from_end)
    scale, scale_flag = scale_fields(scale)
    for name in ("kv_len", "q_offsets", "q_start", "k_start", "key_ranges"):
        options[name] = integers(options[name])
    options["threads"] = num_threads(options["threads"])
    return dict(options, right=right, left=left, scale=scale, flags=flags | scale_flag)


def attention(q: ArrayLike, k: ArrayLike = None, v: ArrayLike = None, *, out: Array | None = None,
              return_lse: bool = False, causal: bool = False, left: int | None = None, right: int | None = None,
              q_offset: int = 0, from_end: bool = False, scale: float | None = None, softcap: float = 0.0,
              bias: ArrayLike = None, keep: ArrayLike = None, key_ranges: ArrayLike = None, kv_len: ArrayLike = None,
              q_offsets: ArrayLike = None, q_start: ArrayLike = None, k_start: ArrayLike = None,
              alibi_slopes: ArrayLike = None, sinks: ArrayLike = None, first_tokens: int = 0,
              k_scales: ArrayLike = None, v_scales: ArrayLike = None, dropout: float = 0.0, dropout_seed: int = 0,
              dropout_offset: int = 0, cache: Cache | None = None, first_sequence: int = 0,
              threads: int | None = None) -> Any:
    """softmax(scale · q · kᵀ + …) · v for every head.

    q: (B, H, Q, D), k: (B, G, K, D), v: (B, G, K, E) in float32, float16 or bfloat16; k and v in int8 with ``k_scales``
    and ``v_scales`` (B, G, K). Returns out (B, H, Q, E), of q's type where that is float16, else float32; written into
    ``out`` if that is given. With ``return_lse`` also the natural logarithm of each sum, (B, H, Q).

    Which keys a query sees, all conditions together (query i is at position p = i + q_offset, or with ``from_end`` the
    last query at the last key):
      causal        keys up to p. ``left`` and ``right``: keys from p − left, up to p + right, both included
      first_tokens  so many keys that ``left`` does not hide
      keep          (B, H, Q, K), bool; axes of length 1 or missing in front are repeated. False hides the key
      key_ranges    (B, Q, 2), int64: keys [first, end)
      kv_len        (B,): keys in use
      bias          (B, H, Q, K), float32: added to the logits, after ``softcap``; −inf hides. Repeated as keep
    Others: alibi_slopes (H,), sinks (H,), q_offsets (B,) in place of q_offset, dropout with its seed and offset.

    Sequences of different lengths without padding: q_start (B + 1,) with q (1, H, tokens, D), k_start likewise.
    With a ``cache`` in place of k and v: the sequences first_sequence … of it, q's tokens being their last ones if
    ``from_end``.

    docs/semantics.md defines it all. Raises qkv.Error, ValueError or TypeError, which name the argument at fault.
    """
    fields = _options(causal, left, right, from_end, scale, q_offset=q_offset, softcap=softcap, bias=bias, keep=keep,
                      key_ranges=key_ranges, kv_len=kv_len, q_offsets=q_offsets, q_start=q_start, k_start=k_start,
                      alibi_slopes=alibi_slopes, sinks=sinks, first_tokens=first_tokens, k_scales=k_scales,
                      v_scales=v_scales, dropout=dropout, dropout_seed=dropout_seed, dropout_offset=dropout_offset,
                      threads=threads)
    if len(q.shape) != 4:
        raise ValueError(f"attention: q has {len(q.shape)} axes in place of 4")
    if cache is not None:
        if k is not None or v is not None:
            raise ValueError("attention: k and v can't be given beside a cache")
        fields.update(cache=cache.memory, first_sequence=first_sequence)
    elif k is None or v is None:
        raise ValueError("attention: k and v are missing")
    if out is None:
        channels = cache.head_dim_v if cache is not None else v.shape[-1]
        out = np.empty((*q.shape[:3], channels), np.float16 if is_half(q) else np.float32)
    lse = np.empty(tuple(q.shape[:3]), np.float32) if return_lse else None
    _qkv.attention(q=q, k=k, v=v, out=out, lse=lse, **fields)
    return (out, lse) if return_lse else out


def attention_backward(grad_out: ArrayLike, q: ArrayLike, k: ArrayLike, v: ArrayLike, out: ArrayLike,
                       lse: ArrayLike, *, grad_lse: ArrayLike = None, want: tuple[str, ...] = ("q", "k", "v"),
                       causal: bool = False,
                       left: int | None = None, right: int | None = None, q_offset: int = 0, from_end: bool = False,
                       scale: float | None = None, softcap: float = 0.0, bias: ArrayLike = None,
                       keep: ArrayLike = None, key_ranges: ArrayLike = None, kv_len: ArrayLike = None,
                       q_offsets: ArrayLike = None, alibi_slopes: ArrayLike = None, sinks: ArrayLike = None,
                       dropout: float = 0.0, dropout_seed: int = 0, dropout_offset: int = 0,
                       threads: int | None = None) -> dict[str, Array]:
    """The gradients of a number, given that in ``out``: grad_out (B, H, Q, E), of out's type, and in lse: grad_lse
    (B, H, Q).

    All else is what ``attention`` was given, and out and lse what it returned. ``want`` names the gradients to compute,
    of q (B, H, Q, D), k (B, G, K, D), v (B, G, K, E), bias (its shape) and sinks (H,); a dict of float32 arrays.
    """
    fields = _options(causal, left, right, from_end, scale, q_offset=q_offset, softcap=softcap, bias=bias, keep=keep,
                      key_ranges=key_ranges, kv_len=kv_len, q_offsets=q_offsets, q_start=None, k_start=None,
                      alibi_slopes=alibi_slopes, sinks=sinks, dropout=dropout, dropout_seed=dropout_seed,
                      dropout_offset=dropout_offset, threads=threads)
    of = {"q": q, "k": k, "v": v, "bias": bias, "sinks": sinks}
    for name in want:
        if of.get(name) is None:
            raise ValueError(f"attention_backward: want names {name!r}, which is none of the arguments given")
    grads = {name: np.empty(tuple(of[name].shape), np.float32) for name in want}
    _qkv.attention_backward(q=q, k=k, v=v, out=out, lse=lse, grad_out=grad_out, grad_lse=grad_lse,
                            **{"grad_" + name: grad for name, grad in grads.items()}, **fields)
    return grads


def dropout_mask(shape: tuple[int, int, int, int], rate: float, seed: int = 0, offset: int = 0,
                 q_offset: int = 0) -> Array:
    """Which pairs ``attention`` with the same dropout keeps: bool, of shape (B, H, Q, K)."""
    keep = np.empty(shape, np.uint8)
    _qkv.dropout_mask(keep, rate, seed, offset, q_offset)
    return keep.view(np.bool_)


def mask_ranges(mask: ArrayLike) -> Array | None:
    """The ``key_ranges`` (B, Q, 2) of a mask (B, Q, K), bool (True keeps) or of 0 and −inf; None if a row is none."""
    ranges = np.empty((*mask.shape[:2], 2), np.int64)
    return ranges if _qkv.mask_ranges(mask, ranges) else None


def alibi_slopes(num_heads: int) -> Array:
    """ALiBi's slopes, (num_heads,)."""
    slopes = np.empty(num_heads, np.float32)
    _qkv.alibi_slopes(slopes)
    return slopes
