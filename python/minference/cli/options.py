"""Arguments that commands share."""

from __future__ import annotations

import argparse
import textwrap

_HELP_WIDTH = 96


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def command(
    subparsers, name: str, run, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """A subcommand with its examples; `run(args)` returns the exit code."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, _HELP_WIDTH),
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads, of PyTorch too (default: PyTorch's own)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON; progress goes to stderr anyway"
    )


def add_length(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--length",
        type=positive,
        default=default,
        metavar="TOKENS",
        help="length of the prompt (default: %(default)s)",
    )


def set_threads(args: argparse.Namespace) -> int:
    """Apply --threads to torch, which the library follows; returns the number of threads in use."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    return torch.get_num_threads()


ATTENTION_CHOICES = ("minference", "adaptive", "a_shape", "tri_shape", "dense")


def add_attention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attn",
        choices=ATTENTION_CHOICES,
        default="minference",
        help="what to show: the head patterns of the model's file (minference; adaptive where there is none), "
        "adaptive, sink and window (a_shape), the same with the last rows dense (tri_shape), or this library's dense "
        "attention (default: %(default)s)",
    )


def patch_of(attention: str):
    """The `minference.MInference` that an --attn choice stands for."""
    from ..config import DEFAULT_SHARE
    from ..patch import MInference

    if attention == "adaptive":
        return MInference("minference", attn_kwargs={"share": DEFAULT_SHARE})
    return MInference(attention)
