"""Prompts made ahead of their use, in processes of their own: a GPU reads a prompt sooner than one core makes it."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from .prompt import Prompt, Tokens
from .tasks import PromptMaker

# Prompts a worker has finished or begun while the first of them is waited for.
_AHEAD = 4

_maker: PromptMaker | None = None


def _keep(maker: PromptMaker) -> None:
    global _maker
    _maker = maker


def _make(wanted: tuple[str, int, int]) -> tuple[Prompt, Tokens]:
    return _maker.make(*wanted)


def prompts(
    maker: PromptMaker, wanted: Iterable[tuple[str, int, int]], workers: int
) -> Iterator[tuple[Prompt, Tokens]]:
    """``maker.make(task, length, seed)`` for each of `wanted`, in order; without workers each when it is asked for."""
    if not workers:
        yield from (maker.make(*one) for one in wanted)
        return
    # A fork of a process that has threads, or a CUDA context, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_keep, initargs=(maker,))
    try:
        coming = iter(wanted)
        pending = deque(pool.submit(_make, one) for one in itertools.islice(coming, _AHEAD * workers))
        while pending:
            made = pending.popleft().result()
            pending.extend(pool.submit(_make, one) for one in itertools.islice(coming, 1))
            yield made
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
