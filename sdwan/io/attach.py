"""Attach the kernel programs to links and to the entry device; detach them; say what is attached.

The only writer of hooks. In comes a pin root whose programs sdwan.io.bpf has built, and names of
interfaces of this network namespace; afterwards everything is in the kernel and no process need stay.
Attaching again replaces each program in one atomic step: no packet is lost, no counter begins anew.
Everything is checked before anything is changed. Called by sdwan-bpf; the daemon runs that command, so
that it never loads BCC itself.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from sdwan.errors import KernelError
from sdwan.io import bpfsys, entry, hooks, netlink, sources
from sdwan.io.hooks import Direction
from sdwan.io.layout import layout_path
from sdwan.io.maps import LinkStats, Maps
from sdwan.io.netlink import Link


class Hook(Enum):
    """Where received packets are judged."""

    AUTO = "auto"
    """Native XDP on physical devices whose driver can, TC ingress on all others."""
    TC = "tc"
    XDP = "xdp"


@dataclass(frozen=True, slots=True)
class Attached:
    """One link after attaching."""

    link: str
    ifindex: int
    hook: Hook
    note: str = ""
    """Why the hook is not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """What we have on one interface."""

    link: str
    ifindex: int
    carrier: bool
    mtu: int
    receive_hook: str
    """``tc``, ``xdp`` or empty."""
    counts_sent: bool
    steers: bool
    """It is the entry device."""
    stats: LinkStats
    outdated: bool = False
    """It runs other programs than those that are pinned now, or counts into other maps."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is pinned, and what is attached in this network namespace."""

    pin_root: str
    pinned: bool
    port: int = 0
    steering: bool = False
    peers_max: int = 0
    links: tuple[LinkStatus, ...] = ()
    drops: dict[str, int] = field(default_factory=dict)
    outdated: bool = False
    """What is pinned was made from other sources than this version's: attach again."""


def check_links(names: Sequence[str]) -> list[Link]:
    """Return the links of these names, all of them or none.

    Raises:
        KernelError: an interface is missing, named twice or cannot be a WAN link.
    """
    for name in names:
        if names.count(name) > 1:
            raise KernelError(f"interface {name} is named twice")
    found = [netlink.need_link(name) for name in names]
    for link in found:
        if link.name == "lo":
            raise KernelError("lo is no WAN link: name an interface that leads out, such as eth0")
    return found


def attach(
    names: Sequence[str],
    pin_root: Path,
    *,
    hook: Hook = Hook.AUTO,
    entry_name: str | None = entry.DEFAULT_NAME,
) -> list[Attached]:
    """Attach what is pinned to links, and (unless ``entry_name`` is None) to the entry device.

    Raises:
        KernelError: nothing is pinned, a link is missing, or the kernel refused.
    """
    found = check_links(names)
    maps = Maps.open(pin_root)
    try:
        attached = []
        for link in found:
            maps.add_link(link.index)
            _attach_tc(link.index, Direction.EGRESS, maps, _variant("sdwan_count", link))
            attached.append(_attach_receiver(link, maps, hook))
        if entry_name is not None:
            _attach_tc(entry.create_entry(entry_name), Direction.EGRESS, maps, "sdwan_steer")
    finally:
        maps.close()
    return attached


def _version(maps: Maps) -> str:
    """Name the sources the pinned programs were made from, and the set of maps they count into."""
    return f"{maps.layout.source_sha256[:12]}.{bpfsys.map_info(maps.descriptors['cfg']).id}"


def _variant(program: str, link: Link) -> str:
    return program if link.ethernet else f"{program}_l3"


def _attach_tc(ifindex: int, direction: Direction, maps: Maps, program: str) -> None:
    with bpfsys.opened(maps.pin_root / "progs" / program) as descriptor:
        hooks.attach_tc(ifindex, direction, descriptor, program, _version(maps))


def _attach_receiver(link: Link, maps: Maps, hook: Hook) -> Attached:
    """Put the receiving program into one hook, then take it out of the other: never out of both."""
    note = ""
    if hook is Hook.XDP or (hook is Hook.AUTO and _may_do_xdp(link)):
        try:
            _attach_xdp(link, maps.pin_root)
            hooks.detach_tc(link.index, Direction.INGRESS)
            return Attached(link.name, link.index, Hook.XDP)
        except KernelError as error:
            if hook is Hook.XDP:
                raise
            note = str(error)
    _attach_tc(link.index, Direction.INGRESS, maps, _variant("sdwan_account", link))
    if _xdp_is_ours(link.index):
        hooks.detach_xdp(link.index)
    return Attached(link.name, link.index, Hook.TC, note)


def _may_do_xdp(link: Link) -> bool:
    """A physical Ethernet device: it has a driver and is of none of the kernel's own kinds.

    On a virtual one XDP sees packets before they are coalesced at the price of all coalescing: measured
    on veth, 5.7 Gbit/s instead of 68.
    """
    return link.ethernet and not link.kind and bool(link.driver)


def _attach_xdp(link: Link, pin_root: Path) -> None:
    if not link.ethernet:
        raise KernelError(f"{link.name} has no Ethernet header: use --hook tc")
    if link.xdp and not _xdp_is_ours(link.index):
        raise KernelError(f"{link.name} carries somebody else's XDP program")
    with bpfsys.opened(pin_root / "progs" / "sdwan_account_xdp") as descriptor:
        hooks.attach_xdp(link.index, descriptor)


def _xdp_is_ours(ifindex: int) -> bool:
    number = hooks.xdp_program_id(ifindex)
    return bool(number) and bpfsys.program_name(number).startswith(hooks.NAME_PREFIX)


def detach(names: Sequence[str] = (), *, pin_root: Path, entry_name: str = entry.DEFAULT_NAME) -> list[str]:
    """Take our programs off these links; without names off all, and remove the entry, pins and counters.

    Other makers' filters and programs stay. Returns the names of the links something was taken off.
    """
    found = check_links(names) if names else netlink.links()
    touched = [link for link in found if _detach_link(link)]
    if names:
        with contextlib.suppress(KernelError):
            maps = Maps.open(pin_root)
            for link in found:
                maps.remove_link(link.index)
            maps.close()
    else:
        entry.delete_entry(entry_name)
        remove_pins(pin_root)
    return [link.name for link in touched]


def _detach_link(link: Link) -> bool:
    taken = [hooks.detach_tc(link.index, direction) for direction in Direction]
    if any(taken):
        hooks.remove_empty_clsact(link.index)
    if link.xdp and _xdp_is_ours(link.index):
        hooks.detach_xdp(link.index)
        return True
    return any(taken)


def remove_pins(pin_root: Path) -> None:
    """Remove pins and layout. Programs still attached somewhere live on until they are detached there."""
    for part in (pin_root / "progs", pin_root / "maps", *pin_root.glob("maps-*")):
        shutil.rmtree(part, ignore_errors=True)
    for directory in (pin_root, pin_root.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()
    layout_path(pin_root).unlink(missing_ok=True)


def status(pin_root: Path) -> Status:
    """Return what is pinned under ``pin_root`` and attached in this network namespace."""
    if not (pin_root / "maps").is_dir():
        return Status(str(pin_root), pinned=False)
    maps = Maps.open(pin_root)
    try:
        stats = maps.link_stats()
        links = [_link_status(link, stats.get(link.index, LinkStats()), maps) for link in netlink.links()]
        return Status(
            str(pin_root),
            pinned=True,
            port=maps.port(),
            steering=bool(maps.config["mark"]),
            peers_max=maps.peers_max,
            links=tuple(link for link in links if link.receive_hook or link.counts_sent or link.steers),
            drops={reason.name.lower(): count for reason, count in maps.drops().items() if count},
            outdated=maps.layout.source_sha256 != sources.sha256(),
        )
    finally:
        maps.close()


def _link_status(link: Link, stats: LinkStats, maps: Maps) -> LinkStatus:
    filters = [found for found in hooks.filters(link.index) if found.ours]
    ours = {(found.direction, found.name) for found in filters}
    outdated = any(found.version != _version(maps) for found in filters)
    receive_hook = "xdp" if link.xdp and _xdp_is_ours(link.index) else ""
    if receive_hook:
        with bpfsys.opened(maps.pin_root / "progs" / "sdwan_account_xdp") as descriptor:
            outdated |= hooks.xdp_program_id(link.index) != bpfsys.program_info(descriptor).id
    if any(direction is Direction.INGRESS for direction, _ in ours):
        receive_hook = "tc"
    return LinkStatus(
        link=link.name,
        ifindex=link.index,
        carrier=link.carrier,
        mtu=link.mtu,
        receive_hook=receive_hook,
        counts_sent=any(name.startswith("sdwan_count") for _, name in ours),
        steers=(Direction.EGRESS, "sdwan_steer") in ours,
        stats=stats,
        outdated=outdated,
    )
