"""Hugging Face Transformers on qkv.

    import qkv.transformers
    qkv.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="qkv")

Causal masks, sliding windows and padding become the range of keys that each query sees, two numbers in place of a row of
the mask; what is no range stays the mask that "sdpa" would have. What qkv does not take (other devices and types) goes to
"sdpa".

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, Union

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (AttentionMaskInterface, bidirectional_mask_function, causal_mask_function,
                                        sdpa_mask)

from .torch import _ranges, attention, is_pytorchs, plain, takes

__all__ = ["register"]

NAME = "qkv"


def register(always: bool = False) -> None:
    """Registers attention and masks under the name "qkv".

    Calls that PyTorch computes faster (small ones) go to "sdpa", unless it is to be qkv ``always``, so that what a token
    gets does not depend on how many there are.
    """
    AttentionInterface.register(NAME, _attention if always else _faster_attention)
    AttentionMaskInterface.register(NAME, _mask)


# ------------------------------------------------------------------------------------------------------- masks

def _sliding_window(mask_function: Callable) -> Optional[int]:
    """The window of Transformers' sliding_window_causal_mask_function, which is the conjunction of two functions."""
    if mask_function.__qualname__ != "and_masks.<locals>.and_mask" or mask_function.__closure__ is None:
        return None
    parts = mask_function.__closure__[0].cell_contents
    if len(parts) != 2 or parts[1] is not causal_mask_function or \
            parts[0].__qualname__ != "sliding_window_overlay.<locals>.inner_mask":
        return None
    window = parts[0].__closure__[0].cell_contents
    return window if isinstance(window, int) else None


def _drawn(queries: int, keys: int, q_offset: Union[int, Tensor], kv_offset: int,
           mask_function: Callable) -> Optional[Tensor]:
    """The ranges (1, Q, 2) of the masks that are written down here, without padding; None for another mask."""
    window = None if mask_function is causal_mask_function else _sliding_window(mask_function)
    if mask_function is bidirectional_mask_function:
        return torch.tensor([[[0, keys]]])
    if mask_function is not causal_mask_function and window is None:
        return None
    end = torch.arange(1, queries + 1) + (q_offset - kv_offset)
    first = torch.zeros_like(end) if window is None else (end - window).clamp(min=0)
    return torch.stack((first, end.clamp(max=keys)), -1)[None]


def _is_all(queries: int, keys: int, q_offset: Union[int, Tensor], kv_offset: int, mask_function: Callable,
            causal_skip: bool, bidirectional_skip: bool) -> bool:
    """Whether a call without a mask says the same: every key for a single query, or what ``is_causal`` means."""
    if mask_function is bidirectional_mask_function:
        return bidirectional_skip
    window = None if mask_function is causal_mask_function else _sliding_window(mask_function)
    if mask_function is not causal_mask_function and (window is None or window < keys):
        return False
    return causal_skip and queries in (1, keys) and isinstance(q_offset, int) and q_offset + queries == kv_offset + keys


def _mask(batch_size: int, q_length: int, kv_length: int, q_offset: Union[int, Tensor] = 0, kv_offset: int = 0,
          mask_function: Callable = causal_mask_function, attention_mask: Optional[Tensor] = None,
          allow_is_causal_skip: bool = True, allow_is_bidirectional_skip: bool = False, device: Any = "cpu",
          **kwargs: Any) -> Optional[Tensor]:
    """Ranges of keys as (B, 1, Q, 2), int64, with the axes that a mask has; None, or sdpa's mask."""
    options = dict(batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset,
                   kv_offset=kv_offset, mask_function=mask_function, attention_mask=attention_mask, device=device,
                   allow_is_causal_skip=allow_is_causal_skip,
                   allow_is_bidirectional_skip=allow_is_bidirectional_skip, **kwargs)
    if torch.device(device).type != "cpu" or torch.compiler.is_compiling():
        return sdpa_mask(**options)
    padding = None
    if attention_mask is not None:
        padding = attention_mask.bool()[:, kv_offset:kv_offset + kv_length]
        padding = torch.nn.functional.pad(padding, (0, kv_length - padding.shape[1]))
        padding = None if padding.all() else padding
    if padding is None and _is_all(q_length, kv_length, q_offset, kv_offset, mask_function, allow_is_causal_skip,
                                   allow_is_bidirectional_skip):
        return None
    ranges = _drawn(q_length, kv_length, q_offset, kv_offset, mask_function)
    if ranges is None:
        return sdpa_mask(**options)
    if padding is not None:
        kept = _ranges(padding[:, None])
        if kept is None:  # padding in the midst of a sequence
            return sdpa_mask(**options)
        ranges = torch.stack((torch.maximum(ranges[..., 0], kept[..., 0]),
                              torch.minimum(ranges[..., 1], kept[..., 1])), -1)
    return ranges[:, None]


def _is_ranges(mask: Optional[Tensor]) -> bool:
    return mask is not None and mask.dtype == torch.int64


def _as_mask(ranges: Tensor, keys: int) -> Tensor:
    """The mask that ranges stand for, kept beside them: all layers of a model are given the same tensor."""
    mask = getattr(ranges, "_qkv_mask", None)
    if mask is None or mask.shape[-1] != keys:
        key = torch.arange(keys)
        mask = ranges._qkv_mask = (key >= ranges[..., :1]) & (key < ranges[..., 1:])
    return mask


# --------------------------------------------------------------------------------------------------- attention

def _attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Optional[Tensor],
               dropout: float = 0.0, scaling: Optional[float] = None, is_causal: Optional[bool] = None,
               position_bias: Optional[Tensor] = None, softcap: Optional[float] = None,
               s_aux: Optional[Tensor] = None, **kwargs: Any) -> tuple[Tensor, None]:
    mask, ranges = (None, attention_mask[:, 0]) if _is_ranges(attention_mask) else (attention_mask, None)
    causal = attention_mask is None and query.shape[2] > 1 and \
        (is_causal if is_causal is not None else getattr(module, "is_causal", True))
    if position_bias is not None:
        if mask is not None:
            position_bias = torch.where(mask, position_bias, -torch.inf) if mask.dtype == torch.bool \
                else position_bias + mask
        mask = position_bias.expand(-1, -1, query.shape[2], -1)
    if mask is None and ranges is None and s_aux is None and not dropout and not softcap:
        out = plain(query, key, value, bool(causal), scaling, True)
        if out is not None:
            return out.transpose(1, 2).contiguous(), None
    if not takes(query, key, value, mask):
        return _by_sdpa(module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, softcap,
                        s_aux, **kwargs)
    out = attention(query, key, value, mask, ranges=ranges, sinks=s_aux, dropout=dropout, causal=bool(causal),
                    scale=scaling, softcap=softcap or 0.0)
    return out.transpose(1, 2).contiguous(), None


def _faster_attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor,
                      attention_mask: Optional[Tensor], dropout: float = 0.0, scaling: Optional[float] = None,
                      is_causal: Optional[bool] = None, position_bias: Optional[Tensor] = None,
                      softcap: Optional[float] = None, s_aux: Optional[Tensor] = None,
                      **kwargs: Any) -> tuple[Tensor, None]:
    theirs = s_aux is None and not dropout and not softcap and \
        is_pytorchs(query, key, value, attention_mask if position_bias is None else position_bias)
    return (_by_sdpa if theirs else _attention)(module, query, key, value, attention_mask, dropout, scaling, is_causal,
                                                position_bias, softcap, s_aux, **kwargs)


def _by_sdpa(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Optional[Tensor],
             dropout: float, scaling: Optional[float], is_causal: Optional[bool], position_bias: Optional[Tensor],
             softcap: Optional[float], s_aux: Optional[Tensor], **kwargs: Any) -> tuple[Tensor, None]:
    if s_aux is not None:
        raise ValueError("qkv: attention with sinks takes CPU tensors in float32, float16 or bfloat16")
    if _is_ranges(attention_mask):
        attention_mask = _as_mask(attention_mask, key.shape[2])
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                  is_causal=is_causal, position_bias=position_bias, softcap=softcap, **kwargs)
