"""Accuracy of an exported folder on the prompts of `minference.eval`, dense attention, as fast as one GPU can."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minference.eval import ahead, scoring
from minference.eval.tasks import TASKS, PromptMaker
from minference.eval.wording import Embedded
from minference.greedy import answer, likeliest

MEASURED = (
    "vt", "vt_two_hops", "two_hops", "niah_multiquery", "niah_multivalue", "early_question", "cwe",
    "niah_single_2", "niah_multikey_1", "niah_multikey_2", "passkey", "kv", "kv_words", "kv_copies", "recall", "repeated",
)  # fmt: skip


def _score(model, tokenizer, task: str, prompt, tokens) -> float:
    """Answers of several parts are generated and scored as RULER does, in any order; others token by token."""
    if len(prompt.references) < 2:
        return scoring.forced(likeliest(model, tokens.ids, tokens.answer_places), tokens)
    found = answer(model, tokens.ids[: tokens.answers[-1][0]], TASKS[task].new_tokens)
    text = tokenizer.decode(found.tokens, skip_special_tokens=True)
    return scoring.matched(text, prompt.references, prompt.any_reference)


def measure(
    folder: Path, lengths: list[int], samples: int, seconds: float, workers: int, device: str, tasks=MEASURED
) -> Iterator[dict]:
    """For each task and length the mean score; fewer than `samples` prompts where `seconds` are over before."""
    end = time.monotonic() + seconds
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model, tokenizer = model.eval().to(device), AutoTokenizer.from_pretrained(folder)
    maker = PromptMaker(tokenizer, Embedded)
    wanted = [(task, length, seed) for seed in range(samples) for length in lengths for task in tasks]
    scores: dict[tuple[str, int], list[float]] = {}
    made = ahead.prompts(maker, wanted, workers)
    for (task, length, _), (prompt, tokens) in zip(wanted, made):
        if time.monotonic() > end:
            break
        scores.setdefault((task, length), []).append(_score(model, tokenizer, task, prompt, tokens))
    made.close()
    for (task, length), found in scores.items():
        yield {"task": task, "length": length, "score": sum(found) / len(found), "samples": len(found)}
