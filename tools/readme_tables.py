#!/usr/bin/env python3
"""Writes the README's tables of measurements from bench/results/*.json.

    tools/readme_tables.py [--check]

A table stands between two comments; the first names its file, and columns as `field="heading"`. A where clause,
`field==value`, keeps only the rows that have this value:

    <!-- table attention_cpu.json kernel==amx length="tokens" ours_ms="ours, ms" -->
    <!-- /table -->

Figures are shown by their field's name: density and mass in percent, speedup, sooner and ratio with one decimal or two, other
fractions with three significant digits. Under a table stand machine, command, commit and date. With --check nothing is written, and the
exit code is 1 if something would be.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- table (?P<spec>[^\n]*?) -->\n).*?(<!-- /table -->)", re.DOTALL)


def significant(number: float, digits: int = 3) -> str:
    """Three significant digits, without an exponent: 1234.5 -> 1,230, 0.12345 -> 0.123."""
    rounded = float(f"{number:.{digits}g}")
    decimals = max(0, digits - 1 - int(f"{abs(rounded):e}".partition("e")[2])) if rounded else 0
    return f"{rounded:,.{decimals}f}"


def show(field: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if "density" in field or "mass" in field:
        return f"{100 * value:.1f} %"
    if any(word in field for word in ("speedup", "sooner", "ratio")):
        return f"{value:.1f}" if value >= 3 else f"{value:.2f}"
    return significant(value)


def table(spec: str, folder: Path) -> str:
    """The Markdown table that a marker's words ask for, and the line under it."""
    name, *words = shlex.split(spec)
    result = json.loads((folder / name).read_text(encoding="utf-8"))
    wanted = dict(word.split("==", 1) for word in words if "==" in word)
    columns = [word.split("=", 1) for word in words if "==" not in word]
    rows = [
        row for row in result["rows"] if all(str(row.get(field)) == value for field, value in wanted.items())
    ]
    if not rows:
        raise SystemExit(f"{name}: no row has {wanted}")
    lines = ["| " + " | ".join(heading for _, heading in columns) + " |", "|" + " ---: |" * len(columns)]
    lines += ["| " + " | ".join(show(field, row.get(field)) for field, _ in columns) + " |" for row in rows]
    machine = result["machine"]
    shown = ", ".join(f"{key} {value}" if key != "cpu" else str(value) for key, value in machine.items())
    return (
        "\n".join(lines)
        + f"\n\n`{result['command']}` · {shown} · commit {result['commit']}, {result['date']}\n"
    )


def fill(text: str, folder: Path) -> str:
    return TABLE.sub(lambda match: match[1] + table(match["spec"], folder) + match[3], text)


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    filled = fill(text, ROOT / "bench" / "results")
    if filled == text:
        return 0
    if "--check" in sys.argv[1:]:
        print("README.md: tables differ from bench/results; run tools/readme_tables.py")
        return 1
    readme.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
