"""Pictures of an evaluation: accuracy over density, one curve a method, and the needle-in-a-haystack heat map."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np

from ..plotting import INK, NOTHING, QUIET, STYLE, save
from .perplexity import ranges

# Okabe and Ito's colours, which people with any colour vision can tell apart; one a method, always the same.
_COLOURS = {
    "minference": "#D55E00",
    "adaptive": "#0072B2",
    "a_shape": "#009E73",
    "tri_shape": "#56B4E9",
    "static": "#CC79A7",
    "vertical_only": "#E69F00",
    "slash_only": "#8C6D31",
    "block_sparse": "#666666",
}


def save_curves(path: str | os.PathLike, rows: Iterable[dict], title: str) -> None:
    """Accuracy over density: a panel a task and length, a curve a method through its budgets, bars its 95 % intervals, the
    grey band dense attention's."""
    panels: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        panels[row["task"], row["length"]].append(row)
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(4.4 * columns, 3.4 * lines + 0.8),
            squeeze=False,
            sharey=True,
            layout="constrained",
        )
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")
        for axes, ((task, length), found) in zip(grid.flat, panels.items()):
            _curves(axes, found)
            axes.set_title(f"{task}, {length:,} tokens", fontsize=10)
        handles = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        figure.suptitle(title, fontsize=12, fontweight="bold")
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False
        )
        save(figure, path)


def _curves(axes, rows: list[dict]) -> None:
    curves: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        curves[row["attention"].partition("@")[0]].append(row)
    for row in curves.pop("dense", []):
        axes.axhspan(100 * row["low"], 100 * row["high"], color="#dfe3e8", zorder=0)
        axes.axhline(100 * row["accuracy"], color=QUIET, linewidth=1, label="dense", zorder=1)
    for method, found in curves.items():
        found.sort(key=lambda row: row["density"])
        density = np.array([100 * row["density"] for row in found])
        accuracy = np.array([100 * row["accuracy"] for row in found])
        low, high = (np.array([100 * row[name] for row in found]) for name in ("low", "high"))
        axes.errorbar(
            density,
            accuracy,
            yerr=np.maximum([accuracy - low, high - accuracy], 0),
            color=_COLOURS.get(method, INK),
            marker="o",
            markersize=3.5,
            linewidth=1.4,
            elinewidth=0.8,
            label=method.replace("_", "-"),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_ylim(-3, 103)
    axes.set_xlabel("density")
    axes.set_ylabel("right answers, %")
    axes.grid(color=NOTHING, linewidth=0.6)


def save_perplexity(path: str | os.PathLike, rows: Iterable[dict], title: str) -> None:
    """Perplexity above dense attention's over the position in the context: a panel a length, a curve a setting."""
    panels: dict[int, list[dict]] = defaultdict(list)
    for row in rows:
        panels[row["length"]].append(row)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.4), squeeze=False)
        for axes, (length, found) in zip(grid.flat, panels.items()):
            ends = [end for _, end in ranges(length)]
            axes.axhline(0, color=QUIET, linewidth=1, zorder=1)
            for row in found:
                if "above_by_position" in row:
                    axes.plot(
                        ends,
                        [100 * share for share in row["above_by_position"]],
                        color=_COLOURS.get(row["attention"].partition("@")[0], INK),
                        linestyle="--" if "@" in row["attention"] else "-",
                        marker="o",
                        markersize=3.5,
                        linewidth=1.4,
                        label=row["attention"].replace("_", "-"),
                    )
            axes.set_xscale("log", base=2)
            axes.set_xticks(ends, [f"{end:,}" for end in ends])
            axes.set_title(f"contexts of {length:,} tokens", fontsize=10)
            axes.set_xlabel("positions up to")
            axes.set_ylabel("above dense, %")
            axes.grid(color=NOTHING, linewidth=0.6)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False)
        figure.suptitle(title, fontsize=12, fontweight="bold")
        figure.tight_layout()
        save(figure, path)


def save_heat_map(path: str | os.PathLike, samples: Iterable[dict], attention: str) -> None:
    """Needle in a haystack: lengths to the right, depths down, the share of right answers in every cell."""
    cells: dict[tuple, list[float]] = defaultdict(list)
    for sample in samples:
        cells[round(sample["depth"], 3), sample["length"]].append(sample["score"])
    depths, lengths = (sorted({cell[i] for cell in cells}) for i in (0, 1))
    shares = np.full((len(depths), len(lengths)), np.nan)
    for (depth, length), scores in cells.items():
        shares[depths.index(depth), lengths.index(length)] = np.mean(scores)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(1.1 * len(lengths) + 2.6, 0.42 * len(depths) + 1.6))
        image = axes.imshow(shares, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            if not np.isnan(share):
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
        axes.set_xlabel("tokens")
        axes.set_ylabel("depth of the needle")
        axes.tick_params(length=0)
        axes.set_title(f"Needle in a haystack, {attention}: right answers, %", fontsize=10)
        figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03).outline.set_visible(False)
        save(figure, path)
