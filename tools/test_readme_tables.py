"""readme_tables.py fills marked tables from result files, and is content with what it wrote."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import readme_tables

RESULT = {
    "machine": {"cpu": "a CPU", "threads": 2},
    "command": "bench --all",
    "commit": "abc",
    "date": "2026-01-02",
    "rows": [
        {"kernel": "amx", "length": 32768, "ours_ms": 1234.5, "density": 0.0123, "speedup": 12.345},
        {"kernel": "avx2", "length": 32768, "ours_ms": 0.012345, "density": 1.0, "speedup": 1.2345},
    ],
}
README = """before
<!-- table r.json kernel==amx length="tokens" ours_ms="ours, ms" density="density" speedup="times" -->
stale
<!-- /table -->
after
"""


def test_rows_become_columns(tmp_path):
    rows = [
        {"task": task, "attention": attention, "accuracy": accuracy, "density": 0.05}
        for task, attention, accuracy in (
            ("vt", "dense", 1.0), ("vt", "tri_shape", 0.239), ("cwe", "dense", 0.915), ("cwe", "a_shape", 0.1),
        )
    ]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps({"rows": [], "more": rows}))
    spec = 'r.json#more attention==dense|tri_shape attention="attention" across==task "cell=={accuracy*100} ({density})"'
    written = readme_tables.table(spec, tmp_path).splitlines()
    assert written[0] == "| attention | `vt` | `cwe` |"
    assert written[2:4] == ["| dense | 100 (5.0 %) | 91.5 (5.0 %) |", "| tri_shape | 23.9 (5.0 %) | – |"]
    (tmp_path / "r.json").write_text(json.dumps({"rows": [], "more": rows + rows}))
    with pytest.raises(SystemExit, match="two rows have task vt and dense"):
        readme_tables.table(spec, tmp_path)


def test_table_is_filled_once(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(RESULT))
    filled = readme_tables.fill(README, tmp_path)
    assert "| tokens | ours, ms | density | times |" in filled
    assert "| 32,768 | 1,230 | 1.2 % | 12.3 |" in filled
    assert (
        "stale" not in filled
        and filled.startswith("before\n")
        and filled.endswith("<!-- /table -->\nafter\n")
    )
    assert "`bench --all` · a CPU, threads 2 · commit abc, 2026-01-02" in filled
    assert readme_tables.fill(filled, tmp_path) == filled


def test_figures():
    assert readme_tables.show("ours_ms", 0.012345) == "0.0123"
    assert readme_tables.show("ours_ms", 0.0) == "0"
    assert readme_tables.show("ours_ms", 99.96) == "100"
    assert readme_tables.show("speedup", 1.2345) == "1.23"
    assert readme_tables.show("rate_ratio", 1.2345) == "1.234"
    assert readme_tables.show("share", 0.876) == "87.6 %"
    assert readme_tables.show("kept_mass", 1.0) == "100.0 %"
    assert readme_tables.show("kept_mass", None) == "–"


def test_rates_of_the_c_plus_plus_benchmarks(tmp_path):
    rows = [
        {"kernel": "amx", "length": length, "rate": 1.234e12, "share": 0.7, "speedup": 1.5}
        for length in (64, 128)
    ]
    del rows[1]["speedup"]
    (tmp_path / "r.json").write_text(json.dumps({"interleaved_pairs": 9, "rates": rows, "costs": [{}]}))
    marker = (
        '<!-- table r.json length==max kernel="kernel" rate*1e-12="TFLOP/s" share="share" speedup="two" -->'
    )
    filled = readme_tables.fill(f"{marker}\n<!-- /table -->\n", tmp_path)
    assert filled.splitlines()[1:] == [
        "| kernel | TFLOP/s | share | two |",
        "| ---: | ---: | ---: | ---: |",
        "| amx | 1.23 | 70.0 % | – |",
        "",
        "medians of 9 interleaved runs",
        "<!-- /table -->",
    ]


def test_missing_file_leaves_an_honest_line(tmp_path):
    filled = readme_tables.fill(README, tmp_path)
    assert "Not measured yet: there is no `r.json` among the results." in filled and "stale" not in filled
    assert readme_tables.fill(filled, tmp_path) == filled


@pytest.mark.parametrize("page", readme_tables.pages(), ids=lambda page: page.name)
def test_pages_are_current(page):
    text = page.read_text()
    assert readme_tables.fill(text, readme_tables.ROOT / "bench" / "results") == text


def test_the_readme_has_tables():
    assert readme_tables.ROOT / "README.md" in readme_tables.pages()
