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


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _commit() -> str:
    """The commit of the checkout that holds this package, or the virtual environment it is installed in, with a "+" when
    files differ from it; "unknown" outside a checkout."""
    try:
        if not Path(_git("rev-parse", "--show-toplevel"), "python", "minference").is_dir():
            return "unknown"
        commit, changes = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")


def _command() -> str:
    """As typed, but for an output folder outside the checkout: no result names a folder of the measuring machine."""
    name = os.path.basename(sys.argv[0])
    command = ["minference" if name == "__main__.py" else name]
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in ("--output", "--result"):
            written = [argument] if value else [argument, next(arguments, "")]
            if not os.path.isabs(value or written[-1]):
                command += written
        else:
            command.append(argument)
    return shlex.join(command)


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
    for name in ("torch", "transformers", "vllm"):
        if name in sys.modules:
            machine[name] = sys.modules[name].__version__
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        machine["gpu"] = torch.cuda.get_device_name()
    return {
        "title": title,
        "machine": machine,
        "command": _command(),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
