"""Query, key and value of a model's layers in files, to study without the model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .._files import replaced
from .layers import visit_layers


@dataclass(frozen=True)
class Layer:
    """query ``[1, Hq, q_len, D]``, key and value ``[1, Hkv, kv_len, D]``, rotated. name: for tables and messages.
    softmax_scale: 0 stands for 1 / sqrt(D)."""

    name: str
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    softmax_scale: float = 0.0


def capture(
    model,
    token_ids: list[int],
    layers: Collection[int] | None,
    folder: str | os.PathLike,
    source: dict,
    done: Callable[[], None],
) -> list[Path]:
    """Run a prompt densely and write ``layer-NNN.safetensors`` for each of `layers`, all when None.

    source: what the files say of their origin, strings and numbers. Calls `done` after each file, which is whole or absent.
    Raises ValueError when the model has no such layer without a sliding window.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[int, Path] = {}

    def visit(layer, query, key, value, scale):
        if layers is not None and layer not in layers:
            return
        tensors = {
            name: tensor.cpu().contiguous()
            for name, tensor in (("query", query), ("key", key), ("value", value))
        }
        about = {"layer": layer, "softmax_scale": scale, "tokens": len(token_ids), **source}
        path = folder / f"layer-{layer:03d}.safetensors"
        with replaced(path) as temporary:
            try:
                save_file(tensors, temporary, {"minference": json.dumps(about)})
            except SafetensorError as error:
                raise OSError(f"{path}: {error}") from error
        paths[layer] = path
        done()

    visit_layers(model, token_ids, visit)
    missing = sorted(set(layers or ()) - set(paths))
    if missing:
        raise ValueError(f"layers must be the model's, without a sliding window, got {missing}")
    return [paths[layer] for layer in sorted(paths)]


def load(path: str | os.PathLike, device: str = "cpu") -> Layer:
    """A file of `capture`. Raises ValueError for other files."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            about = json.loads((file.metadata() or {})["minference"])
            tensors = [file.get_tensor(name) for name in ("query", "key", "value")]
    except FileNotFoundError:
        raise FileNotFoundError(2, "No such file or directory", os.fspath(path)) from None
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} must be a file of minference capture: {error}") from error
    return Layer(
        os.fspath(path), *(tensor.to(device) for tensor in tensors), softmax_scale=about["softmax_scale"]
    )
