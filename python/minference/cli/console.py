"""Progress and tables on the terminal. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Narrower than this, tables would break their rows; those of evaluations are wider.
_MIN_WIDTH, EVALUATION_WIDTH = 100, 140


def make_console(stderr: bool = False, width: int = _MIN_WIDTH) -> Console:
    """width: where there is no terminal that has one."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=width)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A bar per step; finished steps stay on the screen with their time."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24, complete_style="cyan", finished_style="green"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=make_console(stderr=True)) as bars:
        yield bars


@contextlib.contextmanager
def step(bars: Progress, description: str, total: int = 1) -> Iterator[Callable[[], None]]:
    """One bar of `total` units; yields what advances it by one. It is full at the end in any case."""
    task = bars.add_task(description.ljust(44), total=total)
    yield lambda: bars.advance(task)
    bars.update(task, completed=total)


@contextlib.contextmanager
def samples_progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """One long bar with the number done and the time left; yields what advances it by one."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Samples take up to minutes each: a rate over the usual half minute would know none.
    with Progress(*columns, console=make_console(stderr=True), speed_estimate_period=600) as bars:
        task = bars.add_task(description, total=total)
        yield lambda: bars.advance(task)


def quiet_transformers() -> None:
    """Keep loading bars and advice of transformers off the screen."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
