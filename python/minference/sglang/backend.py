"""Prefill by the library, over SGLang's pool of keys and values; everything else by SGLang's torch_native backend."""

from __future__ import annotations

import logging

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.runtime_context import get_parallel

from .. import _calls
from ..config import MInferenceConfig
from ..serving import layers_of, requested, slice_of_rank
from .rules import refusal

VARIABLE = "MINFERENCE_SGLANG"

# Below SGLang's own name, so that the engine's logging configuration holds.
_logger = logging.getLogger("sglang.minference")

# Batches of prompts, and such with decoding requests among them. Other kinds of extension are no plain causal attention.
_MODES = (ForwardMode.EXTEND, ForwardMode.MIXED)


class Backend(TorchNativeAttnBackend):
    """One rank's attention backend.

    Every request of a batch is one call of the library, which computes short ones densely.
    """

    def __init__(self, runner):
        if runner.device != "cpu":
            raise NotImplementedError(
                f"attention backend minference must run on the CPU, got device {runner.device}"
            )
        super().__init__(runner)
        config = requested(VARIABLE) or MInferenceConfig()
        model = runner.model_config
        layers, self._fallback, self._share_index = layers_of(
            config, model.num_hidden_layers, model.num_attention_heads, model.model_path
        )
        parallel = get_parallel()
        num_heads = model.num_attention_heads // parallel.attn_tp_size
        self._heads = [
            torch.tensor(slice_of_rank(heads, parallel.attn_tp_rank, num_heads), dtype=torch.int32)
            for heads in layers
        ]
        self._said = set()

    def _takes(self, layer, query, forward_batch, options):
        if forward_batch.forward_mode not in _MODES:
            return False
        reason = refusal(layer, query.dtype, self.token_to_kv_pool.get_key_buffer(layer.layer_id).dtype)
        if reason is None and any(option is not None for option in options.values()):
            reason = "arguments " + ", ".join(sorted(options))
        if reason is not None and reason not in self._said:
            self._said.add(reason)
            _logger.warning("MInference leaves layers as they were: %s.", reason)
        return reason is None

    def forward_extend(self, q, k, v, layer, forward_batch, save_kv_cache=True, **options):
        """SGLang's contract: q ``[num_tokens, num_query_heads * head_dim]``, k and v ``[num_tokens, num_kv_heads,
        head_dim]``, the requests' rows one after another; the result is like q.
        """
        if not self._takes(layer, q, forward_batch, options):
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache, **options)
        pool = self.token_to_kv_pool
        if save_kv_cache and k is not None:
            pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc), k, v)
        key, value = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        out = torch.empty_like(query)
        heads = self._heads[layer.layer_id]
        begin = 0
        for request, q_len, kv_len in zip(
            forward_batch.req_pool_indices.tolist(),
            forward_batch.extend_seq_lens.tolist(),
            forward_batch.seq_lens.tolist(),
        ):
            rows = slice(begin, begin + q_len)
            slots = self.req_to_token_pool.req_to_token[request, :kv_len]
            _calls.prefill(
                query[rows].transpose(0, 1)[None],
                key[slots].transpose(0, 1)[None],
                value[slots].transpose(0, 1)[None],
                heads,
                softmax_scale=layer.scaling,
                fallback=self._fallback,
                share_index=self._share_index,
                out=out[rows].transpose(0, 1)[None],
            )
            begin += q_len
        return out.view(q.shape)
