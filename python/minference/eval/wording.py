"""How tasks speak: RULER's published prompt forms (arXiv 2404.06654, version 1), and the embedded model's sentences."""

from __future__ import annotations

import random

from ..needle.prompts import MAGIC_HEADER, VARIABLES_HEADER, WORDS
from ..needle.vocabulary import ADJECTIVES, NOUNS


def listed(words: list[str]) -> str:
    """As RULER lists several queries: "a, b, and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + ", and " + words[-1]


class Ruler:
    """RULER's forms. kind: what the values are, "numbers" or "uuids"."""

    name = "ruler"

    @staticmethod
    def key(rng: random.Random) -> str:
        return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"

    @staticmethod
    def identifier(rng: random.Random) -> str:
        digits = f"{rng.getrandbits(128):032x}"
        return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))

    @staticmethod
    def fact(key: str, value: str, kind: str) -> str:
        return f"One of the special magic {kind} for {key} is: {value}.\n"

    @staticmethod
    def header(kind: str, single: bool) -> str:
        begin = (
            f"A special magic {kind[:-1]} is hidden" if single else f"Some special magic {kind} are hidden"
        )
        asked = kind[:-1] if single else kind
        return (
            f"{begin} within the following text. Make sure to memorize it. "
            f"I will quiz you about the {asked} afterwards.\n"
        )

    @staticmethod
    def question(keys: list[str], kind: str, single: bool) -> str:
        if single:
            return f"What is the special magic {kind[:-1]} for {keys[0]} mentioned in the provided text?"
        return f"What are all the special magic {kind} for {listed(keys)} mentioned in the provided text?"

    @staticmethod
    def lead(keys: list[str], kind: str, single: bool) -> str:
        if single:
            return f" The special magic {kind[:-1]} for {keys[0]} mentioned in the provided text is"
        return f" The special magic {kind} for {listed(keys)} mentioned in the provided text are"

    variables_header = (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    )

    @staticmethod
    def variable(rng: random.Random) -> str:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(5))

    @staticmethod
    def assignment(name: str, source: str) -> str:
        return f"VAR {name} = {source}\n"

    @staticmethod
    def variables_question(value: str) -> str:
        return f"Question: Find all variables that are assigned the value {value} in the text above."

    @staticmethod
    def variables_lead(count: int, value: str) -> str:
        return (
            " Answer: According to the chain(s) of variable assignment in the text above, "
            f"{count} variables are assigned the value {value}, they are:"
        )


class Embedded(Ruler):
    """What models/needle was trained on: other words, the same tasks."""

    name = "embedded"

    @staticmethod
    def key(rng: random.Random) -> str:
        return rng.choice(WORDS)

    @staticmethod
    def identifier(rng: random.Random) -> str:
        return f"{rng.getrandbits(32):08x}"

    @staticmethod
    def fact(key: str, value: str, kind: str) -> str:
        return f"The special magic {kind[:-1]} for {key} is: {value}.\n"

    @staticmethod
    def header(kind: str, single: bool) -> str:
        return MAGIC_HEADER

    @staticmethod
    def question(keys: list[str], kind: str, single: bool) -> str:
        return f"Question: What is the special magic {kind[:-1]} for {listed(keys)}?\nAnswer:"

    @staticmethod
    def lead(keys: list[str], kind: str, single: bool) -> str:
        return f" The special magic {kind[:-1]} for {listed(keys)} is:"

    variables_header = VARIABLES_HEADER

    @staticmethod
    def variable(rng: random.Random) -> str:
        return rng.choice(WORDS)

    @staticmethod
    def assignment(name: str, source: str) -> str:
        return f"VAR {name} = {source}.\n"

    @staticmethod
    def variables_question(value: str) -> str:
        return f"Question: Find all variables that are assigned the value {value}.\nAnswer:"

    @staticmethod
    def variables_lead(count: int, value: str) -> str:
        return f" The {count} variables assigned the value {value} are:"
