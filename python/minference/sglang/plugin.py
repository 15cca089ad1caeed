"""The entry point of the group ``sglang.srt.plugins``: SGLang calls `register` in every process."""

from __future__ import annotations

NAME = "minference"


def _make(runner):
    from .backend import Backend

    return Backend(runner)


def register():
    """Make the backend known to SGLang, and to its command line."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.server_args import add_attention_backend_choices

    add_attention_backend_choices([NAME])
    register_attention_backend(NAME)(_make)
