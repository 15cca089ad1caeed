"""Prompts times settings, in order, one JSON line a sample; what is in the journal already is not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..greedy import answer, continued, likeliest
from ..recording import record
from . import ahead, scoring
from .journal import Journal
from .prompt import Prompt, Tokens
from .settings import Methods, Setting, density_of_members
from .tasks import TASKS, PromptMaker

# A seed that no sample has: the prompt on which static heads choose.
_CALIBRATION_SEED = 10**9

SAMPLE_KEY = ("task", "length", "seed", "attention")


@dataclass(frozen=True)
class Grid:
    """What to run.

    scoring: of answers that end their prompt, "generated", "decoded" or "forced"; those in the middle are forced anyway, and
    those whose parts may come in any order generated.
    mass_samples: prompts of each task and length whose kept mass is measured, which takes a dense attention more.
    stride: between seeds, so that several processes can share the prompts of one run.
    """

    tasks: list[str]
    lengths: list[int]
    settings: list[Setting]
    samples: int
    first_seed: int = 0
    scoring: str = "generated"
    mass_samples: int = 0
    stride: int = 1

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.samples * self.stride, self.stride)

    def prompts(self) -> Iterator[tuple[str, int, int]]:
        """Seeds outermost, so that a run cut short has something of everything."""
        for seed in self.seeds:
            for length in self.lengths:
                for task in self.tasks:
                    yield task, length, seed

    def __len__(self) -> int:
        return len(self.tasks) * len(self.lengths) * self.samples * len(self.settings)


class Runner:
    """Runs a grid on one model, where the model is. workers: processes that make prompts ahead of their use."""

    def __init__(self, model, tokenizer, maker: PromptMaker, methods: Methods, grid: Grid, workers: int = 0):
        self._model, self._tokenizer, self._maker = model, tokenizer, maker
        self._methods, self._grid, self._workers = methods, grid, workers
        for task in grid.tasks:
            maker.require(task)
        for setting in grid.settings:
            methods.require(setting)

    def run(
        self, journal: Journal, done: Callable[[], None], seconds: float = float("inf")
    ) -> dict[tuple[str, int, str], str]:
        """Run what the journal lacks, for at most about `seconds`. Calls `done` after every sample, those found in the
        journal too.

        Returns what failed, (task, length, setting): the error's text. A setting that fails is left out from there on,
        for this task and length; others go on.
        """
        end = time.monotonic() + seconds
        failed: dict[tuple[str, int, str], str] = {}
        missing = {name: self._missing(journal, *name) for name in self._grid.prompts()}
        for _ in range(len(self._grid) - sum(map(len, missing.values()))):
            done()
        wanted = [name for name, settings in missing.items() if settings]
        made = ahead.prompts(self._maker, wanted, self._workers)
        for (task, length, seed), (prompt, tokens) in zip(wanted, made):
            for setting in missing[task, length, seed]:
                if time.monotonic() > end:
                    made.close()
                    return failed
                cell = (task, length, str(setting))
                if cell not in failed:
                    try:
                        row = self._sample(task, length, seed, setting, prompt, tokens)
                    except Exception as error:
                        failed[cell] = str(error) or type(error).__name__
                    else:
                        journal.add(row)
                done()
        return failed

    def _missing(self, journal: Journal, task: str, length: int, seed: int) -> list[Setting]:
        return [
            setting for setting in self._grid.settings if (task, length, seed, str(setting)) not in journal
        ]

    def _sample(
        self, task: str, length: int, seed: int, setting: Setting, prompt: Prompt, tokens: Tokens
    ) -> dict:
        self._methods.apply(setting)
        members = self._methods.keep_members(setting, (task, length), lambda: self._calibrate(task, length))
        scored = self._grid.scoring if prompt.ends_with_answer else "forced"
        if prompt.any_order:
            scored = "generated"
        row = dict(zip(SAMPLE_KEY, (task, length, seed, str(setting))))
        row |= {"tokens": len(tokens.ids), "depth": prompt.depth, "scored": scored}
        if setting.method == "sdpa" or members is not None:
            row |= self._answer(scored, task, prompt, tokens)
            row["density"] = 1.0 if members is None else density_of_members(members, len(tokens.ids))
        else:
            with record(self._model) as report:
                row |= self._answer(scored, task, prompt, tokens)
            # Calls too short for the library stay with PyTorch's dense attention.
            row["density"] = 1.0 if report.density is None else report.density
            if seed in self._grid.seeds[: self._grid.mass_samples]:
                with record(self._model, kept_mass=True) as report:
                    self._first_token(tokens.ids)
                row["kept_mass"], row["kept_mass_last"] = report.kept_mass, report.kept_mass_last
        return {
            name: round(float(value), 6) if isinstance(value, float) else value for name, value in row.items()
        }

    def _calibrate(self, task: str, length: int) -> None:
        _, tokens = self._maker.make(task, length, _CALIBRATION_SEED)
        self._first_token(tokens.ids)

    def _answer(self, scored: str, task: str, prompt: Prompt, tokens: Tokens) -> dict:
        if scored != "generated":
            begin = time.perf_counter()
            if scored == "decoded":
                found = self._decoded(tokens)
            else:
                found = likeliest(self._model, tokens.ids, tokens.answer_places)
            seconds = time.perf_counter() - begin
            return {"score": scoring.forced(found, tokens), "seconds_to_first_token": seconds}
        before = tokens.ids[: tokens.answers[-1][0]]

        def text_of(ids: list[int]) -> str:
            return self._tokenizer.decode(ids, skip_special_tokens=True)

        def score_of(ids: list[int]) -> float:
            return scoring.matched(text_of(ids), prompt.references, prompt.any_reference)

        # What follows a right answer can't make it wrong.
        found = answer(self._model, before, TASKS[task].new_tokens, enough=lambda ids: score_of(ids) == 1)
        return {
            "score": score_of(found.tokens),
            "answer": text_of(found.tokens).strip(),
            "wanted": list(prompt.references),
            "seconds_to_first_token": found.seconds_to_first_token,
        }

    def _on_device(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._model.device)

    @torch.inference_mode()
    def _decoded(self, tokens: Tokens) -> dict[int, int]:
        """As `likeliest` where the answer ends the prompt: prefill stops before it, as when it is generated, and the
        answer follows over the cache, in one step."""
        (places,) = tokens.answers
        ids = self._on_device([tokens.ids])
        begin, end = places[0], places[-1]
        out = self._model(ids[:, :begin], use_cache=True, logits_to_keep=1)
        found = out.logits[0].argmax(-1).tolist()
        if end > begin:
            rest = continued(self._model, ids[:, begin:end], out.past_key_values)
            found += rest[0].argmax(-1).tolist()
        return dict(zip(places, found))

    @torch.inference_mode()
    def _first_token(self, ids: list[int]) -> None:
        self._model(self._on_device([ids]), use_cache=False, logits_to_keep=1)
