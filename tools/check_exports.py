#!/usr/bin/env python3
"""Checks that a shared library exports exactly the functions that the C header declares.

tools/check_exports.py LIBRARY HEADER
"""

import re
import subprocess
import sys
from pathlib import Path


def exported(library: str) -> set[str]:
    lines = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--format=posix", library],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {line.split()[0].split("@")[0] for line in lines}


def declared(header: str) -> set[str]:
    return set(re.findall(r"MINFERENCE_API[^;(]*?\b(minference_\w+)\(", Path(header).read_text()))


def main() -> int:
    library, header = sys.argv[1:]
    found, wanted = exported(library), declared(header)
    for name in sorted(found - wanted):
        print(f"{library}: exports {name}, which {header} does not declare")
    for name in sorted(wanted - found):
        print(f"{library}: does not export {name}, which {header} declares")
    return 1 if found != wanted or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
