"""How things look in a terminal: aligned tables, units people read, colours where they carry meaning.

Pure apart from writing to the console. In comes the status of an edge as plain data (the JSON of
``sdwan.metrics.Snapshot``), which another version may have written: what is missing is shown as "-", never an
error. Text that came from outside is printed as text, not as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

# Implementation constants --------------------------------------------------------------------------

PIPE_WIDTH = 200
"""Columns when nobody looks: wide enough that no cell is cut for grep."""

UNKNOWN = "-"

SILENT_NS = 2 * 10**9
"""A data plane without a sign of life for so long is shown as silent."""

STATE_STYLES = {"up": "green", "degraded": "yellow", "probing": "cyan", "down": "red"}


def console(stderr: bool = False) -> Console:
    """Return a console that neither wraps nor cuts when its output is piped."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def table(title: str, columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Build a table; ``columns`` are (heading, is a number)."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading, number in columns:
        made.add_column(heading, justify="right" if number else "left", no_wrap=True, header_style="dim")
    for row in rows:
        made.add_row(*row)
    return made


# Units ---------------------------------------------------------------------------------------------


def milliseconds(duration_ns: Any) -> str:
    """Write a delay: ``12.3 ms``, below ten with one digit more."""
    if not _is_number(duration_ns):
        return UNKNOWN
    return f"{duration_ns / 1e6:.{1 if duration_ns >= 1e7 else 2}f} ms"


def age(duration_ns: Any) -> str:
    """Write a time span: ``42 s``, ``3 min``, ``5.2 h``, ``4 d``."""
    if not _is_number(duration_ns):
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
    return f"{part_ppm / 1e4:.{digits}f} %" if _is_number(part_ppm) else UNKNOWN


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scaled(value: Any, step: int, units: Sequence[str]) -> str:
    if not _is_number(value):
        return UNKNOWN
    amount, index = float(value), 0
    while amount >= step and index < len(units) - 1:
        amount, index = amount / step, index + 1
    return f"{amount:.{0 if index == 0 else 1}f} {units[index]}"


# The status of an edge -------------------------------------------------------------------------------


def status_view(status: dict[str, Any]) -> RenderableType:
    """Lay out the status of an edge: head line, paths, links, peers, drops."""
    parts: list[RenderableType] = [_head(status)]
    for title, build in (("Paths", _paths), ("Links", _links), ("Peers", _peers), ("Drops", _drops)):
        made = build(title, status)
        if made.row_count:
            parts += ["", made]
    return Group(*parts)


def _head(status: dict[str, Any]) -> Text:
    beat: Any = status.get("heartbeat_age_ns")
    alive = _is_number(beat) and beat < SILENT_NS
    return Text.assemble(
        (f"site {_text(status, 'site')}", "bold"),
        f", up {age(status.get('uptime_ns'))}, TUN MTU {_text(status, 'tun_mtu_bytes')}, data plane ",
        ("alive", "green") if alive else (f"silent ({age(beat)})", "red"),
        f", {_text(status, 'dataplane_starts')} start(s)",
    )


def _paths(title: str, status: dict[str, Any]) -> Table:
    columns = [
        ("peer", False), ("path", True), ("link", False), ("remote", False), ("state", False),
        ("share", True), ("out", True), ("in", True), ("rtt", True), ("jitter", True),
        ("loss out", True), ("loss in", True), ("MTU", True),
    ]  # fmt: skip
    rows = (
        (
            _text(p, "peer"), _text(p, "path"), _text(p, "link"), _text(p, "remote"), _state(p),
            percent(p.get("share_ppm"), 0), rate(p.get("sent_bps")), rate(p.get("received_bps")),
            milliseconds(p.get("rtt_ns")), milliseconds(p.get("jitter_ns")),
            percent(p.get("loss_out_ppm"), 2), percent(p.get("loss_in_ppm"), 2), _text(p, "mtu_bytes"),
        )
        for p in _rows(status, "paths")
    )  # fmt: skip
    return table(title, columns, rows)


def _links(title: str, status: dict[str, Any]) -> Table:
    columns = [
        ("link", False), ("interface", False), ("carrier", False),
        ("foreign out", True), ("foreign in", True), ("ICMP rtt", True), ("ICMP loss", True),
    ]  # fmt: skip
    rows = (
        (
            _text(link, "link"), _text(link, "interface"),
            Text("up", "green") if link.get("up") is True else Text("down", "red"),
            size(link.get("foreign_sent_bytes")), size(link.get("foreign_received_bytes")),
            milliseconds(link.get("icmp_rtt_ns")), percent(link.get("icmp_loss_ppm"), 2),
        )
        for link in _rows(status, "links")
    )  # fmt: skip
    return table(title, columns, rows)


def _peers(title: str, status: dict[str, Any]) -> Table:
    columns = [
        ("peer", False), ("session", False), ("epochs", True), ("sent", True), ("received", True),
        ("waits", True), ("holes closed", True), ("holes expired", True),
    ]  # fmt: skip
    rows = (
        (
            _text(p, "peer"),
            _session(p),
            _text(p, "epochs"), size(p.get("sent_bytes")), size(p.get("received_bytes")),
            _text(p, "held"), _text(p, "holes_closed"), _text(p, "holes_expired"),
        )
        for p in _rows(status, "peers")
    )  # fmt: skip
    return table(title, columns, rows)


def _drops(title: str, status: dict[str, Any]) -> Table:
    drops = status.get("drops")
    counted = drops.items() if isinstance(drops, dict) else ()
    rows = ((Text(str(reason)), str(count)) for reason, count in counted if count)
    return table(title, [("reason", False), ("count", True)], rows)


def _rows(status: dict[str, Any], name: str) -> Iterable[dict[str, Any]]:
    rows = status.get(name)
    return (row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return UNKNOWN if value in (None, "") else "".join(c if c.isprintable() else "?" for c in str(value))


def _session(row: dict[str, Any]) -> Text:
    if row.get("session_age_ns") is None:
        return Text("none", "red")
    return Text(age(row["session_age_ns"]), "green")


def _state(row: dict[str, Any]) -> Text:
    state = _text(row, "state")
    return Text(state, STATE_STYLES.get(state, ""))
