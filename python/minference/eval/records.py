"""Retrieval from a list of key-value records, which is all haystack: InfiniteBench's Retrieve.KV, and near-copies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from ..needle.prompts import RECORDS_HEADER, WORDS
from .haystack import Haystack
from .needles import distinct, number, spread_depth
from .prompt import Draft, Part

# Words that keys of near-copies are made of: so few that every word is in dozens of keys.
_COPY_WORDS = 48


def word_key(rng: random.Random) -> str:
    return f"{rng.choice(WORDS)}-{rng.choice(WORDS)}"


def write_words(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """Keys of two words, values of seven digits."""
    return _from_list(seed, rng, distinct(lambda: word_key(rng), count), lambda: number(rng))


def write_identifiers(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """128-bit identifiers in JSON, as InfiniteBench has them; for the embedded model a list of 32-bit ones."""
    keys = distinct(lambda: wording.identifier(rng), count)
    if wording.name == "embedded":
        return _from_list(seed, rng, keys, lambda: wording.identifier(rng))
    records = {key: wording.identifier(rng) for key in keys}
    depth = spread_depth(seed, rng)
    key = keys[int(depth * count)]
    user = (
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        f'JSON data:\n{json.dumps(records)}\n\nKey: "{key}"\n'
    )
    return Draft(
        (Part(user),),
        "Corresponding value:",
        f' "{records[key]}"',
        (records[key],),
        depth=depth,
        forbidden=(key,),
    )


def write_copies(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """Needles among near-copies: keys share their words, and the values of a key and of its reverse differ by a digit."""
    words = rng.sample(WORDS, max(_COPY_WORDS, int((2 * count) ** 0.5) + 2))
    pairs = distinct(lambda: "-".join(sorted(rng.sample(words, 2))), (count + 1) // 2)
    records: dict[str, str] = {}
    for pair in pairs:
        first, second = pair.split("-")
        value = number(rng)
        digit = rng.randrange(1, len(value))
        other = value[:digit] + str((int(value[digit]) + rng.randint(1, 9)) % 10) + value[digit + 1 :]
        records[pair], records[f"{second}-{first}"] = value, other
    keys = rng.sample(list(records), count)
    values = iter([records[key] for key in keys])
    return _from_list(seed, rng, keys, lambda: next(values))


def _from_list(seed: int, rng: random.Random, keys: list[str], value: Callable[[], str]) -> Draft:
    values = [value() for _ in keys]
    depth = spread_depth(seed, rng)
    wanted = int(depth * len(keys))
    body = "".join(f"- {key}: {value}\n" for key, value in zip(keys, values))
    user = RECORDS_HEADER + body + f"Question: What is the value of {keys[wanted]}?\nAnswer:"
    return Draft(
        (Part(user),),
        f" {keys[wanted]}:",
        f" {values[wanted]}",
        (values[wanted],),
        depth=depth,
        forbidden=(keys[wanted],),
    )
