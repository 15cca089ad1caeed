#!/usr/bin/env python3
"""Measure retrieval accuracy of the embedded model with dense and sparse attention, on prompts of minference.needle.

    python models/needle/eval.py --attn sdpa minference --samples 60
    python models/needle/eval.py --attn minference adaptive a_shape 100,100 30,100 --lengths 32768 131072

An answer counts when the model's most likely token is right at every place of it, given the prompt and the answer's
earlier tokens: then, and only then, greedy decoding emits the answer. Intervals are Wilson's (1927), at 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch
import transformers

from minference import HeadPatterns, MInference, patterns, record
from minference.cli.machine import describe
from minference.config import DEFAULT_SHARE
from minference.needle import model as needle
from minference.needle.prompts import TASKS, answer_tokens, make_prompt


def patch(model, attention: str):
    """Patch `model`: "sdpa" (none), "adaptive", an attention type of MInference, or "V,S", vertical-slash budgets for
    every head."""
    if attention == "sdpa":
        return MInference("hf")(model)
    if attention == "adaptive":
        return MInference(attn_kwargs={"share": DEFAULT_SHARE})(model)
    if "," in attention:
        vertical, slash = map(int, attention.split(","))
        layer = patterns.layer_array(
            patterns.vertical_slash(vertical, slash), model.config.num_attention_heads
        )
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            HeadPatterns.from_array([layer] * model.config.num_hidden_layers, attention).save(file.name)
            return MInference(config_path=file.name)(model)
    return MInference(attention)(model)


@torch.inference_mode()
def answers_right(model, tokenizer, prompt) -> bool:
    answer = answer_tokens(tokenizer, prompt)
    token_ids = torch.tensor([tokenizer(prompt.text).input_ids + answer])
    logits = model(token_ids[:, :-1], use_cache=False, logits_to_keep=len(answer)).logits[0]
    return logits.argmax(-1).tolist() == answer


def wilson(right: int, samples: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share."""
    share, spread = right / samples, 1 + z * z / samples
    center = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return (center - half) / spread, (center + half) / spread


def measure(model, tokenizer, attention: str, task: str, length: int, args) -> dict:
    prompts = [make_prompt(tokenizer, task, length, seed) for seed in range(args.samples)]
    patch(model, attention)
    right, shares = 0, {}
    for i, prompt in enumerate(prompts):
        if attention == "sdpa" or i >= args.mass_samples:
            right += answers_right(model, tokenizer, prompt)
            continue
        with record(model, kept_mass=True) as report:
            right += answers_right(model, tokenizer, prompt)
        for name in ("density", "kept_mass", "kept_mass_last"):
            shares.setdefault(name, []).append(getattr(report, name))
    low, high = wilson(right, args.samples)
    row = {"attention": attention, "length": length, "task": task, "right": right, "samples": args.samples}
    row |= {"accuracy": round(right / args.samples, 4), "low": round(low, 4), "high": round(high, 4)}
    return row | {name: round(float(sum(values) / len(values)), 4) for name, values in shares.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id (default: the embedded model)")
    parser.add_argument(
        "--attn", nargs="+", default=["sdpa", "minference"], help="see patch() (default: sdpa minference)"
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[32768], metavar="TOKENS")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument(
        "--samples", type=int, default=60, help="prompts of each task and length (default: 60)"
    )
    parser.add_argument(
        "--mass-samples", type=int, default=1, help="prompts whose kept mass is measured (default: 1)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="result file")
    return parser.parse_args()


def main() -> None:
    args = parse()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    model, tokenizer = needle.load(args.model)
    rows = []
    for length in args.lengths:
        for attention in args.attn:
            for task in args.tasks:
                rows.append(measure(model, tokenizer, attention, task, length, args))
                print(json.dumps(rows[-1]), flush=True)
    if args.output:
        result = describe("Retrieval accuracy of the embedded model", args.threads, rows)
        args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
