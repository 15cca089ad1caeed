"""What the page shows of a race, as HTML."""

from __future__ import annotations

import base64
import io
import threading
from html import escape

from ...words import pattern_words, percent, seconds
from .. import pictures
from .race import CANCELLED, DENSE, FAILED, LOOK, QUEUED, SPARSE, Lane, Snapshot
from .runner import Found

_TITLES = {SPARSE: "MInference, sparse", DENSE: "PyTorch SDPA, dense"}
# Cells of a head's small picture, each way.
_CELLS = 48
# matplotlib's figures are the process's, and handlers run in threads.
_drawing = threading.Lock()


def error(message: str) -> str:
    return f'<p class="error" role="alert">{escape(message)}</p>' if message else ""


def _note(message: str) -> str:
    return f'<p class="note">{escape(message)}</p>'


def race(shot: Snapshot, expected: str | None) -> str:
    """The lanes with their clocks, the verdict, and what was found about the heads. expected: the right answer, if known."""
    slowest = max((_passed(lane) for lane in shot.lanes.values() if lane.ended is not None), default=0.0)
    drawn = [_lane(shot, name, lane, expected, slowest) for name, lane in shot.lanes.items() if name != LOOK]
    return f'<div class="lanes">{"".join(drawn)}</div>{_verdict(shot)}{_status(shot)}{_facts(shot)}'


def _passed(lane: Lane) -> float:
    return lane.ended - lane.began


def _lane(shot: Snapshot, name: str, lane: Lane, expected: str | None, slowest: float) -> str:
    ticks = ""
    if lane.began is None:
        state, words, elapsed, share = "waiting", "waits for its turn", 0.0, 0.0
    elif lane.ended is not None:
        state, words, elapsed = "finished", "to the first token", _passed(lane)
        # The bars of finished lanes are to one scale, that of time.
        share = elapsed / slowest
    elif shot.running == name:
        state, words = "reading", f"layer {min(lane.layers + 1, shot.num_layers)} of {shot.num_layers}"
        elapsed, share, ticks = shot.now - lane.began, lane.layers / shot.num_layers, " data-ticks"
    else:
        state, words, elapsed, share = (
            "stopped",
            f"stopped after layer {lane.layers} of {shot.num_layers}",
            0.0,
            0.0,
        )
    clock = "–" if state in ("waiting", "stopped") else seconds(elapsed)
    return f"""<section class="lane {name}" data-state="{state}">
<h3>{_TITLES[name]}</h3>
<div class="clock" data-seconds="{elapsed:.3f}"{ticks}>{clock}</div>
<div class="track"><i style="width:{100 * share:.1f}%"></i></div>
<p class="words">{words}</p>
<p class="answer">{escape(lane.answer.strip())}{_mark(lane, shot.running == name, expected)}</p>
</section>"""


def _mark(lane: Lane, runs: bool, expected: str | None) -> str:
    if expected is None or lane.ended is None or runs:
        return ""
    if lane.answer.strip().startswith(expected):
        return ' <b class="right">right</b>'
    return f' <b class="wrong">wrong: {escape(expected)}</b>'


def _verdict(shot: Snapshot) -> str:
    sparse, dense = (shot.lanes.get(name) for name in (SPARSE, DENSE))
    if dense is None or sparse.ended is None or dense.ended is None:
        return ""
    ratio = _passed(dense) / _passed(sparse)
    words = f"{ratio:.1f} times sooner" if ratio >= 1 else f"{1 / ratio:.1f} times later"
    return f'<p class="verdict">MInference’s first token came <b>{words}</b>.</p>'


def _status(shot: Snapshot) -> str:
    if shot.state == FAILED:
        return error(f"The race failed: {shot.error}")
    if shot.state == CANCELLED:
        return _note("Cancelled.")
    if shot.cancelling:
        return _note("Stopping after this layer …")
    if shot.state == QUEUED:
        return _note("Another race is running. This one starts when it has ended.")
    if shot.running == LOOK:
        layer = min(shot.lanes[LOOK].layers + 1, shot.num_layers)
        return _note(f"Looking at what every head did: layer {layer} of {shot.num_layers}")
    return ""


def _facts(shot: Snapshot) -> str:
    if shot.found is None:
        return ""
    report = shot.found.report
    shown = (
        (f"{shot.found.num_tokens:,}", "tokens of prompt"),
        (percent(report.density), "density: query-key pairs computed"),
        (percent(report.kept_mass), "attention mass kept, all rows"),
        (percent(report.kept_mass_last), "kept in the last 64 rows, which answer"),
    )
    return (
        f'<dl class="facts">{"".join(f"<div><dt>{v}</dt><dd>{words}</dd></div>" for v, words in shown)}</dl>'
    )


def head_map(found: Found) -> str:
    """A small picture of every head, layers down, heads to the right; each is a button that names its head."""
    num_heads = 1 + max(head.head for head in found.heads)
    rows = []
    for layer in dict.fromkeys(head.layer for head in found.heads):
        report = found.report.layer_of(layer)
        cells = [_cell(head, report) for head in found.heads if head.layer == layer]
        rows.append(f'<span class="layer">{layer}</span>{"".join(cells)}')
    return f"""<h3>What every head computes</h3>
<p class="note">Layers down, heads to the right; in each picture queries down, keys to the right. The darker, the more of the
pairs are computed. Press a head.</p>
<div class="map" style="--heads:{num_heads}">{"".join(rows)}</div>"""


def _cell(head, report) -> str:
    words = (
        f"layer {head.layer}, head {head.head}: {pattern_words(head.pattern)}, "
        f"density {percent(report.density[head.head])}, mass kept {percent(report.kept_mass[head.head])}"
    )
    share = pictures.share_run(head, report, _CELLS)
    shown = "blocks" if share is None else f'<img alt="" src="{_data(pictures.share_as_png(share))}">'
    return (
        f'<button type="button" data-head="{head.layer}.{head.head}" title="{words}" aria-label="{words}">'
        f"{shown}</button>"
    )


def head_picture(found: Found, name: str) -> str:
    """One head in full. name: "layer.head"."""
    head = next(head for head in found.heads if f"{head.layer}.{head.head}" == name)
    written = io.BytesIO()
    with _drawing:
        pictures.save_attention(written, head, found.report.layer_of(head.layer))
    words = f"Attention of layer {head.layer}, head {head.head}, and the pairs of it that are computed"
    return f'<div class="picture"><img class="head" alt="{words}" src="{_data(written.getvalue())}"></div>'


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
