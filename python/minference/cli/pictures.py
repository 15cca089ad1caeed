"""Pictures of heads: what each one computes, what it keeps, and where one head's attention goes."""

from __future__ import annotations

import io
import os

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from ..observe import MAP_BINS, Head, computed_share
from ..plotting import INK, NOTHING, QUIET, STYLE, save
from ..report import LayerReport, Report
from ..words import pattern_words


def _colours(name: str):
    """A colour map whose "nothing here" is a light grey and whose "future" is white."""
    return matplotlib.colormaps[name].with_extremes(under=NOTHING, bad="white")


def _shown(values: np.ndarray) -> np.ndarray:
    """Zeros as numbers below every scale: a logarithmic scale would take them for missing."""
    return np.where(values == 0, np.finfo(float).tiny, values)


def _bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def share_run(head: Head, layer: LayerReport, resolution: int = MAP_BINS) -> np.ndarray | None:
    """`computed_share` of what ran: everything where the head fell back to dense attention."""
    share = computed_share(head, resolution)
    if share is not None and layer.fallback[head.head] > 0.5:
        return np.where(np.tri(resolution, dtype=bool), 1.0, np.nan)
    return share


_SHARE_COLOURS, _SHARE_SCALE = _colours("magma_r"), LogNorm(1e-3, 1)


def share_as_png(share: np.ndarray) -> bytes:
    """One pixel a cell."""
    buffer = io.BytesIO()
    plt.imsave(buffer, _SHARE_COLOURS(_SHARE_SCALE(_shown(share))), format="png")
    return buffer.getvalue()


def save_patterns(path: str | os.PathLike, heads: list[Head], report: Report, title: str) -> None:
    """One small picture for every head: the share of each cell's pairs that is computed, keys to the right, queries
    down."""
    layers = sorted({head.layer for head in heads})
    columns = 1 + max(head.head for head in heads)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(layers), columns, figsize=(1.25 * columns + 0.9, 1.48 * len(layers) + 0.9), squeeze=False
        )
        for axes in grid.flat:
            axes.axis("off")
        image = None
        for head in heads:
            axes = grid[layers.index(head.layer)][head.head]
            axes.axis("on")
            _bare(axes)
            layer = report.layer_of(head.layer)
            share = share_run(head, layer)
            if share is None:
                axes.text(0.5, 0.5, pattern_words(head.pattern), ha="center", transform=axes.transAxes)
            else:
                image = axes.imshow(
                    _shown(share), cmap=_SHARE_COLOURS, norm=_SHARE_SCALE, interpolation="nearest"
                )
            axes.set_title(
                f"{100 * layer.density[head.head]:.1f} %  ·  {100 * layer.kept_mass[head.head]:.0f} %",
                fontsize=7,
                color=QUIET,
                pad=3,
            )
            if head.head == 0:
                axes.set_ylabel(f"layer {head.layer}", fontsize=8, color=INK)
            if head.layer == layers[-1]:
                axes.set_xlabel(f"head {head.head}", fontsize=8, color=INK)
        figure.text(0.5, 1, title, ha="center", va="top", fontsize=13, fontweight="bold")
        figure.text(
            0.5,
            1 - 0.36 / figure.get_figheight(),
            "queries down, keys to the right; above each head: density (pairs computed) · attention mass kept",
            ha="center",
            va="top",
            color=QUIET,
        )
        figure.tight_layout(rect=(0, 0, 0.93, 1 - 0.5 / figure.get_figheight()), w_pad=0.6, h_pad=0.7)
        if image is not None:
            bar = figure.colorbar(image, cax=figure.add_axes((0.945, 0.3, 0.012, 0.4)), extend="min")
            bar.set_label("share of a cell's pairs computed")
            bar.outline.set_visible(False)
        save(figure, path)


def save_heat_map(path: str | os.PathLike, report: Report, title: str) -> None:
    """Density and kept mass of all heads: layers down, heads to the right."""
    panels = [
        ("density", [layer.density for layer in report.layers if layer.calls], "viridis_r"),
        (
            "attention mass kept, all rows",
            [layer.kept_mass for layer in report.layers if layer.calls],
            "viridis",
        ),
        (
            "attention mass kept, last 64 rows",
            [layer.kept_mass_last for layer in report.layers if layer.calls],
            "viridis",
        ),
    ]
    names = [layer.layer for layer in report.layers if layer.calls]
    num_layers, num_heads = len(names), len(panels[0][1][0])
    with_numbers = num_heads <= 16
    cell = 0.42 if with_numbers else 0.16
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1,
            3,
            figsize=(3 * max(cell * num_heads + 0.9, 2.6), max(cell * num_layers, 1.6) + 1.3),
            squeeze=False,
        )
        for axes, (name, values, colours) in zip(grid.flat, panels):
            values = np.array(values)
            low, high = (0, max(values.max(), 1e-6)) if name == "density" else (min(values.min(), 0.9), 1)
            image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
            axes.set_title(f"{name}\nmean {100 * values.mean():.1f} %", fontsize=9)
            axes.set_xlabel("head")
            axes.set_ylabel("layer")
            if with_numbers:
                axes.set_xticks(range(num_heads))
                axes.set_yticks(range(num_layers), names)
                for (layer, head), value in np.ndenumerate(values):
                    red, green, blue, _ = image.cmap(image.norm(value))
                    dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
                    axes.text(
                        head,
                        layer,
                        f"{100 * value:.1f}",
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if dark else INK,
                    )
            axes.tick_params(length=0)
            bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
            bar.outline.set_visible(False)
        figure.suptitle(title, fontsize=12, fontweight="bold")
        figure.tight_layout()
        save(figure, path)


def save_attention(path: str | os.PathLike | io.BytesIO, head: Head, layer: LayerReport) -> None:
    """One head in full: where its attention goes, and what of that is computed, with the columns and diagonals chosen."""
    share = share_run(head, layer, len(head.attention))
    attention = head.attention * len(head.attention)
    attention = np.where(np.isnan(share), np.nan, attention) if share is not None else attention
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.9), sharey=True)
        extent = (0, head.kv_len, head.q_len, 0)
        image = left.imshow(
            _shown(attention),
            cmap=_colours("magma"),
            norm=LogNorm(1e-4, len(head.attention)),
            extent=extent,
            interpolation="nearest",
        )
        left.set_title("attention mass (1 = evenly spread)", fontsize=9)
        left.set_ylabel("query")
        bars = [(image, left)]
        if share is None:
            right.text(0.5, 0.5, pattern_words(head.pattern), ha="center", transform=right.transAxes)
        else:
            image = right.imshow(
                _shown(share),
                cmap=_SHARE_COLOURS,
                norm=_SHARE_SCALE,
                extent=extent,
                interpolation="nearest",
            )
            bars.append((image, right))
        chosen = (
            "" if head.columns is None else f": {len(head.columns)} columns, {len(head.offsets)} diagonals"
        )
        right.set_title(f"pairs computed{chosen}", fontsize=9)
        for mappable, axes in bars:
            axes.set_xlabel("key")
            figure.colorbar(mappable, ax=axes, fraction=0.046, pad=0.03, extend="min").outline.set_visible(
                False
            )
        figure.suptitle(
            f"layer {head.layer}, head {head.head}: {pattern_words(head.pattern)}  ·  "
            f"density {100 * layer.density[head.head]:.2f} %  ·  mass kept {100 * layer.kept_mass[head.head]:.1f} %",
            fontsize=11,
            fontweight="bold",
        )
        figure.tight_layout()
        save(figure, path)
