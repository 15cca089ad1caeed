"""llama.cpp's own programs with the embedded model, with and without the backend. `make test-engines-llama` builds them."""

import sys
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from minference.needle.model import folder
from minference.needle.prompts import make_prompt

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "bench"))
import llama_programs  # noqa: E402


@pytest.fixture
def serve(tmp_path):
    """A function that starts a server for a `with` block."""
    return partial(llama_programs.serve, tmp_path)


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(folder())


@pytest.fixture(scope="session")
def prompt_of(tokenizer):
    """A function (task, tokens, seed) -> prompt with its answer."""
    return lambda task, tokens, seed: make_prompt(tokenizer, task, tokens, seed)
