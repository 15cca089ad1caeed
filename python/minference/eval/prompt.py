"""A prompt with known answers: what tasks make, and how it becomes token ids."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """A piece of a prompt. scored: it is an answer, which the model has to find."""

    text: str
    scored: bool = False


@dataclass(frozen=True)
class Draft:
    """What a task writes, before a chat template surrounds it.

    user: what the user says, answers in the middle of the prompt included. lead: how the assistant's answer begins.
    answer: how it goes on. references: what a generated answer must contain, all of it or, with `any_reference`, one.
    any_order: the answer's parts may come in another order, so that it can only be scored generated. depth: place of the
    wanted fact, 0 (begin) to 1 (end); None where several places matter. forbidden: what the haystack must not contain.
    """

    user: tuple[Part, ...]
    lead: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()
    any_reference: bool = False
    any_order: bool = False
    depth: float | None = None
    forbidden: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Prompt:
    """parts: the whole text in order, scored parts included. Others as in `Draft`."""

    parts: tuple[Part, ...]
    references: tuple[str, ...]
    any_reference: bool
    any_order: bool
    depth: float | None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def ends_with_answer(self) -> bool:
        """Whether the last part is the answer, so that a model can be asked to generate it."""
        return bool(self.parts) and self.parts[-1].scored


def plain(draft: Draft) -> Prompt:
    """The draft as it is, for models that continue text."""
    return _surrounded(draft, "", "")


def in_chat(draft: Draft, tokenizer) -> Prompt:
    """The draft as a user's turn, with the assistant's turn begun, by the tokenizer's own chat template."""
    marker = "\ufffc"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": marker}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = text.partition(marker)
    if not found:
        raise ValueError("the chat template must contain the user's message, got one that does not")
    return _surrounded(draft, before, after)


def _surrounded(draft: Draft, before: str, after: str) -> Prompt:
    user = [*draft.user, Part(after + draft.lead)]
    if draft.answer:
        user.append(Part(draft.answer, scored=True))
    parts = tuple(part for part in [Part(before), *user] if part.text)
    return Prompt(parts, draft.references, draft.any_reference, draft.any_order, draft.depth)


@dataclass(frozen=True)
class Tokens:
    """ids: of the whole prompt. answers: for each scored part, the places of its tokens in `ids`."""

    ids: list[int]
    answers: list[list[int]]

    @property
    def answer_places(self) -> list[int]:
        """Of all answers, in order."""
        return [place for answer in self.answers for place in answer]


def tokenize(tokenizer, prompt: Prompt, special_tokens: bool = True):
    """What `locate` finds the answers in: input_ids and offset_mapping.

    special_tokens: let the tokenizer add its own; a chat template has written them already.
    """
    if not tokenizer.is_fast:
        raise ValueError("tokenizer must be a fast one, which knows where its tokens are in the text")
    return tokenizer(
        prompt.text,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        add_special_tokens=special_tokens,
    )


def locate(prompt: Prompt, encoded) -> Tokens:
    """Token ids, and where the answers are. A token that begins before an answer and ends in it belongs to the answer."""
    answers, place, token = [], 0, 0
    offsets = encoded.offset_mapping
    for part in prompt.parts:
        begin, place = place, place + len(part.text)
        if not part.scored:
            continue
        while token < len(offsets) and offsets[token][1] <= begin:
            token += 1
        first = token
        while token < len(offsets) and offsets[token][0] < place:
            token += 1
        answers.append(list(range(first, token)))
    return Tokens(encoded.input_ids, answers)
