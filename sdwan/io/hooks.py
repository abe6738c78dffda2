"""Traffic-control and XDP hooks: put a program there, replace it without a gap, take only ours away.

A TC filter of ours has a fixed handle and priority and a name that begins with ``sdwan_``; replacing is
one atomic operation of the kernel. A filter of another maker in the same place is never touched. XDP is
attached in native mode or not at all: generic mode sees coalesced packets and would count them wrong.
Programs come as file descriptors; who pinned them is sdwan.io.bpf.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from sdwan.errors import KernelError
from sdwan.io import netlink

# Specification constants (include/uapi/linux/pkt_sched.h, if_link.h) ---------------------------------

_ETH_P_ALL = 3
_XDP_FLAGS_DRV_MODE = 1 << 2
_XDP_DETACH = -1

# Implementation constants ----------------------------------------------------------------------------

HANDLE, PRIORITY = 1, 10
NAME_PREFIX = "sdwan_"


class Direction(Enum):
    """Which way packets cross a link; the value is the clsact parent."""

    EGRESS = 0xFFFFFFF3
    INGRESS = 0xFFFFFFF2


@dataclass(frozen=True, slots=True)
class Filter:
    """One BPF filter found in a TC hook."""

    direction: Direction
    handle: int
    priority: int
    name: str
    version: str = ""
    """As given to ``attach_tc``."""

    @property
    def ours(self) -> bool:
        """Made by this project."""
        return (self.handle, self.priority) == (HANDLE, PRIORITY) and self.name.startswith(NAME_PREFIX)


def filters(ifindex: int) -> list[Filter]:
    """Return the BPF filters in both TC hooks of a link."""

    def work(route: IPRoute) -> list[Filter]:
        found = []
        for direction in Direction:
            for message in route.get_filters(index=ifindex, parent=direction.value):
                name = _bpf_name(message)
                if message["handle"] and name is not None:
                    name, _, version = name.partition(":")
                    found.append(Filter(direction, message["handle"], message["info"] >> 16, name, version))
        return found

    return netlink.call(f"listing filters of interface {ifindex}", work)


def _bpf_name(message: Any) -> str | None:
    options = message.get_attr("TCA_OPTIONS")
    if message.get_attr("TCA_KIND") != "bpf" or options is None or not hasattr(options, "get_attr"):
        return None
    return str(options.get_attr("TCA_BPF_NAME") or "")


def attach_tc(ifindex: int, direction: Direction, program: int, name: str, version: str = "") -> None:
    """Attach a program, or replace ours, atomically.

    ``version`` stands in the filter's name, ``name:version``, and comes back in ``Filter.version``.

    Raises:
        KernelError: somebody else's filter sits in our place, or the kernel refused.
    """
    for other in filters(ifindex):
        if (other.direction, other.handle, other.priority) == (
            direction,
            HANDLE,
            PRIORITY,
        ) and not other.ours:
            raise KernelError(
                f"interface {ifindex}: a filter {other.name!r} that is not ours sits at priority {PRIORITY}"
            )

    def work(route: IPRoute) -> None:
        with netlink.tolerated(errno.EEXIST):
            route.tc("add", "clsact", ifindex)
        route.tc(
            "replace-filter",
            "bpf",
            ifindex,
            handle=HANDLE,
            prio=PRIORITY,
            protocol=_ETH_P_ALL,
            parent=direction.value,
            fd=program,
            name=f"{name}:{version}" if version else name,
            classid=1,
            direct_action=True,
        )

    netlink.call(f"attaching {name} to interface {ifindex}", work)


def detach_tc(ifindex: int, direction: Direction) -> bool:
    """Remove our filter from one hook; return whether there was one."""
    if not any(found.ours and found.direction is direction for found in filters(ifindex)):
        return False

    def work(route: IPRoute) -> None:
        with netlink.tolerated(errno.ENOENT, errno.ENODEV, errno.EINVAL):
            route.tc(
                "del-filter",
                "bpf",
                ifindex,
                handle=HANDLE,
                prio=PRIORITY,
                protocol=_ETH_P_ALL,
                parent=direction.value,
            )

    netlink.call(f"detaching from interface {ifindex}", work)
    return True


def remove_empty_clsact(ifindex: int) -> None:
    """Remove the hooks themselves, unless anybody's filter is still in them."""

    def work(route: IPRoute) -> None:
        for direction in Direction:
            if any(message["handle"] for message in route.get_filters(index=ifindex, parent=direction.value)):
                return
        with netlink.tolerated(errno.ENOENT, errno.EINVAL, errno.ENODEV):
            route.tc("del", "clsact", ifindex)

    netlink.call(f"removing empty hooks of interface {ifindex}", work)


def attach_xdp(ifindex: int, program: int) -> None:
    """Attach a program in native XDP, or replace the one there.

    Raises:
        KernelError: the driver cannot, or the kernel refused.
    """
    try:
        _set_xdp(ifindex, program)
    except KernelError as error:
        raise KernelError(f"{error}; use --hook tc") from error


def detach_xdp(ifindex: int) -> None:
    """Remove the native XDP program of a link."""
    _set_xdp(ifindex, _XDP_DETACH)


def _set_xdp(ifindex: int, program: int) -> None:
    attributes = [("IFLA_XDP_FD", program), ("IFLA_XDP_FLAGS", _XDP_FLAGS_DRV_MODE)]

    def work(route: IPRoute) -> None:
        route.link("set", index=ifindex, xdp={"attrs": attributes})

    netlink.call(f"native XDP on interface {ifindex}", work)


def xdp_program_id(ifindex: int) -> int:
    """Return the id of the XDP program on a link, 0 = none."""

    def work(route: IPRoute) -> int:
        xdp = route.get_links(ifindex)[0].get_attr("IFLA_XDP")
        return (xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0

    try:
        return netlink.call(f"asking for XDP on interface {ifindex}", work)
    except (KernelError, NetlinkError):
        return 0
