"""Every task by name, and making its prompts: the same for the same task, length, seed and tokenizer."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

from . import chains, counting, documents, middle, needles, records
from .fitting import fit
from .haystack import Haystack
from .prompt import Draft, Prompt, Tokens, in_chat, locate, plain, tokenize
from .wording import Ruler


@dataclass(frozen=True)
class Task:
    """write(count, seed, rng, wording, haystack): a draft with `count` units of haystack, records or words.

    new_tokens: how many a generated answer may have, RULER's where the task is RULER's. summary: one line for lists.
    least: units that the shortest prompt has.
    """

    write: Callable[..., Draft]
    new_tokens: int
    summary: str
    least: int = 1


TASKS: dict[str, Task] = {
    **{name: Task(task.write, 128, f"RULER: {task.summary}") for name, task in needles.RULER_NEEDLES.items()},
    "vt": Task(chains.write_variables, 30, "RULER: variables that hold a value, through four hops"),
    "vt_two_hops": Task(chains.write_two_hop_variables, 30, "the same through two hops"),
    "cwe": Task(counting.write_common_words, 120, "RULER: the ten most common words of a list"),
    "fwe": Task(
        counting.write_frequent_words, 50, "RULER: the three most frequent words of a coded text", 256
    ),
    "qa_1": Task(None, 32, "RULER: a question about SQuAD's paragraphs; needs --squad"),
    "qa_2": Task(None, 32, "RULER: a question about HotpotQA's paragraphs; needs --hotpot"),
    "niah": Task(needles.GRID.write, 128, "needle in a haystack, ten depths in turn; draws a heat map"),
    "passkey": Task(needles.write_passkey, 6, "a pass key in noise"),
    "number": Task(needles.write_number, 12, "a ten-digit number in noise"),
    "kv": Task(records.write_identifiers, 50, "the value of an identifier in a list of such"),
    "kv_words": Task(records.write_words, 12, "the value of a pair of words in a list of such"),
    "kv_copies": Task(records.write_copies, 12, "the same among near-copies", 2),
    "two_hops": Task(chains.write_two_hops, 12, "a number whose key is hidden too"),
    "early_question": Task(middle.write_early_question, 12, "asked before the text, answered after it"),
    "restated": Task(middle.write_restated, 0, "a list of records and the same list again"),
    "lagged": Task(middle.write_lagged, 0, "after every record, one 30 to 50 before is asked for"),
    "repeated": Task(middle.write_repeated, 0, "a document with facts, given twice"),
    "recall": Task(middle.write_recall, 0, "a dozen questions answered in the middle of the prompt"),
}
RULER = (*needles.RULER_NEEDLES, "vt", "cwe", "fwe", "qa_1", "qa_2")
GROUPS = {
    "ruler": RULER,
    "retrieval": (*needles.RULER_NEEDLES, "passkey", "number", "kv", "kv_words"),
    "middle": ("restated", "lagged", "repeated", "recall"),
}


def named(names: list[str]) -> list[str]:
    """Task names, groups replaced by their tasks. Raises ValueError for others."""
    found: dict[str, None] = {}
    for name in names:
        if name not in GROUPS and name not in TASKS:
            raise ValueError(f"task must be one of {', '.join([*TASKS, *GROUPS])}, got {name!r}")
        found.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return list(found)


class PromptMaker:
    """Makes prompts for one tokenizer.

    wording: `Ruler` or `Embedded`. chat: surround prompts by the tokenizer's chat template; None does so when it has one.
    haystack: path of a text to hide facts in, instead of generated prose. squad, hotpot: files for qa_1 and qa_2.
    """

    def __init__(
        self,
        tokenizer,
        wording=Ruler,
        chat: bool | None = None,
        haystack: str | os.PathLike | None = None,
        squad: str | os.PathLike | None = None,
        hotpot: str | os.PathLike | None = None,
    ):
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if chat and not has_template:
            raise ValueError("the tokenizer must have a chat template for --chat, got one without")
        self._tokenizer, self._wording = tokenizer, wording
        self.chat = has_template if chat is None else chat
        self._haystack = Haystack(haystack)
        self._documents = {
            name: documents.Documents(path) for name, path in (("qa_1", squad), ("qa_2", hotpot)) if path
        }

    def require(self, task: str) -> None:
        """Refuse a task whose file was not given."""
        if TASKS[task].write is None and task not in self._documents:
            option = {"qa_1": "--squad", "qa_2": "--hotpot"}[task]
            raise ValueError(f"task {task} needs a file of questions and paragraphs: {option} FILE")

    def make(self, task: str, length: int, seed: int) -> tuple[Prompt, Tokens]:
        """A prompt of at most `length` tokens, answers included, and its tokens. Raises ValueError when it cannot be."""
        self.require(task)
        write = TASKS[task].write or self._documents[task].write

        def build(count: int):
            # A generator of its own for each count: what a seed gives must not depend on how the count was found.
            rng = random.Random(f"{task} {length} {seed}")
            draft = write(count, seed, rng, self._wording, self._haystack)
            prompt = in_chat(draft, self._tokenizer) if self.chat else plain(draft)
            return prompt, tokenize(self._tokenizer, prompt, special_tokens=not self.chat)

        prompt, encoded = fit(build, lambda built: len(built[1].input_ids), length, TASKS[task].least)
        return prompt, locate(prompt, encoded)
