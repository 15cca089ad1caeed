#!/usr/bin/env python3
"""Compare the library's estimation and published selection with double precision on the embedded model's own heads.

    python bench/needle_selection.py --length 32768 --output bench/results/needle_selection.json

For every vertical-slash head of a needle prompt: kept attention mass (over all rows) of the members that the library
selects, and of those that the rules of MInference 1.0 select from sums in f64; docs/algorithm.md, "Estimation" and
"Selection: published".
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import numpy as np
import torch

from minference import MInference, dense_attention, estimate, select, vertical_slash_sparse_attention
from minference._library import VERTICAL_SLASH
from minference.cli.machine import describe
from minference.needle import model as needle
from minference.needle.prompts import make_prompt

FORCED_COLUMNS, FORCED_OFFSETS = 30, 100


class Capture:
    """Keeps the query, key and value of each layer, and computes the layer as the plan says."""

    def __init__(self):
        self.layers = {}

    def __call__(self, plan, query, key, value, call, scale, out):
        self.layers[plan.layer] = (plan.heads, query.clone(), key.clone(), value.clone())
        plan.recorder = None
        out.copy_(plan.run(query, key, value, call, scale or None).transpose(1, 2))


@contextlib.contextmanager
def captured(model):
    capture = Capture()
    for module in model.modules():
        if hasattr(module, "_minference"):
            module._minference.recorder = capture
    yield capture.layers


def sums_in_f64(query, key):
    """Column and diagonal sums of one head's last 64 rows: [kv_len] each, from query [q_len, D] and key [kv_len, D]."""
    rows, kv_len = query[-64:].double().numpy(), len(key)
    scores = rows @ key.double().numpy().T / np.sqrt(rows.shape[1])
    positions = np.arange(kv_len - len(rows), kv_len)
    scores[np.arange(kv_len)[None] > positions[:, None]] = -np.inf
    mass = np.exp(scores - scores.max(1, keepdims=True))
    mass /= mass.sum(1, keepdims=True)
    diagonals = np.zeros(kv_len)
    for position, row in zip(positions, mass):
        diagonals[: position + 1] += row[position::-1]
    return mass.sum(0), diagonals


def published(sums, budget, forced):
    sums = sums.copy()
    sums[: min(forced, budget)] = np.inf
    return np.sort(np.argsort(-sums, kind="stable")[:budget]).astype(np.int32)


def kept_mass(query, key, value, columns, offsets, all_lse):
    _, lse = vertical_slash_sparse_attention(query, key, value, columns, offsets, return_lse=True)
    return (lse.double() - all_lse.double()).exp().mean().item()


def compare_layer(heads, query, key, value):
    """Kept mass of either selection and how many members they do not share, a row a head; all on the stored bf16 inputs."""
    # The others' members come from their pattern, not from sums.
    selected = [head for head, pattern in enumerate(heads.tolist()) if pattern[0] == VERTICAL_SLASH]
    if not selected:
        return
    group = query.shape[1] // key.shape[1]
    _, all_lse = dense_attention(query, key, value, return_lse=True)
    chosen = select(*(sums[0][selected] for sums in estimate(query, key)), heads[selected].numpy())
    for place, head in enumerate(selected):
        pattern = heads[head].tolist()
        q, kv = query[:, head : head + 1], slice(head // group, head // group + 1)
        k, v = key[:, kv], value[:, kv]
        column_sums, diagonal_sums = sums_in_f64(q[0, 0], k[0, 0])
        exact = (
            published(column_sums, max(pattern[1], FORCED_COLUMNS), FORCED_COLUMNS),
            published(diagonal_sums, max(pattern[2], 50), FORCED_OFFSETS),
        )
        ours = tuple(np.asarray(members[place]) for members in chosen)
        masses = [
            kept_mass(
                q, k, v, *(torch.from_numpy(m)[None, None] for m in members), all_lse[:, head : head + 1]
            )
            for members in (ours, exact)
        ]
        differing = sum(len(np.setxor1d(a, b)) for a, b in zip(ours, exact))
        yield {"head": head, "library": masses[0], "f64": masses[1], "differing_members": differing}


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--task", default="multikey")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="result file, JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = needle.load()
    MInference("minference")(model)
    token_ids = tokenizer(make_prompt(tokenizer, arguments.task, arguments.length, 0).text).input_ids
    with captured(model) as layers:
        model(torch.tensor([token_ids]), use_cache=False, logits_to_keep=1)
    rows = []
    for layer, tensors in sorted(layers.items()):
        rows += [{"layer": layer, **row} for row in compare_layer(*tensors)]
        worst = max((abs(row["library"] - row["f64"]) for row in rows), default=float("nan"))
        members = sum(row["differing_members"] for row in rows)
        print(
            f"up to layer {layer}: kept mass differs by {worst:.2e} at most, {members} members differ",
            flush=True,
        )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        title = f"Kept mass of the library's selection and of f64's, {len(token_ids)} tokens"
        result = describe(title, arguments.threads, rows)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
