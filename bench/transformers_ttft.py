#!/usr/bin/env python3
"""Measure the embedded model in transformers, with its own SDPA attention and with MInference.

    python bench/transformers_ttft.py                                  # all parts at 32K tokens: about 30 minutes
    python bench/transformers_ttft.py --parts first_token --lengths 131072 --repeats 1      # dense: 10 minutes
    python bench/transformers_ttft.py --parts short --pairs 31
    python bench/transformers_ttft.py --device cuda --parts first_token answers --lengths 32768 131072

Parts, each written to OUTPUT/transformers_PART.json, or transformers_PART_cuda.json, rows of the same settings replaced:
    first_token   time to first token and peak memory, attentions in turn; on a CPU every run in a process of its own
    answers       needle prompts answered right, density, kept attention mass
    short         prompts of 16 to 4096 tokens, patched and unpatched in turn: median ratio, bootstrap interval
    decode        tokens a second after a long prompt, patched and unpatched in turn
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
import transformers
import ttft

from minference import MInference, record
from minference.config import DEFAULT_SHARE
from minference.greedy import answer, attention_left_out
from minference.needle import model as needle
from minference.needle.prompts import answer_tokens

# "floor" leaves attention out: see minference.greedy.
ATTENTIONS = ("floor", "minference", "adaptive", "dense", "sdpa")
WARM_UP_TOKENS = 1024

# What tells rows of a result file apart; a part has one of the first three.
KEYS = ("tokens", "length", "context", "attention")


def patched(model, attention: str):
    """The model with one of ATTENTIONS but the floor."""
    if attention == "sdpa":
        return model
    options = {"share": DEFAULT_SHARE} if attention == "adaptive" else {}
    return MInference("dense" if attention == "dense" else "minference", attn_kwargs=options)(model)


# ---- first_token -----------------------------------------------------------------------------------------------------


@functools.cache
def loaded(device: str, length: int):
    """The model, and the prompt's tokens."""
    model, tokenizer = needle.load(device=device)
    return model, ttft.token_ids_of(tokenizer, length)


def first_token_in_this_process(attention: str, length: int, device: str) -> dict:
    model, token_ids = loaded(device, length)

    def measure():
        answer(model, token_ids[:WARM_UP_TOKENS], 2)
        if device == "cuda":
            # The first pass of a length also pays for memory and for choices of kernels.
            answer(model, token_ids, 1)
            torch.cuda.reset_peak_memory_stats()
        return answer(model, token_ids, 1).seconds_to_first_token

    if attention == "floor":
        with attention_left_out(model):
            seconds = measure()
    else:
        patched(model, attention)
        seconds = measure()
        MInference("hf")(model)
    if device == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak_mib, "tokens": len(token_ids)}


def one_first_token(attention: str, length: int, args) -> dict:
    """On a CPU in a process of its own, whose peak memory is the run's."""
    if args.device == "cuda":
        return first_token_in_this_process(attention, length, args.device)
    command = [sys.executable, __file__, "--run", attention, str(length), "--threads", str(args.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def first_token(args) -> list[dict]:
    rows = []
    for length in args.lengths:
        runs: dict[str, list[dict]] = {name: [] for name in args.attentions}
        for i in range(args.repeats):
            for name in args.attentions:
                # Dense attention on a CPU takes many times longer and varies less: one run will do.
                if name != "sdpa" or i == 0 or args.device == "cuda":
                    runs[name].append(one_first_token(name, length, args))
                    print(length, name, runs[name][-1], file=sys.stderr, flush=True)
        seconds = {name: [run["seconds"] for run in runs[name]] for name in runs}
        for row in ttft.first_token_rows(seconds, "sdpa"):
            own = runs[row["attention"]]
            peak_mib = round(max(run["peak_mib"] for run in own))
            rows.append({"tokens": own[0]["tokens"]} | row | {"peak_mib": peak_mib})
    return rows


# ---- answers ---------------------------------------------------------------------------------------------------------


def is_right(model, tokenizer, prompt) -> bool:
    expected = answer_tokens(tokenizer, prompt)
    return answer(model, tokenizer(prompt.text).input_ids, len(expected)).tokens == expected


def answers(args) -> list[dict]:
    model, tokenizer = needle.load(device=args.device)
    rows = []
    for length in args.lengths:
        for name in ("minference", "adaptive", "sdpa"):
            count = args.dense_prompts if name == "sdpa" else args.prompts
            prompts = ttft.needle_prompts(tokenizer, length, count)
            if name == "sdpa":
                right = sum(is_right(model, tokenizer, prompt) for prompt in prompts)
                rows.append({"length": length, "attention": name, "right": right, "prompts": count})
            else:
                rows.append(
                    {"length": length, "attention": name}
                    | sparse_answers(model, tokenizer, name, prompts, args)
                )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def sparse_answers(model, tokenizer, attention: str, prompts, args) -> dict:
    """Right answers of all prompts; density and kept mass of the first ones, means and worst over prompts."""
    patched(model, attention)
    try:
        right = 0
        reports = []
        for i, prompt in enumerate(prompts):
            if i < args.mass_prompts:
                with record(model, kept_mass=True) as report:
                    right += is_right(model, tokenizer, prompt)
                reports.append(report)
            else:
                right += is_right(model, tokenizer, prompt)
    finally:
        MInference("hf")(model)
    row = {"right": right, "prompts": len(prompts)}
    for figure in ("density", "kept_mass", "kept_mass_last") if reports else ():
        row[figure] = round(float(np.mean([getattr(report, figure) for report in reports])), 4)
    if reports:
        row["worst_prompt_kept_mass_last"] = round(float(min(report.kept_mass_last for report in reports)), 4)
        heads = [layer.kept_mass_last.min() for report in reports for layer in report.layers]
        row["worst_head_kept_mass_last"] = round(float(min(heads)), 4)
    return row


# ---- short and decode: patched and unpatched in turn -------------------------------------------------------------------


@torch.inference_mode()
def short(args) -> list[dict]:
    models = [needle.load(device=args.device)[0], patched(needle.load(device=args.device)[0], "minference")]
    tokenizer = needle.load()[1]
    token_ids = torch.tensor([ttft.token_ids_of(tokenizer, 2 * max(ttft.SHORT_LENGTHS))], device=args.device)

    def forward(which: int, length: int) -> float:
        begin = time.perf_counter()
        models[which](token_ids[:, :length], use_cache=True, logits_to_keep=1)
        if token_ids.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    rows = []
    for length in ttft.SHORT_LENGTHS:
        for which in (0, 1, 0, 1):
            forward(which, length)
        rows.append({"tokens": length} | ttft.compare(args.pairs, lambda which, n=length: forward(which, n)))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


@torch.inference_mode()
def decode(args) -> list[dict]:
    """Both models continue the same cache, which the patched one filled."""
    models = [needle.load(device=args.device)[0], patched(needle.load(device=args.device)[0], "minference")]
    tokenizer = needle.load()[1]
    rows = []
    for length in args.lengths:
        token_ids = torch.tensor([ttft.token_ids_of(tokenizer, length)], device=args.device)
        out = models[1](token_ids, use_cache=True, logits_to_keep=1)
        cache, first = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)

        def generate(which: int, first=first, cache=cache) -> float:
            token = first
            begin = time.perf_counter()
            for _ in range(args.decode_tokens):
                logits = models[which](token, past_key_values=cache, use_cache=True).logits
                token = logits[:, -1].argmax(-1, keepdim=True)
            if token.is_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begin
            cache.crop(-args.decode_tokens)
            return seconds / args.decode_tokens

        for which in (0, 1):
            generate(which)
        row = {"context": token_ids.shape[1]} | ttft.compare(args.decode_pairs, generate)
        row["unpatched_tokens_per_second"] = round(1e3 / row["unpatched_ms"], 1)
        row["patched_tokens_per_second"] = round(1e3 / row["patched_ms"], 1)
        row["rate_ratio"] = round(1 / row["ratio"], 4)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


# ------------------------------------------------------------------------------------------------------------------------


PARTS = {
    "first_token": ("Time to first token and peak memory in transformers, embedded model", first_token),
    "answers": ("Needle prompts answered in transformers, embedded model", answers),
    "short": ("Short prompts in transformers, patched over unpatched, embedded model", short),
    "decode": ("Decoding in transformers, patched over unpatched, embedded model", decode),
}


def parse() -> argparse.Namespace:
    parser = ttft.parser(__doc__, PARTS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[32768], metavar="TOKENS")
    parser.add_argument(
        "--attentions", nargs="+", choices=ATTENTIONS, default=["floor", "minference", "adaptive", "sdpa"]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--mass-prompts", type=int, default=5, help="answers: prompts whose kept mass is measured"
    )
    parser.add_argument("--decode-pairs", type=int, default=7, help="decode: pairs")
    parser.add_argument("--decode-tokens", type=int, default=32, help="decode: tokens a run")
    parser.add_argument("--run", nargs=2, metavar=("ATTENTION", "TOKENS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    if args.run:
        print(json.dumps(first_token_in_this_process(args.run[0], int(args.run[1]), args.device)))
        return
    for part in args.parts:
        title, measure = PARTS[part]
        name = f"transformers_{part}" + ("" if args.device == "cpu" else f"_{args.device}")
        rows = ttft.with_earlier(args.output, name, measure(args), KEYS)
        rows.sort(key=lambda row: next(row[key] for key in KEYS if key in row))
        ttft.write(args.output, name, title, args.threads, rows)


if __name__ == "__main__":
    main()
