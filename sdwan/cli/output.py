"""How things look in a terminal: aligned tables, units people read, colours where they carry meaning.

Pure apart from making the console. The views (sdwan.cli.edge_view, sdwan.cli.top) are made of these pieces.
They are given the status of an edge as plain data, which another version may have written: what is missing is
shown as "-", never an error. Text that came from outside is printed as text, not as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Implementation constants --------------------------------------------------------------------------

PIPE_WIDTH = 200
"""Columns when nobody looks: wide enough that no cell is cut for grep."""

UNKNOWN = "-"

FIGURE_MAX = 1e24
"""Beyond every counter of 64 bits in any unit."""

GAP = 2
"""Columns of the terminal between two of a table."""

SILENT_NS = 2 * 10**9
"""A data plane without a sign of life for so long is shown as silent."""

STATE_STYLES = {"up": "green", "degraded": "yellow", "probing": "cyan", "down": "red"}


def console(stderr: bool = False) -> Console:
    """Return a console that neither wraps nor cuts when its output is piped."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, markup=False)


class Column(NamedTuple):
    """One column of a table."""

    heading: str
    is_number: bool = False
    rank: int = 0
    """Where room is short, the highest rank goes first; 0 stays."""
    least: int = 0
    """At least so wide, so that figures that change do not push their neighbours about."""


def table(
    title: str,
    headings: Sequence[Column | tuple[str, bool]],
    rows: Iterable[Sequence[str | Text]],
    width: int | None = None,
) -> Table:
    """Build a table, without the columns of highest rank as far as ``width`` demands.

    Where no column may go, (heading, is a number) is enough for each.
    """
    columns = [Column(*heading) for heading in headings]
    cells = [tuple(row) for row in rows]
    kept = fitting(columns, cells, width)
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for at in kept:
        column = columns[at]
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        made.add_column(
            column.heading, justify=justify, no_wrap=True, header_style="dim", min_width=column.least
        )
    for row in cells:
        made.add_row(*(row[at] for at in kept))
    return made


def fitting(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int | None
) -> Sequence[int]:
    """Return the numbers of the columns that fit, in order."""
    kept = list(range(len(columns)))
    while width is not None and width_of(columns, rows, kept) > width:
        last = max(kept, key=lambda at: columns[at].rank)
        if not columns[last].rank:
            break
        kept.remove(last)
    return kept


def width_of(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], kept: Sequence[int]) -> int:
    """Return how wide a table with these of its columns is."""
    return sum(_width_of(columns[at], [row[at] for row in rows]) + GAP for at in kept) - GAP


def _width_of(column: Column, cells: Sequence[str | Text]) -> int:
    return max(column.least, *map(_cell_width, (column.heading, *cells)))


def _cell_width(cell: str | Text) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


# Units ---------------------------------------------------------------------------------------------


def milliseconds(duration_ns: Any) -> str:
    """Write a delay: ``12.3 ms``, below ten with one digit more."""
    if not is_number(duration_ns):
        return UNKNOWN
    return f"{duration_ns / 1e6:.{1 if duration_ns >= 1e7 else 2}f} ms"


def age(duration_ns: Any) -> str:
    """Write a time span: ``42 s``, ``3 min``, ``5.2 h``, ``4 d``."""
    if not is_number(duration_ns):
        return UNKNOWN
    seconds = duration_ns / 1e9
    for limit, divisor, digits, unit in ((120, 1, 0, "s"), (7200, 60, 0, "min"), (172800, 3600, 1, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.{digits}f} {unit}"
    return f"{seconds / 86400:.0f} d"


def rate(rate_bps: Any) -> str:
    """Write a rate: ``94.2 Mbit/s``."""
    return _scaled(rate_bps, 1000, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"))


def size(size_bytes: Any) -> str:
    """Write a size: ``1.4 GB``."""
    return _scaled(size_bytes, 1000, ("B", "kB", "MB", "GB", "TB"))


def percent(part_ppm: Any, digits: int = 1) -> str:
    """Write parts per million as ``0.5 %``."""
    return f"{part_ppm / 1e4:.{digits}f} %" if is_number(part_ppm) else UNKNOWN


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether something from outside is a figure that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < FIGURE_MAX


def _scaled(value: Any, step: int, units: Sequence[str]) -> str:
    if not is_number(value):
        return UNKNOWN
    amount, index = float(value), 0
    while amount >= step and index < len(units) - 1:
        amount, index = amount / step, index + 1
    return f"{amount:.{0 if index == 0 else 1}f} {units[index]}"


# Cells -----------------------------------------------------------------------------------------------


def rows_of(status: dict[str, Any], name: str) -> Iterable[dict[str, Any]]:
    """Return the rows of a list in the status; what is no row is left out."""
    rows = status.get(name)
    return (row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()


def text(row: dict[str, Any], name: str) -> str:
    """Write a value as printable text."""
    return printable(row.get(name))


def printable(value: Any) -> str:
    """Write anything as one line without control characters."""
    return UNKNOWN if value in (None, "") else "".join(c if c.isprintable() else "?" for c in str(value))


def number(row: dict[str, Any], name: str) -> float:
    """Return a figure to reckon with; 0 where there is none."""
    value = row.get(name)
    return value if is_number(value) else 0


def state_of(row: dict[str, Any]) -> Text:
    """Write a path's state; of one that is drained, by whom."""
    state = text(row, "state")
    written = Text(state, STATE_STYLES.get(state, ""))
    if row.get("drained") is True:
        written.append(" drained" if row.get("is_quiet") is True else " draining", "magenta")
    elif row.get("drained_by_peer") is True:
        written.append(" drained there", "magenta")
    out_for = row.get("out_for")
    if isinstance(out_for, list) and out_for:
        written.append(f" out for {', '.join(map(printable, out_for))}", "yellow")
    return written
