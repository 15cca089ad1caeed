#!/usr/bin/env python3
"""Checks that code compiled for one instruction set cannot run on a machine without it.

    tools/check_isa_symbols.py BUILD_FOLDER

Of a weak symbol (an inline function, a template) the linker keeps one copy for the whole program. If that copy comes
from an object compiled with AVX-512 flags, everyone executes AVX-512. So an object whose sources are compiled with
instruction set flags must be named after the instruction set, and its weak symbols must lie in a namespace of that name.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ISAS = ("avx2", "avx512", "avx512bf16", "amx")
LIBRARY = "minference_objects.dir"


def namespaces(mangled: str) -> list[str]:
    """The enclosing names of an Itanium-mangled symbol, outermost first: _ZN3foo3barEv -> [foo, bar]."""
    nested = re.match(r"_Z(?:GV|T[VTSI])?N[rVK]*[RO]?", mangled)
    if not nested:
        return []
    names, rest = [], mangled[nested.end() :]
    while length := re.match(r"\d+", rest):
        begin, end = length.end(), length.end() + int(length[0])
        names.append(rest[begin:end])
        rest = rest[end:]
    return names


def weak_symbols(object_file: Path) -> list[str]:
    lines = subprocess.run(
        ["nm", "--defined-only", "--format=posix", object_file], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [name for name, kind in (line.split()[:2] for line in lines) if kind in "WwVvu"]


def isa_objects(build: Path) -> list[tuple[Path, Path]]:
    """(source, object) of the library's files that are compiled with instruction set flags."""
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        command = entry["command"]
        output = re.search(r" -o (\S+)", command)
        if output and LIBRARY in output[1] and re.search(r" -m(avx|amx|fma|f16c)", command):
            found.append((Path(entry["file"]), Path(entry["directory"]) / output[1]))
    return found


def faults(source: Path, symbols: list[str]) -> list[str]:
    if source.stem not in ISAS:
        return [
            f"{source}: is compiled with instruction set flags, but not named after one of {', '.join(ISAS)}"
        ]
    return [
        f"{source}: defines weak symbol {symbol}, outside namespace {source.stem}"
        for symbol in symbols
        if source.stem not in namespaces(symbol)[:-1]
    ]


def main() -> int:
    build = Path(sys.argv[1])
    objects = [pair for pair in isa_objects(build) if pair[1].exists()]
    if not objects:
        print(f"{build}: no object is compiled with instruction set flags")
        return 1
    found = [fault for source, object_file in objects for fault in faults(source, weak_symbols(object_file))]
    print(
        "\n".join(found)
        if found
        else f"{len(objects)} objects compiled for one instruction set: no shared code"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
