"""What `sdwan edge status` shows: a head line; then paths, links, classes, peers, recovery, drops in tables.

Pure. In comes the status of an edge as plain data (the JSON of ``sdwan.metrics.Snapshot``), of any version;
out comes something rich can print. Tables without a row are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdwan.cli.output import (
    SILENT_NS,
    UNKNOWN,
    Column,
    age,
    is_number,
    milliseconds,
    number,
    percent,
    rate,
    rows_of,
    size,
    state_of,
    table,
    text,
)


def status_view(status: dict[str, Any], width: int | None = None) -> RenderableType:
    """Lay out the status of an edge on ``width`` columns; None = as many as it takes."""
    parts: list[RenderableType] = [head_line(status)]
    builders = {
        "Paths": _paths,
        "Links": _links,
        "Classes": classes_table,
        "Peers": _peers,
        "Recovery": recovery_table,
        "Drops": _drops,
    }
    for title, build in builders.items():
        made = build(title, status, width)
        if made.row_count:
            parts += ["", made]
    return Group(*parts)


def head_line(status: dict[str, Any]) -> Text:
    """Say in one line which site this is and whether it is well."""
    beat: Any = status.get("heartbeat_age_ns")
    alive = is_number(beat) and beat < SILENT_NS
    return Text.assemble(
        (f"site {text(status, 'site')}", "bold"),
        f", up {age(status.get('uptime_ns'))}, TUN MTU {text(status, 'tun_mtu_bytes')}, data plane ",
        ("alive", "green") if alive else (f"silent ({age(beat)})", "red"),
        f", {text(status, 'dataplane_starts')} start(s)",
    )


def _paths(title: str, status: dict[str, Any], width: int | None = None) -> Table:
    columns = [
        Column("peer"), Column("path", True, rank=7), Column("link"), Column("remote", rank=3),
        Column("state"), Column("share", True, rank=2), Column("out", True),
        Column("capacity", True, rank=1), Column("in", True), Column("rtt", True),
        Column("jitter", True, rank=6), Column("queue", True, rank=1), Column("loss out", True, rank=1),
        Column("loss in", True, rank=2), Column("MTU", True, rank=5),
    ]  # fmt: skip
    rows = (
        (
            text(p, "peer"), text(p, "path"), text(p, "link"), text(p, "remote"), state_of(p),
            percent(p.get("share_ppm"), 0), rate(p.get("sent_bps")),
            rate(p.get("capacity_bps")), rate(p.get("received_bps")),
            milliseconds(p.get("rtt_ns")), milliseconds(p.get("jitter_ns")),
            milliseconds(p.get("queue_ns")),
            percent(p.get("loss_out_ppm"), 2), percent(p.get("loss_in_ppm"), 2), text(p, "mtu_bytes"),
        )
        for p in rows_of(status, "paths")
    )  # fmt: skip
    return table(title, columns, rows, width)


def _links(title: str, status: dict[str, Any], width: int | None = None) -> Table:
    columns = [
        Column("link"), Column("interface"), Column("carrier"), Column("quota left", True, rank=2),
        Column("foreign out", True, rank=1), Column("foreign in", True, rank=1),
        Column("ICMP rtt", True, rank=2), Column("ICMP loss", True, rank=2),
    ]  # fmt: skip
    rows = (
        (
            text(link, "link"), text(link, "interface"),
            Text("up", "green") if link.get("up") is True else Text("down", "red"),
            size(link.get("quota_left_bytes")),
            size(link.get("foreign_sent_bytes")), size(link.get("foreign_received_bytes")),
            milliseconds(link.get("icmp_rtt_ns")), percent(link.get("icmp_loss_ppm"), 2),
        )
        for link in rows_of(status, "links")
    )  # fmt: skip
    return table(title, columns, rows, width)


def _peers(title: str, status: dict[str, Any], width: int | None = None) -> Table:
    columns = [
        Column("peer"), Column("session"), Column("epochs", True, rank=1), Column("sent", True),
        Column("received", True), Column("waits", True, rank=2), Column("holes closed", True, rank=2),
        Column("holes expired", True, rank=2),
    ]  # fmt: skip
    rows = (
        (
            text(p, "peer"),
            _session(p),
            text(p, "epochs"), size(p.get("sent_bytes")), size(p.get("received_bytes")),
            text(p, "held"), text(p, "holes_closed"), text(p, "holes_expired"),
        )
        for p in rows_of(status, "peers")
    )  # fmt: skip
    return table(title, columns, rows, width)


# Shared with the live view -------------------------------------------------------------------------------

_CLASS_SUMS = (
    "sent_bps", "received_bps", "sent_packets", "received_packets", "queued_packets", "queued_bytes", "flows",
    "dropped", "overflowed", "marked",
)  # fmt: skip


def classes_table(title: str, status: dict[str, Any], width: int | None = None) -> Table:
    """Lay out the traffic classes that carried something, all peers together."""
    columns = [
        Column("class"), Column("out", True), Column("in", True), Column("queued", True, rank=2),
        Column("flows", True, rank=6), Column("delay", True), Column("drops", True),
        Column("marks", True, rank=5), Column("recovery", rank=1), Column("FEC", True, rank=4),
        Column("FEC cost", True, rank=3),
    ]  # fmt: skip
    rows = (_class_row(name, of_class) for name, of_class in _by_class(status).items())
    return table(title, columns, rows, width)


def _by_class(status: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(status, "classes"):
        if any(number(row, name) for name in ("sent_packets", "received_packets", "queued_packets")):
            found.setdefault(text(row, "name"), []).append(row)
    return found


def _class_row(name: str, rows: Sequence[dict[str, Any]]) -> tuple[str | Text, ...]:
    total = {column: sum(number(row, column) for row in rows) for column in _CLASS_SUMS}
    drops = total["dropped"] + total["overflowed"]
    protected = max(rows, key=_fec_cost)
    cost = _fec_cost(protected)
    return (
        name, rate(total["sent_bps"]), rate(total["received_bps"]), size(total["queued_bytes"]),
        f"{total['flows']:.0f}", milliseconds(max(number(row, "queue_delay_ns") for row in rows)),
        Text(f"{drops:.0f}", "yellow" if drops else ""), f"{total['marked']:.0f}", text(rows[0], "recovery"),
        f"{number(protected, 'fec_sources'):.0f}+{number(protected, 'fec_repairs'):.0f}" if cost else UNKNOWN,
        percent(cost * 1e6) if cost else UNKNOWN,
    )  # fmt: skip


def _fec_cost(row: dict[str, Any]) -> float:
    sources = number(row, "fec_sources")
    return number(row, "fec_repairs") / sources if sources > 0 else 0.0


def recovery_table(title: str, status: dict[str, Any], width: int | None = None) -> Table:
    """Lay out what is lost and made good, for each peer with which something was."""
    columns = [
        Column("peer"), Column("asked for", True), Column("asked of us", True, rank=2),
        Column("resent", True), Column("gone", True, rank=5), Column("came late", True, rank=4),
        Column("FEC sent", True, rank=3), Column("recovered", True), Column("unrecovered", True, rank=2),
        Column("kept", True, rank=6), Column("waiting", True, rank=5), Column("overhead", True),
    ]  # fmt: skip
    names = ("nacks_sent", "nacks_received", "resent", "repairs_sent", "repairs_received")
    rows = (
        (
            text(p, "peer"), text(p, "nacks_sent"), text(p, "nacks_received"), text(p, "resent"),
            text(p, "resend_missed"), text(p, "late_repaired"), text(p, "repairs_sent"),
            text(p, "recovered"), text(p, "unrecovered"), size(p.get("kept_bytes")), text(p, "held_now"),
            percent(p.get("overhead_ppm")),
        )
        for p in rows_of(status, "peers")
        if any(number(p, name) for name in names)
    )  # fmt: skip
    return table(title, columns, rows, width)


# The rest ------------------------------------------------------------------------------------------------


def _drops(title: str, status: dict[str, Any], width: int | None = None) -> Table:
    drops = status.get("drops")
    counted = drops.items() if isinstance(drops, dict) else ()
    rows = ((Text(str(reason)), str(count)) for reason, count in counted if count)
    return table(title, [Column("reason"), Column("count", True)], rows)


def _session(row: dict[str, Any]) -> Text:
    if row.get("session_age_ns") is None:
        return Text("none", "red")
    return Text(age(row["session_age_ns"]), "green")
