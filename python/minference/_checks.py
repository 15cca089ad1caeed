"""Rules that several arguments share. Messages name argument, rule and value."""

from __future__ import annotations

import math
import operator
import os

INT32_END = 2**31


def require_integer(value, name, lowest=0, end=INT32_END):
    """`value` as an int in ``[lowest, end)``; ValueError for anything else, bools and whole floats included."""
    try:
        integer = lowest - 1 if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        integer = lowest - 1
    if not lowest <= integer < end:
        limits = f"from {lowest} to 2^31 - 1" if end == INT32_END else f"from {lowest} to {end - 1}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")
    return integer


def require_number(value, name, rule, accepts):
    """`value` as a finite float that `accepts` accepts; else ValueError, which says `rule`."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    # A number minus itself is 0 if it is finite.
    if number - number != 0 or not accepts(number):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return number


def require_boolean(value, name):
    """`value`, which is True or False; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def require_path(value, name):
    """`value` as a str; TypeError unless it is one or a path."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name} must be a str or a path, got {value!r}") from None


def require_name(value, name):
    """`value`, a str that C reads to its end; TypeError or ValueError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    if "\0" in value:
        raise ValueError(f"{name} must have no NUL character, got {value!r}")
    return value


def any_array(values):
    """A NumPy array; an empty one of objects where rows differ in length."""
    import numpy

    try:
        return numpy.asarray(values)
    except ValueError:
        return numpy.empty(0, dtype=object)
