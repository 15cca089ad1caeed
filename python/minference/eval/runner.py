"""Prompts times settings, in order, one JSON line a sample; what is in the journal already is not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..report import record
from . import scoring
from .journal import Journal
from .prompt import Prompt, Tokens
from .settings import Methods, Setting, density_of_members
from .tasks import TASKS, PromptMaker

# A seed that no sample has: the prompt on which static heads choose.
_CALIBRATION_SEED = 10**9

SAMPLE_KEY = ("task", "length", "seed", "attention")


@dataclass(frozen=True)
class Grid:
    """What to run. forced: score answers token by token even where they could be generated. mass_samples: prompts of
    each task and length whose kept mass is measured, which takes a dense attention more."""

    tasks: list[str]
    lengths: list[int]
    settings: list[Setting]
    samples: int
    first_seed: int = 0
    forced: bool = False
    mass_samples: int = 0

    def prompts(self) -> Iterator[tuple[str, int, int]]:
        """Seeds outermost, so that a run cut short has something of everything."""
        for seed in range(self.first_seed, self.first_seed + self.samples):
            for length in self.lengths:
                for task in self.tasks:
                    yield task, length, seed

    def __len__(self) -> int:
        return len(self.tasks) * len(self.lengths) * self.samples * len(self.settings)


class Runner:
    """Runs a grid on one model."""

    def __init__(self, model, tokenizer, maker: PromptMaker, methods: Methods, grid: Grid):
        self._model, self._tokenizer, self._maker = model, tokenizer, maker
        self._methods, self._grid = methods, grid
        limit = model.config.get_text_config(decoder=True).max_position_embeddings
        for length in grid.lengths:
            if length > limit:
                raise ValueError(f"length must be at most the model's {limit} positions, got {length}")
        for task in grid.tasks:
            maker.require(task)
        for setting in grid.settings:
            methods.require(setting)

    def run(self, journal: Journal, done: Callable[[], None]) -> None:
        """Run what the journal lacks. Calls `done` after every sample, those found in the journal too."""
        for task, length, seed in self._grid.prompts():
            made = None
            for setting in self._grid.settings:
                if (task, length, seed, str(setting)) not in journal:
                    made = made or self._maker.make(task, length, seed)
                    journal.add(self._sample(task, length, seed, setting, *made))
                done()

    def _sample(
        self, task: str, length: int, seed: int, setting: Setting, prompt: Prompt, tokens: Tokens
    ) -> dict:
        self._methods.apply(setting)
        members = self._methods.keep_members(setting, (task, length), lambda: self._calibrate(task, length))
        generates = TASKS[task].new_tokens > 0 and prompt.ends_with_answer and not self._grid.forced
        row = {"task": task, "length": length, "seed": seed, "attention": str(setting)}
        row |= {"tokens": len(tokens.ids), "depth": prompt.depth}
        row["scored"] = "generated" if generates else "forced"
        if setting.method == "sdpa" or members is not None:
            row |= self._answer(generates, task, prompt, tokens)
            row["density"] = 1.0 if members is None else density_of_members(members, len(tokens.ids))
        else:
            with record(self._model) as report:
                row |= self._answer(generates, task, prompt, tokens)
            row["density"] = report.density
            if seed < self._grid.first_seed + self._grid.mass_samples:
                with record(self._model, kept_mass=True) as report:
                    self._first_token(tokens.ids)
                row["kept_mass"], row["kept_mass_last"] = report.kept_mass, report.kept_mass_last
        return {
            name: round(float(value), 6) if isinstance(value, float) else value for name, value in row.items()
        }

    def _calibrate(self, task: str, length: int) -> None:
        _, tokens = self._maker.make(task, length, _CALIBRATION_SEED)
        self._first_token(tokens.ids)

    def _answer(self, generates: bool, task: str, prompt: Prompt, tokens: Tokens) -> dict:
        if not generates:
            begin = time.perf_counter()
            likeliest = self._likeliest(tokens)
            seconds = time.perf_counter() - begin
            return {"score": scoring.forced(likeliest, tokens), "seconds_to_first_token": seconds}
        from ..greedy import answer

        before = tokens.ids[: tokens.answers[-1][0]]
        found = answer(self._model, before, TASKS[task].new_tokens)
        text = self._tokenizer.decode(found.tokens, skip_special_tokens=True)
        return {
            "score": scoring.matched(text, prompt.references, prompt.any_reference),
            "answer": text.strip(),
            "wanted": list(prompt.references),
            "seconds_to_first_token": found.seconds_to_first_token,
        }

    @torch.inference_mode()
    def _likeliest(self, tokens: Tokens) -> dict[int, int]:
        """One pass over the prompt: for each place of an answer's token, the likeliest token there."""
        places = [place for answer in tokens.answers for place in answer]
        before = torch.tensor([place - 1 for place in places])
        logits = self._model(torch.tensor([tokens.ids]), use_cache=False, logits_to_keep=before).logits[0]
        return dict(zip(places, logits.argmax(-1).tolist()))

    @torch.inference_mode()
    def _first_token(self, ids: list[int]) -> None:
        self._model(torch.tensor([ids]), use_cache=False, logits_to_keep=1)
