"""curve.jsonl: a line of figures every some steps, at the ends of stages and after evaluations."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path


def add(path: Path, figures: dict) -> None:
    """Print a line and add it to the file."""
    line = json.dumps({name: round(x, 5) if isinstance(x, float) else x for name, x in figures.items()})
    print(line, flush=True)
    if path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n"):
        cut(path, sys.maxsize)  # what a killed run has torn
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(path: Path) -> list[dict]:
    """Without the last line where a killed run has torn it."""
    *lines, last = path.read_text(encoding="utf-8").splitlines() or [""]
    figures = [json.loads(line) for line in lines]
    with suppress(json.JSONDecodeError):
        figures.append(json.loads(last))
    return figures


def cut(path: Path, step: int) -> None:
    """Remove what comes after a step. A kill leaves the old file or the new one."""
    kept = [figures for figures in read(path) if figures.get("step", 0) <= step]
    new = path.with_suffix(".new")
    new.write_text("".join(f"{json.dumps(figures)}\n" for figures in kept), encoding="utf-8")
    new.replace(path)
