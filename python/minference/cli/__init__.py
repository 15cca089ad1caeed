"""The command line: `minference demo | models | inspect | bench`."""

from .main import main

__all__ = ["main"]
