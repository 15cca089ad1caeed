"""Greedy answers of a transformers model, with the time to the first token; and the floor below that time."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import AttentionInterface, AttentionMaskInterface, StoppingCriteria, StoppingCriteriaList


@dataclass(frozen=True)
class Answer:
    """Token ids that followed a prompt.

    seconds_to_first_token: the forward pass over the prompt and the choice of the first token.
    seconds_per_token: mean over the tokens after the first; None when there are none.
    """

    tokens: list[int]
    seconds_to_first_token: float
    seconds_per_token: float | None


class _Clock(StoppingCriteria):
    """Notes when each token was there, passes on all tokens so far, and stops where `enough` says so."""

    def __init__(
        self,
        notify: Callable[[torch.Tensor], None] | None,
        enough: Callable[[torch.Tensor], bool] | None,
    ):
        self._notify, self._enough = notify, enough
        self.times = [time.perf_counter()]

    def __call__(self, input_ids, scores, **_):
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        self.times.append(time.perf_counter())
        if self._notify:
            self._notify(input_ids)
        stops = self._enough is not None and self._enough(input_ids)
        return torch.full((input_ids.shape[0],), stops, dtype=torch.bool, device=input_ids.device)


def answer(
    model,
    token_ids: list[int],
    num_tokens: int,
    after_each_token: Callable[[list[int]], None] | None = None,
    enough: Callable[[list[int]], bool] | None = None,
) -> Answer:
    """At most `num_tokens` tokens after the prompt `token_ids`, the likeliest each time, by `model.generate`.

    after_each_token, enough: called with the tokens of the answer so far; where `enough` says so, it ends there.
    """
    prompt = torch.tensor([token_ids], device=model.device)

    def with_answer(call):
        return call and (lambda tokens: call(tokens[0, len(token_ids) :].tolist()))

    clock = _Clock(with_answer(after_each_token), with_answer(enough))
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_tokens,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    begin, first, *_, last = [*clock.times, clock.times[-1]]
    count = len(clock.times) - 1
    return Answer(
        out[0, len(token_ids) :].tolist(), first - begin, (last - first) / (count - 1) if count > 1 else None
    )


@torch.inference_mode()
def logits_at(model, token_ids: list[int], places: list[int]) -> torch.Tensor:
    """One pass over a prompt: for each place above 0, the logits of the token there, given all before it."""
    before = torch.tensor([place - 1 for place in places], device=model.device)
    ids = torch.tensor([token_ids], device=model.device)
    return model(ids, use_cache=False, logits_to_keep=before).logits[0]


def likeliest(model, token_ids: list[int], places: list[int]) -> dict[int, int]:
    """One pass over a prompt: for each place above 0, the likeliest token there, given all before it."""
    return dict(zip(places, logits_at(model, token_ids, places).argmax(-1).tolist()))


def continued(model, token_ids: torch.Tensor, cache) -> torch.Tensor:
    """Logits of tokens ``[B, n]`` that follow those of a cache, which takes them in."""
    # Newer versions of transformers 5 have another name for it, and warn of the old one.
    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return model(token_ids, use_cache=True, **{named: cache}).logits


def _copy_query(module, query, key, value, attention_mask, **_):
    return query.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def attention_left_out(model) -> Iterator[None]:
    """Replace attention by a copy of the queries: what remains of the time to first token is the floor, the part that
    no attention kernel can shorten."""
    name = "minference_floor"
    AttentionInterface.register(name, _copy_query)
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    previous = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


@contextlib.contextmanager
def attention_timed(model) -> Iterator[list[float]]:
    """A list that grows by the seconds of every call of the model's attention function."""
    name = model.config._attn_implementation
    if name not in AttentionInterface():
        raise NotImplementedError(
            f"the model's attn_implementation must be one registered by name, got {name!r}"
        )
    attend = AttentionInterface()[name]
    seconds: list[float] = []

    def now(tensor):
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
        return time.perf_counter()

    def timed(module, query, *arguments, **options):
        begin = now(query)
        result = attend(module, query, *arguments, **options)
        seconds.append(now(query) - begin)
        return result

    AttentionInterface.register(name, timed)
    try:
        yield seconds
    finally:
        AttentionInterface.register(name, attend)


@contextlib.contextmanager
def after_each_layer(model, notify: Callable[[], None]) -> Iterator[None]:
    """Call `notify` after every decoder layer of every forward pass."""
    hooks = [layer.register_forward_hook(lambda *_: notify()) for layer in model.get_decoder().layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
