#!/usr/bin/env python3
"""Measure the embedded model in llama.cpp, with ggml's own flash attention and with libggml-minference.so.

    make test-engines-llama                            # builds what this needs
    .venv/bin/python bench/llama_ttft.py               # all parts at 32K tokens
    .venv/bin/python bench/llama_ttft.py --parts first_token --lengths 8192 --ubatch 512

Parts, each written to OUTPUT/llama_PART.json, rows of the same settings replaced:
    first_token   a needle prompt through llama-completion, its answer checked
    bench         prompts of llama-bench, tokens at random
    answers       needle prompts answered right by llama-server

Every time is of a run of its own, attentions in turn. The floor, everything but attention, is the run with the backend less
what the backend says it took.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

import ttft
from llama_programs import ROOT, run, serve
from transformers import AutoTokenizer

from minference.needle.model import folder
from minference.needle.prompts import make_prompt

# What MINFERENCE_GGML_PATTERNS says; "own" is llama.cpp without the backend.
PATTERNS = {"own": None, "adaptive": "adaptive", "minference": str(ROOT / "models/needle/head_patterns.json")}
KEYS = ("tokens", "attention", "cache", "ubatch")
PROMPT_TIME = re.compile(r"prompt eval time = +([\d.]+) ms / +(\d+) tokens")
SUMMARY = re.compile(r"minference: \d+ calls, density ([\d.]+) %, ([\d.]+) s")


def options(args, cache: str, ubatch: int) -> list:
    return ["-b", max(2048, ubatch), "-ub", ubatch, "-ctk", cache, "-ctv", cache, "-t", args.threads]


def patterns_of(attention: str) -> dict:
    if attention == "own":
        return {"backend": False}
    return {"MINFERENCE_GGML_PATTERNS": PATTERNS[attention]}


def summary_of(log: str) -> dict:
    density, seconds = SUMMARY.search(log).groups()
    return {"density": float(density) / 100, "attention_seconds": float(seconds)}


def complete(args, length: int, attention: str, cache: str, ubatch: int) -> dict:
    """One run of llama-completion; seconds are what llama.cpp calls prompt eval time."""
    prompt = make_prompt(args.tokenizer, "multikey", length, 0)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt.text)
        file.flush()
        arguments = ["-f", file.name, "-fa", "on", "-lv", 4, "-c", length + 256, "-n", 12, "--temp", 0]
        arguments += ["-no-cnv", "--no-display-prompt", "--no-warmup", *options(args, cache, ubatch)]
        result = run("llama-completion", *arguments, **patterns_of(attention))
    milliseconds, tokens = PROMPT_TIME.search(result.stderr).groups()
    measured = {"seconds": float(milliseconds) / 1e3, "tokens": int(tokens)}
    measured["right"] = result.stdout.startswith(prompt.answer)
    return measured if attention == "own" else measured | summary_of(result.stderr)


def bench(args, length: int, attention: str, cache: str, ubatch: int) -> dict:
    """One run of llama-bench."""
    arguments = ["-p", length, "-n", 0, "-r", 1, "-fa", 1, "--no-warmup", "-v", "-o", "json"]
    result = run("llama-bench", *arguments, *options(args, cache, ubatch), **patterns_of(attention))
    measured = {"seconds": json.loads(result.stdout)[0]["avg_ns"] / 1e9, "tokens": length}
    measured["tokens_per_second"] = length / measured["seconds"]
    return measured if attention == "own" else measured | summary_of(result.stderr)


def times(measure_one):
    """The part that measures by this function."""

    def measure(args, length: int) -> list[dict]:
        settings = [
            (attention, cache, ubatch)
            for ubatch in args.ubatch
            for cache in args.caches
            for attention in args.attentions
            # ggml's own kernel is at its best with f16.
            if attention != "own" or cache == "f16"
        ]
        runs: dict[tuple, list[dict]] = {setting: [] for setting in settings}
        for i in range(args.repeats):
            for setting in settings:
                # ggml's own attention takes many times longer and varies less: one run will do.
                if setting[0] == "own" and i > 0:
                    continue
                runs[setting].append(measure_one(args, length, *setting))
                print(length, *setting, runs[setting][-1], file=sys.stderr, flush=True)
        return [row_of(setting, measured) for setting, measured in runs.items()]

    return measure


def row_of(setting: tuple, runs: list[dict]) -> dict:
    median = lambda field: statistics.median(run[field] for run in runs)  # noqa: E731
    row = dict(zip(KEYS, (runs[0]["tokens"], *setting)))
    row |= {"seconds": round(median("seconds"), 3), "runs": len(runs)}
    if "right" in runs[0]:
        row["right"] = all(run["right"] for run in runs)
    if "tokens_per_second" in runs[0]:
        row["tokens_per_second"] = round(median("tokens_per_second"))
    if "density" in runs[0]:
        row["density"] = round(median("density"), 4)
        row["attention_seconds"] = round(median("attention_seconds"), 3)
        row["floor_seconds"] = round(
            statistics.median(run["seconds"] - run["attention_seconds"] for run in runs), 3
        )
    return row


def compare(rows: list[dict]) -> None:
    """Adds to every row how much sooner than llama.cpp itself it is, at the same length and ubatch."""
    own = {(row["tokens"], row["ubatch"]): row for row in rows if row["attention"] == "own"}
    for row in rows:
        base = own.get((row["tokens"], row["ubatch"]))
        if base is None or "seconds" not in row:
            continue
        row["sooner"] = round(base["seconds"] / row["seconds"], 2)
        if row["attention"] != "own":
            own_attention = base["seconds"] - row["floor_seconds"]
            row["attention_sooner"] = round(own_attention / row["attention_seconds"], 1)


def answers(args, length: int) -> list[dict]:
    rows = []
    for ubatch in args.ubatch:
        for cache in args.caches:
            for attention in args.attentions:
                if attention == "own" and cache != "f16":
                    continue
                count = args.dense_prompts if attention == "own" else args.prompts
                prompts = ttft.needle_prompts(args.tokenizer, length, count)
                arguments = ["-c", length + 256, "-np", 1, *options(args, cache, ubatch)]
                with tempfile.TemporaryDirectory() as logs:
                    with serve(Path(logs), *arguments, **patterns_of(attention)) as server:
                        right = [
                            server.complete(prompt.text, cache_prompt=False).startswith(prompt.answer)
                            for prompt in prompts
                        ]
                    row = dict(zip(KEYS, (length, attention, cache, ubatch)))
                    row |= {"right": sum(right), "prompts": count}
                    if attention != "own":
                        row["density"] = summary_of(server.log())["density"]
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    return rows


PARTS = {
    "first_token": ("Time to first token in llama.cpp, embedded model", times(complete)),
    "bench": ("Prompts of llama-bench, embedded model", times(bench)),
    "answers": ("Needle prompts answered by llama-server, embedded model", answers),
}


def write(args, part: str, measured: list[dict]) -> None:
    """Adds rows to the result file, in place of those of the same settings."""
    name = f"llama_{part}"
    rows = ttft.with_earlier(args.output, name, measured, KEYS)
    order = list(PATTERNS)
    rows.sort(
        key=lambda row: (row["tokens"], row["ubatch"], row["cache"] != "f16", order.index(row["attention"]))
    )
    compare(rows)
    ttft.write(args.output, name, PARTS[part][0], args.threads, rows)


def main() -> None:
    parser = ttft.parser(__doc__, PARTS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[32768], metavar="TOKENS")
    parser.add_argument("--attentions", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--caches", nargs="+", choices=("f16", "bf16", "f32"), default=["f16", "bf16"])
    parser.add_argument("--ubatch", nargs="+", type=int, default=[512, 4096])
    args = parser.parse_args()
    args.tokenizer = AutoTokenizer.from_pretrained(folder())
    for part in args.parts:
        for length in args.lengths:
            write(args, part, PARTS[part][1](args, length))


if __name__ == "__main__":
    main()
