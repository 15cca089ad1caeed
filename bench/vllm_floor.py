"""A worker of vLLM without attention; the engine loads this file as its worker_extension_cls."""

from vllm.config import get_layers_from_vllm_config
from vllm.model_executor.layers.attention import Attention


def _copy_query(layer, query, key, value, kv_cache, attn_metadata, output, **_):
    output.copy_(query)
    return output


class Floor:
    """Methods that vLLM adds to its worker's."""

    def leave_attention_out(self, out: bool):
        """Replace attention by a copy of the queries, as minference.greedy does in transformers, or undo that."""
        for layer in get_layers_from_vllm_config(self.vllm_config, Attention).values():
            if out:
                layer.impl.forward = _copy_query
            else:
                del layer.impl.forward
