"""Samples in a file, one JSON line each, that survives being killed at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from .._files import write_whole

# Seconds between waits for the disk, each of which may take longer than a sample on a GPU.
_SYNC_EVERY = 1.0


class Journal:
    """A folder with run.json, what the samples have in common, and samples.jsonl.

    A line that a kill or a full disk cut short is dropped when the folder is opened again.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict, key: tuple[str, ...]):
        """identity: what must be the same for samples to be comparable. key: the fields that name a sample.

        Raises ValueError when the folder holds a run with another identity, or a damaged sample that is not the last.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path, self._key = self.folder / "samples.jsonl", key
        self._require_identity(identity)
        self.rows: dict[tuple, dict] = {}
        whole = self._read()
        self._file = open(self._path, "r+b" if self._path.exists() else "w+b", buffering=0)
        self._file.truncate(whole)
        self._file.seek(whole)
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def _require_identity(self, identity: dict) -> None:
        path = self.folder / "run.json"
        identity = json.loads(json.dumps(identity))
        if not path.exists():
            write_whole(path, json.dumps(identity, indent=2) + "\n")
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in {**found, **identity}:
            if found.get(name) != identity.get(name):
                raise ValueError(
                    f"{self.folder} holds a run with {name} {found.get(name)!r}, got {identity.get(name)!r}: "
                    "choose another --output"
                )

    def _read(self) -> int:
        """Fill `rows`; returns the size of the whole lines in bytes. Raises ValueError when a line before the last is
        damaged: what follows it would be lost."""
        if not self._path.exists():
            return 0
        lines = self._path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                name = self.name(row)
                whole = line.endswith(b"\n")
            except (ValueError, KeyError, TypeError):
                whole = False
            if whole:
                self.rows[name] = row
            elif number == len(lines):
                return sum(map(len, lines[:-1]))
            else:
                raise ValueError(
                    f"{self._path}, line {number}, must be a sample: mend or remove it, or choose another --output"
                )
        return sum(map(len, lines))

    def name(self, row: dict) -> tuple:
        return tuple(row[field] for field in self._key)

    def __contains__(self, name: tuple) -> bool:
        return name in self.rows

    def add(self, row: dict) -> None:
        """Append a sample: a kill does not lose it, a power failure may lose those of the last second. A failed write
        leaves no part of it."""
        at = self._file.tell()
        line = json.dumps(row).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device", str(self._path))
            if time.monotonic() - self._synced > _SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            self._file.truncate(at)
            self._file.seek(at)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.rows[self.name(row)] = row


def contents_of(path: str | os.PathLike | None) -> str | None:
    """For an identity: a file's name and the hash of what it holds, as a file may be written again; None for None."""
    if path is None:
        return None
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{os.fspath(path)}, SHA-256 {digest[:16]}"
