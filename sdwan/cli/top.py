"""What `sdwan edge top` shows, as pure functions: a snapshot and its past in, something rich can print out.

Nothing here asks, waits or reads keys (sdwan.cli.screen does). In come the status of an edge as plain data of
any version, its newest events, and a ``History`` of rates. The view is cut to the given width and height:
narrow terminals lose the sparklines first, then columns by their rank; of many paths the busiest are shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdwan.cli.edge_view import classes_table, head_line, recovery_table
from sdwan.cli.output import (
    GAP,
    UNKNOWN,
    Column,
    fitting,
    is_number,
    milliseconds,
    number,
    percent,
    printable,
    rate,
    rows_of,
    state_of,
    table,
    text,
    width_of,
)

# Implementation constants --------------------------------------------------------------------------

BARS = "▁▂▃▄▅▆▇█"
SPARK_MAX = 24
"""Longest sparkline, in columns; at two samples a second, twelve seconds."""
SPARK_LEAST = 8
"""Shorter ones are left out."""
EVENTS_LEAST = 3
PATHS_LEAST = 4
PIPE_LINES = 60
"""Height when nobody looks."""

LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "red"}

Key = tuple[str, str]


class History:
    """The last rates of each path, for sparklines."""

    def __init__(self) -> None:
        self._rates: dict[Key, deque[tuple[float, float]]] = {}

    def note(self, status: dict[str, Any]) -> None:
        """Take one more snapshot; forget paths that are gone."""
        known, self._rates = self._rates, {}
        for row in rows_of(status, "paths"):
            rates = known.get(_key(row)) or deque(maxlen=SPARK_MAX)
            rates.append((number(row, "sent_bps"), number(row, "received_bps")))
            self._rates[_key(row)] = rates

    def of(self, row: dict[str, Any], direction: int) -> list[float]:
        """Return the rates of a path, oldest first; ``direction`` 0 = out, 1 = in."""
        return [pair[direction] for pair in self._rates.get(_key(row), ())]

    @property
    def peak_bps(self) -> float:
        """The highest rate of any path: one scale for all, so that they can be compared."""
        return max((max(pair) for rates in self._rates.values() for pair in rates), default=0.0)


def _key(row: dict[str, Any]) -> Key:
    return text(row, "peer"), text(row, "path")


def sparkline(values: Sequence[float], peak: float, width: int) -> str:
    """Draw the newest ``width`` values as bars, the newest at the right; ``peak`` is a full bar."""
    if peak <= 0:
        return " " * width
    top = len(BARS) - 1
    bars = "".join(BARS[min(round(value / peak * top), top)] if value > 0 else " " for value in values)
    return bars[-width:].rjust(width)


def top_view(
    status: dict[str, Any],
    events: Sequence[dict[str, Any]],
    history: History,
    *,
    width: int,
    height: int,
    note: str = "",
) -> RenderableType:
    """Lay out everything on ``width`` columns and ``height`` lines; ``note`` is the last line."""
    both = classes_table("Classes", status, width), recovery_table("Recovery", status, width)
    below = [made for made in both if made.row_count]
    free = height - 2 - sum(_lines(made) for made in below) - (2 if note else 0)
    paths = list(rows_of(status, "paths"))
    shown = max(PATHS_LEAST, free - 3 - (EVENTS_LEAST + 2))
    links = _links_table(paths, history, width, shown)
    parts: list[RenderableType] = [head_line(status), "", links]
    for made in below:
        parts += ["", made]
    newest = _events_table(events, free - _lines(links))
    if newest.row_count:
        parts += ["", newest]
    if note:
        parts += ["", Text(note, "dim")]
    return Group(*parts)


def _lines(made: Table) -> int:
    """Lines a table takes: title, headings, rows, and the empty line before it."""
    return made.row_count + 3


# Links -------------------------------------------------------------------------------------------------

_COLUMNS: dict[Column, Callable[[dict[str, Any]], str | Text]] = {
    Column("peer", rank=5): lambda p: text(p, "peer"),
    Column("link"): lambda p: text(p, "link"),
    Column("state"): lambda p: _state(p),
    Column("out", True, least=12): lambda p: rate(p.get("sent_bps")),
    Column("in", True, least=12): lambda p: rate(p.get("received_bps")),
    Column("capacity", True, rank=3, least=12): lambda p: rate(p.get("capacity_bps")),
    Column("share", True, rank=4, least=5): lambda p: percent(p.get("share_ppm"), 0),
    Column("rtt", True, least=8): lambda p: milliseconds(p.get("rtt_ns")),
    Column("jitter", True, rank=6, least=8): lambda p: milliseconds(p.get("jitter_ns")),
    Column("loss", True, rank=1, least=7): lambda p: _loss(p),
    Column("queue", True, rank=2, least=8): lambda p: milliseconds(p.get("queue_ns")),
}
_DIRECTIONS = {"out": 0, "in": 1}


def _links_table(paths: list[dict[str, Any]], history: History, width: int, limit: int) -> Table:
    """Lay out the paths, the busiest ``limit`` of them; what is left of the width goes to sparklines."""
    title = "Links"
    if len(paths) > limit:
        title = f"Links: the {limit} busiest of {len(paths)} paths"
        paths = sorted(paths, key=_traffic_bps, reverse=True)[:limit]
    columns = list(_COLUMNS)
    rows = [[write(path) for write in _COLUMNS.values()] for path in paths]
    kept = fitting(columns, rows, width)
    spark = min((width - width_of(columns, rows, kept)) // 2 - GAP, SPARK_MAX)
    peak_bps = history.peak_bps
    headings: list[Column] = []
    cells: list[list[str | Text]] = [[] for _ in paths]
    for at in kept:
        headings.append(columns[at])
        direction = _DIRECTIONS.get(columns[at].heading) if spark >= SPARK_LEAST else None
        if direction is not None:
            headings.append(Column(""))
        for path, row, made in zip(paths, rows, cells, strict=True):
            made.append(row[at])
            if direction is not None:
                made.append(Text(sparkline(history.of(path, direction), peak_bps, spark), "cyan"))
    return table(title, headings, cells)


def _traffic_bps(path: dict[str, Any]) -> float:
    return number(path, "sent_bps") + number(path, "received_bps")


def _state(path: dict[str, Any]) -> Text:
    """Write the state; of a path that is not well, also why."""
    written = state_of(path)
    if path.get("state") not in (None, "up") and path.get("reason"):
        written.append(f" ({text(path, 'reason')})", "dim")
    return written


def _loss(path: dict[str, Any]) -> str:
    """Write the loss of the worse direction."""
    known = [ppm for name in ("loss_out_ppm", "loss_in_ppm") if is_number(ppm := path.get(name))]
    return percent(max(known), 2) if known else UNKNOWN


# Events ------------------------------------------------------------------------------------------------


def _events_table(events: Sequence[dict[str, Any]], lines: int) -> Table:
    """Lay out the newest events, oldest first, in at most ``lines`` lines."""
    shown = events[-max(lines - 3, EVENTS_LEAST) :]
    return table("Events", [Column("time"), Column("what")], (_event_row(event) for event in shown))


def _event_row(event: dict[str, Any]) -> tuple[str, Text]:
    return clock(event.get("wall_ns"))[11:19], event_text(event)


def clock(wall_ns: Any) -> str:
    """Write a moment as the log does: ``2026-01-31T12:00:00.250Z``."""
    if not is_number(wall_ns) or not 0 <= wall_ns < 253_402_300_800e9:  # the year 9999 is over
        return UNKNOWN
    moment = datetime.fromtimestamp(wall_ns // 10**6 / 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def event_text(event: dict[str, Any]) -> Text:
    """Write what happened, coloured by how bad it is."""
    return Text(printable(event.get("sentence")), LEVEL_STYLES.get(text(event, "level"), ""))
