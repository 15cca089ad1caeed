"""What the engines that serve models share: what their environment asks for, and the patterns of a model's heads."""

from __future__ import annotations

import json
import os

from . import _library
from .config import MInferenceConfig


def requested(variable):
    """The `MInferenceConfig` that an environment variable asks for, or None.

    The variable holds ``1``, for the defaults, or a JSON object of `MInference`'s parameters, such as
    ``{"model_name": "Qwen/Qwen2-7B-Instruct"}``. Unset, empty and ``0`` ask for nothing.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        For any other value.
    """
    text = os.environ.get(variable, "").strip()
    if text in ("", "0"):
        return None
    parameters = {}
    if text != "1":
        try:
            parameters = json.loads(text)
        except ValueError:
            parameters = None
        if not isinstance(parameters, dict):
            raise ValueError(f"{variable} must be 1 or a JSON object, got {text!r}")
    config = MInferenceConfig(**parameters)
    return None if config.attn_type == "hf" else config


def layers_of(config, num_layers, num_heads, model):
    """What a `MInferenceConfig` means for a model, in plain numbers that can be sent to other processes.

    Parameters
    ----------
    num_heads : int
        Query heads of all tensor-parallel ranks.
    model : str
        What the engine calls it: a folder or a hub id.

    Returns
    -------
    layers : list
        For every layer, the five numbers of each query head, all tensor-parallel ranks'.
    fallback : int
        FALLBACK_AUTO or FALLBACK_OFF.
    share_index : bool
        As in `minference.prefill_attention`.
    """
    if config.attn_type == "static":
        raise NotImplementedError("attn_type must be one that keeps nothing from call to call, got 'static'")
    layers = config.layers(num_layers, num_heads, model)
    fallback = _library.FALLBACK_OFF if config.options["fallback"] == "off" else _library.FALLBACK_AUTO
    return [heads.tolist() for heads in layers], fallback, config.options.get("share_index", False)


def slice_of_rank(heads, rank, num_heads):
    """The patterns of one tensor-parallel rank's query heads: ranks divide them evenly and in order."""
    begin = rank * num_heads
    if begin + num_heads > len(heads):
        raise ValueError(
            f"patterns must be for all query heads, {begin + num_heads} or more for rank {rank}, got {len(heads)}"
        )
    return heads[begin : begin + num_heads]


# Spelled out: comparing objects would need the framework that this file does without.
_DTYPES = ("torch.float32", "torch.float16", "torch.bfloat16")


def uncomputed(head_dim, dtype):
    """Why the library does not compute attention of this shape and type; None if it does."""
    if str(dtype) not in _DTYPES:
        return f"dtype {dtype}"
    if head_dim % 8 or head_dim > 256:
        return f"head_dim {head_dim}, not a multiple of 8 up to 256"
    return None
