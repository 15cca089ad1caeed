"""Rules that several arguments share. Messages name argument, rule and value."""

from __future__ import annotations

import math
import operator

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
