"""The search: prompts through the model, scores of every layer into a journal, the choice, and a check on other prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..eval.journal import Journal
from ..eval.prompt import Tokens
from ..patch import text_config
from . import choose, scoring
from .candidates import FAMILIES, Family, templates
from .effects import answers_of
from .layers import visit_layers

JOURNAL_KEY = ("phase", "task", "length", "seed", "layer")


@dataclass(frozen=True)
class Plan:
    """What to search. cost: mean over heads, a share of dense attention's. levels: multiples of it that candidates are
    fitted to; one level is Algorithm 1's equal cost, several let heads share. prompts, held_out: (task, length, seed).
    families: to choose from. weigh: heads by what their errors do to the answers, which takes every prompt once more for
    every head."""

    cost: float
    levels: tuple[float, ...]
    prompts: tuple[tuple[str, int, int], ...]
    held_out: tuple[tuple[str, int, int], ...]
    families: tuple[Family, ...] = FAMILIES
    weigh: bool = False


@dataclass(frozen=True)
class Choice:
    """Arrays over [layers, heads] unless they say otherwise.

    patterns: int32 [layers, heads, 5]. candidate: index into `candidates`. candidates: int32 [layers, candidates, heads, 5].
    names: of the candidates. errors, costs: [layers, heads, candidates], means over prompts (of squares, for errors).
    effects: [prompts, layers, heads] of what `effects.Answers` measured; None where errors alone chose.
    """

    patterns: np.ndarray
    candidate: np.ndarray
    candidates: np.ndarray
    names: list[str]
    errors: np.ndarray
    costs: np.ndarray
    effects: np.ndarray | None = None


@dataclass(frozen=True)
class Check:
    """Held-out prompts: rows are (prompt, layer) pairs, values root mean squares over heads.

    found, cost: of the choice. uniform: {family: (errors, mean cost)} of its rivals: one pattern for all heads of a
    layer, of the size that meets `cost` on the very prompt that it is scored on. divergence: [prompts, 2], of the answers
    (see `effects.Answers`), of the choice and of the choice by errors alone; None where that is the choice.
    """

    found: np.ndarray
    cost: float
    uniform: dict[str, tuple[np.ndarray, float]]
    divergence: np.ndarray | None = None


class Search:
    """Searches one model. make(task, length, seed): a prompt's tokens."""

    def __init__(self, model, make: Callable[[str, int, int], Tokens], plan: Plan, journal: Journal):
        text, _ = text_config(model)
        self._model, self._make, self._plan, self._journal = model, make, plan, journal
        self._num_layers, self._num_heads = text.num_hidden_layers, text.num_attention_heads

    def steps(self) -> int:
        """Layers of prompts, for a progress bar."""
        searched = len(self._plan.prompts) * (2 if self._plan.weigh else 1)
        return self._num_layers * (searched + 2 * len(self._plan.held_out))

    def run(self, done: Callable[[], None]) -> tuple[Choice, Check]:
        """Search and check. Calls `done` after every layer of a prompt, those found in the journal too.

        Raises ValueError when no choice is as cheap as the plan wants.
        """
        for prompt in self._plan.prompts:
            self._each_layer("search", prompt, self._score_candidates, done)
        choice = by_errors = self._choose()
        if self._plan.weigh:
            choice = self._choose(self._effects(by_errors, done))
        for prompt in self._plan.held_out:
            self._each_layer(
                "held out", prompt, lambda *layer: self._score_choice(choice.patterns, *layer), done
            )
        found, cost = self._held_out("held out")
        for prompt in self._plan.held_out:
            # The rivals may spend what the choice was seen to cost.
            self._each_layer(
                "uniform", prompt, lambda *layer: self._score_uniform(float(cost[0]), *layer), done
            )
        errors, costs = self._held_out("uniform")
        uniform = {
            family.name: (errors[:, i], float(costs[i])) for i, family in enumerate(self._plan.families)
        }
        divergence = self._divergence(choice, by_errors) if self._plan.weigh else None
        return choice, Check(found[:, 0], float(cost[0]), uniform, divergence)

    def _each_layer(self, phase: str, prompt: tuple, score: Callable, done: Callable[[], None]) -> None:
        names = [(phase, *prompt, layer) for layer in range(self._num_layers)]
        missing = {name[-1] for name in names if name not in self._journal}

        def visit(layer, query, key, value, scale):
            if layer in missing:
                row = dict(zip(JOURNAL_KEY, names[layer]))
                self._journal.add(row | score(layer, (query, key, value, scale)))
                missing.discard(layer)
            done()

        if not missing:
            for _ in names:
                done()
            return
        visit_layers(self._model, self._make(*prompt).ids, visit)
        if missing:
            raise NotImplementedError(
                f"every layer must be full causal attention to be searched, got other layers: {sorted(missing)}"
            )

    def _score_candidates(self, layer: int, tensors: tuple) -> dict:
        query, key, value, scale = tensors
        first = ("search", *self._plan.prompts[0], layer)
        if first in self._journal:
            candidates = np.array(self._journal.rows[first]["candidates"], dtype=np.int32)
        else:
            heads, free = templates(self._plan.families, self._num_heads)
            candidates = np.concatenate(
                [
                    scoring.fit_patterns(query, key, heads, free, self._plan.cost * level, scale)
                    for level in self._plan.levels
                ]
            )
        scores = scoring.score_patterns(query, key, value, candidates, scale)
        lengths = {length for _, length, _ in self._plan.prompts}
        if layer == 0 and first not in self._journal and len(lengths) == 1:
            # What the cheapest cost hangs on the length and hardly on the layer: refused now, not after hours. Of
            # several lengths the mean counts.
            self._require_met(scores["cost"].min(0).mean())
        row = {"error": scores["error"].tolist(), "cost": scores["cost"].tolist()}
        return row if first in self._journal else row | {"candidates": candidates.tolist()}

    def _require_met(self, least: float) -> None:
        if least > self._plan.cost:
            raise ValueError(
                f"cost must be at least {math.ceil(least * 1000) / 1000:g} for prompts of these lengths, what the cheapest "
                f"candidates cost, got {self._plan.cost:g}"
            )

    def _rows(self, phase: str, prompts: tuple) -> Iterator[list[dict]]:
        """For each prompt, the rows of its layers."""
        for prompt in prompts:
            yield [self._journal.rows[(phase, *prompt, layer)] for layer in range(self._num_layers)]

    def _effects(self, choice: Choice, done: Callable[[], None]) -> np.ndarray:
        """[prompts, layers, heads] of what `Answers` measures."""
        wide, narrow = (
            _taken(choice.candidates, measure.argmin(-1)) for measure in (choice.errors, choice.costs)
        )
        for prompt in self._plan.prompts:
            names = [("effect", *prompt, layer) for layer in range(self._num_layers)]
            missing = [name for name in names if name not in self._journal]
            for _ in range(len(names) - len(missing)):
                done()
            if not missing:
                continue
            with answers_of(self._model, self._make(*prompt)) as answers:
                base = answers.divergence(wide)
                for name in missing:
                    effects = answers.effects(name[-1], wide, narrow, base)
                    self._journal.add(dict(zip(JOURNAL_KEY, name)) | {"effects": effects})
                    done()
        rows = self._rows("effect", self._plan.prompts)
        return np.array([[row["effects"] for row in layers] for layers in rows])

    def _divergence(self, *choices: Choice) -> np.ndarray:
        """[held-out prompts, choices], of the answers."""
        found = []
        for prompt in self._plan.held_out:
            name = ("divergence", *prompt, 0)
            if name not in self._journal:
                with answers_of(self._model, self._make(*prompt)) as answers:
                    values = [answers.divergence(choice.patterns) for choice in choices]
                self._journal.add(dict(zip(JOURNAL_KEY, name)) | {"divergence": values})
            found.append(self._journal.rows[name]["divergence"])
        return np.array(found)

    def _choose(self, effects: np.ndarray | None = None) -> Choice:
        rows = list(self._rows("search", self._plan.prompts))
        candidates = np.array([row["candidates"] for row in rows[0]], dtype=np.int32)
        # [prompts, layers, candidates, heads]
        errors, costs = (
            np.array([[row[name] for row in layers] for layers in rows]) for name in ("error", "cost")
        )
        errors = np.sqrt((errors**2).mean(0)).swapaxes(1, 2)
        costs = costs.mean(0).swapaxes(1, 2)
        flat = (-1, errors.shape[-1])
        self._require_met(costs.min(-1).mean())
        if len(self._plan.levels) == 1:
            found = choose.equal_cost(errors.reshape(flat), costs.reshape(flat), self._plan.cost)
        else:
            losses = (errors**2 if effects is None else choose.weighed(errors, costs, effects)).reshape(flat)
            found = choose.shared_cost(losses, costs.reshape(flat), self._plan.cost)
        found = found.reshape(errors.shape[:2])
        chosen = _taken(candidates, found)
        names = [
            f"{family.name} at {self._plan.cost * level:.3g}"
            for level in self._plan.levels
            for family in self._plan.families
        ]
        return Choice(chosen, found, candidates, names, errors, costs, effects)

    def _score_choice(self, found: np.ndarray, layer: int, tensors: tuple) -> dict:
        query, key, value, scale = tensors
        return _over_heads(scoring.score_patterns(query, key, value, found[layer][None], scale))

    def _score_uniform(self, cost: float, layer: int, tensors: tuple) -> dict:
        query, key, value, scale = tensors
        heads, free = templates(self._plan.families, self._num_heads)
        fitted = scoring.fit_patterns(query, key, heads, free, cost, scale, shared=True)
        return _over_heads(scoring.score_patterns(query, key, value, fitted, scale))

    def _held_out(self, phase: str) -> tuple[np.ndarray, np.ndarray]:
        """errors [prompts * layers, candidates], mean costs [candidates]."""
        rows = [row for layers in self._rows(phase, self._plan.held_out) for row in layers]
        return np.array([row["error"] for row in rows]), np.mean([row["cost"] for row in rows], axis=0)


def _taken(candidates: np.ndarray, which: np.ndarray) -> np.ndarray:
    """patterns [layers, heads, 5] of candidates [layers, candidates, heads, 5]. which: [layers, heads]."""
    layers, heads = np.indices(which.shape)
    return candidates[layers, which, heads]


def _over_heads(scores: np.ndarray) -> dict:
    """For each candidate, the root mean square error and the mean cost of all heads."""
    return {
        "error": np.sqrt((scores["error"] ** 2).mean(1)).tolist(),
        "cost": scores["cost"].mean(1).tolist(),
    }
