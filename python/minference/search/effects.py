"""What errors of heads do to a model's answers: how far the probabilities of the answers' tokens move from dense attention's.

The error of a head's output says nothing of what becomes of it: later layers may not look. Answers do.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ..config import MInferenceConfig
from ..eval.prompt import Tokens
from ..greedy import logits_at
from ..patch import minference_patch, plans_of, require_whole, restore


class Answers:
    """One prompt in a patched model, compared with dense attention.

    Divergence is the Kullback-Leibler divergence from dense attention's probabilities, in nats, mean over the tokens of all answers.
    """

    def __init__(self, model, tokens: Tokens):
        self._model, self._tokens = model, tokens
        self._plans = list(plans_of(model).values())
        self._dense = self._log_probabilities()

    def _log_probabilities(self) -> torch.Tensor:
        logits = logits_at(self._model, self._tokens.ids, self._tokens.answer_places)
        return logits.float().log_softmax(-1)

    def divergence(self, layers: Iterable[np.ndarray]) -> float:
        """With these patterns, int32 [heads, 5] for every layer."""
        for plan, heads in zip(self._plans, layers):
            plan.heads = torch.from_numpy(np.ascontiguousarray(heads))
        found = self._log_probabilities()
        likely = self._dense.exp()
        # Tokens that a model rules out have a logit of minus infinity either way.
        moved = float((likely * (self._dense - found)).masked_fill(likely == 0, 0).sum(-1).mean())
        if not math.isfinite(moved):
            raise ValueError(f"the model's logits must be finite at the answers, got a divergence of {moved}")
        return moved

    def effects(self, layer: int, wide: np.ndarray, narrow: np.ndarray, base: float) -> list[float]:
        """For each head of `layer`, how much further the answers move when it alone takes its `narrow` pattern, all others
        their `wide` ones.

        wide, narrow: int32 [layers, heads, 5]. base: the divergence of `wide`.
        """
        found = []
        for head in range(wide.shape[1]):
            layers = wide.copy()
            layers[layer, head] = narrow[layer, head]
            found.append(self.divergence(layers) - base)
        return found


@contextlib.contextmanager
def answers_of(model, tokens: Tokens) -> Iterator[Answers]:
    """The model is restored at the end."""
    require_whole(model, "a search")
    # Patterns are what is compared, at any length.
    minference_patch(model, MInferenceConfig("dense", attn_kwargs={"fallback": "off"}))
    try:
        yield Answers(model, tokens)
    finally:
        restore(model)
