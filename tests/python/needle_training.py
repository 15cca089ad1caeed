"""What tests of the embedded model's training share: the way to its modules, and an even mix of documents."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "models" / "needle"
sys.path.insert(0, str(FOLDER))

import train  # noqa: E402
from training.sequences import KINDS  # noqa: E402

__all__ = ["EVEN", "FOLDER", "train"]

EVEN = (1.0,) * len(KINDS)
