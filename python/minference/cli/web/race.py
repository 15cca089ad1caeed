"""A race: one prompt read twice, with sparse and with dense attention, then a look at what the heads did.

The lanes run one after the other. Side by side they would take each other's cores, and neither time would mean anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

SPARSE, DENSE, LOOK = "sparse", "dense", "look"

QUEUED, RUNNING, FINISHED, CANCELLED, FAILED = "queued", "running", "finished", "cancelled", "failed"
_ENDS = (FINISHED, CANCELLED, FAILED)

# Snapshots come no faster than this: whoever draws them must not slow down what they are about.
_SECONDS_BETWEEN_SNAPSHOTS = 0.2


class Cancelled(Exception):
    """Raised inside a model's forward pass, between two layers."""


class Runner(Protocol):
    """The model. Both methods call `after_each_layer` after every layer, and let through what it raises."""

    num_layers: int

    def answer(
        self,
        sparse: bool,
        after_each_layer: Callable[[], None],
        after_each_token: Callable[[str], None],
    ) -> float:
        """Seconds to the first token. `after_each_token` gets the answer so far."""

    def look(self, after_each_layer: Callable[[], None]) -> Any:
        """What every head computes of the prompt."""


@dataclass(frozen=True)
class Lane:
    """One pass over the prompt.

    layers: how many are done. began, ended: of the pass, on the race's clock; ended is the first token. answer: so far.
    """

    layers: int = 0
    began: float | None = None
    ended: float | None = None
    answer: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A race at one moment.

    state: QUEUED (another race runs), RUNNING, FINISHED, CANCELLED or FAILED. lanes: by name, in running order. running:
    the lane that runs, or None. cancelling: whether it stops after the layer that runs. found: what `Runner.look`
    returned. error: why it FAILED. now: the race's clock.
    """

    state: str
    lanes: dict[str, Lane]
    num_layers: int
    running: str | None = None
    cancelling: bool = False
    found: Any = None
    error: str = ""
    now: float = 0.0

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDS


class Race:
    """Runs in the thread that calls `run`; any thread may watch `snapshots` and `cancel`.

    dense: whether there is a dense lane. clock: seconds.
    """

    def __init__(self, runner: Runner, dense: bool = True, clock: Callable[[], float] = time.perf_counter):
        self._runner, self._clock = runner, clock
        names = (SPARSE, DENSE, LOOK) if dense else (SPARSE, LOOK)
        self._snapshot = Snapshot(QUEUED, {name: Lane() for name in names}, runner.num_layers)
        self._changed = threading.Condition()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop at the end of the layer that runs. Does nothing to a race that has ended."""
        self._cancelled.set()
        with self._changed:
            if not self._snapshot.has_ended:
                self._show(cancelling=True)

    @property
    def snapshot(self) -> Snapshot:
        with self._changed:
            return replace(self._snapshot, now=self._clock())

    def snapshots(self) -> Iterator[Snapshot]:
        """The race whenever it has changed; the last one has ended."""
        seen = None
        while seen is None or not seen.has_ended:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._snapshot is not seen)
                seen = self._snapshot
            yield replace(seen, now=self._clock())
            if not seen.has_ended:
                time.sleep(_SECONDS_BETWEEN_SNAPSHOTS)

    def run(self) -> None:
        """Run all lanes. What goes wrong is in the last snapshot; other exceptions than `Exception` are raised too."""
        end = {"state": FAILED, "error": "interrupted"}
        try:
            self._raise_if_cancelled()
            self._show(state=RUNNING)
            for name in self._snapshot.lanes:
                self._run_lane(name)
            end = {"state": FINISHED}
        except Cancelled:
            end = {"state": CANCELLED}
        except Exception as error:
            end["error"] = str(error) or type(error).__name__
        finally:
            self._show(**end, running=None, cancelling=False)

    def _run_lane(self, name: str) -> None:
        def after_each_layer():
            # The few tokens after the prompt pass all layers again.
            if self._lane(name).layers < self._snapshot.num_layers:
                self._show_lane(name, layers=self._lane(name).layers + 1)
            self._raise_if_cancelled()

        def after_each_token(answer):
            ended = self._lane(name).ended
            self._show_lane(name, answer=answer, ended=self._clock() if ended is None else ended)

        self._show_lane(name, also={"running": name}, began=self._clock())
        if name == LOOK:
            self._show(found=self._runner.look(after_each_layer))
            return
        seconds = self._runner.answer(name == SPARSE, after_each_layer, after_each_token)
        # The runner's clock starts where the model does; ours started when the lane was drawn.
        self._show_lane(name, ended=self._lane(name).began + seconds)

    def _lane(self, name: str) -> Lane:
        return self._snapshot.lanes[name]

    def _show_lane(self, name: str, also: dict[str, Any] | None = None, **changes) -> None:
        self._show(lanes={**self._snapshot.lanes, name: replace(self._lane(name), **changes)}, **(also or {}))

    def _show(self, **changes) -> None:
        with self._changed:
            self._snapshot = replace(self._snapshot, **changes)
            self._changed.notify_all()

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled
