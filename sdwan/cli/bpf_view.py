"""How `sdwan-bpf` shows things: tables made of what sdwan.cli.bpf read. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdwan.cli import output
from sdwan.io.attach import Attached, Status
from sdwan.model import PATHS_PER_PEER

# Implementation constants ----------------------------------------------------------------------------

LINK_VOLUMES = ("tx_bytes", "tx_tunnel_bytes", "rx_bytes", "rx_tunnel_bytes")

OUTDATED = (
    "programs of another version are pinned or attached: 'sdwan-bpf attach' replaces them without a gap"
)

NOTHING_CONFIGURED = (
    "no tunnel is configured: traffic is counted and not touched; 'sdwan edge run' configures one"
)


def attach_view(attached: list[Attached], status: Status, adopted: bool) -> RenderableType:
    """Say what was attached, and whether there is anything to steer."""
    rows = [(link.link, str(link.ifindex), link.hook.value, link.note) for link in attached]
    columns = [("link", False), ("index", True), ("receive hook", False), ("note", False)]
    lines = [f"programs and maps are pinned under {status.pin_root}"]
    if adopted:
        lines.append("replaced what was attached; counters and link sequences go on")
    if not status.port:
        lines.append(NOTHING_CONFIGURED)
    return Group(output.table("Attached", columns, rows), "", *lines)


def status_view(found: Status) -> RenderableType:
    """Show what is pinned and attached."""
    if not found.pinned:
        return Text(f"nothing is pinned under {found.pin_root}: run 'sdwan-bpf attach IFACE...'")
    tunnel = f"UDP port {found.port}" if found.port else NOTHING_CONFIGURED
    steering = "steering" if found.steering else "not steering"
    head = Text(f"{found.pin_root}: up to {found.peers_max - 1} peers, {steering}; {tunnel}")
    columns = [
        ("link", False), ("carrier", False), ("MTU", True), ("receive", False), ("send", False),
        ("programs", False), ("out", True), ("of it tunnel", True), ("in", True), ("of it tunnel", True),
    ]  # fmt: skip
    rows = [
        (
            link.link,
            Text("up", "green") if link.carrier else Text("down", "red"),
            str(link.mtu),
            link.receive_hook or output.UNKNOWN,
            "steers" if link.steers else "counts" if link.counts_sent else output.UNKNOWN,
            Text("older", "yellow") if link.outdated else "current",
            output.size(link.stats.tx_bytes), output.size(link.stats.tx_tunnel_bytes),
            output.size(link.stats.rx_bytes), output.size(link.stats.rx_tunnel_bytes),
        )
        for link in found.links
    ]  # fmt: skip
    parts: list[RenderableType] = [head, "", output.table("Links", columns, rows)]
    if found.outdated or any(link.outdated for link in found.links):
        parts += ["", Text(OUTDATED, "yellow")]
    if found.drops:
        drops = [(reason, str(count)) for reason, count in found.drops.items()]
        parts += ["", output.table("Dropped", [("reason", False), ("datagrams", True)], drops)]
    return Group(*parts)


def counters_view(
    data: dict[str, Any], earlier: dict[str, Any] | None = None, elapsed_s: float = 1.0
) -> RenderableType:
    """Show links, paths and drops; with an earlier reading, bytes become rates."""
    volume = _Volume(earlier, elapsed_s)
    parts: list[RenderableType] = [_links(data, volume)]
    if data["paths"]:
        parts += ["", _paths(data, volume)]
    drops = [(reason, str(count)) for reason, count in data["drops"].items() if count]
    if drops:
        parts += ["", output.table("Dropped", [("reason", False), ("datagrams", True)], drops)]
    return Group(*parts)


class _Volume:
    """Writes a byte counter as a size, or as the rate since an earlier reading."""

    def __init__(self, earlier: dict[str, Any] | None, elapsed_s: float) -> None:
        self._elapsed_s = elapsed_s
        self._before: dict[tuple[Any, ...], int] | None = None
        if earlier is not None:
            self._before = dict(_byte_counters(earlier))

    def __call__(self, key: tuple[Any, ...], count: int) -> str:
        if self._before is None:
            return output.size(count)
        return output.rate((count - self._before.get(key, count)) * 8 / self._elapsed_s)


def _byte_counters(data: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], int]]:
    for link in data["links"]:
        for name in LINK_VOLUMES:
            yield (link["ifindex"], name), link[name]
    for path in data["paths"]:
        for direction in ("sent", "received"):
            yield (path["peer"], path["path"], direction), path[direction]["bytes"]


def _links(data: dict[str, Any], volume: _Volume) -> Table:
    columns = [("link", False), ("out", True), ("of it tunnel", True), ("in", True), ("of it tunnel", True)]
    rows = [
        [link["link"], *(volume((link["ifindex"], name), link[name]) for name in LINK_VOLUMES)]
        for link in data["links"]
    ]
    return output.table("Links", columns, rows)


def _paths(data: dict[str, Any], volume: _Volume) -> Table:
    columns = [
        ("peer", True), ("path", True), ("state", False), ("remote", False),
        ("sent", True), ("out", True), ("received", True), ("in", True),
        ("lost", True), ("late", True), ("duplicate", True), ("jitter", True),
    ]  # fmt: skip
    rows = []
    for path in data["paths"]:
        key, arrived = (path["peer"], path["path"]), path["arrived"]
        rows.append([
            str(path["peer"]), str(path["path"]),
            Text("up", "green") if path["up"] else Text("down", "red"),
            path["remote"] or output.UNKNOWN,
            str(path["sent"]["datagrams"]), volume((*key, "sent"), path["sent"]["bytes"]),
            str(path["received"]["datagrams"]), volume((*key, "received"), path["received"]["bytes"]),
            str(arrived["lost"]), str(arrived["late"]), str(arrived["duplicate"]),
            output.milliseconds(path["jitter_us"] * 1000),
        ])  # fmt: skip
    return output.table("Paths", columns, rows)


def weights_view(found: list[dict[str, Any]]) -> RenderableType:
    """Show one row for each peer and class, and one for each path whose rate is known."""
    if not found:
        return Text("no peer has weights")
    columns = [("peer", True), ("class", True), ("mode", False)]
    columns += [(f"path {path}", True) for path in range(PATHS_PER_PEER)]
    rows = [
        [str(row["peer"]), str(row["class"]), row["mode"], *map(_share_text, row["shares"])] for row in found
    ]
    weights = output.table("Weights", columns, rows)
    queues = _queue_rows(found)
    if not queues:
        return weights
    columns = [("peer", True), ("path", True), ("classes", False)]
    columns += [(name, True) for name in ("rate", "delay", "bound", "backlog")]
    return Group(weights, "", output.table("Earliest delivery", columns, queues))


def _queue_rows(found: list[dict[str, Any]]) -> list[list[str]]:
    """One row for each path; classes that see it differently have rows of their own."""
    classes: dict[tuple[Any, ...], list[str]] = {}
    for row in found:
        for path in range(PATHS_PER_PEER):
            if row["ns_per_kib"][path]:
                facts = (row["ns_per_kib"][path], row["delay_us"][path], row["bound_us"][path])
                known = (row["peer"], path, *facts, row["backlog_us"][path])
                classes.setdefault(known, []).append(str(row["class"]))
    rows = sorted(classes.items(), key=lambda item: (item[0][:2], item[1]))
    return [
        [
            str(peer), str(path), ", ".join(names), output.rate(1024 * 8 * 1e9 / ns_per_kib),
            output.milliseconds(delay_us * 1000),
            output.milliseconds(bound_us * 1000) if bound_us else "none",
            output.milliseconds(backlog_us * 1000),
        ]
        for (peer, path, ns_per_kib, delay_us, bound_us, backlog_us), names in rows
    ]  # fmt: skip


def _share_text(share: float) -> str:
    return output.percent(share * 1e6) if share else output.UNKNOWN
