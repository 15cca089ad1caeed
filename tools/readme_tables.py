#!/usr/bin/env python3
"""Writes the tables of measurements in the README and the pages under docs/ from bench/results/*.json.

    tools/readme_tables.py [--check]

A table stands between two comments; the first names its file, and columns as `field="heading"`, or `field*1e-12="heading"` in
another unit. A where clause, `field==value`, keeps only the rows that have this value, one of `field==value|value`, or with
`field==max` the largest:

    <!-- table attention_cpu.json kernel==amx length==max pattern="pairs" rate*1e-12="TFLOP/s" -->
    <!-- /table -->

With `across==field` rows that are the same in the named columns become one, with a column for each value of that field, in which stands
`cell==`, with fields in braces. `file.json#name` takes the rows from the file's `name`:

    <!-- table eval_curves_cuda.json attention="attention" across==task "cell=={accuracy*100} ({density})" -->
    <!-- /table -->

Figures are shown by their field's name: density, mass and share in percent, ratio with three decimals, speedup and sooner with one or
two, other fractions with three significant digits. Under a table stands what the file says of its origin: machine, command, commit and
date. A table whose file is not there says so. With --check nothing is written, and the exit code is 1 if something would be.
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
    if any(word in field for word in ("density", "mass", "share")):
        return f"{100 * value:.1f} %"
    if "ratio" in field:
        return f"{value:.3f}"
    if "speedup" in field or "sooner" in field:
        return f"{value:.1f}" if value >= 3 else f"{value:.2f}"
    return significant(value)


def cell(row: dict, column: str) -> str:
    """What a row holds in a column, given as a field's name or as field*factor."""
    field, _, factor = column.partition("*")
    value = row.get(field)
    return show(field, value * float(factor) if factor and value is not None else value)


def spread(rows: list[dict], columns: list, across: str, template: str) -> tuple[list, list[str]]:
    """Lines by what the columns hold, with a cell for each value of `across`; and these values."""
    values = list(dict.fromkeys(show(across, row[across]) for row in rows))
    lines: dict[tuple, list[str]] = {}
    for row in rows:
        known = tuple(cell(row, column) for column, _ in columns)
        line = lines.setdefault(known, [*known, *["–"] * len(values)])
        shown = re.sub(r"{(.*?)}", lambda field, row=row: cell(row, field[1]), template)
        place = len(known) + values.index(show(across, row[across]))
        if line[place] != "–":
            raise SystemExit(
                f"two rows have {across} {row[across]} and {', '.join(known)}: name what tells them apart"
            )
        line[place] = shown
    return list(lines.values()), [f"`{value}`" for value in values]


def origin(result: dict) -> str:
    """Command, machine, commit and date, as far as the file has them."""
    machine = result.get("machine", {})
    parts = [
        f"`{result['command']}`" if "command" in result else "",
        ", ".join(f"{key} {value}" if key != "cpu" else str(value) for key, value in machine.items()),
        f"medians of {result['interleaved_pairs']} interleaved runs" if "interleaved_pairs" in result else "",
        f"commit {result['commit']}, {result['date']}" if "commit" in result else "",
    ]
    return " · ".join(filter(None, parts))


def table(spec: str, folder: Path) -> str:
    """The Markdown table that a marker's words ask for, and the line under it."""
    name, *words = shlex.split(spec)
    name, _, part = name.partition("#")
    if not (folder / name).is_file():
        return f"Not measured yet: there is no `{name}` among the results.\n"
    result = json.loads((folder / name).read_text(encoding="utf-8"))
    # The C++ benchmarks' files hold tables of two kinds.
    rows = result[part or ("rows" if "rows" in result else "rates")]
    columns = [word.split("=", 1) for word in words if "==" not in word]
    clauses = dict(word.split("==", 1) for word in words if "==" in word)
    across, template = clauses.pop("across", None), clauses.pop("cell", "")
    for field, wanted in clauses.items():
        values = [str(max(row[field] for row in rows))] if wanted == "max" else wanted.split("|")
        rows = [row for row in rows if str(row.get(field)) in values]
        if not rows:
            raise SystemExit(f"{name}: no row has {field} {wanted}")
    if across:
        lines, added = spread(rows, columns, across, template)
    else:
        lines, added = [[cell(row, column) for column, _ in columns] for row in rows], []
    headings = [heading for _, heading in columns] + added
    written = ["| " + " | ".join(headings) + " |", "|" + " ---: |" * len(headings)]
    written += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(written) + f"\n\n{origin(result)}\n"


def fill(text: str, folder: Path) -> str:
    return TABLE.sub(lambda match: match[1] + table(match["spec"], folder) + match[3], text)


def pages() -> list[Path]:
    """The pages with tables."""
    names = [
        ROOT / "README.md",
        ROOT / "models" / "needle" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    return [page for page in names if TABLE.search(page.read_text(encoding="utf-8"))]


def main() -> int:
    stale = False
    for page in pages():
        text = page.read_text(encoding="utf-8")
        filled = fill(text, ROOT / "bench" / "results")
        if filled == text:
            continue
        if "--check" in sys.argv[1:]:
            stale = True
            print(f"{page.relative_to(ROOT)}: tables differ from bench/results; run tools/readme_tables.py")
        else:
            page.write_text(filled, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
