"""RULER's eight needle tasks, pass keys and number strings: facts hidden in text, asked for at the end."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from .haystack import Haystack, noise
from .prompt import Draft, Part


def spread_depth(seed: int, rng: random.Random) -> float:
    """0..1: the golden ratio spreads consecutive seeds evenly over the context, whatever their number."""
    return (seed * 0.6180339887 + 0.01 * rng.random()) % 1


def hide(lines: list[str], facts: list[tuple[float, list[Part]]]) -> list[Part]:
    """The lines with each fact at its place, 0 (begin) to 1 (end)."""
    parts, at = [], 0
    for place, fact in sorted(facts, key=lambda fact: fact[0]):
        cut = int(place * (len(lines) + 1))
        parts += [Part("".join(lines[at:cut])), *fact]
        at = max(at, cut)
    return [*parts, Part("".join(lines[at:]))]


def number(rng: random.Random) -> str:
    """Of seven digits."""
    return str(rng.randrange(10**6, 10**7))


def distinct(make, count: int) -> list[str]:
    """`count` different results of `make`."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


@dataclass(frozen=True)
class Needles:
    """One of RULER's configurations of needle-in-a-haystack.

    summary: a few words. hay: "noise", "text" or "needle" (other needles). num_keys: needles with different keys.
    num_values: values of the asked key. num_queries: keys asked for. uuid_keys, uuid_values: 128-bit identifiers instead
    of words and 7-digit numbers. depths: evenly spaced depths to go through instead of spreading, for a grid.
    """

    summary: str
    hay: str
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1
    uuid_keys: bool = False
    uuid_values: bool = False
    depths: int = 0

    def write(self, count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
        kind = "uuids" if self.uuid_values else "numbers"

        def value() -> str:
            return wording.identifier(rng) if self.uuid_values else number(rng)

        def key() -> str:
            return wording.identifier(rng) if self.uuid_keys else wording.key(rng)

        depth = (seed % self.depths) / (self.depths - 1) if self.depths else spread_depth(seed, rng)
        keys = distinct(key, max(self.num_keys, self.num_queries))
        asked = keys[: self.num_queries]
        answers = {name: distinct(value, self.num_values) for name in asked}
        facts = [
            (depth if name == asked[0] and i == 0 else rng.random(), name, answer)
            for name in asked
            for i, answer in enumerate(answers[name])
        ]
        facts += [(rng.random(), name, value()) for name in keys[self.num_queries :]]
        forbidden = {*keys, *(answer for _, _, answer in facts)}
        single = self.num_values * self.num_queries == 1
        text = hide(
            self._lines(count, seed, rng, key, value, wording, haystack, kind, forbidden),
            [(place, [Part(wording.fact(name, answer, kind))]) for place, name, answer in facts],
        )
        references = tuple(answer for name in asked for answer in answers[name])
        return Draft(
            (Part(wording.header(kind, single)), *text, Part(wording.question(asked, kind, single))),
            wording.lead(asked, kind, single),
            " " + ", ".join(references),
            references,
            any_order=self.num_values > 1,
            depth=depth if single else None,
            forbidden=tuple(sorted(forbidden)),
        )

    def _lines(self, count, seed, rng, key, value, wording, haystack, kind, forbidden) -> list[str]:
        if self.hay == "noise":
            return noise(count)
        if self.hay == "text":
            return haystack.first(count, f"needles {seed}", forbidden)
        # Told by key and value: a key may be a word that stands in every line.
        others = ((key(), value()) for _ in iter(int, 1))
        lines = (wording.fact(*fact, kind) for fact in others if not forbidden & set(fact))
        return list(itertools.islice(lines, count))


# RULER's thirteen are these eight, variable tracking, two of counting and two of question answering.
RULER_NEEDLES = {
    "niah_single_1": Needles("a number in noise", "noise"),
    "niah_single_2": Needles("a number in text", "text"),
    "niah_single_3": Needles("an identifier in text", "text", uuid_values=True),
    "niah_multikey_1": Needles("one of four numbers in text", "text", num_keys=4),
    "niah_multikey_2": Needles("one number among nothing but others", "needle"),
    "niah_multikey_3": Needles("the same with identifiers", "needle", uuid_keys=True, uuid_values=True),
    "niah_multivalue": Needles("four numbers of one key", "text", num_values=4),
    "niah_multiquery": Needles("the numbers of four keys", "text", num_queries=4),
}
GRID = Needles("a number in text, ten depths in turn", "text", depths=10)

# InfiniteBench's Retrieve.PassKey and Retrieve.Number (arXiv 2402.13718).
_QUIZ_HEADER = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)


def write_passkey(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    depth, key = spread_depth(seed, rng), str(rng.randrange(10**4, 10**5))
    fact = f"The pass key is {key}. Remember it. {key} is the pass key.\n"
    return _quiz(count, depth, fact, "What is the pass key?", " The pass key is", key)


def write_number(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    depth = spread_depth(seed, rng)
    # Ten digits, each several times in a row: a model that skips one fails.
    digits = "".join(digit * rng.randint(1, 2) for digit in rng.choices("0123456789", k=10))[:10]
    fact = f"The sequence of digits is {digits}. Remember it. {digits} is the sequence of digits.\n"
    return _quiz(count, depth, fact, "What is the sequence of digits?", " The sequence of digits is", digits)


def _quiz(count: int, depth: float, fact: str, question: str, lead: str, answer: str) -> Draft:
    text = hide(noise(count), [(depth, [Part(fact)])])
    return Draft(
        (Part(_QUIZ_HEADER), *text, Part(question)),
        lead,
        f" {answer}",
        (answer,),
        depth=depth,
        forbidden=(answer,),
    )
