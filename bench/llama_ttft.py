#!/usr/bin/env python3
"""Measure the embedded model in llama.cpp, with ggml's own flash attention and with libggml-minference.so.

    make test-engines-llama                            # builds what this needs
    .venv/bin/python bench/llama_ttft.py               # 8K and 32K tokens
    .venv/bin/python bench/llama_ttft.py --lengths 8192 --repeats 3 --ubatch 512

Every run is a llama-completion of its own on a needle prompt, attentions in turn; its answer is checked. Time to first token
is what llama.cpp calls prompt eval time. The floor, everything but attention, is the run with the backend less what the
backend says it took. Results: OUTPUT, rows of the same settings replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from minference.cli.machine import describe
from minference.needle.model import folder
from minference.needle.prompts import make_prompt

ROOT = Path(__file__).resolve().parents[1]
# What MINFERENCE_GGML_PATTERNS says; "own" is llama.cpp without the backend.
PATTERNS = {"own": None, "adaptive": "adaptive", "minference": str(ROOT / "models/needle/head_patterns.json")}
KEYS = ("tokens", "attention", "cache", "ubatch")
TITLE = "Time to first token in llama.cpp, embedded model"
PROMPT_TIME = re.compile(r"prompt eval time = +([\d.]+) ms / +(\d+) tokens")
SUMMARY = re.compile(r"minference: \d+ calls, density ([\d.]+) %, ([\d.]+) s")


def complete(args, prompt, file: Path, attention: str, cache: str, ubatch: int) -> dict:
    """One run of llama-completion."""
    environment = dict(os.environ)
    environment.pop("GGML_BACKEND_PATH", None)
    if PATTERNS[attention]:
        environment.update(
            GGML_BACKEND_PATH=str(args.backend),
            LLAMA_ARG_OVERRIDE_TENSOR="minference=CPU",
            MINFERENCE_GGML_PATTERNS=PATTERNS[attention],
        )
    command = [args.programs / "llama-completion", "-m", args.model, "-f", file, "-fa", "on", "-lv", "4"]
    command += ["-c", args.context, "-b", max(2048, ubatch), "-ub", ubatch, "-ctk", cache, "-ctv", cache]
    command += ["-t", args.threads, "-n", 12, "--temp", 0, "-no-cnv", "--no-display-prompt", "--no-warmup"]
    result = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=True
    )
    milliseconds, tokens = PROMPT_TIME.search(result.stderr).groups()
    run = {"seconds": float(milliseconds) / 1e3, "tokens": int(tokens)}
    run["right"] = result.stdout.startswith(prompt.answer)
    if PATTERNS[attention]:
        density, seconds = SUMMARY.search(result.stderr).groups()
        run |= {"density": float(density) / 100, "attention_seconds": float(seconds)}
    return run


def measure(args, length: int) -> None:
    prompt = make_prompt(AutoTokenizer.from_pretrained(folder()), "multikey", length, 0)
    settings = [
        (attention, cache, ubatch)
        for ubatch in args.ubatch
        for cache in args.caches
        for attention in args.attentions
        # ggml's own kernel is at its best with f16.
        if attention != "own" or cache == "f16"
    ]
    runs: dict[tuple, list[dict]] = {setting: [] for setting in settings}
    args.context = length + 256
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "prompt.txt"
        file.write_text(prompt.text)
        for i in range(args.repeats):
            for setting in settings:
                # ggml's own attention takes many times longer and varies less: one run will do.
                if setting[0] == "own" and i > 0:
                    continue
                runs[setting].append(complete(args, prompt, file, *setting))
                print(length, *setting, runs[setting][-1], file=sys.stderr, flush=True)
    write(args, [row_of(setting, measured) for setting, measured in runs.items()])


def row_of(setting: tuple, runs: list[dict]) -> dict:
    median = lambda field: statistics.median(run[field] for run in runs)  # noqa: E731
    row = dict(zip(KEYS, (runs[0]["tokens"], *setting)))
    row |= {"seconds": round(median("seconds"), 3), "runs": len(runs)}
    row["right"] = all(run["right"] for run in runs)
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
        if base is None:
            continue
        row["sooner"] = round(base["seconds"] / row["seconds"], 2)
        if row["attention"] != "own":
            own_attention = base["seconds"] - row["floor_seconds"]
            row["attention_sooner"] = round(own_attention / row["attention_seconds"], 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 32768], metavar="TOKENS")
    parser.add_argument(
        "--attentions", nargs="+", choices=PATTERNS, default=["own", "adaptive", "minference"]
    )
    parser.add_argument("--caches", nargs="+", choices=("f16", "bf16", "f32"), default=["f16", "bf16"])
    parser.add_argument("--ubatch", nargs="+", type=int, default=[512, 4096])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each attention but llama.cpp's own")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--programs", type=Path, default=ROOT / "build/engines/llama/build/bin")
    parser.add_argument("--model", type=Path, default=ROOT / "build/engines/llama/needle.gguf")
    parser.add_argument("--backend", type=Path, default=ROOT / "build/release/lib/libggml-minference.so")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/llama.json")
    return parser.parse_args()


def write(args, measured: list[dict]) -> None:
    """Adds rows to the result file, in place of those of the same settings."""
    settings = [tuple(row[key] for key in KEYS) for row in measured]
    kept = json.loads(args.output.read_text())["rows"] if args.output.exists() else []
    rows = [row for row in kept if tuple(row[key] for key in KEYS) not in settings] + measured
    order = list(PATTERNS)
    rows.sort(
        key=lambda row: (row["tokens"], row["ubatch"], row["cache"] != "f16", order.index(row["attention"]))
    )
    compare(rows)
    args.output.write_text(json.dumps(describe(TITLE, args.threads, rows), indent=2) + "\n", encoding="utf-8")


def main() -> None:
    args = parse()
    for length in args.lengths:
        measure(args, length)
    print(args.output)


if __name__ == "__main__":
    main()
