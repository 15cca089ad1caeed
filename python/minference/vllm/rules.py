"""What of vLLM's attention the library computes, and which heads a tensor-parallel rank has. Needs no vLLM."""

from __future__ import annotations

from .paged import PACKINGS

# Spelled out: comparing objects would need the framework that this file does without.
_DTYPES = ("torch.float32", "torch.float16", "torch.bfloat16")


def refusal(impl, isa, dtype):
    """Why the library does not compute an attention layer, in words for the engine's log; None if it does.

    Parameters
    ----------
    impl : AttentionImpl
        The layer's implementation.
    isa : str or None
        How it packs its cache; only the CPU backend says.
    dtype : torch.dtype
        Of the model.
    """
    if isa not in PACKINGS:
        return f"backend {type(impl).__name__} with cache packing {isa}, not the x86 CPU backend's"
    head_dim = impl.head_size
    # An enumeration of strings, or a plain one.
    kind = getattr(impl.attn_type, "value", impl.attn_type)
    rules = (
        (kind != "decoder", f"{kind} attention"),
        (impl.sliding_window not in (-1, None), f"a sliding window of {impl.sliding_window}"),
        (bool(impl.logits_soft_cap), f"a soft cap of {impl.logits_soft_cap}"),
        (impl.sinks is not None, "attention sinks"),
        (impl.alibi_slopes is not None, "ALiBi"),
        (impl.is_fp8_kv_cache, f"a KV cache of {impl.kv_cache_dtype}"),
        (impl.kv_sharing_target_layer_name is not None, "another layer's keys and values"),
        (str(dtype) not in _DTYPES, f"dtype {dtype}"),
        (head_dim % 8 != 0 or head_dim > 256, f"head_dim {head_dim}, not a multiple of 8 up to 256"),
    )
    return next((reason for applies, reason in rules if applies), None)


def slice_of_rank(heads, rank, num_heads):
    """The patterns of one tensor-parallel rank's query heads: ranks divide them evenly and in order."""
    begin = rank * num_heads
    if begin + num_heads > len(heads):
        raise ValueError(
            f"patterns must be for all query heads, {begin + num_heads} or more for rank {rank}, got {len(heads)}"
        )
    return heads[begin : begin + num_heads]
