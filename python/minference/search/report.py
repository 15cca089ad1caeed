"""What a search found: per head the choice and its runner-up, the check on held-out prompts, and a map of all heads."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np

from ..eval import statistics
from ..words import pattern_words
from .driver import Check, Choice

# What costs more than this times another is not as cheap, and no rival.
_SAME_COST = 1.05


def heads(choice: Choice) -> list[dict]:
    """One row a head: pattern, error and cost; the best candidate of another kind or size that is as cheap."""
    rows = []
    for layer, head in np.ndindex(choice.candidate.shape):
        mine = choice.candidate[layer, head]
        errors, costs = choice.errors[layer, head].copy(), choice.costs[layer, head]
        same = (choice.candidates[layer, :, head] == choice.patterns[layer, head]).all(1)
        errors[same | (costs > _SAME_COST * costs[mine])] = np.inf
        second = int(errors.argmin())
        row = {
            "layer": layer,
            "head": head,
            "pattern": pattern_words(tuple(choice.patterns[layer, head].tolist())),
            "error": float(choice.errors[layer, head, mine]),
            "cost": float(costs[mine]),
            "effect": None if choice.effects is None else float(choice.effects[:, layer, head].max()),
            "runner_up": None,
            "runner_up_error": None,
        }
        if np.isfinite(errors[second]):
            pattern = tuple(choice.candidates[layer, second, head].tolist())
            row |= {"runner_up": pattern_words(pattern), "runner_up_error": float(errors[second])}
        rows.append(row)
    return rows


def rivals(check: Check) -> list[dict]:
    """Uniform settings of the choice's cost, the best first: error, cost, and the paired difference choice - uniform with
    its 95 % interval."""
    rows = []
    for name, (errors, cost) in check.uniform.items():
        if cost > _SAME_COST * check.cost:
            continue
        gap = statistics.mean(check.found - errors, -1.0, 1.0)
        rows.append(
            {
                "setting": name,
                "error": float(errors.mean()),
                "cost": cost,
                "difference": gap.mean,
                "difference_low": gap.low,
                "difference_high": gap.high,
            }
        )
    return sorted(rows, key=lambda row: row["error"])


def as_markdown(source: str, choice: Choice, check: Check) -> str:
    """The whole report."""
    found = heads(choice)
    lines = ["# Head patterns", "", source, ""]
    counts = Counter(row["pattern"].split(" (")[0] for row in found)
    lines += ["Heads of each kind: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()) + ".", ""]
    lines += ["## On held-out prompts", ""]
    lines += [
        f"The patterns found: error {check.found.mean():.4f}, cost {100 * check.cost:.2f} % of dense attention's, "
        f"over {len(check.found)} layers of prompts. Uniform settings of the same cost, one pattern for all heads of a layer, "
        "fitted to that cost on the very prompt they are scored on, best first:",
        "",
        "| every head | error | cost | error of the patterns found, less this | 95 % |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in rivals(check):
        lines.append(
            f"| {row['setting']} | {row['error']:.4f} | {100 * row['cost']:.2f} % | {row['difference']:+.4f} | "
            f"{row['difference_low']:+.4f} .. {row['difference_high']:+.4f} |"
        )
    if check.divergence is not None:
        mean, by_errors = check.divergence.mean(0)
        lines += [
            "",
            f"Answers move by {mean:.4f} nats a token (Kullback-Leibler divergence from dense attention's), by {by_errors:.4f} with the patterns "
            "that errors alone would choose at the cost wanted.",
        ]
    lines += ["", "## Every head, on the search's prompts", ""]
    if choice.effects is not None:
        lines += [
            "Effect: how much further the answers move, in nats, when this head alone takes its cheapest candidate; the most of all prompts.",
            "",
        ]
    effect_title, effect_rule = ("", "") if choice.effects is None else (" effect |", " ---: |")
    lines += [
        f"| layer | head | pattern | error | cost |{effect_title} runner-up of no more cost | its error |",
        f"| ---: | ---: | --- | ---: | ---: |{effect_rule} --- | ---: |",
    ]
    for row in found:
        other = "" if row["runner_up"] is None else f"{row['runner_up_error']:.4f}"
        effect = "" if row["effect"] is None else f" {row['effect']:.4f} |"
        lines.append(
            f"| {row['layer']} | {row['head']} | {row['pattern']} | {row['error']:.4f} | {100 * row['cost']:.2f} % |{effect} "
            f"{row['runner_up'] or ''} | {other} |"
        )
    return "\n".join(lines) + "\n"


def save_map(path: str | os.PathLike, choice: Choice) -> None:
    """Layers down, heads to the right: the kind of pattern by colour, its error and cost in numbers."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    from ..plotting import save

    rows = heads(choice)
    kinds = sorted({row["pattern"].split(" (")[0] for row in rows})
    colours = dict(zip(kinds, ("#9ecae1", "#fdae6b", "#a1d99b", "#bcbddc", "#d9d9d9")))
    num_layers, num_heads = choice.candidate.shape
    figure, axes = plt.subplots(figsize=(1.05 * num_heads + 1, 0.62 * num_layers + 1.4))
    for row in rows:
        kind, _, sizes = row["pattern"].partition(" (")
        axes.add_patch(
            plt.Rectangle((row["head"], row["layer"]), 1, 1, facecolor=colours[kind], edgecolor="white")
        )
        text = f"{sizes.rstrip(')')}\n{100 * row['error']:.1f} %  {100 * row['cost']:.1f} %"
        axes.text(row["head"] + 0.5, row["layer"] + 0.5, text, ha="center", va="center", fontsize=6.5)
    axes.set_xlim(0, num_heads)
    axes.set_ylim(num_layers, 0)
    axes.set_xticks(np.arange(num_heads) + 0.5, range(num_heads))
    axes.set_yticks(np.arange(num_layers) + 0.5, range(num_layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.set_title("Sizes, output error and cost of every head's pattern", fontsize=10)
    figure.legend(
        [Patch(color=colours[kind]) for kind in kinds],
        kinds,
        loc="lower center",
        ncols=len(kinds),
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save(figure, path)
