"""The `sdwan-bpf` command: attach the kernel programs, detach them, look at them, set weights by hand.

Everything it makes stays in the kernel when it ends. It also works alone, with no tunnel configured:
then it counts what crosses the interfaces and changes nothing. Each command prints a table, or JSON with
--json, whose keys are stable.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from sdwan.cli import bpf_view, output
from sdwan.cli.entry import EXIT_CODES_HELP, run
from sdwan.errors import KernelError
from sdwan.io import attach as attaching
from sdwan.io import bpf, entry, netlink
from sdwan.io.attach import Hook
from sdwan.io.layout import DEFAULT_PIN_ROOT
from sdwan.io.maps import Maps, Weights
from sdwan.model import CLASSES, PATHS_PER_PEER, PEERS_MAX_DEFAULT, SteerMode

# Implementation constants ----------------------------------------------------------------------------

WATCH_INTERVAL_S = 1.0

ARRIVED = ("received", "lost", "late", "duplicate", "suspect")
"""Fields of struct rx_state an operator asks for."""

pins_option = click.option(
    "--pins",
    "pin_root",
    type=click.Path(path_type=Path),
    default=DEFAULT_PIN_ROOT,
    show_default=True,
    help="Where programs and maps are pinned; a second site on one machine needs its own.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
entry_option = click.option(
    "--entry-name", default=entry.DEFAULT_NAME, show_default=True, help="Name of the entry device."
)


@click.group(epilog=EXIT_CODES_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def sdwan_bpf(debug: bool) -> None:
    """Attach, detach and look at the kernel programs."""


def _print(as_json: bool, data: Any, view: Callable[[], RenderableType]) -> None:
    if as_json:
        click.echo(json.dumps(data, indent=1))
    else:
        output.console().print(view())


# Attach and detach -----------------------------------------------------------------------------------


@sdwan_bpf.command()
@click.argument("interfaces", nargs=-1, required=True, metavar="IFACE...")
@click.option(
    "--hook",
    type=click.Choice([hook.value for hook in Hook]),
    default=Hook.AUTO.value,
    show_default=True,
    help="Where received packets are judged: native XDP, TC ingress, or whichever suits the device.",
)
@click.option(
    "--peers",
    "peers_max",
    type=click.IntRange(2, 4096),
    default=PEERS_MAX_DEFAULT,
    show_default=True,
    help="Peers the maps are sized for.",
)
@pins_option
@click.option("--entry/--no-entry", "with_entry", default=True, help="Also make and attach the entry device.")
@entry_option
@json_option
def attach(
    interfaces: tuple[str, ...],
    hook: str,
    peers_max: int,
    pin_root: Path,
    with_entry: bool,
    entry_name: str,
    as_json: bool,
) -> None:
    """Compile the programs, pin them and attach them to IFACE...

    Attaching again replaces programs without losing a packet and keeps all counters.
    """
    bpf.check_system(pin_root)
    attaching.check_links(interfaces)
    built = bpf.build(pin_root, peers_max=peers_max)
    attached = attaching.attach(
        interfaces, pin_root, hook=Hook(hook), entry_name=entry_name if with_entry else None
    )
    status = attaching.status(pin_root)
    data = {
        "pins": str(pin_root),
        "kept_counters": built.adopted,
        "links": [{**asdict(link), "hook": link.hook.value} for link in attached],
        "tunnel_configured": bool(status.port),
    }
    _print(as_json, data, lambda: bpf_view.attach_view(attached, status, built.adopted))


@sdwan_bpf.command()
@click.argument("interfaces", nargs=-1, metavar="[IFACE]...")
@pins_option
@entry_option
@json_option
def detach(interfaces: tuple[str, ...], pin_root: Path, entry_name: str, as_json: bool) -> None:
    """Take our programs off IFACE..., or off everything and remove pins, counters and the entry device.

    Filters and programs of other makers stay.
    """
    touched = attaching.detach(interfaces, pin_root=pin_root, entry_name=entry_name)
    data = {"pins": str(pin_root), "detached": touched, "pins_removed": not interfaces}
    left = "nothing of ours was attached" if not touched else f"detached from {', '.join(touched)}"
    _print(as_json, data, lambda: Text(left))


# Look ------------------------------------------------------------------------------------------------


@sdwan_bpf.command()
@pins_option
@json_option
def status(pin_root: Path, as_json: bool) -> None:
    """Show what is pinned and attached, and what crossed each link."""
    found = attaching.status(pin_root)
    _print(as_json, asdict(found), lambda: bpf_view.status_view(found))


@sdwan_bpf.command()
@pins_option
@json_option
def counters(pin_root: Path, as_json: bool) -> None:
    """Show the counters of every path in use, of every link, and of drops by reason."""
    maps = Maps.open(pin_root)
    data = _read_counters(maps)
    _print(as_json, data, lambda: bpf_view.counters_view(data))


def _read_counters(maps: Maps) -> dict[str, Any]:
    sent, received, arrived = maps.tx_stats(), maps.rx_stats(), maps.rx_state
    names = {link.index: link.name for link in netlink.links()}
    paths = []
    for index in range(PATHS_PER_PEER, maps.peers_max * PATHS_PER_PEER):
        peer, path = divmod(index, PATHS_PER_PEER)
        entry_ = maps.read_path(peer, path)
        if entry_ is None and not sent[index]["datagrams"] and not received[index]["datagrams"]:
            continue
        row = arrived[index]
        paths.append({
            "peer": peer,
            "path": path,
            "up": bool(entry_ and entry_.up),
            "remote": f"{entry_.remote} port {entry_.remote_port}" if entry_ else "",
            "next_sequence": int(maps.tx_state[index]["next_sequence"]),
            "sent": _plain(sent[index]),
            "received": _plain(received[index]),
            "arrived": {name: int(row[name]) for name in ARRIVED},
            "jitter_us": int(row["jitter_us16"]) / 16,
        })  # fmt: skip
    return {
        "paths": paths,
        "links": [
            {"link": names.get(index, f"index {index}"), "ifindex": index, **asdict(stats)}
            for index, stats in maps.link_stats().items()
        ],
        "drops": {reason.name.lower(): count for reason, count in maps.drops().items()},
    }


def _plain(record: Any) -> dict[str, int]:
    return {name: int(record[name]) for name in record.dtype.names}


@sdwan_bpf.command()
@pins_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line and second.")
@click.option("--count", type=click.IntRange(0), default=0, help="End after so many; 0 = never.")
def watch(pin_root: Path, as_json: bool, count: int) -> None:
    """Show the counters of every path and link, live, with the rate of the last second."""
    maps = Maps.open(pin_root)
    if as_json:
        for now, _, _ in _readings(maps, count):
            click.echo(json.dumps(now))
        return
    with Live(console=output.console(), auto_refresh=False) as live:
        for now, earlier, elapsed_s in _readings(maps, count):
            live.update(bpf_view.counters_view(now, earlier, elapsed_s), refresh=True)


def _readings(maps: Maps, count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], float]]:
    """Give each second's counters, those of the second before, and the time between; for ever if 0."""
    earlier, read_at = _read_counters(maps), time.monotonic()
    for _ in range(count) if count else itertools.count():
        time.sleep(WATCH_INTERVAL_S)
        now, now_at = _read_counters(maps), time.monotonic()
        yield now, earlier, now_at - read_at
        earlier, read_at = now, now_at


# Weights ---------------------------------------------------------------------------------------------


@sdwan_bpf.group()
def weights() -> None:
    """Show or set how a peer's traffic is spread over its paths."""


@weights.command("show")
@click.argument("peer", type=int, required=False)
@pins_option
@json_option
def weights_show(peer: int | None, pin_root: Path, as_json: bool) -> None:
    """Show the weights in force, of PEER or of all peers that have any.

    Where rates are known, also each path's delay, bound and backlog, which count in the mode `earliest`.
    """
    maps = Maps.open(pin_root)
    peers = range(1, maps.peers_max) if peer is None else [peer]
    now_ns = time.monotonic_ns()
    found = [_weights_data(maps, number, each, now_ns) for number in peers for each in range(CLASSES)]
    found = [row for row in found if any(row["shares"])]
    _print(as_json, found, lambda: bpf_view.weights_view(found))


def _weights_data(maps: Maps, peer: int, traffic_class: int, now_ns: int) -> dict[str, Any]:
    read = maps.read_weights(peer, traffic_class)
    return {
        "peer": peer,
        "class": traffic_class,
        **asdict(read),
        "mode": read.mode.name.lower(),
        "backlog_us": maps.backlog_us(peer, now_ns=now_ns),
    }


@weights.command("set")
@click.argument("peer", type=int)
@click.argument("shares", nargs=-1, required=True, type=click.FloatRange(0), metavar="SHARE...")
@click.option(
    "--class",
    "traffic_class",
    type=click.IntRange(0, CLASSES - 1),
    default=None,
    help="Only this traffic class; otherwise all.",
)
@click.option(
    "--mode",
    type=click.Choice([mode.name.lower() for mode in SteerMode]),
    default=SteerMode.STRIDE.name.lower(),
    show_default=True,
)
@pins_option
@json_option
def weights_set(
    peer: int, shares: tuple[float, ...], traffic_class: int | None, mode: str, pin_root: Path, as_json: bool
) -> None:
    """Give path 0, 1, ... of PEER these SHARE...; only their ratio matters, 0 takes a path out.

    A running edge writes its own weights again within a second or two.
    """
    if len(shares) > PATHS_PER_PEER:
        raise KernelError(f"{len(shares)} shares: a peer has {PATHS_PER_PEER} paths")
    maps = Maps.open(pin_root)
    padded = shares + (0.0,) * (PATHS_PER_PEER - len(shares))
    classes = range(CLASSES) if traffic_class is None else [traffic_class]
    updates: dict[tuple[int, int], Weights] = {}
    for number in classes:
        kept = maps.read_weights(peer, number)
        updates[peer, number] = replace(kept, mode=SteerMode[mode.upper()], shares=padded)
    maps.write_weights(updates)
    now_ns = time.monotonic_ns()
    found = [_weights_data(maps, peer, number, now_ns) for number in classes]
    _print(as_json, found, lambda: bpf_view.weights_view(found))


def main() -> None:
    """Run the `sdwan-bpf` command and leave the process."""
    sys.exit(run(sdwan_bpf, "sdwan-bpf"))


if __name__ == "__main__":
    main()
