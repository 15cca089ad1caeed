"""Where the embedded model is, and loading it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT_VARIABLE = "MINFERENCE_NEEDLE"
_INSIDE_CHECKOUT = Path("models", "needle")


def _candidates() -> Iterator[Path]:
    override = os.environ.get(ENVIRONMENT_VARIABLE)
    if override:
        yield Path(override)
        return
    # A checkout holds the package itself, or the virtual environment that the package is installed in.
    for start in (Path(__file__).resolve(), Path.cwd() / "here"):
        for parent in start.parents:
            yield parent / _INSIDE_CHECKOUT


def folder() -> Path:
    """The folder of the embedded model: what MINFERENCE_NEEDLE names, else models/needle of the checkout around the
    package or around the current directory.

    Raises FileNotFoundError. The model comes with the source repository, not with the wheel.
    """
    for path in _candidates():
        if (path / "config.json").is_file():
            return path
    override = os.environ.get(ENVIRONMENT_VARIABLE)
    if override:
        raise FileNotFoundError(
            f"{ENVIRONMENT_VARIABLE} must name a folder with config.json, got {override!r}"
        )
    raise FileNotFoundError(
        "the embedded model was not found: it is in models/needle of the source repository, not in the installed "
        f"package. Run from a checkout, or let {ENVIRONMENT_VARIABLE} name the folder."
    )


def load(path: str | os.PathLike | None = None, device: str = "cpu"):
    """A transformers model in evaluation mode, with SDPA attention in bfloat16, and its tokenizer.

    path: a folder or a hub id; the embedded model when left out.
    device: what torch calls it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = os.fspath(folder() if path is None else path)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.eval().to(device), AutoTokenizer.from_pretrained(source)
