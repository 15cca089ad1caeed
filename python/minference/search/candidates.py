"""Patterns to choose from: families with one free size, which is fitted to a cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import patterns
from ..words import pattern_words


@dataclass(frozen=True)
class Family:
    """A pattern one of whose two sizes is free."""

    pattern: tuple[int, ...]
    free_size: int

    @property
    def kind(self) -> str:
        """Like "vertical-slash"."""
        return pattern_words(self.pattern).split(" (")[0]

    @property
    def name(self) -> str:
        """Like "vertical-slash (500, *)"."""
        sizes = list(map(str, self.pattern[1:3]))
        sizes[self.free_size] = "*"
        return self.kind + (
            f" ({', '.join(sizes)})" if self.pattern[0] != patterns.block_sparse(0)[0] else " (*)"
        )


# The paper's search space (arXiv 2407.02490, appendix C.2) has A-shape with 1024 first keys, vertical-slash from 30
# columns with many diagonals to 3000 with few, and block-sparse; fitting to a cost takes one of each pair of sizes away.
FAMILIES = (
    *(Family(patterns.a_shape(sink, 1), 1) for sink in (128, 1024)),
    *(Family(patterns.vertical_slash(vertical, 1), 1) for vertical in (30, 100, 500, 1000, 3000)),
    *(Family(patterns.vertical_slash(1, slash), 0) for slash in (50, 100, 200)),
    Family(patterns.block_sparse(1), 0),
)


KINDS = tuple(dict.fromkeys(family.kind for family in FAMILIES))


def families_of(kinds: Iterable[str]) -> tuple[Family, ...]:
    """The families of some of `KINDS`. Raises ValueError for others, or none."""
    wanted = list(kinds)
    if not wanted or not set(wanted) <= set(KINDS):
        raise ValueError(f"kinds must be of {', '.join(KINDS)}, got {', '.join(wanted) or 'none'}")
    return tuple(family for family in FAMILIES if family.kind in wanted)


def templates(families: Sequence[Family], num_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """[families, num_heads, 5] patterns and [families] free sizes, for `scoring.fit_patterns`."""
    layers = [patterns.layer_array(family.pattern, num_heads) for family in families]
    return np.stack(layers), np.array([family.free_size for family in families], dtype=np.int32)
