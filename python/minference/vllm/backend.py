"""The CPU backend with sparse prefill from the start, for engines that are told so by their environment."""

from __future__ import annotations

from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionMetadataBuilder

from ..serving import requested
from . import worker
from .layers import VARIABLE, layers_of


class MetadataBuilder(CPUAttentionMetadataBuilder):
    """Made for each group of layers once the model is there, which is when their patterns can be given to them."""

    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        worker.enable(vllm_config, *layers_of(requested(VARIABLE), vllm_config.model_config), layer_names)


class Backend(CPUAttentionBackend):
    """What `plugin.register` registers in the CPU backend's place; not one of its functions is another."""

    @staticmethod
    def get_builder_cls():
        return MetadataBuilder
