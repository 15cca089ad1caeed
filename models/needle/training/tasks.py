"""Training sequences: documents with many facts and many questions each; only the answers carry the full loss.

The sentences are those of `minference.eval` in its embedded wording, so that what is trained is what is asked:

magic    "The special magic number for WORD is: 1234567."        some of many, hidden in text or in each other
queries  the numbers of several keys, asked for at once
values   several numbers of one key
hops     "The key that WORD stands for is OTHER."                 the number of OTHER, asked for by WORD
early    the question before the text, the answer after it
passkey  "The pass key is 12345. Remember it. 12345 is the pass key."
kv_word, kv_hex   lists of "word-word: 1234567" or "1f0c93ab: 77d0e1c4" records, many asked
chain    "VAR a = 12345." "VAR b = VAR a." ...                    every variable that holds 12345
common   a numbered list of words                                 those that come most often
copy     a document given twice
text     plain language modelling
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field

import numpy as np

from minference.eval.wording import Embedded
from minference.needle.prompts import NOISE, PASSKEY_HEADER, RECORDS_HEADER, WORDS

from .tokenizer import BEGIN, END

# Loss class of every token. A link is what stands between answers, and what ends them.
CLASSES = (
    "none", "text", "link", "magic", "passkey", "kv_word", "kv_hex", "chain", "queries", "values", "hops", "early",
    "common", "copy",
)  # fmt: skip
(
    NONE, TEXT, LINK, MAGIC, PASSKEY, KV_WORD, KV_HEX, CHAIN, QUERIES, VALUES, HOPS, EARLY, COMMON, COPY,
) = range(len(CLASSES))  # fmt: skip
KINDS = ("records", "facts", "chains", "early", "common", "copy", "text")
MOST_CHOICES = 10
# Documents are no shorter: a list of common words or a chain needs some room.
SHORTEST = 256
_NUMBER, _HEX = "number", "hex"
_MOST_REMEMBERED = 200_000
_COMMON_HEADER = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)


@dataclass
class Piece:
    """Token ids, the loss class of each, and at some offsets all tokens that are right there."""

    ids: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    choices: list[tuple[int, list[int]]] = field(default_factory=list)

    def add(self, ids, kind: int) -> None:
        self.ids.extend(ids)
        self.classes.extend([kind] * len(ids))

    def append(self, other: Piece) -> None:
        begin = len(self.ids)
        self.ids.extend(other.ids)
        self.classes.extend(other.classes)
        self.choices.extend((begin + offset, tokens) for offset, tokens in other.choices)


@dataclass(frozen=True)
class Question:
    """text: as asked, up to "Answer:". lead: how the answer begins. answers: in the order in which they are trained.
    any_order: the model may give them in another. place: 0..1, that of the last fact needed."""

    text: str
    lead: str
    answers: list[str]
    kind: int
    place: float = 0.0
    any_order: bool = False
    numbered: bool = False
    stop: str = "."


class Tasks:
    """Draws sequences of exactly `length` tokens; words, numbers and places are fresh each time.

    Sequences are put together from pieces that begin where the pre-tokenizer splits, so that the ids equal those of the
    whole string.
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

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _remembered(self, text: str) -> list[int]:
        """For pieces that come often: the tokenizer is slow on long texts."""
        if text not in self.known:
            if len(self.known) > _MOST_REMEMBERED:
                self.known.clear()
            self.known[text] = self.encode(text)
        return self.known[text]

    # ---- Words, numbers, text

    def _number(self, digits: int = 7) -> str:
        return str(self.rng.randrange(10 ** (digits - 1), 10**digits))

    def _hex(self) -> str:
        return f"{self.rng.getrandbits(32):08x}"

    def _count(self, most: float) -> int:
        """1..most, small ones as often as large ones."""
        return int(math.exp(self.rng.uniform(0, math.log(max(most, 2) + 1))))

    def _word(self) -> str:
        """One that the sequence has not had; after many tries two in one, as it may have had them all."""
        for attempt in itertools.count():
            words = WORDS if self.rng.random() < 0.7 else self.other_words
            word = self.rng.choice(words) + (self.rng.choice(words) if attempt > 50 else "")
            if word not in self.used:
                self.used.add(word)
                return word

    def _slice(self, length: int) -> np.ndarray:
        """Text that starts on a new line and ends with one."""
        start = int(self.array_rng.choice(self.line_starts))
        start = max(0, min(start, len(self.text) - length - 1))
        tokens = self.text[start : start + length].astype(np.int64)
        tokens[-1:] = self.newline[0]
        return tokens

    def _haystack(self, length: int, noise_share: float) -> tuple[np.ndarray, int]:
        """Ids and their class."""
        if self.rng.random() >= noise_share:
            return self._slice(length), TEXT
        noise = np.resize(self.noise, length)
        noise[-1:] = self.newline[0]
        return noise, NONE

    # ---- Questions

    def _ask(self, question: Question, terse: bool, ended: bool) -> Piece:
        """A question and its answers. terse: without the question's text, more answers a token. ended: by the end of
        text, as at the end of a prompt, instead of going on with the next line."""
        piece = Piece()
        asked = question.text.rpartition("\n")[2] if terse else question.text
        piece.add(self.encode(asked + question.lead), NONE)
        encoded = [self.encode(" " + answer) for answer in question.answers]
        for i, answer in enumerate(encoded):
            link = f" {i + 1}." if question.numbered else "," * (i > 0)
            if link:
                piece.add(self.encode(link), LINK)
            if question.any_order:
                left = encoded[i:]
                for at in range(len(answer)):
                    right = {other[at] for other in left if len(other) > at and other[:at] == answer[:at]}
                    if len(right) > 1:
                        piece.choices.append((len(piece.ids) + at, sorted(right)[:MOST_CHOICES]))
            piece.add(answer, question.kind)
        if ended:
            piece.add(self.encode(question.stop) if question.stop else [], LINK)
            piece.add([self.end], LINK)
            piece.add(self.newline, NONE)
        else:
            piece.add(self.encode(question.stop + "\n"), LINK)
        return piece

    def _magic_question(self, keys: list[str], values: list[str], kind: int, place: float, any_order=False):
        text, lead = Embedded.question(keys, "numbers", True), Embedded.lead(keys, "numbers", True)
        return Question(text, lead, values, kind, place, any_order)

    # ---- Facts in text: lines with their places, and questions

    def _magic(self, facts):
        """One number of one key; it may be asked for together with others."""
        hexadecimal = self.rng.random()
        key = self._hex() if hexadecimal < 0.06 else self._word()
        value = self._hex() if hexadecimal < 0.12 else self._number()
        place = self.rng.random()
        facts.append((place, Embedded.fact(key, value, "numbers")))
        return key, value, place

    def _values(self, facts):
        key, count = self._word(), self.rng.choice([2, 3, 4, 4, 4, 5, 6])
        placed = sorted((self.rng.random(), self._number()) for _ in range(count))
        facts.extend((place, Embedded.fact(key, value, "numbers")) for place, value in placed)
        values = [value for _, value in placed]
        return [self._magic_question([key], values, VALUES, placed[-1][0], any_order=True)]

    def _hops(self, facts):
        """Sometimes only the first hop is asked for, or the second: both hops together are more than that."""
        first, second, value = self._word(), self._word(), self._number()
        places = self.rng.random(), self.rng.random()
        facts.append((places[0], f"The key that {first} stands for is {second}.\n"))
        facts.append((places[1], Embedded.fact(second, value, "numbers")))
        named = f"the key that {first} stands for"
        return [
            Question(
                f"Question: What is {named}?\nAnswer:", f" {named.capitalize()} is", [second], HOPS, places[0]
            )
            if self.rng.random() < 0.15
            else self._magic_question([named], [value], HOPS, max(places))
        ]

    def _passkey(self, facts):
        place = self.rng.random()
        if self.rng.random() < 0.3:
            number, name = self._number(10), "The sequence of digits"
        else:
            number, name = self._number(5), "The pass key"
        facts.append((place, f"{name} is {number}. Remember it. {number} is {name.lower()}.\n"))
        return [Question(f"What is {name.lower()}?", f" {name} is", [number], PASSKEY, place)]

    def _block(self, facts):
        """A few records in one place."""
        kind = self.rng.choice([KV_WORD, KV_HEX])
        drawn = [self._record(kind) for _ in range(self.rng.randint(2, 12))]
        records = [record for record in drawn if record]
        place = self.rng.random()
        facts.append((place, "".join(line for line, _ in records)))
        return [self.rng.choice(records)[1]] if records else []

    def _chain(self, facts):
        number, names = self._number(5), [self._word() for _ in range(self.rng.choice([2, 3, 4, 5, 5, 5, 6]))]
        places = sorted(self.rng.random() for _ in names)
        sources = [number] + [f"VAR {name}" for name in names[:-1]]
        facts.extend(
            (place, Embedded.assignment(name, source)) for place, name, source in zip(places, names, sources)
        )
        lead = Embedded.variables_lead(len(names), number)
        return [Question(Embedded.variables_question(number), lead, names, CHAIN, places[-1])]

    def _asked_together(self, magics) -> list[Question]:
        """Questions for magic numbers, some of them several at once."""
        questions, magics = [], list(magics)
        while magics:
            count = self.rng.choice([1, 1, 2, 3, 4, 4, 4, 5]) if len(magics) > 1 else 1
            group, magics = magics[:count], magics[count:]
            keys, values, places = zip(*group)
            kind = QUERIES if len(group) > 1 else MAGIC
            questions.append(self._magic_question(list(keys), list(values), kind, max(places)))
        return questions

    def _cost(self, facts, questions) -> int:
        texts = [text for _, text in facts]
        for question in questions:
            texts += [question.text, question.lead, ", ".join(question.answers), "1234"]
        return len(self.encode("".join(texts)))

    def _facts_and_questions(self, length: int, makers, magics: int):
        """As many as leave some tokens to the text."""
        facts: list[tuple[float, str]] = []
        questions: list[Question] = []
        room = self.rng.uniform(0.5, 0.9) * length - 60
        for make in makers:
            own: list[tuple[float, str]] = []
            made = make(own)
            room -= self._cost(own, made)
            if room < 0:
                break
            facts += own
            questions += made
        own, found = [], []
        for _ in range(magics):
            room -= 50
            if room < 0 and facts:
                break
            found.append(self._magic(own))
        facts += own
        self.rng.shuffle(found)
        questions += self._asked_together(found)
        return facts, questions

    def _hidden(self, length: int, head: Piece, facts, questions, tail: Piece, noise_share: float) -> Piece:
        """Exactly `length` tokens: the head, text with the facts, the questions, the tail. The first fact always stays."""
        rng = self.rng
        inserts = []
        for place, text in facts:
            piece = Piece()
            piece.add(self.encode(text), NONE)
            inserts.append((place, piece))
        in_text, terse = rng.random() < 0.35, rng.random() < 0.3
        rng.shuffle(questions)
        last = []
        for question in questions:
            early = in_text and rng.random() < 0.5
            piece = self._ask(question, terse, ended=not early and rng.random() < 0.6)
            if early:
                inserts.append((rng.uniform(question.place, 1), piece))
            else:
                last.append(piece)
        room = length - len(head.ids) - len(tail.ids)
        room -= sum(len(piece.ids) for piece in [piece for _, piece in inserts] + last)
        while room < 16 and (last or len(inserts) > 1):
            # Short documents may be too full.
            room += len((last.pop() if last else inserts.pop()[1]).ids)
        text, kind = self._haystack(room, noise_share)
        ends = np.flatnonzero(self.ends_line[text])
        document, at = head, 0
        for place, piece in sorted(inserts, key=lambda insert: insert[0]):
            cut = int(ends[int(place * len(ends))]) + 1
            document.add(text[at:cut].tolist(), kind)
            document.append(piece)
            at = cut
        document.add(text[at:].tolist(), kind)
        for piece in last:
            document.append(piece)
        document.append(tail)
        return document

    def _head(self, text: str = "") -> Piece:
        piece = Piece()
        piece.add([self.begin, *(self.encode(text) if text else [])], NONE)
        return piece

    # ---- Whole documents

    def facts_document(self, length: int) -> Piece:
        rng = self.rng
        header, makers, magics = Embedded.header("numbers", True), [], 0
        theme = rng.random()
        if theme < 0.1:
            header, makers = PASSKEY_HEADER, [self._passkey]
        elif theme < 0.2:
            magics = rng.choice([1, 1, 2, 4])
        elif theme < 0.33:
            makers = [self._values] * self._count(min(8, length / 250))
        elif theme < 0.65:
            makers = [self._hops] * self._count(min(12, length / 120))
        else:
            magics = rng.randint(1, max(2, min(64, length // 100)))
            makers = [self._passkey] * (rng.random() < 0.3) + [self._block] * (rng.random() < 0.25)
            makers += [self._hops] * (rng.random() < 0.2) + [self._values] * (rng.random() < 0.3)
            makers += [self._chain] * (rng.randint(1, 3) if rng.random() < 0.3 else 0)
        facts, questions = self._facts_and_questions(length, makers, magics)
        head = self._head(header if rng.random() < 0.7 else "")
        return self._hidden(length, head, facts, questions, Piece(), 0.15)

    def chains_document(self, length: int) -> Piece:
        rng = self.rng
        count = self._count(min(8, length / 150))
        facts, questions = self._facts_and_questions(length, [self._chain] * count, 0)
        head = self._head(Embedded.variables_header if rng.random() < 0.8 else "")
        return self._hidden(length, head, facts, questions, Piece(), 0.5)

    def early_document(self, length: int) -> Piece:
        """The question, the text, some other questions, and that the first is to be answered now."""
        rng = self.rng
        facts: list[tuple[float, str]] = []
        count = rng.choice([1, 2, 4, 4, 4, rng.randint(2, max(2, min(24, length // 60)))])
        magics = [self._magic(facts) for _ in range(count)]
        asked = rng.randrange(len(magics))
        key, value, _ = magics.pop(asked)
        # The tail asks for this fact, so it must stay when others make room.
        facts.insert(0, facts.pop(asked))
        head = self._head(
            f"Read the following text and answer this question at its end: What is the special magic number for {key}?\n"
        )
        tail = self._ask(
            Question(
                "Now answer the question asked at the beginning.\nAnswer:", " The number is", [value], EARLY
            ),
            terse=False,
            ended=rng.random() < 0.6,
        )
        others = self._asked_together(magics[: rng.choice([0, 0, 1, 4])])
        return self._hidden(length, head, facts, others, tail, 0.1)

    def common_document(self, length: int) -> Piece:
        """RULER's list, with its short example; shorter ones have fewer words and smaller counts."""
        rng = self.rng
        own_words = rng.random() < 0.7
        pool = rng.sample(WORDS if own_words else self.other_words, min(len(WORDS), len(self.other_words)))
        count = 10 if rng.random() < 0.6 else rng.randint(2, 9)
        head, ended = self._head(), rng.random() < 0.6
        if length > 1500 and rng.random() < 0.6:
            head.append(self._list(count, pool[:count], pool[count : 2 * count], 3, 1, ended=False))
        pool = pool[2 * count :]
        single, known = list(pool), set(pool)
        entries = (length - len(head.ids) - 6 * count - 90) // (4 if own_words else 6)
        other_times = rng.choice([times for times in (1, 2, 3, 3, 3) if 5 * times * count < entries] or [1])
        fewest, share = max(2, 2 * other_times), rng.choice([1.0, 1.0, rng.random()])
        for _ in range(8):
            most = min(30, int(0.7 * entries / count))
            if most < fewest:
                break
            times = round(fewest + share * (most - fewest))
            others = max((entries - count * times) // other_times, 1)
            while len(pool) < count + others:
                word = rng.choice(single) + rng.choice(single)
                pool += [] if word in known else [word]
                known.add(word)
            listed = self._list(count, pool[:count], pool[count : count + others], times, other_times, ended)
            room = length - len(head.ids) - len(listed.ids)
            if 0 <= room:
                head.append(listed)
                filled = self.text_document(room) if room else Piece()
                filled.append(head)
                return filled
            entries = int(entries * min(0.98, (length - len(head.ids)) / len(listed.ids)))
        return self.text_document(length)

    def _list(self, count, common: list[str], others: list[str], times, other_times, ended: bool) -> Piece:
        words = common * times + others * other_times
        self.rng.shuffle(words)
        listed = Piece()
        listed.add(self.encode(_COMMON_HEADER), NONE)
        for i, word in enumerate(words, 1):
            listed.add(self._remembered(f" {i}." if i > 1 else "1."), NONE)
            listed.add(self._remembered(f" {word}"), NONE)
        text = f"\nQuestion: What are the {count} most common words in the above list?"
        lead = f" Answer: The top {count} words that appear most often in the list are:"
        question = Question(text, lead, common, COMMON, any_order=True, numbered=True, stop="")
        listed.append(self._ask(question, terse=False, ended=ended))
        return listed

    def copy_document(self, length: int) -> Piece:
        """A document with facts, some other lines, the same document again."""
        rng = self.rng
        head = self._head(Embedded.header("numbers", True))
        between = rng.randint(2, max(2, min(300, length // 4)))
        size = (length - len(head.ids) - between) // 2
        text = self._slice(size).tolist()
        ends = np.flatnonzero(self.ends_line[np.array(text)]).tolist()
        copies, at = (Piece(), Piece()), 0
        for cut in sorted(rng.sample(ends, min(len(ends), rng.randint(1, 32)))):
            before, value = f"The special magic number for {self._word()} is:", f" {self._number()}"
            parts = [text[at : cut + 1] + self.encode(before), self.encode(value), self.encode(".\n")]
            if len(copies[0].ids) + sum(map(len, parts)) + 8 > size:
                break
            for copy, kind in zip(copies, (NONE, COPY)):
                copy.add(parts[0], TEXT)
                copy.add(parts[1], kind)
                copy.add(parts[2], TEXT)
            at = cut + 1
        for copy in copies:
            copy.add(text[at : at + size - len(copy.ids)], TEXT)
        head.append(copies[0])
        head.add(self._slice(length - len(head.ids) - len(copies[1].ids)).tolist(), TEXT)
        head.append(copies[1])
        return head

    def _record(self, kind: int, words: list[str] | None = None) -> tuple[str, Question] | None:
        """A line and what asks for it; None when the sequence has had the key drawn: a key has one value in it."""
        if kind == KV_HEX or (kind == MAGIC and self.record_values == _HEX):
            key, value = self._hex(), self._hex()
        elif kind == MAGIC:
            key, value = self.rng.choice(WORDS), self._number()
        else:
            words = words or (WORDS if self.rng.random() < 0.6 else self.other_words)
            key, value = "-".join(self.rng.choices(words, k=2)), self._number()
        if key in self.used:
            return None
        self.used.add(key)
        if kind == MAGIC:
            return Embedded.fact(key, value, "numbers"), self._magic_question([key], [value], MAGIC, 0.0)
        text = f"Question: What is the value of {key}?\nAnswer:"
        return f"- {key}: {value}\n", Question(text, f" {key}:", [value], kind, stop="")

    def records_document(self, length: int) -> Piece:
        """Nothing but records; some asked for among them, others after them, in their order or not."""
        rng = self.rng
        kind = rng.choices([KV_WORD, KV_HEX, MAGIC], [0.45, 0.35, 0.2])[0]
        self.record_values = rng.choice([_NUMBER, _HEX])
        # Few words make keys that differ in one of them only.
        words = rng.sample(WORDS, 48) if rng.random() < 0.3 else None
        head = self._head(
            (Embedded.header("numbers", True) if kind == MAGIC else RECORDS_HEADER)
            if rng.random() < 0.6
            else ""
        )
        body = Piece()
        room = length - len(head.ids)
        asked_room = min(max(length * rng.uniform(0.04, 0.5), 100), 14000)
        terse, asked_early = rng.random() < 0.4, rng.uniform(0.05, 0.3) if rng.random() < 0.3 else 0
        open_questions = []
        while True:
            record = self._record(kind, words)
            if record is None:
                if kind == MAGIC or words:
                    # There are only so many.
                    asked_room += 0.02 * length
                    if asked_room > room:
                        break
                continue
            line, question = record
            encoded = self.encode(line)
            if len(body.ids) + len(encoded) + asked_room > room:
                break
            body.add(encoded, NONE)
            open_questions.append(question)
            if rng.random() < asked_early:
                piece = self._ask(open_questions.pop(rng.randrange(len(open_questions))), terse, ended=False)
                if len(body.ids) + len(piece.ids) + asked_room <= room:
                    body.append(piece)
        if rng.random() < 0.85:
            rng.shuffle(open_questions)
        for question in open_questions:
            piece = self._ask(question, terse, ended=rng.random() < 0.3)
            if len(body.ids) + len(piece.ids) > room:
                break
            body.append(piece)
        head.add(self._slice(room - len(body.ids)).tolist(), TEXT)
        head.append(body)
        return head

    def text_document(self, length: int) -> Piece:
        piece = self._head()
        piece.add(self._slice(length - 1).tolist(), TEXT)
        return piece

    # ---- Sequences and batches

    def _lengths(self, length: int, shortest: int = SHORTEST, whole_share: float = 0.5) -> list[int]:
        """Of the documents in a sequence: one, or several of all sizes."""
        if length < 2 * shortest or self.rng.random() < whole_share:
            return [length]
        lengths, left = [], length
        while left:
            own = int(math.exp(self.rng.uniform(math.log(shortest), math.log(length))))
            own = left if left - own < shortest else own
            lengths.append(own)
            left -= own
        return lengths

    def sequence(self, length: int, mix: list[float]) -> Piece:
        """mix: weights of KINDS."""
        self.used: set[str] = set()
        whole = Piece()
        for own in self._lengths(length):
            kind = self.rng.choices(KINDS, mix)[0]
            # An early question is the only one of its kind in a document.
            parts = self._lengths(own, SHORTEST // 2, 0.2) if kind == "early" else [own]
            for part in parts:
                whole.append(getattr(self, f"{kind}_document")(part))
        if len(whole.ids) != length:
            raise AssertionError(f"a sequence must have {length} tokens, got {len(whole.ids)}")
        return whole

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
        """tokens // length sequences end to end: ids, classes, positions, each [tokens]; then the places [n] where
        several tokens are right, and these [n, MOST_CHOICES], filled up with -1."""
        sequences = [self.sequence(length, mix) for _ in range(tokens // length)]
        ids = [np.array(sequence.ids, np.int32) for sequence in sequences]
        positions = [self._positions(own, gap_share, limit) for own in ids]
        chosen = [
            (number * length + offset, right)
            for number, sequence in enumerate(sequences)
            for offset, right in sequence.choices
        ]
        choices = np.full((len(chosen), MOST_CHOICES), -1, np.int32)
        for row, (_, right) in zip(choices, chosen):
            row[: len(right)] = right
        return (
            np.concatenate(ids),
            np.concatenate([np.array(sequence.classes, np.uint8) for sequence in sequences]),
            np.concatenate(positions).astype(np.int32),
            np.array([place for place, _ in chosen], np.int64),
            choices,
        )
