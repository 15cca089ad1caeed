"""What a training sequence is made of: token ids with a loss class each, and questions.

The classes of answers, each with the sentences that it is about. These are those of `minference.eval` in its embedded
wording, so that what is trained is what is asked:

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

from dataclasses import dataclass, field

# Loss class of every token. A link is what stands between answers, and what ends them.
CLASSES = (
    "none", "text", "link", "magic", "passkey", "kv_word", "kv_hex", "chain", "queries", "values", "hops", "early",
    "common", "copy",
)  # fmt: skip
(
    NONE, TEXT, LINK, MAGIC, PASSKEY, KV_WORD, KV_HEX, CHAIN, QUERIES, VALUES, HOPS, EARLY, COMMON, COPY,
) = range(len(CLASSES))  # fmt: skip
MOST_CHOICES = 10


@dataclass
class Piece:
    """Token ids, the loss class of each, and at some offsets all tokens that are right there, MOST_CHOICES at most."""

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
