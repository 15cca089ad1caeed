"""Query, key and value of every layer of a transformers model, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import _calls
from ..config import MInferenceConfig
from ..patch import minference_patch, plans_of, require_whole, restore


class _Visitor:
    """A recorder (see transformers_backend.LayerPlan) that computes densely and shows what it was given."""

    def __init__(self, visit: Callable):
        self._visit = visit

    def __call__(self, plan, query, key, value, call, scale, out):
        heads = plan.heads_for(call.window, query.shape[1])
        _calls.prefill(query, key, value, heads, call.where, scale, out=out)
        if not call.window:
            self._visit(plan.layer, query, key, value, scale)


@torch.inference_mode()
def visit_layers(model, token_ids: list[int], visit: Callable) -> None:
    """Run a prompt densely and call ``visit(layer, query, key, value, softmax_scale)`` in every layer without a sliding
    window: ``[1, Hq, q_len, D]`` and ``[1, Hkv, kv_len, D]``, rotated, valid during the call. The model is restored after
    it."""
    require_whole(model, "a look at its layers")
    minference_patch(model, MInferenceConfig("dense"))
    try:
        for plan in plans_of(model).values():
            plan.recorder = _Visitor(visit)
        model(torch.tensor([token_ids], device=model.device), use_cache=False, logits_to_keep=1)
    finally:
        restore(model)
