"""torch.library operators: opaque nodes of tensors and numbers for torch.compile and torch.export.

Importing this module registers them. Both allocate their outputs, out ``[B, Hq, q_len, D]`` and lse ``[B, Hq,
q_len]`` float32, and their fakes see shapes only.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch

from . import _calls
from ._arrays import arrays_of, require_four_dimensions


def _require_patterns(query, heads, sequences):
    """The library reads rows of five numbers from bare addresses, and checks their values only."""
    require_four_dimensions(query.ndim, "query", query.shape)
    if (
        heads.dtype != torch.int32
        or heads.ndim != 2
        or heads.shape[0] != query.shape[1]
        or heads.shape[1] != 5
    ):
        raise ValueError(
            f"heads must be int32 [num_query_heads, 5] = [{query.shape[1]}, 5], "
            f"got {list(heads.shape)} of {heads.dtype}"
        )
    if sequences is not None and (
        sequences.dtype != torch.int64 or sequences.ndim != 2 or sequences.shape[1] != 5
    ):
        raise ValueError(
            "sequences must be int64 [num_sequences, 5] (batch, q_begin, q_len, kv_begin, kv_len), "
            f"got {list(sequences.shape)} of {sequences.dtype}"
        )


def _require_members(query, columns, offsets):
    require_four_dimensions(query.ndim, "query", query.shape)
    for name, members in (("v_idx", columns), ("s_idx", offsets)):
        if members.ndim != 3 or members.shape[0] != query.shape[0] or members.shape[1] != query.shape[1]:
            raise ValueError(
                f"{name} must have shape [batch, query heads, count] = {list(query.shape[:2])} + [count], "
                f"got {list(members.shape)}"
            )


@torch.library.custom_op("minference::prefill", mutates_args=(), device_types=("cpu", "cuda"))
def _prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: torch.Tensor,
    sequences: Optional[torch.Tensor],
    softmax_scale: float,
    causal: bool,
    fallback: int,
    share_index: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor]:
    _require_patterns(query, heads, sequences)
    out, lse, _ = _calls.prefill(
        query,
        key,
        value,
        heads.contiguous(),
        None if sequences is None else sequences.contiguous(),
        softmax_scale,
        causal,
        fallback,
        share_index,
        want_lse=True,
    )
    return out, lse


@torch.library.custom_op("minference::vertical_slash", mutates_args=(), device_types=("cpu", "cuda"))
def _vertical_slash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    columns: torch.Tensor,
    offsets: torch.Tensor,
    softmax_scale: float,
    causal: bool,
) -> Tuple[torch.Tensor, torch.Tensor]:
    _require_members(query, columns, offsets)
    arrays = arrays_of(query)
    columns, offsets = arrays.members(columns, "v_idx"), arrays.members(offsets, "s_idx")
    return _calls.vertical_slash(query, key, value, columns, offsets, softmax_scale, causal, True)


@_prefill.register_fake
def _(query, key, value, heads, sequences, *settings):
    _require_patterns(query, heads, sequences)
    return _fake_outputs(query)


@_vertical_slash.register_fake
def _(query, key, value, columns, offsets, *settings):
    _require_members(query, columns, offsets)
    return _fake_outputs(query)


def _fake_outputs(query):
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    return out, torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)


def _integers(array, name, dtype):
    array = array if isinstance(array, torch.Tensor) else torch.as_tensor(array, device="cpu")
    if array.is_floating_point() or array.is_complex() or array.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers, got {array.dtype}")
    # Values cannot be looked at here. As sizes, the limits mean what is beyond them; elsewhere both are refused.
    limits = torch.iinfo(dtype)
    return array.clamp(limits.min, limits.max).to(dtype)


def prefill(query, key, value, heads, sequences, *settings):
    """`minference.prefill_attention` as one node; `heads` and `sequences` may be plain numbers, the rest is as above."""
    heads = _integers(heads, "heads", torch.int32)
    if heads.ndim == 1:
        heads = heads.expand(query.shape[1], -1)
    if sequences is not None:
        sequences = _integers(sequences, "sequences", torch.int64)
    return torch.ops.minference.prefill(query, key, value, heads, sequences, *settings)


# `minference.vertical_slash_sparse_attention` as one node.
vertical_slash = torch.ops.minference.vertical_slash
