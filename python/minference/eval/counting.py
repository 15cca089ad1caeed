"""RULER's aggregation tasks: which words come most often, over the whole prompt."""

from __future__ import annotations

import random

from ..needle.prompts import WORDS
from .haystack import Haystack
from .needles import distinct
from .prompt import Draft, Part

# RULER's configuration of common words: 10 of them 30 times, all others 3 times.
_COMMON_WORDS, _COMMON_TIMES, _OTHER_TIMES = 10, 30, 3


def write_common_words(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """A numbered list: 10 words 30 times each, `count` others 3 times each. A short list goes before as an example."""
    words = rng.sample(WORDS, len(WORDS))
    example_words, words = words[:20], words[20:]
    while len(words) < _COMMON_WORDS + count:
        # More than the vocabulary holds: two words make a new one.
        words.append(rng.choice(WORDS) + rng.choice(WORDS))
    example = _list_and_question(rng, example_words[:10], example_words[10:], 3, 1)
    common = words[:_COMMON_WORDS]
    user = _list_and_question(
        rng, common, words[_COMMON_WORDS : _COMMON_WORDS + count], _COMMON_TIMES, _OTHER_TIMES
    )
    lead = " Answer: The top 10 words that appear most often in the list are:"
    return Draft(
        (Part(f"{example}{lead} {_numbered(example_words[:10])}\n{user}"),),
        lead,
        " " + _numbered(common),
        tuple(common),
        any_order=True,
    )


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def _list_and_question(
    rng: random.Random, common: list[str], others: list[str], common_times: int, other_times: int
) -> str:
    words = common * common_times + others * other_times
    rng.shuffle(words)
    return (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        f"Memorize the ones that appear most often.\n{_numbered(words)}\n"
        "Question: What are the 10 most common words in the above list?"
    )


# RULER's configuration of frequent words: 2000 coded words of 6 letters, frequencies of a zeta distribution.
_CODED_WORDS, _CODED_LETTERS, _ZETA_EXPONENT = 2000, 6, 2.0


def write_frequent_words(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """Coded words, the k-th most frequent one about count / (zeta(2) k^2) times; the most frequent is dots, to be ignored."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    coded = ["...."] + distinct(lambda: "".join(rng.choices(letters, k=_CODED_LETTERS)), _CODED_WORDS - 1)
    weights = [1 / k**_ZETA_EXPONENT for k in range(1, _CODED_WORDS + 1)]
    times = [int(count * weight / sum(weights)) for weight in weights]
    words = [word for word, number in zip(coded, times) for _ in range(number)]
    rng.shuffle(words)
    answer = coded[1:4]
    user = (
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        f"appeared coded words. {' '.join(words)}\n"
        "Question: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?"
    )
    return Draft(
        (Part(user),),
        " Answer: According to the coded text above, the three most frequently appeared words are:",
        " " + ", ".join(answer),
        tuple(answer),
        any_order=True,
    )
