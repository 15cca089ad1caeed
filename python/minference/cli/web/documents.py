"""What a person pastes or uploads, and how it becomes a prompt. Everything wrong with it is a ValueError in plain words."""

from __future__ import annotations

import codecs
import os

# Shorter prompts have nothing to leave out.
MIN_TOKENS = 256
# No tokenizer makes longer tokens of prose: longer texts are refused before they are tokenised.
_MAX_CHARACTERS_PER_TOKEN = 16

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def read_text(path: str | os.PathLike) -> str:
    """The text of an uploaded file: UTF-8, or UTF-16 with a byte order mark. Raises ValueError."""
    name = os.path.basename(path)
    with open(path, "rb") as file:
        content = file.read()
    encoding = next((e for mark, e in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or content.startswith(b"%PDF"):
        raise ValueError(f"{name} is not a text file. Save it as plain text (UTF-8) and upload that.")
    if not text.strip():
        raise ValueError(f"{name} is empty.")
    return text


def encode(tokenizer, document: str, question: str, num_answer_tokens: int, context: int) -> list[int]:
    """Token ids of a prompt: the document, a line feed, the question; in the tokenizer's chat template if it has one.

    context: how many tokens the model takes, answer included. Raises ValueError.
    """
    document, question = document.replace("\r\n", "\n").rstrip("\n"), question.strip()
    if not document.strip():
        raise ValueError("There is no document. Paste one, upload one, or write an example.")
    if not question:
        raise ValueError("There is no question. Ask something about the document.")
    room = context - num_answer_tokens
    if len(document) > _MAX_CHARACTERS_PER_TOKEN * context:
        raise ValueError(
            f"The document is too long: {len(document):,} characters, where the model takes {room:,} tokens."
        )
    text = f"{document}\n{question}"
    if getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        token_ids = tokenizer(text, add_special_tokens=False).input_ids
    else:
        token_ids = tokenizer(text).input_ids
    if len(token_ids) > room:
        raise ValueError(
            f"The document is too long: {len(token_ids):,} tokens with the question, where the model takes {room:,} "
            f"beside its answer. Shorten it by about {100 * (1 - room / len(token_ids)):.0f} %."
        )
    if len(token_ids) < MIN_TOKENS:
        raise ValueError(
            f"The document is too short: {len(token_ids):,} tokens with the question. Sparse attention has something to "
            f"leave out from {MIN_TOKENS} tokens on, and pays from some thousands on."
        )
    return token_ids
