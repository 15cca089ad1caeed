"""What the environment asks for: MINFERENCE_VLLM, for servers, whose start nobody can follow with a call."""

from __future__ import annotations

import json
import os

from ..config import MInferenceConfig

VARIABLE = "MINFERENCE_VLLM"


def requested():
    """The `MInferenceConfig` that MINFERENCE_VLLM asks for, or None.

    The variable holds ``1``, for the defaults, or a JSON object of `MInference`'s parameters, such as
    ``{"model_name": "Qwen/Qwen2-7B-Instruct"}``. Unset, empty and ``0`` ask for nothing.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        For any other value.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "0"):
        return None
    parameters = {}
    if text != "1":
        try:
            parameters = json.loads(text)
        except ValueError:
            parameters = None
        if not isinstance(parameters, dict):
            raise ValueError(f"{VARIABLE} must be 1 or a JSON object, got {text!r}")
    config = MInferenceConfig(**{"attn_type": "vllm", **parameters})
    return None if config.attn_type == "hf" else config
