"""Text to hide facts in: the grammar's prose, RULER's noise, or a file of the user's. It never holds an answer."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator

from ..needle import haystack
from ..needle.prompts import NOISE


class Haystack:
    """Lines, the same for the same seed; endless."""

    def __init__(self, path: str | os.PathLike | None = None):
        """path: a text file to use instead of the grammar's prose, from a random line on, again and again."""
        self._lines: list[str] | None = None
        if path is not None:
            with open(path, encoding="utf-8") as file:
                self._lines = [line for line in file.read().splitlines(keepends=True) if line.strip()]
            if not self._lines:
                raise ValueError(f"the haystack must hold text, got {os.fspath(path)!r}, which is empty")
            if not self._lines[-1].endswith("\n"):
                self._lines[-1] += "\n"
        self._kept: tuple[object, Lines] | None = None

    def __getstate__(self):
        # To processes that make prompts; generators can't travel.
        return vars(self) | {"_kept": None}

    def first(self, count: int, seed: str, forbidden: Iterable[str] = ()) -> list[str]:
        """The first of `lines`. They are kept until others are asked for: a prompt is written again and again until its
        length is right."""
        wanted = seed, frozenset(forbidden)
        lines = self._kept[1] if self._kept and self._kept[0] == wanted else Lines(self.lines(*wanted))
        # After an error the lines would end early.
        self._kept = None
        taken = lines.take(count)
        self._kept = wanted, lines
        return taken

    def lines(self, seed: str, forbidden: Iterable[str] = ()) -> Iterator[str]:
        """Lines without any of the strings `forbidden`, whatever their case."""
        if self._lines is None:
            source: Iterable[str] = haystack.lines(seed)
        else:
            begin = random.Random(seed).randrange(len(self._lines))
            source = itertools.chain(self._lines[begin:], itertools.cycle(self._lines))
        return without(source, forbidden)


def noise(count: int) -> list[str]:
    """RULER's repeated sentences, one line each time."""
    return [NOISE] * count


# A file whose every line holds an answer would be read for ever.
_MAX_DROPPED = 100_000


def without(lines: Iterable[str], forbidden: Iterable[str]) -> Iterator[str]:
    """The lines that hold none of the strings, whatever their case."""
    wanted_elsewhere = [text.lower() for text in forbidden]
    dropped = 0
    for line in lines:
        lower = line.lower()
        if any(text in lower for text in wanted_elsewhere):
            dropped += 1
            if dropped > _MAX_DROPPED:
                raise ValueError("the haystack must have lines without the answers, got none in 100,000")
            continue
        dropped = 0
        yield line


class Lines:
    """The first lines of an iterator, kept, so that taking more never changes those taken before."""

    def __init__(self, source: Iterator[str]):
        self._source, self._taken = source, []

    def take(self, count: int) -> list[str]:
        self._taken.extend(itertools.islice(self._source, max(count - len(self._taken), 0)))
        return self._taken[:count]
