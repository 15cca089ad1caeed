"""How people read patterns and figures, in tables and pictures."""

from __future__ import annotations

from . import _library


def pattern_words(pattern: tuple[int, ...]) -> str:
    """A head pattern in words, from its five integers."""
    kind, first, second, last_dense_rows, share_ppm = pattern
    words = {
        _library.DENSE: "dense",
        _library.A_SHAPE: f"A-shape ({first}, {second})",
        _library.VERTICAL_SLASH: f"vertical-slash ({first}, {second})",
        _library.BLOCK_SPARSE: f"block-sparse ({first})",
        _library.ADAPTIVE: f"adaptive ({share_ppm / 1e4:g} %)",
    }[kind]
    return words + (f" + last {last_dense_rows} rows" if last_dense_rows else "")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 9.95 else f"{value:.2f} s"
