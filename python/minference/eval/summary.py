"""What the samples say: one row a task, length and setting, compared with the baseline on the same prompts."""

from __future__ import annotations

import csv
import io
import json
import statistics as plain_statistics
from collections import defaultdict
from collections.abc import Iterable

from ..words import percent
from . import statistics

COLUMNS = (
    "task",
    "length",
    "attention",
    "samples",
    "accuracy",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "density",
    "kept_mass",
    "kept_mass_last",
    "seconds_to_first_token",
    "scored",
)


def summarize(samples: Iterable[dict], baseline: str | None) -> list[dict]:
    """Rows with `COLUMNS` in the order of the samples. Accuracies and differences are 0..1; times are medians.

    baseline: the setting that others are compared with on the prompts both have; None: none.
    """
    cells: dict[tuple, dict[int, dict]] = defaultdict(dict)
    for sample in samples:
        cells[sample["task"], sample["length"], sample["attention"]][sample["seed"]] = sample
    rows = []
    for (task, length, attention), by_seed in cells.items():
        found = [by_seed[seed] for seed in sorted(by_seed)]
        accuracy = statistics.accuracy([sample["score"] for sample in found])
        row = dict.fromkeys(COLUMNS)
        row |= {"task": task, "length": length, "attention": attention, "samples": len(found)}
        row |= {"accuracy": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
        other = cells.get((task, length, baseline), {})
        shared = [seed for seed in sorted(by_seed) if seed in other]
        if attention != baseline and shared:
            gap = statistics.difference(
                [by_seed[seed]["score"] for seed in shared], [other[seed]["score"] for seed in shared]
            )
            row |= {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
        for name in ("density", "kept_mass", "kept_mass_last"):
            values = [sample[name] for sample in found if sample.get(name) is not None]
            row[name] = sum(values) / len(values) if values else None
        row["seconds_to_first_token"] = plain_statistics.median(
            sample["seconds_to_first_token"] for sample in found
        )
        row["scored"] = "/".join(sorted({sample["scored"] for sample in found}))
        rows.append(
            {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}
        )
    return rows


def critical_densities(rows: Iterable[dict]) -> list[dict]:
    """One row a task, length and method: the critical density, and how many budgets it was looked for among.

    at_least: even the largest budget loses, so that the critical density lies at it or above. in_words: all this in words.
    """
    points: dict[tuple, list] = defaultdict(list)
    for row in rows:
        if row["difference"] is None:
            continue
        method = row["attention"].partition("@")[0]
        estimate = statistics.Estimate(row["difference"], row["difference_low"], row["difference_high"])
        points[row["task"], row["length"], method].append((row["density"], estimate))
    rows = []
    for (task, length, method), found in points.items():
        critical, densities = statistics.critical_density(found), [density for density, _ in found]
        row = {"task": task, "length": length, "method": method, "critical_density": critical}
        row |= {
            "at_least": critical == max(densities),
            "least_density": min(densities),
            "budgets": len(found),
        }
        rows.append(row | {"in_words": _critical_words(row)})
    return rows


def _critical_words(row: dict) -> str:
    if row["critical_density"] is None:
        return f"below {percent(row['least_density'])}"
    return "at least " * row["at_least"] + percent(row["critical_density"])


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def table(rows: list[dict]) -> list[tuple[str, ...]]:
    """Header and rows as text, in percent; without times, which differ from run to run."""
    lines = [
        (
            "task",
            "tokens",
            "attention",
            "n",
            "accuracy",
            "95 %",
            "against dense",
            "95 %",
            "density",
            "kept mass",
        )
    ]
    for row in rows:
        between = f"{_percent(row['low'])} .. {_percent(row['high'])}"
        gap = row["difference"] is not None
        lines.append(
            (
                row["task"],
                f"{row['length']:,}",
                row["attention"],
                str(row["samples"]),
                _percent(row["accuracy"]),
                between,
                _points(row["difference"]),
                f"{_points(row['difference_low'])} .. {_points(row['difference_high'])}" if gap else "",
                _percent(row["density"]),
                _percent(row["kept_mass"]),
            )
        )
    return lines


def as_markdown(rows: list[dict]) -> str:
    header, *lines = table(rows)
    marks = "|" + " --- |" * len(header)
    return (
        "\n".join(["| " + " | ".join(line) + " |" if line else marks for line in (header, (), *lines)]) + "\n"
    )


def as_csv(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_json(result: dict) -> str:
    return json.dumps(result, indent=2) + "\n"
