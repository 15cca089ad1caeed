"""What a result file says beside its rows: machine, command, commit, date."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the checkout around the current directory, with a "+" when files differ from it."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def describe(title: str, threads: int, rows: list[dict]) -> dict:
    """A result in the form of bench/results/*.json."""
    from .. import __version__, instruction_set

    machine = {
        "cpu": _cpu(),
        "isa": instruction_set(),
        "cores": os.cpu_count(),
        "threads": threads,
        "minference": __version__,
    }
    for name in ("torch", "transformers"):
        if name in sys.modules:
            machine[name] = sys.modules[name].__version__
    return {
        "title": title,
        "machine": machine,
        "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
