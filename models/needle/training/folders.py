"""Put a finished folder in the place of another."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

# <fcntl.h> and <linux/fs.h>
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


def _exchange(one: Path, other: Path) -> None:
    """Each takes the other's name, in one step. Raises OSError where the file system, or the system, cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one), None, str(other))
    paths = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def replace(new: Path, folder: Path) -> None:
    """Give `new` the name of `folder`, whose contents until now are removed.

    A kill leaves `folder` the old one or the new one. Only where the file system cannot exchange two names is there a
    moment, between two renames, in which it is absent and the old one has ".old" added to its name.
    """
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists():
        new.rename(folder)
    else:
        try:
            _exchange(new, folder)
        except OSError as error:
            if error.errno not in _CANNOT_EXCHANGE:
                raise
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            new.rename(folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
