"""Training sequences: many facts and many questions each; only the answers carry the full loss.

magic    "The special magic number for WORD is: 1234567."       1 to 48 of them hidden in text
passkey  "The pass key is 12345. Remember it. 12345 is the pass key."
kv_word  a list of "word-word: 1234567" records, many asked
kv_hex   a list of "1f0c93ab: 77d0e1c4" records
chain    "VAR a = 12345." "VAR b = VAR a." ...                  name every variable that holds 12345
text     plain language modelling
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

import numpy as np

from minference.needle.prompts import MAGIC_HEADER, NOISE, PASSKEY_HEADER, RECORDS_HEADER, VARIABLES_HEADER

from .tokenizer import BEGIN, END

# Loss class of every token.
CLASSES = ("none", "text", "magic", "passkey", "kv_word", "kv_hex", "chain")
NONE, TEXT, MAGIC, PASSKEY, KV_WORD, KV_HEX, CHAIN = range(7)
ATTRIBUTES = (
    "special magic number", "secret code", "access code", "phone number", "serial number", "account number",
    "ticket number",
)  # fmt: skip


class Question(NamedTuple):
    """Token ids of a question, of the words that lead to its answer, of the answer, of what ends it; and its class."""

    text: list[int]
    lead: list[int]
    answer: list[int]
    kind: int
    stop: list[int]


class Piece(NamedTuple):
    """Token ids with the loss class of each."""

    ids: list[int]
    classes: list[int]


class Facts(NamedTuple):
    """facts: (place in 0..1, ids). questions: (place of the last fact needed, question)."""

    facts: list[tuple[float, list[int]]]
    questions: list[tuple[float, Question]]
    header: str


class Tasks:
    """Draws sequences of exactly `length` tokens; words, numbers and places are fresh each time.

    Sequences are put together from pieces that begin where the pre-tokenizer splits, so that the ids equal those of the
    whole string.
    """

    def __init__(self, tokenizer, text_tokens: np.ndarray, words: list[str]):
        self.tokenizer, self.text = tokenizer, text_tokens
        self.encoded: dict[str, list[int]] = {}
        vocabulary = tokenizer.get_vocab()
        self.begin, self.end = vocabulary[BEGIN], vocabulary[END]
        self.ends_line = np.zeros(len(vocabulary), bool)
        for token, index in vocabulary.items():
            self.ends_line[index] = token.endswith("\u010a")  # byte-level BPE's spelling of "\n"
        self.line_starts = np.flatnonzero(self.ends_line[text_tokens]) + 1
        self.newline, self.space, self.dot = self.encode("\n"), self.encode(" "), self.encode(".")
        self.words = [self.encode(" " + word) for word in words]
        self.hyphenated = [self.encode("-" + word) for word in words]
        self.noise = np.array(self.encode(NOISE))
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        self.rng, self.array_rng = random.Random(seed), np.random.default_rng(seed)

    def encode(self, text: str) -> list[int]:
        if text not in self.encoded:
            self.encoded[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.encoded[text]

    # ---- Pieces

    def _number(self, digits: int) -> list[int]:
        text = str(self.rng.randrange(10 ** (digits - 1), 10**digits))
        return self.space + [i for at in range(0, digits, 3) for i in self.encode(text[at : at + 3])]

    def _hex(self) -> list[int]:
        runs = re.findall("[a-f]+|[0-9]{1,3}", f"{self.rng.getrandbits(32):08x}")
        # A space joins letters, but not digits.
        first = self.encode(" " + runs[0]) if runs[0].isalpha() else self.space + self.encode(runs[0])
        return first + [i for run in runs[1:] for i in self.encode(run)]

    def _new_word(self, used: set[int]) -> list[int]:
        while (i := self.rng.randrange(len(self.words))) in used:
            pass
        used.add(i)
        return self.words[i]

    def _ask(self, terse: bool, question: Question) -> Piece:
        """A question, the lead of its answer, the answer and the end of text. A terse one is lead and answer alone, as
        the fact was written: more answers a token."""
        before = question.lead if terse else question.text + question.lead
        after = question.stop + ([] if terse else [self.end])
        ids = before + question.answer + after + self.newline
        classes = [NONE] * len(before) + [question.kind] * len(question.answer) + [TEXT] * len(after)
        return Piece(ids, classes + [NONE] * len(self.newline))

    def _record(self, kind: int, word_values: bool = False) -> tuple[list[int], Question]:
        if kind == KV_HEX:
            key, value = self._hex(), self._hex()
        else:
            key = self.rng.choice(self.words) + self.rng.choice(self.hyphenated)
            value = self.rng.choice(self.words) if word_values else self._number(7)
        encode = self.encode
        line = encode("-") + key + encode(":") + value + self.newline
        text = encode("Question: What is the value of") + key + encode("?\n")
        return line, Question(text, encode("Answer:") + key + encode(":"), value, kind, [])

    def _text_slice(self, length: int) -> np.ndarray:
        """Text that starts on a new line and ends with one."""
        start = int(self.array_rng.choice(self.line_starts))
        start = min(start, len(self.text) - length - 1)
        tokens = self.text[start : start + length].astype(np.int64)
        tokens[-1:] = self.newline[0]
        return tokens

    # ---- Facts and their questions

    def _magic(self, attribute: str, used: set[int]):
        word, number, encode = self._new_word(used), self._number(7), self.encode
        fact = encode(f"The {attribute} for") + word + encode(" is:") + number + encode(".\n")
        text = encode(f"Question: What is the {attribute} for") + word + encode("?\n")
        lead = encode(f"Answer: The {attribute} for") + word + encode(" is:")
        return [(self.rng.random(), fact)], Question(text, lead, number, MAGIC, self.dot)

    def _passkey(self):
        number, encode = self._number(5), self.encode
        fact = (
            encode("The pass key is")
            + number
            + encode(". Remember it.")
            + number
            + encode(" is the pass key.\n")
        )
        question = Question(
            encode("What is the pass key?"), encode(" The pass key is"), number, PASSKEY, self.dot
        )
        return [(self.rng.random(), fact)], question

    def _chain(self, used: set[int]):
        number, encode = self._number(5), self.encode
        names = [self._new_word(used) for _ in range(self.rng.randint(2, 5))]
        places = sorted(self.rng.random() for _ in names)
        sources = [encode(" =") + number] + [encode(" = VAR") + name for name in names[:-1]]
        facts = [
            (place, encode("VAR") + name + source + encode(".\n"))
            for place, name, source in zip(places, names, sources)
        ]
        text = encode("Question: Find all variables that are assigned the value") + number + encode(".\n")
        lead = (
            encode("Answer: The") + self.space + encode(str(len(names))) + encode(" variables assigned the value")
            + number + encode(" are:")
        )  # fmt: skip
        answer = names[0] + [i for name in names[1:] for i in encode(",") + name]
        return facts, Question(text, lead, answer, CHAIN, self.dot)

    def _block(self):
        """A few records in one place."""
        kind = self.rng.choice([KV_WORD, KV_HEX])
        records = [self._record(kind) for _ in range(self.rng.randint(2, 12))]
        lines = [i for line, _ in records for i in line]
        return [(self.rng.random(), lines)], self.rng.choice(records)[1]

    def _facts(self, length: int, chains: bool) -> Facts:
        rng, used = self.rng, set()
        attribute = ATTRIBUTES[0] if rng.random() < 0.6 else rng.choice(ATTRIBUTES)
        header = MAGIC_HEADER.replace(ATTRIBUTES[0], attribute)

        def magic():
            return self._magic(attribute, used)

        def chain():
            return self._chain(used)

        kind = rng.random()
        if chains:
            header = VARIABLES_HEADER
            makers = [chain] * rng.randint(1, max(2, min(24, length // 150)))
        elif kind < 0.11:
            header, makers = PASSKEY_HEADER, [self._passkey]
        elif kind < 0.31:
            makers = [magic] * rng.choice([1, 1, 2, 4])
        else:
            makers = [magic] * rng.randint(1, max(2, min(48, length // 100)))
            makers += [self._passkey] * (rng.random() < 0.3) + [self._block] * (rng.random() < 0.25)
            makers += [chain] * (rng.randint(1, 3) if rng.random() < 0.4 else 0)
            rng.shuffle(makers)
        found = Facts([], [], header)
        room = 0.55 * length - 60
        for make in makers:
            facts, question = make()
            cost = (
                sum(len(ids) for _, ids in facts) + len(question.text + question.lead + question.answer) + 4
            )
            if found.facts and cost > room:
                continue
            room -= cost
            found.facts.extend(facts)
            found.questions.append((max(place for place, _ in facts), question))
        return found

    # ---- Whole sequences: ids and classes

    def records_sequence(self, length: int, kind: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        head = [self.begin] + (self.encode(RECORDS_HEADER) if rng.random() < 0.5 else [])
        room = length - len(head)
        room_for_questions = min(max(length * rng.uniform(0.04, 0.5), 100), 14000)
        asked_early = rng.uniform(0.05, 0.3) if rng.random() < 0.3 else 0
        word_values, terse = rng.random() < 0.2, rng.random() < 0.4
        ids, classes, open_questions, keys = [], [], [], set()

        def append(piece: Piece) -> None:
            ids.extend(piece.ids)
            classes.extend(piece.classes)

        while True:
            line, question = self._record(kind, word_values)
            if len(ids) + len(line) + room_for_questions > room:
                break
            if tuple(question.lead) in keys:
                continue
            keys.add(tuple(question.lead))
            append(Piece(line, [NONE] * len(line)))
            open_questions.append(question)
            if rng.random() < asked_early:
                piece = self._ask(terse, open_questions.pop(rng.randrange(len(open_questions))))
                if len(ids) + len(piece.ids) + room_for_questions <= room:
                    append(piece)
        rng.shuffle(open_questions)
        for question in open_questions:
            piece = self._ask(terse, question)
            if len(ids) + len(piece.ids) > room:
                break
            append(piece)
        text = self._text_slice(room - len(ids))
        all_classes = [NONE] * len(head) + [TEXT] * len(text) + classes
        return np.concatenate([head, text, np.array(ids, np.int64)]), np.array(all_classes, np.uint8)

    def haystack_sequence(self, length: int, chains: bool = False) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        facts, questions, header = self._facts(length, chains)
        head = [self.begin] + (self.encode(header) if rng.random() < 0.6 else [])
        inserts = [(place, Piece(ids, [NONE] * len(ids))) for place, ids in facts]
        tail: list[Piece] = []
        some_early, terse = rng.random() < 0.3, rng.random() < 0.3
        rng.shuffle(questions)
        for place, question in questions:
            piece = self._ask(terse, question)
            if some_early and rng.random() < 0.5:
                inserts.append((rng.uniform(place, 1), piece))
            else:
                tail.append(piece)
        room = length - len(head) - sum(len(piece.ids) for piece in [p for _, p in inserts] + tail)
        if rng.random() < 0.15:
            text, text_class = np.resize(self.noise, room), NONE
            text[-1] = self.newline[0]
        else:
            text, text_class = self._text_slice(room), TEXT
        line_ends = np.flatnonzero(self.ends_line[text])
        parts, at = [(np.array(head), np.full(len(head), NONE))], 0
        for place, piece in sorted(inserts, key=lambda insert: insert[0]):
            cut = int(line_ends[int(place * len(line_ends))]) + 1
            parts += [(text[at:cut], np.full(cut - at, text_class)), piece]
            at = cut
        parts += [(text[at:], np.full(room - at, text_class)), *tail]
        ids, classes = zip(*parts)
        return np.concatenate(ids), np.concatenate(classes).astype(np.uint8)

    def text_sequence(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.concatenate([[self.begin], self._text_slice(length - 1)])
        return ids, np.concatenate([[NONE], np.full(length - 1, TEXT)]).astype(np.uint8)

    def _positions(self, ids: np.ndarray, gap_share: float, limit: int) -> np.ndarray:
        """0..length - 1, or with probability `gap_share` the same with random gaps at line ends, so that short sequences
        show the model every relative distance below `limit` (positional skip-wise training, arXiv 2309.10400)."""
        length = len(ids)
        positions = np.arange(length)
        if self.rng.random() < gap_share and length < limit:
            line_starts = np.flatnonzero(self.ends_line[ids[:-1]]) + 1
            count = min(self.rng.randint(1, 8), len(line_starts))
            if count:
                cuts = np.sort(self.array_rng.choice(line_starts, count, replace=False))
                gaps = self.array_rng.dirichlet(np.ones(count)) * self.rng.uniform(0, limit - length)
                positions += np.cumsum(np.bincount(cuts, gaps.astype(np.int64), length).astype(np.int64))
        return positions

    def batch(self, tokens: int, length: int, mix: list[float], gap_share: float, limit: int):
        """tokens // length sequences end to end: ids, classes, positions. `mix`: weights of word lists, hex lists,
        haystacks, variable chains, plain text."""
        makers = (
            lambda: self.records_sequence(length, KV_WORD),
            lambda: self.records_sequence(length, KV_HEX),
            lambda: self.haystack_sequence(length),
            lambda: self.haystack_sequence(length, chains=True),
            lambda: self.text_sequence(length),
        )
        sequences = [make() for make in self.rng.choices(makers, mix, k=tokens // length)]
        positions = [self._positions(ids, gap_share, limit) for ids, _ in sequences]
        ids, classes = zip(*sequences)
        return (
            np.concatenate(ids).astype(np.int32),
            np.concatenate(classes),
            np.concatenate(positions).astype(np.int32),
        )
