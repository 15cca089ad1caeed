"""Keys and values of one sequence, read back from the paged cache of vLLM's CPU backend."""

from __future__ import annotations

import functools

import torch

from .. import _calls

# How each of the backend's kernels ("isa") packs a block's keys and its values: block_size * head_dim numbers, the keys'
# before the values'. Functions of block_size and head_dim, and of a token and a dim, which are tensors; a number lies at
# the sum of the token's and the dim's.


def _rows(block_size, head_dim):
    """[block_size, head_dim]"""
    return lambda token: token * head_dim, lambda dim: dim


def _columns(block_size, head_dim):
    """[head_dim, block_size]"""
    return lambda token: token, lambda dim: dim * block_size


def _pairs_of_dims(block_size, head_dim):
    """[block_size / 16, head_dim / 2, 16, 2]: 16 tokens side by side, as AMX wants its second operand."""
    return lambda token: token // 16 * 16 * head_dim + token % 16 * 2, lambda dim: dim // 2 * 32 + dim % 2


def _pairs_of_tokens(block_size, head_dim):
    """[head_dim / 16, block_size / 2, 16, 2]"""
    return lambda token: token // 2 * 32 + token % 2, lambda dim: dim // 16 * 16 * block_size + dim % 16 * 2


PACKINGS = {
    "vec": (_columns, _rows),
    "vec16": (_columns, _rows),
    "amx": (_pairs_of_dims, _pairs_of_tokens),
}


@functools.cache
def _offsets(packing, block_size, head_dim):
    """Where a block's keys and its values lie: pairs of int32 ``[block_size]`` and ``[head_dim]``."""
    counts = (block_size, head_dim)
    return [
        [of(torch.arange(count)).int() for of, count in zip(order(*counts), counts)]
        for order in PACKINGS[packing]
    ]


def gather(kv_cache, block_ids, length, packing):
    """Keys and values of one sequence's first `length` tokens.

    Parameters
    ----------
    kv_cache : torch.Tensor
        ``[num_blocks, num_kv_heads, block_size, 2 * head_dim]``, each ``[block_size, 2 * head_dim]`` contiguous and
        filled as PACKINGS says.
    block_ids : torch.Tensor
        The sequence's blocks in order, int32 ``[at least ceil(length / block_size)]``, contiguous.
    packing : str
        A key of PACKINGS.

    Returns
    -------
    key, value : torch.Tensor
        ``[num_kv_heads, length, head_dim]``, copies.
    """
    block_size, head_dim = kv_cache.shape[2], kv_cache.shape[3] // 2
    parts = kv_cache.flatten(2).tensor_split(2, dim=2)
    return tuple(
        _calls.gather(part, *offsets, block_ids, length)
        for part, offsets in zip(parts, _offsets(packing, block_size, head_dim))
    )
