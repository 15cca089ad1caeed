"""Arguments that commands share."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Iterable

_HELP_WIDTH = 96


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def length(text: str) -> int:
    """ "4096" or "4k", which is the same."""
    digits, factor = (text[:-1], 1024) if text[-1:] in ("k", "K") else (text, 1)
    if not digits.isdigit() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of tokens such as 4096 or 4k, got {text!r}")
    return int(digits) * factor


def comma_separated(kind):
    """A list written with commas, at least one entry long, each read by `kind`."""

    def read(text: str) -> list:
        try:
            entries = [kind(entry.strip()) for entry in text.split(",") if entry.strip()]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if not entries:
            raise argparse.ArgumentTypeError(f"must have an entry, got {text!r}")
        return entries

    return read


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


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder or hub id (default: the embedded model)"
    )


def add_optional_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="folder or hub id (default: the embedded model)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """--attn, --scales and --patterns, for `settings_of`."""
    add_list(
        parser, "--attn", str, "dense,minference", "A,B,...", "settings, METHOD or METHOD@SCALE of its budget"
    )
    parser.add_argument(
        "--scales",
        type=comma_separated(float),
        metavar="X,Y,...",
        help="run every sparse method at each of these scales of its budget, for the accuracy-density curve",
    )
    parser.add_argument("--patterns", metavar="FILE", help="head patterns (default: the model's own)")


def settings_of(args: argparse.Namespace) -> list:
    """Of `minference.eval.settings.Setting`, each once. Raises ValueError."""
    from ..eval.settings import Setting

    found: dict = {}
    for text in args.attn:
        setting = Setting.parse(text)
        scales = args.scales if args.scales and setting.method not in ("dense", "sdpa") else [None]
        for scale in scales:
            found[setting if scale is None else Setting.parse(f"{setting.method}@{scale}")] = None
    return list(found)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="where the model runs, cpu or cuda (default: %(default)s)",
    )


def require_device(device: str) -> None:
    """Raise ValueError where there is no such device."""
    import torch

    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {device!r}")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device must be one that PyTorch sees, got {device!r} and no CUDA device")


def require_context(model, tokens: int) -> None:
    """Raise ValueError where prompts of so many tokens are longer than the model's context."""
    limit = model.config.get_text_config(decoder=True).max_position_embeddings
    if tokens > limit:
        raise ValueError(f"length must be at most the model's {limit} positions, got {tokens}")


def load_model(args: argparse.Namespace, lengths: Iterable[int]):
    """The model on its device and the tokenizer. Raises ValueError where there is no such device, or where prompts of
    these lengths, in tokens, are longer than the model's context."""
    from ..needle import model as needle

    require_device(args.device)
    model, tokenizer = needle.load(args.model, args.device)
    require_context(model, max(lengths))
    return model, tokenizer


def is_embedded(model: str | None) -> bool:
    """Whether a model argument names the embedded model."""
    from ..needle import model as needle

    if model is None:
        return True
    try:
        return os.path.realpath(model) == os.path.realpath(needle.folder())
    except FileNotFoundError:
        return False


def model_name(args: argparse.Namespace) -> str:
    """What results call the model."""
    return "the embedded model" if is_embedded(args.model) else args.model


def prompt_maker(args: argparse.Namespace, tokenizer, *settings):
    """A `PromptMaker` in the words that the model knows; settings as it takes them, behind these."""
    from ..eval.tasks import PromptMaker
    from ..eval.wording import Embedded, Ruler

    return PromptMaker(tokenizer, Embedded if is_embedded(args.model) else Ruler, *settings)


def identity(args: argparse.Namespace, **others) -> dict:
    """What must be the same for the results of two runs to be comparable: model, device and version, and `others`."""
    from .. import __version__, instruction_set

    return {
        "model": model_name(args),
        **others,
        "isa": instruction_set() if args.device == "cpu" else args.device,
        "minference": __version__,
    }


def add_list(
    parser: argparse.ArgumentParser, flag: str, kind, default: str, metavar: str, summary: str
) -> None:
    """An option that is a list written with commas; `default` is written as a user would."""
    read = comma_separated(kind)
    parser.add_argument(
        flag, type=read, default=read(default), metavar=metavar, help=f"{summary} (default: {default})"
    )


def add_lengths(parser: argparse.ArgumentParser, default: str) -> None:
    add_list(parser, "--lengths", length, default, "4k,32k,...", "lengths of the prompts")


def add_length(parser: argparse.ArgumentParser, default: int, summary: str = "length of the prompt") -> None:
    parser.add_argument(
        "--length", type=length, default=default, metavar="TOKENS", help=f"{summary} (default: %(default)s)"
    )


def add_count(parser: argparse.ArgumentParser, flag: str, default: int, summary: str) -> None:
    parser.add_argument(
        flag, type=positive, default=default, metavar="N", help=f"{summary} (default: %(default)s)"
    )


def add_seed(parser: argparse.ArgumentParser, summary: str, default: int = 0) -> None:
    parser.add_argument("--seed", type=int, default=default, help=f"{summary} (default: %(default)s)")


def add_output(parser: argparse.ArgumentParser, default: str, metavar: str, summary: str) -> None:
    """Where results go; `metavar` says whether it is a file or a folder."""
    parser.add_argument(
        "--output", default=default, metavar=metavar, help=f"{summary} (default: %(default)s)"
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
