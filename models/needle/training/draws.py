"""Words, numbers and text for training sequences, drawn at random, and their token ids."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np

from minference.eval.wording import Embedded
from minference.needle.prompts import NOISE, WORDS

from .pieces import NONE, TEXT, Piece
from .tokenizer import BEGIN, END

_MOST_REMEMBERED = 200_000


class Draws:
    """A stream of random numbers, with the tokenizer and the text that are drawn from.

    Words, numbers and places are fresh each time; `used` holds the words and keys that a sequence has had. Sequences are
    put together from pieces that begin where the pre-tokenizer splits, so that the ids equal those of the whole string.
    """

    def __init__(self, tokenizer, text_tokens: np.ndarray, words: list[str]):
        """words: for keys, besides those that the evaluation uses."""
        self.tokenizer, self.text = tokenizer, text_tokens
        vocabulary = tokenizer.get_vocab()
        self.begin, self.end = vocabulary[BEGIN], vocabulary[END]
        self.ends_line = np.zeros(max(vocabulary.values()) + 1, bool)
        for token, index in vocabulary.items():
            self.ends_line[index] = token.endswith("\u010a")  # byte-level BPE's spelling of "\n"
        self.line_starts = np.flatnonzero(self.ends_line[text_tokens]) + 1
        self.other_words = words or WORDS
        self.newline = self.encode("\n")
        self.noise = np.array(self.encode(NOISE))
        self.known: dict[str, list[int]] = {}
        self.reseed(0)

    def reseed(self, seed: int | str) -> None:
        self.rng = random.Random(seed)
        self.array_rng = np.random.default_rng(self.rng.getrandbits(64))
        self.used: set[str] = set()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def remembered(self, text: str) -> list[int]:
        """For pieces that come often: the tokenizer is slow on long texts."""
        if text not in self.known:
            if len(self.known) > _MOST_REMEMBERED:
                self.known.clear()
            self.known[text] = self.encode(text)
        return self.known[text]

    def number(self, digits: int = 7) -> str:
        return str(self.rng.randrange(10 ** (digits - 1), 10**digits))

    def hex(self) -> str:
        return f"{self.rng.getrandbits(32):08x}"

    def count(self, most: float) -> int:
        """1..most, small ones as often as large ones."""
        return int(math.exp(self.rng.uniform(0, math.log(max(most, 2) + 1))))

    def word(self) -> str:
        """One that the sequence has not had; after many tries two in one, as it may have had them all."""
        for attempt in itertools.count():
            words = WORDS if self.rng.random() < 0.7 else self.other_words
            word = self.rng.choice(words) + (self.rng.choice(words) if attempt > 50 else "")
            if word not in self.used:
                self.used.add(word)
                return word

    def slice(self, length: int) -> np.ndarray:
        """Text that starts on a new line and ends with one."""
        start = int(self.array_rng.choice(self.line_starts))
        start = max(0, min(start, len(self.text) - length - 1))
        tokens = self.text[start : start + length].astype(np.int64)
        tokens[-1:] = self.newline[0]
        return tokens

    def haystack(self, length: int, noise_share: float) -> tuple[np.ndarray, int]:
        """Ids and their class."""
        if self.rng.random() >= noise_share:
            return self.slice(length), TEXT
        noise = np.resize(self.noise, length)
        noise[-1:] = self.newline[0]
        return noise, NONE

    def needles(self, length: int, keys: list[str]) -> tuple[np.ndarray, int]:
        """Ids and class of magic numbers of these keys, drawn again and again."""
        ids: list[int] = []
        while len(ids) < length:
            before = Embedded.fact(self.rng.choice(keys), "", "numbers").removesuffix(" .\n")
            ids += self.remembered(before) + self.encode(f" {self.number()}") + self.remembered(".\n")
        cut = np.array(ids[:length])
        cut[-1:] = self.newline[0]
        return cut, NONE

    def head(self, text: str = "") -> Piece:
        piece = Piece()
        piece.add([self.begin, *(self.encode(text) if text else [])], NONE)
        return piece
