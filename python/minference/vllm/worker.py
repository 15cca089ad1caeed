"""A worker of the engine: which of its layers the library takes, and with which heads' patterns."""

from __future__ import annotations

import torch
from vllm.config import get_layers_from_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.utils import extract_layer_index

from .._context import use_openmp_threads
from ..report import LayerReport, Recorder
from ..serving import slice_of_rank
from .attention import LayerAttention
from .rules import refusal

# A name below vLLM's own, so that the engine's logging configuration holds.
_logger = init_logger("vllm.plugins.minference")


def enable(vllm_config, layers, fallback, share_index, names=None):
    """Let the library prefill in every layer that it can compute; an earlier call's patterns are replaced.

    Parameters
    ----------
    layers : list
        For every layer of the model, the five numbers of each of the model's query heads (all ranks').
    names : list of str, optional
        The attention layers it is about; all when left out.

    Returns
    -------
    dict
        ``taken``: the number of layers; ``refused``: reason -> number of layers.
    """
    # The engine binds each of its OpenMP threads to a core of its own, and this one with them.
    use_openmp_threads()
    disable(vllm_config, names)
    taken, refused = 0, {}
    for name, layer in get_layers_from_vllm_config(vllm_config, Attention, names).items():
        reason = refusal(layer.impl, getattr(layer, "isa", None), vllm_config.model_config.dtype)
        index = extract_layer_index(name)
        if reason is None and index >= len(layers):
            reason = "a layer that the model's patterns do not know"
        if reason is None:
            heads = slice_of_rank(layers[index], get_tensor_model_parallel_rank(), layer.impl.num_heads)
            # vLLM looks `forward` up at every call; an attribute of the object comes before its class's.
            patterns = torch.tensor(heads, dtype=torch.int32)
            layer.impl.forward = LayerAttention(layer.impl, patterns, fallback, share_index)
            taken += 1
        else:
            refused[reason] = refused.get(reason, 0) + 1
    if taken:
        _logger.info(
            "MInference prefills long chunks in %d layers; short ones and decoding run as before.", taken
        )
    for reason in refused:
        # Models of several kinds of layers come here once a kind.
        _logger.warning_once("MInference leaves layers as they were: %s.", reason)
    return {"taken": taken, "refused": refused}


def disable(vllm_config, names=None):
    """These layers, or all, attend as the engine made them."""
    for _, impl in _taken(vllm_config, names):
        del impl.forward


def start_recording(vllm_config, kept_mass):
    """Record what the library computes from now on, as `minference.record` does; returns the number of layers."""
    taken = _taken(vllm_config)
    for name, impl in taken:
        impl.forward.recorder = Recorder(LayerReport(extract_layer_index(name)), kept_mass)
    return len(taken)


def stop_recording(vllm_config):
    """The attributes of each layer's `LayerReport`, arrays as lists, for this rank's heads."""
    reports = []
    for _, impl in _taken(vllm_config):
        reports.append(impl.forward.recorder.report.as_numbers())
        impl.forward.recorder = None
    return reports


def _taken(vllm_config, names=None):
    """Name and implementation of the layers that the library prefills, among these or all."""
    layers = get_layers_from_vllm_config(vllm_config, Attention, names)
    return [
        (name, layer.impl)
        for name, layer in layers.items()
        if isinstance(vars(layer.impl).get("forward"), LayerAttention)
    ]
