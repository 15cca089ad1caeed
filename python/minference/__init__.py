"""MInference in C++: dynamic sparse attention for long-context prefill.

Importing this package needs neither torch nor transformers nor a GPU; they are looked for when something
needs them.
"""

from __future__ import annotations

import importlib

from . import patterns
from ._context import get_num_threads, instruction_set, set_num_threads
from ._statistics import Statistics
from .functions import (
    block_sparse_attention,
    dense_attention,
    estimate,
    prefill_attention,
    select,
    streaming_forward,
    vertical_slash_sparse_attention,
)
from .patterns import HeadPatterns, get_support_models

__version__ = "0.1.0"

# What needs torch and transformers, by module.
_LAZY = {
    "MInference": "patch",
    "MInferenceConfig": "config",
    "minference_patch": "patch",
    "record": "recording",
    "restore": "patch",
}

# Names of MInference 1.0 (versions 0.1.5 and 0.1.6) that this package does not have.
_UPSTREAM_NAMES = (
    "minference_patch_kv_cache_cpu",
    "minference_patch_vllm",
    "minference_patch_with_kvcompress",
    "minference_patch_with_snapkv",
    "patch_hf",
)

__all__ = [
    "HeadPatterns",
    "MInference",
    "MInferenceConfig",
    "Statistics",
    "block_sparse_attention",
    "dense_attention",
    "estimate",
    "get_num_threads",
    "get_support_models",
    "instruction_set",
    "minference_patch",
    "patterns",
    "prefill_attention",
    "record",
    "restore",
    "select",
    "set_num_threads",
    "streaming_forward",
    "vertical_slash_sparse_attention",
]


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module("." + _LAZY[name], __name__), name)
    if name in _UPSTREAM_NAMES:
        raise NotImplementedError(f"{name} is not available here; available: {', '.join(__all__)}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
