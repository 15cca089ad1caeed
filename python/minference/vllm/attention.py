"""One attention layer of vLLM's CPU backend: the library computes long chunks of a batch, the engine the rest."""

from __future__ import annotations

import dataclasses

import torch
from vllm import _custom_ops, envs

from .. import _calls
from .paged import gather

# Chunks of fewer rows, or with less to compute than a prompt of 512 tokens, stay with the engine: a call of the library
# costs more than it saves there (docs/engines/vllm.md, "Measured").
MIN_ROWS = 128
MIN_PRODUCT = 512 * 512  # rows times keys


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """One request's part of a batch: query rows [begin, end), the last of kv_len tokens.

    Recorders take it for a layer call (`call_mask.CallMask`) that is one whole sequence without a window.
    """

    request: int
    begin: int
    end: int
    kv_len: int

    window = 0
    where = None

    @property
    def q_len(self):
        return self.end - self.begin

    @property
    def is_long(self):
        return self.q_len >= MIN_ROWS and self.q_len * self.kv_len >= MIN_PRODUCT

    @property
    def sequences(self):
        return [(0, 0, self.q_len, 0, self.kv_len)]


class _Batch:
    """A batch divided in two; made once a step and kept with the engine's metadata, which all layers see.

    Attributes
    ----------
    taken : list of _Chunk
        What the library computes.
    rows : torch.Tensor or None
        The query rows of all other requests, int64; None when there are none.
    rest : CPUAttentionMetadata or None
        The metadata of a batch of only those.
    """

    def __init__(self, metadata, impl, layer, dtype):
        begins, kv_lens = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
        chunks = [_Chunk(i, begins[i], begins[i + 1], kv_len) for i, kv_len in enumerate(kv_lens)]
        self.taken = [chunk for chunk in chunks if chunk.is_long]
        left = [chunk for chunk in chunks if chunk.q_len > 0 and not chunk.is_long]
        self.rows = self.rest = None
        if self.taken and left:
            self.rows = torch.cat([torch.arange(chunk.begin, chunk.end) for chunk in left])
            self.rest = _metadata_of(left, self.rows, metadata, impl, layer, dtype)

    @classmethod
    def of(cls, metadata, impl, layer, dtype):
        batch = getattr(metadata, "minference_batch", None)
        if batch is None:
            batch = metadata.minference_batch = cls(metadata, impl, layer, dtype)
        return batch


def _metadata_of(chunks, rows, metadata, impl, layer, dtype):
    """What the engine's metadata builder makes of a batch of these requests alone."""
    lengths = torch.tensor([0] + [chunk.q_len for chunk in chunks], dtype=metadata.query_start_loc.dtype)
    query_start_loc = lengths.cumsum(0, dtype=lengths.dtype)
    requests = torch.tensor([chunk.request for chunk in chunks])
    seq_lens = metadata.seq_lens[requests]
    schedule = _custom_ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(chunks),
        num_heads=impl.num_heads,
        num_kv_heads=impl.num_kv_heads,
        head_dim=impl.head_size,
        seq_lens=seq_lens,
        dtype=dtype,
        query_start_loc=query_start_loc,
        causal=True,
        sliding_window_size=impl.sliding_window,
        isa=layer.isa,
        enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
        kv_cache_dtype=impl.kv_cache_dtype,
    )
    return dataclasses.replace(
        metadata,
        num_actual_tokens=len(rows),
        max_query_len=int(lengths.max()),
        max_seq_len=int(seq_lens.max()),
        query_start_loc=query_start_loc,
        seq_lens=seq_lens,
        block_table=metadata.block_table[requests],
        slot_mapping=metadata.slot_mapping[rows],
        scheduler_metadata=schedule,
    )


class LayerAttention:
    """Stands for `forward` of one attention layer's implementation.

    Parameters
    ----------
    impl : CPUAttentionBackendImpl
        The engine's implementation, one that `worker.refusal` has nothing against.
    heads : torch.Tensor
        int32 ``[num_query_heads of this rank, 5]``.
    fallback : int
        FALLBACK_AUTO or FALLBACK_OFF.
    share_index : bool
        As in `minference.prefill_attention`.

    Attributes
    ----------
    recorder : object or None
        Called with each chunk while `minference.record` is active.
    """

    def __init__(self, impl, heads, fallback, share_index):
        self._impl = impl
        self._dense = type(impl).forward.__get__(impl)
        self.heads = heads
        self.fallback = fallback
        self.share_index = share_index
        self.recorder = None

    def heads_for(self, window, num_heads):
        """The patterns of a call; layers with a window are never taken."""
        return self.heads

    def __call__(
        self,
        layer,
        query,
        key,
        value,
        kv_cache,
        attn_metadata,
        output,
        output_scale=None,
        output_block_scale=None,
    ):
        """vLLM's contract: query and output ``[num_tokens, num_query_heads, head_dim]``, key and value ``[num_tokens,
        num_kv_heads, head_dim]``, already in the cache too. The result is what `output` holds afterwards.
        """
        batch = None
        if (
            attn_metadata is not None
            and attn_metadata.max_query_len >= MIN_ROWS
            and attn_metadata.causal is True
            and output_scale is None
            and output_block_scale is None
        ):
            batch = _Batch.of(attn_metadata, self._impl, layer, query.dtype)
        if batch is None or not batch.taken:
            return self._dense(
                layer,
                query,
                key,
                value,
                kv_cache,
                attn_metadata,
                output,
                output_scale,
                output_block_scale,
            )
        for chunk in batch.taken:
            self._prefill(chunk, query, key, value, kv_cache, attn_metadata.block_table, layer.isa, output)
        if batch.rest is not None:
            rows = batch.rows
            rest = torch.empty_like(output[rows])
            self._dense(layer, query[rows], key[rows], value[rows], kv_cache, batch.rest, rest)
            output[rows] = rest
        return output

    def _prefill(self, chunk, query, key, value, kv_cache, block_table, packing, output):
        rows = slice(chunk.begin, chunk.end)
        if chunk.kv_len == chunk.q_len:
            keys, values = key[rows].transpose(0, 1), value[rows].transpose(0, 1)
        else:
            keys, values = gather(kv_cache, block_table[chunk.request], chunk.kv_len, packing)
        query, out = (x[rows].transpose(0, 1)[None] for x in (query, output))
        keys, values, scale = keys[None], values[None], self._impl.scale
        if self.recorder is not None:
            self.recorder(self, query, keys, values, chunk, scale, out)
            return
        heads = self.heads_for(chunk.window, query.shape[1])
        _calls.prefill(
            query,
            keys,
            values,
            heads,
            chunk.where,
            scale,
            fallback=self.fallback,
            share_index=self.share_index,
            out=out,
        )
