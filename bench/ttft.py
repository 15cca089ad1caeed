"""What the programs that measure engines share: prompts, times to first token as rows, pairs of runs, result files."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import numpy as np

from minference.cli.machine import describe
from minference.needle.prompts import TASKS, Prompt, make_prompt

# One fact found; `variables` takes several, see docs/accuracy.md for what sparsity costs there.
NEEDLES = [task for task in TASKS if task != "variables"]
SHORT_LENGTHS = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


def token_ids_of(tokenizer, length: int) -> list[int]:
    return tokenizer(make_prompt(tokenizer, "multikey", length, 0).text).input_ids


def needle_prompts(tokenizer, length: int, count: int) -> list[Prompt]:
    return [make_prompt(tokenizer, NEEDLES[i % len(NEEDLES)], length, i) for i in range(count)]


def first_token_rows(seconds: dict[str, list[float]], baseline: str) -> list[dict]:
    """A row an attention, from the times of its runs: medians, and beside `baseline` what the attention alone takes, where
    both it and "floor" were run."""
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    rows = []
    for name, runs in seconds.items():
        row = {"attention": name, "seconds": round(medians[name], 5), "runs": len(runs)}
        if {"floor", baseline} <= medians.keys():
            row["sooner"] = round(medians[baseline] / medians[name], 2)
            attention_seconds = medians[name] - medians["floor"]
            row["attention_seconds"] = round(attention_seconds, 5)
            if name != "floor":
                row["attention_sooner"] = round((medians[baseline] - medians["floor"]) / attention_seconds, 1)
        rows.append(row)
    return rows


def interval_of_median(ratios: list[float], resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile bootstrap (Efron 1979) of the median, always with the same resamples."""
    rng = np.random.default_rng(0)
    values = np.asarray(ratios)
    medians = np.median(values[rng.integers(0, len(values), (resamples, len(values)))], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def compare(pairs: int, measure) -> dict:
    """`measure(i)` gives the seconds of model i, 0 unpatched and 1 patched; the order turns with every pair."""
    times: list[list[float]] = [[], []]
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 else (1, 0):
            times[which].append(measure(which))
    ratios = [after / before for before, after in zip(*times)]
    low, high = interval_of_median(ratios)
    return {
        "unpatched_ms": round(1e3 * statistics.median(times[0]), 3),
        "patched_ms": round(1e3 * statistics.median(times[1]), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_low": round(low, 4),
        "ratio_high": round(high, 4),
        "pairs": pairs,
    }


def common_parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """With the options of every program that takes times to first token."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="times to first token: runs of each sparse attention"
    )
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder for result files")
    return parser


def parser(description: str, parts: dict) -> argparse.ArgumentParser:
    """The same for programs that also measure other things; the keys of `parts` are what they measure."""
    parser = common_parser(description, repeats=3)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), metavar="PART")
    parser.add_argument("--prompts", type=int, default=50, help="answers: prompts for sparse attention")
    parser.add_argument(
        "--dense-prompts", type=int, default=5, help="answers: prompts for the engine's attention"
    )
    parser.add_argument("--pairs", type=int, default=31, help="short: pairs a length")
    return parser


def write(folder: Path, name: str, title: str, threads: int, rows: list[dict]) -> None:
    """Write a result file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(describe(title, threads, rows), indent=2) + "\n", encoding="utf-8")
    print(path)


def with_earlier(folder: Path, name: str, rows: list[dict], keys: tuple[str, ...]) -> list[dict]:
    """These rows after those of an earlier result file, if there is one, that have other values of `keys`.

    Each earlier row keeps the command and commit that it was measured with, in fields of its own.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return rows
    settings = lambda row: [row.get(key) for key in keys]  # noqa: E731
    measured = [settings(row) for row in rows]
    earlier = json.loads(path.read_text(encoding="utf-8"))
    origin = {key: earlier[key] for key in ("command", "commit") if key in earlier}
    return [{**origin, **row} for row in earlier["rows"] if settings(row) not in measured] + rows
