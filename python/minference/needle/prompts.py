"""Retrieval prompts of any length with known answers, the same for the same (task, length, seed).

The tasks are those of the long-context literature, worded as the embedded model was trained:
    single     one magic number hidden in a haystack
    multikey   one of 5 to 33 magic numbers (RULER's NIAH multikey, arXiv 2404.06654)
    passkey    a pass key in repeated noise (arXiv 2305.16300)
    kv_word    the value of one key in a list of "word-word: 1234567" records (InfiniteBench's KV, arXiv 2402.13718)
    kv_hex     the same with random hexadecimal keys and values
    variables  all variables that hold a number, through a chain of assignments (RULER's variable tracking)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import haystack
from .vocabulary import ADJECTIVES, NOUNS

TASKS = ("single", "multikey", "passkey", "kv_word", "kv_hex", "variables")
WORDS = sorted(set(NOUNS + ADJECTIVES))

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
MAGIC_HEADER = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize them. "
    "I will quiz you about the numbers afterwards.\n"
)
PASSKEY_HEADER = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
RECORDS_HEADER = "Below is a list of records, each with a key and a value. Memorize them. I will ask for the value of one key.\n"
VARIABLES_HEADER = "Memorize and track the chains of variable assignment hidden in the following text.\n"

# Tokens left free for the beginning-of-text token and for merges across the seams of a prompt's parts.
_MARGIN = 24
# Variables of a chain: RULER's four hops.
_CHAIN = 5
# Lines tokenised at a time.
_LINES_PER_BATCH = 256


@dataclass(frozen=True)
class Prompt:
    """A prompt and the only right continuation of it."""

    task: str
    text: str
    answer: str  # begins with the space that separates it from the prompt
    question: str  # the last line or lines of text
    depth: float | None  # place of the wanted fact, 0 (begin) to 1 (end); None where several places matter


def make_prompt(tokenizer, task: str, length: int, seed: int) -> Prompt:
    """A prompt that fills `length` tokens, answer included, up to a line of text.

    tokenizer: a transformers tokenizer. Raises ValueError for an unknown task or a length below 256 tokens.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if length < 256:
        raise ValueError(f"length must be at least 256 tokens, got {length}")
    return _Maker(tokenizer, task, length, seed).make()


def answer_tokens(tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of the answer as they follow the prompt."""
    context = prompt.text[-200:]
    both = tokenizer(context + prompt.answer, add_special_tokens=False).input_ids
    return both[len(tokenizer(context, add_special_tokens=False).input_ids) :]


class _Maker:
    def __init__(self, tokenizer, task: str, length: int, seed: int):
        self.tokenizer, self.task, self.length, self.seed = tokenizer, task, length, seed
        self.rng = random.Random(f"{task} {length} {seed}")
        # The golden ratio spreads consecutive seeds evenly over the depth of the context.
        self.depth = (seed * 0.6180339887 + 0.01 * self.rng.random()) % 1

    def make(self) -> Prompt:
        makers: dict[str, Callable[[], Prompt]] = {
            "single": lambda: self._magic(1),
            "multikey": lambda: self._magic(1 + self.rng.randint(4, 32)),
            "passkey": self._passkey,
            "kv_word": lambda: self._records(self._word_pair, lambda: self._number(7)),
            "kv_hex": lambda: self._records(self._hex, self._hex),
            "variables": self._variables,
        }
        return makers[self.task]()

    def _number(self, digits: int) -> str:
        return str(self.rng.randrange(10 ** (digits - 1), 10**digits))

    def _hex(self) -> str:
        return f"{self.rng.getrandbits(32):08x}"

    def _word_pair(self) -> str:
        return f"{self.rng.choice(WORDS)}-{self.rng.choice(WORDS)}"

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def _magic(self, count: int) -> Prompt:
        # Few lines fit a short prompt: leave at least half of it to the haystack.
        names = self.rng.sample(WORDS, min(count, self.length // 64))
        numbers = [self._number(7) for _ in names]
        depths = [self.depth] + [self.rng.random() for _ in names[1:]]
        facts = [
            (depth, f"The special magic number for {name} is: {number}.\n")
            for depth, name, number in zip(depths, names, numbers)
        ]
        question = (
            f"Question: What is the special magic number for {names[0]}?\n"
            f"Answer: The special magic number for {names[0]} is:"
        )
        return self._hide(MAGIC_HEADER, facts, question, f" {numbers[0]}", self.depth)

    def _passkey(self) -> Prompt:
        key = self._number(5)
        facts = [(self.depth, f"The pass key is {key}. Remember it. {key} is the pass key.\n")]
        return self._hide(
            PASSKEY_HEADER, facts, "What is the pass key? The pass key is", f" {key}", self.depth
        )

    def _variables(self) -> Prompt:
        value, chain = self._number(5), self.rng.sample(WORDS, _CHAIN)
        sources = [value] + [f"VAR {name}" for name in chain[:-1]]
        depths = sorted(self.rng.random() for _ in chain)
        facts = [(d, f"VAR {name} = {source}.\n") for d, name, source in zip(depths, chain, sources)]
        question = (
            f"Question: Find all variables that are assigned the value {value}.\n"
            f"Answer: The {len(chain)} variables assigned the value {value} are:"
        )
        return self._hide(VARIABLES_HEADER, facts, question, " " + ", ".join(chain), None)

    def _hide(
        self, header: str, facts: list[tuple[float, str]], question: str, answer: str, depth: float | None
    ) -> Prompt:
        fixed = self._counts([header + "".join(fact for _, fact in facts) + question + answer])[0]
        hay = self._hay(self.length - fixed - _MARGIN)
        pieces, at = [header], 0
        for place, fact in sorted(facts):
            cut = int(place * (len(hay) + 1))
            pieces += hay[at:cut] + [fact]
            at = cut
        text = "".join(pieces + hay[at:]) + question
        return Prompt(self.task, text, answer, question, depth)

    def _hay(self, room: int) -> list[str]:
        """Lines of at most `room` tokens in all."""
        if self.task == "passkey":
            return [NOISE] * (room // self._counts([NOISE])[0])
        source = haystack.lines(f"{self.task} {self.seed}")
        hay: list[str] = []
        while True:
            batch = [next(source) for _ in range(_LINES_PER_BATCH)]
            for line, count in zip(batch, self._counts(batch)):
                if count > room:
                    return hay
                room -= count
                hay.append(line)

    def _records(self, make_key: Callable[[], str], make_value: Callable[[], str]) -> Prompt:
        records: dict[str, str] = {}
        sample = make_key()
        ask = f"Question: What is the value of {sample}?\nAnswer: {sample}: {make_value()}"
        # Questions differ by a few tokens from the sample's.
        room = self.length - self._counts([RECORDS_HEADER + ask])[0] - 2 * _MARGIN
        full = False
        while not full:
            batch = {make_key(): make_value() for _ in range(_LINES_PER_BATCH)}
            counts = self._counts([f"- {key}: {value}\n" for key, value in batch.items()])
            for (key, value), count in zip(batch.items(), counts):
                if key in records:
                    continue
                full = count > room
                if full:
                    break
                room -= count
                records[key] = value
        key = list(records)[int(self.depth * len(records))]
        question = f"Question: What is the value of {key}?\nAnswer: {key}:"
        body = "".join(f"- {name}: {value}\n" for name, value in records.items())
        return Prompt(
            self.task,
            RECORDS_HEADER + body + question,
            question=question,
            answer=f" {records[key]}",
            depth=self.depth,
        )
