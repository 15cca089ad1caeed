"""Tasks whose work happens in the middle of the prompt, where the last rows, by which sparse prefill chooses, cannot see
it.

Questions are answered inside the prompt; every answer is scored where it stands, given what precedes it. A model that
reads with its last rows only, as A-shape with dense last rows (TriShape) does, fails all but the last of them.
"""

from __future__ import annotations

import random

from ..needle.prompts import RECORDS_HEADER
from .haystack import Haystack
from .needles import distinct, hide, number, spread_depth
from .prompt import Draft, Part
from .records import word_key


def _answered(key: str, value: str) -> list[Part]:
    """A line that asks for a record and answers."""
    return [Part(f"Answer: {key}:"), Part(f" {value}", scored=True), Part("\n")]


def write_restated(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """A list of records, then the whole list again in the same order: the way back to a record's first place is about
    the same for all, a slash."""
    keys = distinct(lambda: word_key(rng), count)
    records = [(key, number(rng)) for key in keys]
    parts = [Part(RECORDS_HEADER + "".join(f"- {key}: {value}\n" for key, value in records))]
    for key, value in records:
        parts += _answered(key, value)
    return Draft(tuple(parts))


# Records between a record and its question.
_LEAST_LAG, _MOST_LAG = 30, 50


def write_lagged(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """After every record, the record that came 30 to 50 before it is asked for: the way back stays about the same over
    the whole prompt, a slash further than a short window, and differs from prompt to prompt."""
    lag = rng.randint(_LEAST_LAG, _MOST_LAG)
    records = [(key, number(rng)) for key in distinct(lambda: word_key(rng), lag + count)]
    parts = [Part(RECORDS_HEADER)]
    for i, (key, value) in enumerate(records):
        parts.append(Part(f"- {key}: {value}\n"))
        if i >= lag:
            parts += _answered(*records[i - lag])
    return Draft(tuple(parts))


# Facts in a document that is given twice, and the most lines of other text between.
_REPEATED_FACTS, _MOST_BETWEEN = 32, 15


def write_repeated(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """A document with facts, some other lines, then the same document again, as where a file is edited or quoted: every
    fact of the second copy is scored. Nothing asks; the way back is exactly the same for all rows, one slash."""
    keys = distinct(lambda: wording.key(rng), _REPEATED_FACTS)
    values = distinct(lambda: number(rng), _REPEATED_FACTS)
    places = sorted(rng.random() for _ in keys)
    between = rng.randint(0, _MOST_BETWEEN)
    lines = haystack.first(count + between, f"repeated {seed}", (*keys, *values))
    other, lines = "".join(lines[:between]), lines[between:]
    copies: list[Part] = []
    for scored in (False, True):
        if scored:
            copies.append(Part(other))
        facts = []
        for place, key, value in zip(places, keys, values):
            before, found, after = wording.fact(key, value, "numbers").rpartition(f" {value}")
            facts.append((place, [Part(before), Part(found, scored), Part(after)]))
        copies += hide(lines, facts)
    return Draft((Part(wording.header("numbers", False)), *copies), forbidden=(*keys, *values))


# Facts, all in the first part of the prompt, and how many of them are asked for between there and the end.
_FACTS, _ASKED, _FACTS_END, _QUESTIONS_BEGIN, _QUESTIONS_END = 24, 12, 0.3, 0.35, 0.9


def write_recall(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """Several questions at once, each answered far from the end; text follows. Columns that one question needs, the last
    rows do not."""
    keys = distinct(lambda: wording.key(rng), _FACTS)
    values = distinct(lambda: number(rng), _FACTS)
    inserts = [
        (_FACTS_END * rng.random(), [Part(wording.fact(key, value, "numbers"))])
        for key, value in zip(keys, values)
    ]
    for i in rng.sample(range(_FACTS), _ASKED):
        place = _QUESTIONS_BEGIN + (_QUESTIONS_END - _QUESTIONS_BEGIN) * rng.random()
        asked = wording.question([keys[i]], "numbers", True) + wording.lead([keys[i]], "numbers", True)
        inserts.append((place, [Part(asked), Part(f" {values[i]}", scored=True), Part(".\n")]))
    lines = haystack.first(count, f"recall {seed}", (*keys, *values))
    return Draft((Part(wording.header("numbers", False)), *hide(lines, inserts)), forbidden=(*keys, *values))


def write_early_question(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """The question comes first, then the text with the fact; the end of the prompt does not repeat what was asked."""
    keys = distinct(lambda: wording.key(rng), 4)
    values = distinct(lambda: number(rng), 4)
    depth = spread_depth(seed, rng)
    facts = [
        (depth if i == 0 else rng.random(), [Part(wording.fact(key, value, "numbers"))])
        for i, (key, value) in enumerate(zip(keys, values))
    ]
    lines = haystack.first(count, f"early question {seed}", (*keys, *values))
    question = (
        "Read the following text and answer this question at its end: "
        f"What is the special magic number for {keys[0]}?\n"
    )
    return Draft(
        (Part(question), *hide(lines, facts), Part("Now answer the question asked at the beginning.\n")),
        "Answer: The number is",
        f" {values[0]}",
        (values[0],),
        depth=depth,
        forbidden=(*keys, *values),
    )
