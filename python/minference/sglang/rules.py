"""What of SGLang's attention the library computes. Needs no SGLang."""

from __future__ import annotations

from ..serving import uncomputed


def refusal(layer, dtype, cache_dtype):
    """Why the library does not compute an attention layer, in words for the engine's log; None if it does.

    Parameters
    ----------
    layer : RadixAttention
    dtype, cache_dtype : torch.dtype
        Of its queries, and of the keys and values in the pool.
    """
    kind = getattr(layer.attn_type, "value", layer.attn_type)
    rules = (
        (kind != "decoder", f"{kind} attention"),
        (layer.is_cross_attention, "cross attention"),
        (layer.sliding_window_size > -1, f"a sliding window of {layer.sliding_window_size}"),
        (bool(layer.logit_cap), f"a soft cap of {layer.logit_cap}"),
        (layer.pos_encoding_mode != "NONE", f"position encoding {layer.pos_encoding_mode}"),
        (layer.xai_temperature_len > 0, "a temperature that grows with the length"),
        (cache_dtype != dtype, f"a KV cache of {cache_dtype}"),
        (layer.qk_head_dim != layer.v_head_dim, f"values of head_dim {layer.v_head_dim}"),
    )
    return next((reason for applies, reason in rules if applies), uncomputed(layer.qk_head_dim, dtype))
