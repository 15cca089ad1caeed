"""torch.library operators: opaque nodes of tensors and numbers for torch.compile and torch.export.

Importing this module registers them. Both allocate their outputs, out ``[B, Hq, q_len, D]`` and lse ``[B, Hq,
q_len]`` float32, and their fakes see shapes only.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch

from . import _calls
from ._arrays import arrays_of


@torch.library.custom_op("minference::prefill", mutates_args=(), device_types="cpu")
def _prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: torch.Tensor,
    sequences: Optional[torch.Tensor],
    softmax_scale: float,
    causal: bool,
    fallback: int,
) -> Tuple[torch.Tensor, torch.Tensor]:
    heads = heads.contiguous()
    rows = None if sequences is None else sequences.contiguous()
    out, lse, _ = _calls.prefill(
        query,
        key,
        value,
        (heads.data_ptr(), heads.shape[0]),
        (None, 0) if rows is None else (rows.data_ptr(), rows.shape[0]),
        softmax_scale,
        causal,
        fallback,
        True,
    )
    return out, lse


@torch.library.custom_op("minference::vertical_slash", mutates_args=(), device_types="cpu")
def _vertical_slash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    columns: torch.Tensor,
    offsets: torch.Tensor,
    softmax_scale: float,
    causal: bool,
) -> Tuple[torch.Tensor, torch.Tensor]:
    arrays = arrays_of(query)
    columns, offsets = arrays.members(columns, "v_idx"), arrays.members(offsets, "s_idx")
    return _calls.vertical_slash(query, key, value, columns, offsets, softmax_scale, causal, True)


@_prefill.register_fake
def _(query, key, value, heads, sequences, softmax_scale, causal, fallback):
    torch._check(heads.ndim == 2 and heads.shape[1] == 5 and heads.dtype == torch.int32)
    return _fake_outputs(query)


@_vertical_slash.register_fake
def _(query, key, value, columns, offsets, softmax_scale, causal):
    torch._check(columns.ndim == 3 and offsets.ndim == 3)
    return _fake_outputs(query)


def _fake_outputs(query):
    torch._check(query.ndim == 4)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    return out, torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)


def prefill(query, key, value, heads, sequences, softmax_scale, causal, fallback):
    """`minference.prefill_attention` as one node; `heads` and `sequences` may be plain numbers."""
    heads = torch.as_tensor(heads, dtype=torch.int32).expand(query.shape[1], 5)
    if sequences is not None:
        sequences = torch.as_tensor(sequences, dtype=torch.int64)
    return torch.ops.minference.prefill(query, key, value, heads, sequences, softmax_scale, causal, fallback)


def vertical_slash(query, key, value, columns, offsets, softmax_scale, causal):
    """`minference.vertical_slash_sparse_attention` as one node."""
    return torch.ops.minference.vertical_slash(query, key, value, columns, offsets, softmax_scale, causal)
