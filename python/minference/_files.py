"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[str]:
    """Gives the path of another file beside `path`, to be written and closed; at the end it takes `path`'s place in one step.

    After an error the other file is gone and `path` as it was. An OSError without a file's name, as on a full disk, gets one.
    """
    temporary = f"{os.fspath(path)}.new"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file in one step: readers see the old one or the new one, never a part."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
