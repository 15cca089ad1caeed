"""What of vLLM's attention the library computes. Needs no vLLM."""

from __future__ import annotations

from ..serving import uncomputed
from .paged import PACKINGS


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
    )
    return next((reason for applies, reason in rules if applies), uncomputed(impl.head_size, dtype))
