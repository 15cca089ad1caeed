"""Arguments, and what a process returns: 0 success, 1 failure, 2 wrong usage.

Every command is a module with `add_parser(subparsers)`; it imports what is heavy only when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import bench, capture, compare, demo, eval, inspect, models, perplexity, search

SUCCESS, FAILURE, INTERRUPTED = 0, 1, 130

_EXAMPLES = """examples:
  minference demo                              a 32K-token document answered twice, densely and sparsely
  minference models                            models whose head patterns come with the library
  minference inspect --output pictures         every head of the embedded model: pattern, density, kept mass
  minference bench --lengths 8k --json         our kernels against PyTorch's
  minference eval retrieval --samples 20       what accuracy sparse prefill costs
  minference perplexity book.txt               how well a text is predicted, by position
  minference search MODEL --lengths 16k        find a model's head patterns
  minference capture MODEL --layers 3          query, key and value of a layer in a file
  minference compare FILE                      every selection on them, at equal cost

`minference COMMAND --help` explains a command.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minference",
        description="Sparse prefill for long prompts: MInference 1.0 in C++.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from .. import __version__

    parser.add_argument("--version", action="version", version=f"minference {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (demo, models, inspect, bench, eval, perplexity, search, capture, compare):
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. argparse exits with 2 by itself when the arguments are wrong."""
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        extra = "web" if error.name == "gradio" else "demo"
        print(
            f"minference: {args.command} needs {error.name}: pip install 'minference-cpp[{extra}]'",
            file=sys.stderr,
        )
    except (OSError, ValueError, NotImplementedError, RuntimeError, ImportError) as error:
        print(f"minference: {error}", file=sys.stderr)
    return FAILURE
