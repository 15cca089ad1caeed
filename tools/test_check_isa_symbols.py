"""check_isa_symbols.py finds shared code in an object of one instruction set when some is planted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import check_isa_symbols

RIGHT = "namespace m::avx2 { template <class T> [[gnu::noinline]] T f(T x) { return x; } int g() { return f(1); } }"
SHARED = "template <class T> [[gnu::noinline]] T f(T x) { return x; } int g() { return f(1); }"


def build(folder: Path, name: str, text: str) -> Path:
    source = folder / name
    source.write_text(text)
    command = f"c++ -mavx2 -c {source} -o {check_isa_symbols.LIBRARY}-{name}.o"
    subprocess.run(command.split(), cwd=folder, check=True)
    entry = {"file": str(source), "directory": str(folder), "command": command}
    (folder / "compile_commands.json").write_text(json.dumps([entry]))
    return folder


@pytest.mark.parametrize(
    ("name", "text", "status"), [("avx2.cc", RIGHT, 0), ("avx2.cc", SHARED, 1), ("other.cc", RIGHT, 1)]
)
def test_status(tmp_path, monkeypatch, capsys, name, text, status):
    monkeypatch.setattr(sys, "argv", ["check_isa_symbols.py", str(build(tmp_path, name, text))])
    assert check_isa_symbols.main() == status
    assert (name in capsys.readouterr().out) == (status == 1)


def test_nothing_to_check_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "compile_commands.json").write_text("[]")
    monkeypatch.setattr(sys, "argv", ["check_isa_symbols.py", str(tmp_path)])
    assert check_isa_symbols.main() == 1


def test_namespaces():
    assert check_isa_symbols.namespaces("_ZN3foo3barEv") == ["foo", "bar"]
    assert check_isa_symbols.namespaces("_ZNK3foo3barIiE3bazEv") == ["foo", "bar"]
    assert check_isa_symbols.namespaces("_Z3barv") == []
