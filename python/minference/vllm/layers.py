"""From a request to the patterns of an engine's model."""

from __future__ import annotations

from .. import _library


def layers_of(config, model_config):
    """What a `MInferenceConfig` means for a model, in plain numbers that can be sent to other processes.

    Parameters
    ----------
    model_config : vllm.config.ModelConfig

    Returns
    -------
    layers : list
        For every layer, the five numbers of each query head, all tensor-parallel ranks'.
    fallback : int
        FALLBACK_AUTO or FALLBACK_OFF.
    """
    if config.attn_type == "static":
        raise NotImplementedError("attn_type must be one that keeps nothing from call to call, got 'static'")
    num_heads = model_config.model_arch_config.total_num_attention_heads
    layers = config.layers(model_config.get_total_num_hidden_layers(), num_heads, model_config.model)
    fallback = _library.FALLBACK_OFF if config.options["fallback"] == "off" else _library.FALLBACK_AUTO
    return [heads.tolist() for heads in layers], fallback
