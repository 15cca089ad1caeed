"""The model behind the page: what `race.Runner` asks for."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...greedy import after_each_layer as layers_of
from ...greedy import answer
from ...observe import Head, observe
from ...report import Report
from .. import options


@dataclass(frozen=True)
class Found:
    """What every head computed of one prompt. num_tokens: of the prompt."""

    num_tokens: int
    report: Report
    heads: list[Head]


class PromptRunner:
    """One prompt in one model, which is patched while a sparse pass runs and is left as it was found.

    attention: one of `options.ATTENTION_CHOICES`.
    """

    def __init__(self, model, tokenizer, token_ids: list[int], num_answer_tokens: int, attention: str):
        self._model, self._tokenizer = model, tokenizer
        self._token_ids, self._num_answer_tokens = token_ids, num_answer_tokens
        self._patch = options.patch_of(attention)
        self.num_layers = len(model.get_decoder().layers)

    def answer(
        self, sparse: bool, after_each_layer: Callable[[], None], after_each_token: Callable[[str], None]
    ) -> float:
        def show(tokens: list[int]) -> None:
            after_each_token(self._tokenizer.decode(tokens, skip_special_tokens=True))

        with self._patched(sparse), layers_of(self._model, after_each_layer):
            return answer(self._model, self._token_ids, self._num_answer_tokens, show).seconds_to_first_token

    def look(self, after_each_layer: Callable[[], None]) -> Found:
        with self._patched(True), layers_of(self._model, after_each_layer), torch.inference_mode():
            with observe(self._model, with_attention=True) as (report, heads):
                prompt = torch.tensor([self._token_ids], device=self._model.device)
                self._model(prompt, use_cache=False, logits_to_keep=1)
        if not heads:
            raise RuntimeError(
                "No layer ran in the library: the model's attention is not plain causal prefill."
            )
        return Found(len(self._token_ids), report, heads)

    def _patched(self, sparse: bool):
        return self._patch.patched(self._model) if sparse else contextlib.nullcontext()


def give_memory_back() -> None:
    """Return what freed tensors leave in the allocator, hundreds of MiB after a long prompt, to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
