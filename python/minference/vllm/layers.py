"""From a request to the patterns of an engine's model."""

from __future__ import annotations

from .. import serving

# Asks for sparse prefill in servers, whose start nobody can follow with a call.
VARIABLE = "MINFERENCE_VLLM"


def layers_of(config, model_config):
    """`serving.layers_of` for a ``vllm.config.ModelConfig``."""
    num_heads = model_config.model_arch_config.total_num_attention_heads
    return serving.layers_of(
        config, model_config.get_total_num_hidden_layers(), num_heads, model_config.model
    )
