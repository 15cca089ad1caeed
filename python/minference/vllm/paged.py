"""Keys and values of one sequence, read back from the paged cache of vLLM's CPU backend."""

from __future__ import annotations

import torch


def _plain(blocks, block_size, head_dim):
    """[.., block_size, head_dim]"""
    return blocks.unflatten(-1, (block_size, head_dim))


def _transposed(blocks, block_size, head_dim):
    """[.., head_dim, block_size]"""
    return blocks.unflatten(-1, (head_dim, block_size)).transpose(-1, -2)


def _amx_key(blocks, block_size, head_dim):
    """[.., block_size / 16, head_dim / 2, 16, 2]: 16 tokens side by side, as AMX wants its second operand."""
    tiles = blocks.unflatten(-1, (block_size // 16, head_dim // 2, 16, 2))
    return tiles.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _amx_value(blocks, block_size, head_dim):
    """[.., head_dim / 16, block_size / 2, 16, 2]"""
    tiles = blocks.unflatten(-1, (head_dim // 16, block_size // 2, 16, 2))
    return tiles.movedim((-3, -1, -4, -2), (-4, -3, -2, -1)).flatten(-2).flatten(-3, -2)


# How each of the backend's kernels ("isa") packs a block's keys and its values: block_size * head_dim numbers, the keys'
# before the values'. Functions give them back as [.., block_size, head_dim].
PACKINGS = {
    "vec": (_transposed, _plain),
    "vec16": (_transposed, _plain),
    "amx": (_amx_key, _amx_value),
}


def gather(kv_cache, block_ids, length, packing):
    """Keys and values of one sequence's first `length` tokens.

    Parameters
    ----------
    kv_cache : torch.Tensor
        ``[num_blocks, num_kv_heads, block_size, 2 * head_dim]``, each ``[block_size, 2 * head_dim]`` contiguous and
        filled as PACKINGS says.
    block_ids : torch.Tensor
        The sequence's blocks in order, integers ``[at least ceil(length / block_size)]``.
    packing : str
        A key of PACKINGS.

    Returns
    -------
    key, value : torch.Tensor
        ``[num_kv_heads, length, head_dim]``, copies, head_dim contiguous.
    """
    _, num_kv_heads, block_size, both = kv_cache.shape
    head_dim = both // 2
    num_blocks = -(-length // block_size)
    blocks = kv_cache.flatten(2).index_select(0, block_ids[:num_blocks]).transpose(0, 1)
    gathered = []
    for part, unpack in zip(blocks.tensor_split(2, dim=2), PACKINGS[packing]):
        out = torch.empty(num_kv_heads, num_blocks, block_size, head_dim, dtype=kv_cache.dtype)
        out.copy_(unpack(part, block_size, head_dim))
        gathered.append(out.flatten(1, 2)[:, :length])
    return tuple(gathered)
