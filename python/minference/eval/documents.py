"""RULER's question answering: SQuAD or HotpotQA paragraphs from a local file, the one that answers among others."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass

from .haystack import Haystack
from .prompt import Draft, Part

_INSTRUCTION = "Answer the question based on the given documents. Only give me the answer and do not output any other words."


@dataclass(frozen=True)
class Question:
    """documents: indices of the paragraphs that the answer needs."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]


class Documents:
    """A file of questions and paragraphs."""

    def __init__(self, path: str | os.PathLike):
        """path: SQuAD 2.0's JSON (dev-v2.0.json) or HotpotQA's (hotpot_dev_distractor_v1.json)."""
        with open(path, encoding="utf-8") as file:
            try:
                content = json.load(file)
                self.documents, self.questions = (
                    _read_squad(content) if isinstance(content, dict) else _read_hotpot(content)
                )
            except (KeyError, TypeError, json.JSONDecodeError) as error:
                raise ValueError(
                    f"{os.fspath(path)} must be SQuAD's or HotpotQA's JSON, got {type(error).__name__}: {error}"
                ) from error
        if not self.questions:
            raise ValueError(f"{os.fspath(path)} must hold questions with answers, got none")

    def write(self, count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
        """`count` paragraphs at most, those that answer among them."""
        question = self.questions[seed % len(self.questions)]
        others = [i for i in range(len(self.documents)) if i not in question.documents]
        chosen = rng.sample(others, min(max(count - len(question.documents), 0), len(others)))
        order = [*question.documents, *chosen]
        rng.shuffle(order)
        text = "\n\n".join(f"Document {i}:\n{self.documents[which]}" for i, which in enumerate(order, 1))
        user = (
            f"{_INSTRUCTION}\n\nThe following are given documents.\n\n{text}\n\n{_INSTRUCTION}\n\n"
            f"Question: {question.text}"
        )
        return Draft(
            (Part(user),), " Answer:", f" {question.answers[0]}", question.answers, any_reference=True
        )


def _numbered(paragraphs: list[str], seen: dict[str, int]) -> list[int]:
    return [seen.setdefault(paragraph, len(seen)) for paragraph in paragraphs]


def _read_squad(content: dict) -> tuple[list[str], list[Question]]:
    seen: dict[str, int] = {}
    questions = []
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            place = _numbered([paragraph["context"]], seen)
            for entry in paragraph["qas"]:
                if not entry.get("is_impossible"):
                    answers = tuple(dict.fromkeys(answer["text"] for answer in entry["answers"]))
                    questions.append(Question(entry["question"], answers, tuple(place)))
    return list(seen), questions


def _read_hotpot(content: list) -> tuple[list[str], list[Question]]:
    seen: dict[str, int] = {}
    questions = []
    for entry in content:
        paragraphs = [f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]]
        questions.append(Question(entry["question"], (entry["answer"],), tuple(_numbered(paragraphs, seen))))
    return list(seen), questions
