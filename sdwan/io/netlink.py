"""Links, addresses, routes, traffic-control hooks and the entry device, through pyroute2.

Everything works in the network namespace of the calling thread and speaks to the kernel only: nothing
is remembered between calls. Functions are synchronous and may be called from inside a running asyncio
loop, too (pyroute2 runs a loop of its own, so they then borrow a thread for the moment). A refusal by the
kernel is a ``KernelError`` that names the operation and the device.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from sdwan.errors import KernelError

# Specification constants (include/uapi/linux/if.h, if_addr.h, sockios.h, ethtool.h) -----------------

IFF_UP, IFF_RUNNING, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x40, 0x80, 0x10000
_ARPHRD_WITH_ETHERNET_HEADER = frozenset({1, 772})  # Ethernet, loopback
_IFA_F_NODAD = 0x02
_ROUTE_STATIC = 4  # RTPROT_STATIC (linux/rtnetlink.h), what pyroute2 gives its routes
_SIOCETHTOOL, _ETHTOOL_GDRVINFO = 0x8946, 0x3

_ADDRESS_SCOPE_LINK = 253

_XDP_MODES = {"xdp": "native", "xdpgeneric": "generic", "xdpoffload": "offload"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface."""

    name: str
    index: int
    mtu: int
    up: bool
    """Administratively up."""
    carrier: bool
    """Up, and the other end answers."""
    kind: str
    """``veth``, ``tun``, ``bridge``...; empty for a physical device."""
    driver: str
    ethernet: bool
    """Frames begin with an Ethernet header (not so on PPP, TUN and raw-IP modems)."""
    addresses: tuple[str, ...]
    """``10.0.0.1/24``, ``2001:db8::1/64``; link-local ones left out."""
    xdp: str
    """Mode of an attached XDP program: empty, ``native``, ``generic`` or ``offload``."""


# Calling ---------------------------------------------------------------------------------------------


def call(what: str, work: Callable[[IPRoute], T]) -> T:
    """Run ``work`` with an open netlink socket; ``what`` begins the sentence of a refusal."""

    def job() -> T:
        with IPRoute() as route:
            return work(route)

    try:
        if not _loop_is_running():
            return job()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(job).result()
    except NetlinkError as error:
        raise KernelError(f"{what}: {error.args[1] if len(error.args) > 1 else error}") from error
    except OSError as error:
        raise KernelError(f"{what}: {error.strerror or error}") from error


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def tolerated(*codes: int) -> Iterator[None]:
    """Take these errnos for success: what was wanted is so already."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


# Links -------------------------------------------------------------------------------------------------


def links() -> list[Link]:
    """Return every interface of this namespace, by index."""

    def work(route: IPRoute) -> list[Link]:
        addresses: dict[int, list[str]] = {}
        for message in route.get_addr():
            if message["scope"] < _ADDRESS_SCOPE_LINK:
                text = f"{_attribute(message, 'IFA_LOCAL', 'IFA_ADDRESS')}/{message['prefixlen']}"
                addresses.setdefault(message["index"], []).append(text)
        return [_link(message, tuple(addresses.get(message["index"], ()))) for message in route.get_links()]

    return call("listing interfaces", work)


def find_link(name: str) -> Link | None:
    """Return the interface of this name, or None."""
    return next((link for link in links() if link.name == name), None)


def need_link(name: str) -> Link:
    """Return the interface of this name.

    Raises:
        KernelError: there is none; the message lists those there are.
    """
    present = links()
    for link in present:
        if link.name == name:
            return link
    names = ", ".join(link.name for link in present)
    raise KernelError(f"there is no interface {name} here; there are: {names}")


def _link(message: Any, addresses: tuple[str, ...]) -> Link:
    name = message.get_attr("IFLA_IFNAME")
    flags = message["flags"]
    info = message.get_attr("IFLA_LINKINFO")
    xdp = message.get_attr("IFLA_XDP")
    return Link(
        name=name,
        index=message["index"],
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(flags & IFF_UP),
        carrier=has_carrier(flags),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        driver=_driver(name),
        ethernet=message["ifi_type"] in _ARPHRD_WITH_ETHERNET_HEADER,
        addresses=addresses,
        xdp=_XDP_MODES.get(xdp.get_attr("IFLA_XDP_ATTACHED"), "") if xdp else "",
    )


def has_carrier(flags: int) -> bool:
    """Tell from ifinfomsg flags whether a link can carry packets now."""
    wanted = IFF_UP | IFF_RUNNING | IFF_LOWER_UP
    return flags & wanted == wanted


def _attribute(message: Any, *names: str) -> Any:
    return next(value for value in map(message.get_attr, names) if value is not None)


def _driver(name: str) -> str:
    """Ask ethtool for the driver: /sys shows the namespace it was mounted in, not ours."""
    info = create_string_buffer(196)
    struct.pack_into("I", info, 0, _ETHTOOL_GDRVINFO)
    request = struct.pack("16sP16x", name.encode(), addressof(info))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return info.raw[4:36].split(b"\0", 1)[0].decode(errors="replace")


def set_mtu(name: str, mtu: int) -> None:
    """Set the MTU of an interface."""
    index = need_link(name).index
    call(f"setting the MTU of {name} to {mtu}", lambda route: route.link("set", index=index, mtu=mtu))


def set_gso_segments(name: str, segments: int) -> None:
    """Bound the segments of a super-packet the kernel hands to a device."""
    link = need_link(name)
    call(
        f"{name}: gso_max_segs {segments}",
        lambda route: route.link("set", index=link.index, gso_max_segs=segments),
    )


def set_up(name: str, up: bool = True) -> None:
    """Bring an interface up or take it down."""
    index = need_link(name).index
    state = "up" if up else "down"
    call(f"setting {name} {state}", lambda route: route.link("set", index=index, state=state))


# Addresses and routes ------------------------------------------------------------------------------------


def add_address(name: str, address: str) -> None:
    """Give an interface an address (``10.0.0.1/24``), without duplicate detection; no error if it has it."""
    index = need_link(name).index
    host, _, length = address.partition("/")
    options: dict[str, Any] = {"flags": _IFA_F_NODAD} if ":" in host else {}

    def work(route: IPRoute) -> None:
        with tolerated(errno.EEXIST):
            route.addr("add", index=index, address=host, prefixlen=int(length or _host_bits(host)), **options)

    call(f"adding {address} to {name}", work)


def delete_address(name: str, address: str) -> None:
    """Take an address away; no error if it is gone."""
    index = need_link(name).index
    host, _, length = address.partition("/")

    def work(route: IPRoute) -> None:
        with tolerated(errno.EADDRNOTAVAIL, errno.ENOENT):
            route.addr("del", index=index, address=host, prefixlen=int(length or _host_bits(host)))

    call(f"removing {address} from {name}", work)


def add_route(prefix: str, name: str, *, source: str | None = None, metric: int | None = None) -> None:
    """Route a prefix into an interface; an existing route of that prefix and metric is replaced."""
    options = _route_options(prefix, name, metric)
    if source is not None:
        options["prefsrc"] = source
    call(f"routing {prefix} into {name}", lambda route: route.route("replace", **options))


def static_routes(name: str) -> list[str]:
    """Return the prefixes routed into an interface by ``add_route`` (not those its addresses bring along)."""
    index = need_link(name).index

    def work(route: IPRoute) -> list[str]:
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in route.get_routes(family=family, oif=index):
                if message["proto"] == _ROUTE_STATIC and message.get_attr("RTA_DST"):
                    found.append(f"{message.get_attr('RTA_DST')}/{message['dst_len']}")
        return found

    return call(f"listing the routes into {name}", work)


def delete_route(prefix: str, name: str, *, metric: int | None = None) -> None:
    """Remove the route of a prefix into an interface; no error if it is gone."""
    options = _route_options(prefix, name, metric)

    def work(route: IPRoute) -> None:
        with tolerated(errno.ESRCH, errno.ENOENT):
            route.route("del", **options)

    call(f"removing the route of {prefix} into {name}", work)


def _route_options(prefix: str, name: str, metric: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dst": prefix,
        "oif": need_link(name).index,
        "family": socket.AF_INET6 if ":" in prefix else socket.AF_INET,
    }
    if metric is not None:
        options["priority"] = metric
    return options


def _host_bits(host: str) -> int:
    return 128 if ":" in host else 32


# Kernel switches -----------------------------------------------------------------------------------------


def read_switch(family: str, name: str, switch: str) -> int | None:
    """Return net.<family>.conf.<name>.<switch> (family ipv4 or ipv6), or None if there is none."""
    try:
        return int(_switch_path(family, name, switch).read_text())
    except (OSError, ValueError):
        return None


def write_switch(family: str, name: str, switch: str, value: int) -> bool:
    """Set net.<family>.conf.<name>.<switch>; return whether it could be set (containers may forbid it)."""
    try:
        _switch_path(family, name, switch).write_text(str(value))
    except OSError:
        return False
    return True


def _switch_path(family: str, name: str, switch: str) -> Path:
    return Path("/proc/sys/net", family, "conf", name.replace(".", "/"), switch)


def loosen_reverse_path(name: str) -> bool:
    """Let replies in that the routing table expects on another link; return whether that had to change.

    With several links strict reverse-path filtering (1) drops what arrives on any but the best one.
    The kernel uses the larger of the interface's value and ``all``'s; 2 is the loose mode.
    """
    values = [read_switch("ipv4", place, "rp_filter") or 0 for place in ("all", name)]
    return max(values) == 1 and write_switch("ipv4", name, "rp_filter", 2)
