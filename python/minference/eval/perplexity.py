"""How well a model predicts a text, by position in the context."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ..recording import record
from . import statistics
from .journal import Journal
from .settings import Methods, Setting

WINDOW_KEY = ("length", "window", "attention")

# Positions whose logits are in memory at a time.
_ROWS = 512
# Ranges of positions, each twice as long as the one before but for the first two, which are of one length.
_RANGES = 6


def ranges(length: int) -> list[tuple[int, int]]:
    """Ranges of positions of a context of `length` tokens: its first 32nd, and from there doubling."""
    edges = [0, *(length >> shift for shift in range(_RANGES - 1, -1, -1))]
    return list(zip(edges, edges[1:]))


def windows(tokenizer, path: str | os.PathLike, length: int, count: int) -> list[list[int]]:
    """At most `count` pieces of a text file, one after the other, each of `length` tokens, with the tokenizer's first
    token where it has one. Raises ValueError where the text is shorter than one."""
    if length < 1 << _RANGES:
        raise ValueError(f"length must be at least {1 << _RANGES} tokens, got {length}")
    text = Path(path).read_text(encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    first = tokenizer("", add_special_tokens=True).input_ids[:1]
    each = length - len(first)
    found = [first + ids[begin : begin + each] for begin in range(0, len(ids) - each + 1, each)]
    if not found:
        raise ValueError(f"the text must have at least {each} tokens, got {len(ids)} in {os.fspath(path)}")
    return found[:count]


def require(model) -> None:
    """Refuse models that do more to their logits than a matrix product. Raises NotImplementedError."""
    text = model.config.get_text_config(decoder=True)
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        value = getattr(text, name, None)
        if value not in (None, 1, 1.0):
            raise NotImplementedError(f"{name} must be left out for perplexity, got {value}")


@torch.inference_mode()
def losses(model, ids: list[int]) -> list[float]:
    """-log of the probability of every token but the first, given all before it. One pass; memory of a few hundred rows
    of logits."""
    tokens = torch.tensor([ids], device=model.device)
    states = model.get_decoder()(tokens, use_cache=False).last_hidden_state[0, :-1]
    head, wanted = model.get_output_embeddings(), tokens[0, 1:]
    found = [
        torch.nn.functional.cross_entropy(head(rows).float(), right, reduction="none")
        for rows, right in zip(states.split(_ROWS), wanted.split(_ROWS))
    ]
    return torch.cat(found).tolist()


class Runner:
    """Reads windows of a text with one setting after the other. texts: {length: windows}."""

    def __init__(self, model, methods: Methods, texts: dict[int, list[list[int]]], settings: list[Setting]):
        require(model)
        self._model, self._methods, self._texts, self._settings = model, methods, texts, settings
        for setting in settings:
            if setting.method == "static":
                raise ValueError("attention must not be static, which chooses on another prompt of a task")
            methods.require(setting)

    def __len__(self) -> int:
        return sum(map(len, self._texts.values())) * len(self._settings)

    def run(self, journal: Journal, done: Callable[[], None]) -> None:
        """Read what the journal lacks. Calls `done` after every window, those found in the journal too."""
        for length, windows_of_text in self._texts.items():
            for window, ids in enumerate(windows_of_text):
                for setting in self._settings:
                    name = (length, window, str(setting))
                    if name not in journal:
                        journal.add(dict(zip(WINDOW_KEY, name)) | self._read(setting, ids))
                    done()

    def _read(self, setting: Setting, ids: list[int]) -> dict:
        self._methods.apply(setting)
        begin = time.perf_counter()
        density = None
        if setting.method == "sdpa":
            found = losses(self._model, ids)
        else:
            with record(self._model) as report:
                found = losses(self._model, ids)
            density = report.density
        seconds = time.perf_counter() - begin
        # Position p of a context predicts the token at p + 1.
        means = [sum(found[a:b]) / len(found[a:b]) for a, b in ranges(len(ids))]
        return {
            "tokens": len(ids),
            "losses": [round(mean, 6) for mean in means],
            "loss": round(sum(found) / len(found), 6),
            "density": 1.0 if density is None else round(density, 6),
            "seconds": round(seconds, 6),
        }


def summarize(rows: Iterable[dict], baseline: str) -> list[dict]:
    """One row a length and setting: perplexity over the whole context and in each of `ranges`, and what it is above the
    baseline's on the same windows, a share, with its 95 % interval over windows (None with one window)."""
    cells: dict[tuple, dict[int, dict]] = {}
    for row in rows:
        cells.setdefault((row["length"], row["attention"]), {})[row["window"]] = row
    found = []
    for (length, attention), by_window in cells.items():
        own = list(by_window.values())
        by_range = zip(*(row["losses"] for row in own))
        line = {
            "length": length,
            "attention": attention,
            "windows": len(own),
            "perplexity": math.exp(sum(row["loss"] for row in own) / len(own)),
            "by_position": [math.exp(sum(column) / len(own)) for column in by_range],
            "density": sum(row["density"] for row in own) / len(own),
        }
        other = cells.get((length, baseline), {})
        shared = [window for window in by_window if window in other]
        if attention != baseline and shared:
            pairs = [(by_window[window], other[window]) for window in shared]
            gaps = [mine["loss"] - theirs["loss"] for mine, theirs in pairs]
            line["above"] = math.expm1(sum(gaps) / len(gaps))
            line["above_by_position"] = [
                math.expm1(sum(m["losses"][i] - t["losses"][i] for m, t in pairs) / len(pairs))
                for i in range(_RANGES)
            ]
            interval = statistics.mean(gaps, min(gaps), max(gaps)) if len(gaps) > 1 else None
            line["above_low"], line["above_high"] = (
                (math.expm1(interval.low), math.expm1(interval.high)) if interval else (None, None)
            )
        found.append(line)
    return found
