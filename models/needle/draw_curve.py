#!/usr/bin/env python3
"""Draw the learning curve of a training run: the loss of each kind of answer, and where stages begin.

python models/needle/draw_curve.py build/needle/curve.jsonl models/needle/curve.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from training import curve  # noqa: E402
from training.pieces import CLASSES, LINK  # noqa: E402

from minference.plotting import QUIET, STYLE, plt, save  # noqa: E402


def draw(lines: list[dict], path: Path) -> None:
    """lines: of curve.jsonl; those without a learning rate's scale are not steps."""
    steps = [line for line in lines if "scale" in line]
    kinds = [name for name in CLASSES[LINK + 1 :] if any(name in line for line in steps)]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(3, 4, figsize=(11, 6), squeeze=False, sharex=True)
        for axes in grid.flat[len(kinds) :]:
            axes.axis("off")
        begins = [line["step"] for before, line in zip(steps, steps[1:]) if line["stage"] > before["stage"]]
        for axes, name in zip(grid.flat, kinds):
            found = [(line["step"], line[name]) for line in steps if name in line]
            # A loss of nothing has no place on a logarithmic axis.
            axes.semilogy(*zip(*((step, max(loss, 1e-5)) for step, loss in found)), linewidth=1)
            for step in begins:
                axes.axvline(step, color=QUIET, linewidth=0.5, linestyle=":")
            axes.set_title(name, fontsize=9)
        figure.supxlabel("step")
        figure.supylabel("loss of an answer's token, nats")
        figure.tight_layout()
        save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curve", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    draw(curve.read(args.curve), args.picture)


if __name__ == "__main__":
    main()
