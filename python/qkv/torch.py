"""PyTorch's scaled_dot_product_attention on CPUs, forward and backward, by qkv.

    import qkv.torch
    qkv.torch.scaled_dot_product_attention(q, k, v, is_causal=True)     # as torch.nn.functional's
    with qkv.torch.enable():                                            # or in its place, for whatever calls that,
        model(x)                                                        # where that is faster

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _is_any_autocast_enabled, _len_torch_dispatch_stack
from torch.autograd import forward_ad
from torch.overrides import has_torch_function, has_torch_function_variadic

from . import _qkv
from ._arrays import BF16, F16, F32, RIGHT, SCALE

__all__ = ["attention", "enable", "scaled_dot_product_attention"]

_pytorch = F.scaled_dot_product_attention
_HALVES_AND_FLOAT = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}
_TYPES = {**_HALVES_AND_FLOAT, torch.bool: 8, torch.uint8: 8, torch.int64: 10}


def _share_threads() -> None:
    """PyTorch's threads wait in a loop for its next operation: a second crew beside them would find no processor."""
    try:
        library = ctypes.CDLL(os.path.join(torch.__path__[0], "lib", "libtorch_cpu.so"))
        address = ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):  # another system, or a PyTorch with threads of its own
        return
    _qkv.host_openmp(address or 0)


_share_threads()
_qkv.host_tensors(Tensor)  # False for an older PyTorch: all calls go the longer way then


# ------------------------------------------------------------------------------------------- calls of the C API

def _memory(t: Optional[Tensor]) -> Optional[tuple]:
    return None if t is None else (t.data_ptr(), _TYPES[t.dtype], t.shape, t.stride())


def _once(t: Tensor) -> Tensor:
    """A mask without the axes along which it only repeats itself."""
    for axis, stride in enumerate(t.stride()):
        if stride == 0 and t.shape[axis] > 1:
            t = t.narrow(axis, 0, 1)
    return t


def _ranges(mask: Tensor) -> Optional[Tensor]:
    """The keys that each row of a mask (B, Q, K) keeps, (B, Q, 2), if they are a range. Its key axis may not repeat."""
    if mask.stride(2) != 1:
        mask = mask.contiguous()
    ranges = torch.empty((mask.shape[0], mask.shape[1], 2), dtype=torch.int64)
    return ranges if _qkv.mask_ranges(_memory(mask), _memory(ranges)) else None


def _mask_fields(mask: Tensor, keys: int) -> dict:
    """A mask as the C API takes it: a range of keys for each query where it is one, which costs nothing for a pair and
    skips what is outside; else bytes or a bias."""
    wants_grad = mask.requires_grad
    mask = _once(mask.detach().resolve_neg()[(None,) * (4 - mask.dim())])
    is_bool = mask.dtype == torch.bool
    may_hide = is_bool or (mask.dtype in _HALVES_AND_FLOAT and not wants_grad)
    if may_hide and mask.shape[1] == 1 and mask.shape[3] == keys:
        ranges = _ranges(mask[:, 0])
        if ranges is not None:
            return {"key_ranges": ranges}
    return {"keep": mask} if is_bool else {"bias": mask.float()}


def _fields(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], ranges: Optional[Tensor], sinks: Optional[Tensor],
            seed: Optional[Tensor], dropout: float, causal: bool, scale: Optional[float], softcap: float) -> dict:
    tensors = {} if mask is None else _mask_fields(mask, k.shape[2])
    if ranges is not None:
        if "key_ranges" in tensors:  # both: what is in either range alone is seen by none
            low = torch.maximum(ranges[..., 0], tensors["key_ranges"][..., 0])
            high = torch.minimum(ranges[..., 1], tensors["key_ranges"][..., 1])
            ranges = torch.stack((low, high), -1)
        tensors["key_ranges"] = ranges
    if sinks is not None:
        tensors["sinks"] = sinks.detach().resolve_neg().float().contiguous()
    fields = {name: _memory(t) for name, t in tensors.items()}
    fields["tensors"] = tensors  # which have to outlive the call
    if scale is not None:
        fields["scale"] = scale
    if causal or scale is not None:
        fields["flags"] = (RIGHT if causal else 0) | (SCALE if scale is not None else 0)
    if softcap:
        fields["softcap"] = softcap
    if dropout:
        fields.update(dropout=dropout, dropout_seed=int(seed))
    return fields


def _rows(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _signed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In place of views that PyTorch means to be negated: their memory is not."""
    return tuple(t.resolve_neg() for t in tensors)


def _new_out(q: Tensor, v: Tensor) -> Tensor:
    """In memory as (B, Q, H, E), the order in which what comes next wants it."""
    b, h, n, _ = q.shape
    e = v.shape[3]
    return torch.empty_strided((b, h, n, e), (n * h * e, e, h * e, 1), dtype=q.dtype)


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], ranges: Optional[Tensor],
             sinks: Optional[Tensor], seed: Optional[Tensor], dropout: float, causal: bool, scale: Optional[float],
             softcap: float, with_lse: bool) -> tuple[Tensor, Optional[Tensor]]:
    q, k, v = _signed(q, k, v)
    if mask is None and ranges is None and sinks is None and not dropout and not softcap:
        results = _qkv.plain_attention(q, k, v, causal, scale, True, torch.get_num_threads(), torch.empty_strided,
                                       torch.float32 if with_lse else None)
        if results is not None:
            return results if with_lse else (results, None)
    q, k, v = _rows(q), _rows(k), _rows(v)
    out = _new_out(q, v)
    lse = torch.empty(q.shape[:3], dtype=torch.float32) if with_lse else None
    fields = _fields(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap)
    tensors = fields.pop("tensors")
    _qkv.attention(q=_memory(q), k=_memory(k), v=_memory(v), out=_memory(out), lse=_memory(lse),
                   threads=torch.get_num_threads(), on_host_threads=1, **fields)
    del tensors
    return out, lse


def _backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Optional[Tensor],
              ranges: Optional[Tensor], sinks: Optional[Tensor], seed: Optional[Tensor], dropout: float, causal: bool,
              scale: Optional[float], softcap: float, want_mask: bool, want_sinks: bool) -> Sequence[Tensor]:
    grad_out, q, k, v = _signed(grad_out, q, k, v)
    if mask is None and ranges is None and sinks is None and not dropout and not softcap:
        grads = _qkv.plain_attention_backward(q, k, v, causal, scale, True, torch.get_num_threads(), torch.empty_like,
                                              out, lse, grad_out)
        if grads is not None:
            return grads
    q, k, v, grad_out = _rows(q), _rows(k), _rows(v), _rows(grad_out)
    fields = _fields(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap)
    tensors = fields.pop("tensors")
    grads = {"grad_" + name: torch.empty_like(t, dtype=torch.float32) if _is_dense(t) else
             torch.empty(t.shape, dtype=torch.float32) for name, t in (("q", q), ("k", k), ("v", v))}
    if want_mask:
        grads["grad_bias"] = torch.empty(mask.shape, dtype=torch.float32)
    if want_sinks:
        grads["grad_sinks"] = torch.empty(sinks.shape, dtype=torch.float32)
    _qkv.attention_backward(q=_memory(q), k=_memory(k), v=_memory(v), out=_memory(out), lse=_memory(lse),
                            grad_out=_memory(grad_out), threads=torch.get_num_threads(), on_host_threads=1,
                            **{name: _memory(t) for name, t in grads.items()}, **fields)
    del tensors
    of = {"grad_q": q, "grad_k": k, "grad_v": v, "grad_bias": mask, "grad_sinks": sinks}
    return [grad.to(of[name].dtype) for name, grad in grads.items()]


def _is_dense(t: Tensor) -> bool:
    return 0 not in t.stride()


# ------------------------------------------------------------------------------------- autograd and torch.compile

class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap):
        out, lse = _forward(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap, True)
        ctx.save_for_backward(q, k, v, mask, ranges, sinks, seed, out, lse)
        ctx.options = dropout, causal, scale, softcap
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        q, k, v, mask, ranges, sinks, seed, out, lse = ctx.saved_tensors
        return _ordered(_backward(grad_out, q, k, v, out, lse, mask, ranges, sinks, seed, *ctx.options,
                                  ctx.needs_input_grad[3], ctx.needs_input_grad[5]), ctx.needs_input_grad)


class _Plain(torch.autograd.Function):
    """That without what most calls don't give: every argument takes time."""

    @staticmethod
    def forward(ctx, q, k, v, causal, scale):
        out, lse = _forward(q, k, v, None, None, None, None, 0.0, causal, scale, 0.0, True)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.options = causal, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        q, k, v, out, lse = ctx.saved_tensors
        grads = _backward(grad_out, q, k, v, out, lse, None, None, None, None, 0.0, *ctx.options, 0.0, False, False)
        return (*grads, None, None)


def _ordered(grads: Sequence[Tensor], needs: tuple) -> tuple:
    """Gradients of q, k, v, mask and sinks where the inputs are."""
    rest = list(grads[3:])
    mask = rest.pop(0) if needs[3] else None
    sinks = rest.pop(0) if needs[5] else None
    return (*grads[:3], mask, None, sinks, None, None, None, None, None)


@torch.library.custom_op("qkv::attention", mutates_args=())
def _attention_op(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], ranges: Optional[Tensor],
                  sinks: Optional[Tensor], seed: Optional[Tensor], dropout: float, causal: bool,
                  scale: Optional[float], softcap: float) -> tuple[Tensor, Tensor]:
    return _forward(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap, True)


@_attention_op.register_fake
def _(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap):
    return _new_out(q, v), torch.empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("qkv::attention_backward", mutates_args=())
def _attention_backward_op(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
                           mask: Optional[Tensor], ranges: Optional[Tensor], sinks: Optional[Tensor],
                           seed: Optional[Tensor], dropout: float, causal: bool, scale: Optional[float],
                           softcap: float, want_mask: bool, want_sinks: bool) -> list[Tensor]:
    grads = _backward(grad_out, q, k, v, out, lse, mask, ranges, sinks, seed, dropout, causal, scale, softcap,
                      want_mask, want_sinks)
    return [grad.contiguous() for grad in grads]


@_attention_backward_op.register_fake
def _(grad_out, q, k, v, out, lse, mask, ranges, sinks, seed, dropout, causal, scale, softcap, want_mask, want_sinks):
    of = [q, k, v] + ([mask] if want_mask else []) + ([sinks] if want_sinks else [])
    return [torch.empty(t.shape, dtype=t.dtype) for t in of]


def _op_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:7], *output)
    ctx.options = inputs[7:]


def _op_backward(ctx, grad_out, grad_lse):
    q, k, v, mask, ranges, sinks, seed, out, lse = ctx.saved_tensors
    return _ordered(_attention_backward_op(grad_out, q, k, v, out, lse, mask, ranges, sinks, seed, *ctx.options,
                                           ctx.needs_input_grad[3], ctx.needs_input_grad[5]), ctx.needs_input_grad)


torch.library.register_autograd("qkv::attention", _op_backward, setup_context=_op_context)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None, *, ranges: Optional[Tensor] = None,
              sinks: Optional[Tensor] = None, dropout: float = 0.0, causal: bool = False,
              scale: Optional[float] = None, softcap: float = 0.0) -> Tensor:
    """Attention over q (B, H, Q, D), k (B, G, K, D), v (B, G, K, E): CPU tensors, all float32, float16 or bfloat16.

    mask: (B, H, Q, K), bool (True keeps) or floating (added, with a gradient); axes of length 1, or missing in front,
    repeat. ranges: (B, Q, 2), int64, keys [first, end) of each query. sinks: (H,), with a gradient. causal: from the top left.
    dropout: the rate; the seed comes from PyTorch's generator, the pairs that are dropped are others than PyTorch's.
    """
    seed = torch.randint(2 ** 62, ()) if dropout else None
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack():  # modes are to see an operator
        return _attention_op(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap)[0]
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad or
                                    (mask is not None and mask.requires_grad) or
                                    (sinks is not None and sinks.requires_grad)):
        return _Attention.apply(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap)
    return _forward(q, k, v, mask, ranges, sinks, seed, dropout, causal, scale, softcap, False)[0]


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: Optional[float], gqa: bool) -> Optional[Tensor]:
    """``attention`` with little before it, which counts where there are few tokens: if it needs no more than that and
    takes the tensors; else None."""
    if (torch.compiler.is_compiling() or has_torch_function_variadic(q, k, v) or _are_functorch_transforms_active() or
            forward_ad._current_level >= 0 or _len_torch_dispatch_stack()):
        return None
    threads = torch.get_num_threads()
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Plain.apply(q, k, v, causal, scale) if _qkv.is_plain(q, k, v, causal, scale, gqa, threads) else None
    return _qkv.plain_attention(*_signed(q, k, v), causal, scale, gqa, threads, torch.empty_strided, None)


# -------------------------------------------------------------------------------------- PyTorch's own signature

def takes(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None, gqa: bool = True) -> bool:
    """Whether ``attention`` has what such a call needs: what it has not is PyTorch's to compute, or to refuse."""
    if not (q.is_cpu and k.is_cpu and v.is_cpu and q.dim() == k.dim() == v.dim() == 4):
        return False
    if q.is_nested or k.is_nested or v.is_nested:  # whose shape can't be asked for
        return False
    dtype = q.dtype
    if dtype not in _HALVES_AND_FLOAT or k.dtype != dtype or v.dtype != dtype:
        return False
    batch, heads, _, channels = q.shape
    k_batch, kv_heads, keys, k_channels = k.shape
    if k_batch != batch or k_channels != channels or v.shape[:3] != (batch, kv_heads, keys):
        return False
    if heads != kv_heads and not (gqa and kv_heads > 0 and heads % kv_heads == 0):
        return False
    return (mask is None or _fits(q, k, mask)) and (torch.compiler.is_compiling() or _is_plain(q, k, v))


def _fits(q: Tensor, k: Tensor, mask: Tensor) -> bool:
    sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])[4 - mask.dim():] if 1 <= mask.dim() <= 4 else ()
    return (mask.is_cpu and (mask.dtype == torch.bool or mask.dtype == q.dtype or
                                           mask.dtype == torch.float32) and
            len(sizes) == mask.dim() and all(n in (1, size) for n, size in zip(mask.shape, sizes)))


def _is_plain(*tensors: Tensor) -> bool:
    """No subclass, no transform of torch.func, no forward-mode derivative: what only PyTorch's dispatcher knows of."""
    return (not has_torch_function(tensors) and forward_ad._current_level < 0 and
            not _are_functorch_transforms_active() and all(t.layout is torch.strided for t in tensors))


@functools.wraps(_pytorch, assigned=("__name__",), updated=())
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Optional[Tensor] = None,
                                 dropout_p: float = 0.0, is_causal: bool = False, scale: Optional[float] = None,
                                 enable_gqa: bool = False) -> Tensor:
    """As torch.nn.functional.scaled_dot_product_attention; what ``attention`` does not take is handed to that one."""
    q, k, v = query, key, value
    if _is_any_autocast_enabled() and torch.is_autocast_enabled("cpu") and q.is_cpu:
        dtype = torch.get_autocast_dtype("cpu")
        q, k, v = (t.to(dtype) if t.dtype == torch.float32 else t for t in (q, k, v))
    unbatched = q.dim() == k.dim() == v.dim() == 3 and not q.is_nested
    if unbatched:
        q, k, v = q[None], k[None], v[None]
    if attn_mask is None and dropout_p == 0:
        out = plain(q, k, v, is_causal, scale, enable_gqa)
        if out is not None:
            return out[0] if unbatched else out
    if (is_causal and attn_mask is not None) or not 0 <= dropout_p < 1 or not takes(q, k, v, attn_mask, enable_gqa):
        return _pytorch(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    out = attention(q, k, v, attn_mask, dropout=dropout_p, causal=is_causal, scale=scale)
    return out[0] if unbatched else out


def is_pytorchs(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> bool:
    """Whether PyTorch's own function is likely to be the faster one. All numbers are measured: python/README.md.

    It is for a query that shares its keys with no other, while K fits into the caches; and for small calls, as autograd's
    way through Python and a mask's take time here, and threads take time to begin there. 16 bits are always faster here.
    """
    if q.is_nested:
        return True
    q_shape, k_shape = q.shape, k.shape  # each time they are asked for takes a quarter of a microsecond
    if len(q_shape) < 3 or len(k_shape) < 3:
        return True
    if q.dtype is not torch.float32 or torch.compiler.is_compiling() or _is_any_autocast_enabled():
        return False
    if q_shape[-2] == 1 and q_shape[-3] == k_shape[-3]:
        return k.numel() < 1_500_000
    differentiates = (q.requires_grad or k.requires_grad or v.requires_grad) and torch.is_grad_enabled()
    delays = differentiates + (mask is not None) - (torch.get_num_threads() > 1)
    if mask is None and delays <= 0:
        return False
    return q.numel() * k_shape[-2] < (200_000, 3_000_000, 12_000_000)[delays]


@functools.wraps(_pytorch, assigned=("__name__",), updated=())
def _faster(query: Tensor, key: Tensor, value: Tensor, attn_mask: Optional[Tensor] = None, dropout_p: float = 0.0,
            is_causal: bool = False, scale: Optional[float] = None, enable_gqa: bool = False) -> Tensor:
    """``scaled_dot_product_attention``, or PyTorch's where that is faster."""
    theirs = dropout_p == 0 and is_pytorchs(query, key, value, attn_mask)
    function = _pytorch if theirs else scaled_dot_product_attention
    return function(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


_enabled: list = []  # the functions of each enable() that lasts
_enabled_lock = threading.Lock()


@contextmanager
def enable(always: bool = False) -> Iterator[None]:
    """Puts ``scaled_dot_product_attention`` in the place of torch.nn.functional's while it lasts, in all threads. Names
    that were imported from there before keep PyTorch's.

    Calls that PyTorch computes faster (small ones) stay with it, unless it is to be qkv ``always``, so that what a token
    gets does not depend on how many there are.
    """
    function = scaled_dot_product_attention if always else _faster
    with _enabled_lock:
        _enabled.append(function)
        F.scaled_dot_product_attention = function
    try:
        yield
    finally:
        with _enabled_lock:
            _enabled.remove(function)
            F.scaled_dot_product_attention = _enabled[-1] if _enabled else _pytorch
