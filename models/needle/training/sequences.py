"""Training sequences: documents with many facts and many questions each; only the answers carry the full loss."""

from __future__ import annotations

import math

import numpy as np

from .documents import DOCUMENTS
from .draws import Draws
from .pieces import MOST_CHOICES, Piece

KINDS = tuple(DOCUMENTS)
# Documents are no shorter: a list of common words or a chain needs some room.
SHORTEST = 256


def _lengths(draws: Draws, length: int, shortest: int = SHORTEST, whole_share: float = 0.5) -> list[int]:
    """Of the documents in a sequence: one, or several of all sizes."""
    if length < 2 * shortest or draws.rng.random() < whole_share:
        return [length]
    lengths, left = [], length
    while left:
        own = int(math.exp(draws.rng.uniform(math.log(shortest), math.log(length))))
        own = left if left - own < shortest else own
        lengths.append(own)
        left -= own
    return lengths


def sequence(draws: Draws, length: int, mix: list[float]) -> Piece:
    """Of exactly `length` tokens. mix: weights of KINDS."""
    draws.used = set()
    whole = Piece()
    for own in _lengths(draws, length):
        kind = draws.rng.choices(KINDS, mix)[0]
        # An early question is the only one of its kind in a document.
        parts = _lengths(draws, own, SHORTEST // 2, 0.2) if kind == "early" else [own]
        for part in parts:
            whole.append(DOCUMENTS[kind](draws, part))
    if len(whole.ids) != length:
        raise AssertionError(f"a sequence must have {length} tokens, got {len(whole.ids)}")
    return whole


def _positions(draws: Draws, ids: np.ndarray, gap_share: float, limit: int) -> np.ndarray:
    """0..length - 1, or with probability `gap_share` the same with random gaps at line ends, so that short sequences
    show the model every relative distance below `limit` (positional skip-wise training, arXiv 2309.10400)."""
    length = len(ids)
    positions = np.arange(length)
    if draws.rng.random() < gap_share and length < limit:
        line_starts = np.flatnonzero(draws.ends_line[ids[:-1]]) + 1
        count = min(draws.rng.randint(1, 8), len(line_starts))
        if count:
            cuts = np.sort(draws.array_rng.choice(line_starts, count, replace=False))
            gaps = draws.array_rng.dirichlet(np.ones(count)) * draws.rng.uniform(0, limit - length)
            positions += np.cumsum(np.bincount(cuts, gaps.astype(np.int64), length).astype(np.int64))
    return positions


def batch(draws: Draws, tokens: int, length: int, mix: list[float], gap_share: float, limit: int):
    """tokens // length sequences end to end: ids, classes, positions, each [tokens]; then the places [n] where
    several tokens are right, and these [n, MOST_CHOICES], filled up with -1."""
    pieces = [sequence(draws, length, mix) for _ in range(tokens // length)]
    ids = [np.array(piece.ids, np.int32) for piece in pieces]
    positions = [_positions(draws, own, gap_share, limit) for own in ids]
    chosen = [
        (number * length + offset, right)
        for number, piece in enumerate(pieces)
        for offset, right in piece.choices
    ]
    choices = np.full((len(chosen), MOST_CHOICES), -1, np.int32)
    for row, (_, right) in zip(choices, chosen):
        row[: len(right)] = right
    return (
        np.concatenate(ids),
        np.concatenate([np.array(piece.classes, np.uint8) for piece in pieces]),
        np.concatenate(positions).astype(np.int32),
        np.array([place for place, _ in chosen], np.int64),
        choices,
    )
