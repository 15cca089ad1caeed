"""The command line, `minference COMMAND`: a module a command, named in `main`."""

from .main import main

__all__ = ["main"]
