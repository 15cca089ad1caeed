"""How every picture looks and is written. Importing it chooses matplotlib's backend for files."""

from __future__ import annotations

import io
import os

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

from ._files import write_whole  # noqa: E402

INK, QUIET, NOTHING = "#1b1f24", "#6b7480", "#eef0f3"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": "#c9ced6",
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "figure.facecolor": "white",
}


def save(figure, path: str | os.PathLike | io.BytesIO) -> None:
    """Write a PNG whole or not at all, its folder too, and close the figure."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)
    if isinstance(path, io.BytesIO):
        path.write(written.getbuffer())
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_whole(path, written.getvalue())
