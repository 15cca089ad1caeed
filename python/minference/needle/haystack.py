"""Text to hide needles in: English-like prose from a grammar and a vocabulary, endless, and the same for the same seed.

A haystack must be fluent enough to look like the text a language model was trained on, varied enough that no sentence
comes twice, and free of anybody's rights. Sentences that mean nothing are no drawback: nobody asks about them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from .vocabulary import ACTIONS, ADJECTIVES, ADVERBS, EVENTS, NOUNS

# A context-free grammar: {name} is replaced by one of the alternatives of `name`. Everything is in the past tense and
# the third person singular, which spares the grammar all agreement; "a" becomes "an" at the end.
GRAMMAR: dict[str, list[str]] = {
    "sentence": [
        "{clause}.",
        "{clause} {place}.",
        "{opening}, {clause}.",
        "{opening}, {clause} {place}.",
        "{clause}, and {clause}.",
        "{clause}, but {clause} {time}.",
        "{clause} because {clause}.",
        "When {clause}, {clause}.",
        "Although {clause}, {clause} {place}.",
        "{clause} until {clause}.",
        "It was {adverb} said that {clause}.",
        "Nobody knew why {clause} {place}.",
        "There was {thing} {place}, and {clause}.",
        "{thing}, {thing} and {thing} {event} {place}.",
        "Was it {thing} or {thing} that {event} {time}?",
        '"{clause}," said the {noun} {time}.',
        'The {noun} asked: "Who {action} the {noun} {place}?"',
        "Of all the {adjective} things {place}, {thing} was the most {adjective}.",
        "What the {noun} {action} was {adverb} more {adjective} than {thing}.",
        "To the {adjective} {noun}, {thing} was only {thing}.",
    ],
    "clause": [
        "{thing} {action} {thing}",
        "{thing} {adverb} {action} {thing}",
        "{thing} {action} {thing} and {thing}",
        "{thing} {event}",
        "{thing} {event} {adverb}",
        "{thing} was {adverb} {adjective}",
        "{thing} was {adjective} and {adjective}",
        "{thing} of {thing} {event}",
        "{thing} that {action} {thing} {event}",
        "somebody {action} {thing}",
    ],
    "thing": [
        "the {noun}",
        "the {adjective} {noun}",
        "a {adjective} {noun}",
        "a {noun}",
        "every {noun}",
        "one {adjective} {noun}",
        "the {noun} {near} the {noun}",
        "the {adjective}, {adjective} {noun}",
        "another {noun}",
        "no {noun}",
    ],
    "place": [
        "{near} the {noun}",
        "{near} the {adjective} {noun}",
        "{near} a {noun} and a {noun}",
        "on the {side} side of the {noun}",
        "not far from the {noun}",
    ],
    "near": [
        "near",
        "behind",
        "above",
        "below",
        "beside",
        "inside",
        "around",
        "beyond",
        "opposite",
        "under",
        "across",
    ],
    "side": ["northern", "southern", "left", "right", "far", "inner", "sunny", "other"],
    "time": [
        "in the {daytime}",
        "before the {adjective} {daytime}",
        "after {number} {period}",
        "for {number} {period}",
        "at last",
        "in those days",
        "more than once",
    ],
    "opening": [
        "In the {daytime}",
        "After {number} {period}",
        "For {number} {period}",
        "Far from the {noun}",
        "Without a {noun}",
        "Like the {adjective} {noun}",
        "As usual",
        "In the end",
        "To be {adjective}",
        "On the other hand",
    ],
    "daytime": ["morning", "afternoon", "evening", "night", "spring", "summer", "autumn", "winter"],
    "period": ["days", "weeks", "months", "years", "hours", "seasons"],
    "number": [
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "nine",
        "ten",
        "twelve",
        "twenty",
        "a hundred",
        "many",
    ],
    "heading": ["The {adjective} {noun}", "{thing} and {thing}", "How {thing} {event}", "{noun} and {noun}"],
    "noun": NOUNS,
    "adjective": ADJECTIVES,
    "adverb": ADVERBS,
    "action": ACTIONS,
    "event": EVENTS,
}

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa])(?= [aeiou])")
_LINE_WIDTH = 78


def expand(symbol: str, rng: random.Random) -> str:
    """One derivation of a grammar symbol, capitalised."""

    def derive(name: str) -> str:
        return _SLOT.sub(lambda slot: derive(slot[1]), rng.choice(GRAMMAR[name]))

    text = _ARTICLE.sub(r"\1n", derive(symbol))
    first = 1 if text[0] == '"' else 0
    return text[:first] + text[first].upper() + text[first + 1 :]


def _wrap(words: list[str]) -> Iterator[str]:
    line = words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) > _LINE_WIDTH:
            yield line + "\n"
            line = word
        else:
            line += " " + word
    yield line + "\n"


def lines(seed: int | str) -> Iterator[str]:
    """Endless lines of at most 78 characters, each with its line feed: paragraphs between blank lines, some with a
    heading."""
    rng = random.Random(f"haystack {seed}")
    while True:
        if rng.random() < 0.15:
            yield expand("heading", rng) + "\n"
            yield "\n"
        sentences = [expand("sentence", rng) for _ in range(rng.randint(2, 8))]
        yield from _wrap(" ".join(sentences).split(" "))
        yield "\n"


def text(characters: int, seed: int | str = 0) -> str:
    """At least so many characters of whole lines."""
    parts, size = [], 0
    for line in lines(seed):
        if size >= characters:
            break
        parts.append(line)
        size += len(line)
    return "".join(parts)
