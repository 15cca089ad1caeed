import os

import pytest

# Torch's threads would spin between calls, which makes the suite several times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def bpe():
    """The embedded model's tokenizer, with all its words."""
    import needle_training
    from tokenizers import Tokenizer
    from training import tokenizer

    from minference.needle.prompts import WORDS

    return tokenizer.with_words(Tokenizer.from_file(str(needle_training.FOLDER / "tokenizer.json")), WORDS)


@pytest.fixture(scope="session")
def draws(bpe):
    """What training sequences are drawn with."""
    import numpy as np
    from training.draws import Draws

    from minference.needle import haystack

    text = bpe.encode(haystack.text(200_000, 5), add_special_tokens=False).ids
    return Draws(bpe, np.array(text, np.uint16), [])
