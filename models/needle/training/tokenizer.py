"""Step 2: a byte-level BPE tokenizer. Text merges are learned; every number of up to three digits is one token, as in
Llama 3."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 4096
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
# Numbers of two and three digits, which are not learned.
_NUMBERS = 100 + 1000
_TRAINING_DOCUMENTS = 4000

# Llama 3's pre-tokenizer: words with at most one leading non-letter, numbers in groups of up to three digits.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _learn(documents: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - _NUMBERS,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    without_digits = (re.sub(r"\d", "", document) for document in documents[:_TRAINING_DOCUMENTS])
    tokenizer.train_from_iterator(without_digits, trainer)
    return tokenizer


def _number_merges() -> list[tuple[str, str]]:
    """Merges that make every number of two and three digits a token."""
    pairs = [f"{i:02d}" for i in range(100)]
    merges = [(pair[0], pair[1]) for pair in pairs]
    for pair in pairs:
        for digit in "0123456789":
            # BPE joins the lower-ranked of the two overlapping pairs first.
            joined_first = pair <= pair[1] + digit
            merges.append((pair, digit) if joined_first else (pair[0], pair[1] + digit))
    return merges


def train(documents: list[str], folder: str | Path) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json."""
    state = json.loads(_learn(documents).to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    for left, right in _number_merges():
        vocabulary[left + right] = len(vocabulary)
        # tokenizers before 0.20 wrote merges as strings.
        merges.append(f"{left} {right}" if merges and isinstance(merges[0], str) else [left, right])
    if sorted(vocabulary.values()) != list(range(VOCABULARY)):
        raise RuntimeError(
            f"vocabulary must have {VOCABULARY} tokens, got {len(vocabulary)}: too little text"
        )
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    save(tokenizer, Path(folder))
    return tokenizer


def with_words(tokenizer: Tokenizer, words: list[str]) -> Tokenizer:
    """The tokenizer with a token for each of the words after a space, as those of large vocabularies have; the last ids.
    Words that have one already get no other."""
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for word in words:
        vocabulary.setdefault("\u0120" + word, len(vocabulary))
    # A piece of text that is a token needs no merges, as in Llama 3.
    state["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(state))


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
