"""The entry device: where datagrams go in to be steered.

A veth end without ARP. A virtual peer address routes into it, so a datagram reaches the steering
program in its TC egress with no WAN link's neighbour or carrier in between. The program redirects or
drops everything, so nothing ever comes out of the other end; should the program be missing, the other
end, which neither forwards nor owns an address, drops it.
"""

from __future__ import annotations

import errno
from typing import Any

from pyroute2 import IPRoute

from sdwan.errors import KernelError
from sdwan.io import netlink

# Specification constants (bpf/abi.h) -----------------------------------------------------------------

ADDRESS4 = "198.19.0.1"
PREFIX4 = "198.18.0.0/16"
ADDRESS6 = "fd5d:8a3e:77c1:1::1"
PREFIX6 = "fd5d:8a3e:77c1::/64"

# Implementation constants ----------------------------------------------------------------------------

DEFAULT_NAME = "sdwan-entry"
MTU_BYTES = 65535
"""The largest a veth takes: the paths' own MTU decides, and a datagram is never fragmented here."""

_NAME_BYTES_MAX = 15


def peer_address(peer: int, family_bits: int = 4) -> str:
    """Return the virtual address of a peer, in IPv4 or IPv6 (``family_bits`` 4 or 6)."""
    if not 0 < peer < 1 << 16:
        raise KernelError(f"peer {peer}: virtual addresses exist for 1..65535")
    return f"fd5d:8a3e:77c1::{peer:x}" if family_bits == 6 else f"198.18.{peer >> 8}.{peer & 255}"


def far_end(name: str) -> str:
    """Return the name of the other veth end."""
    return f"{name}-p"


def create_entry(name: str = DEFAULT_NAME) -> int:
    """Make the entry device, or complete one that is there; return its index.

    Raises:
        KernelError: the name is too long or belongs to another device, or the kernel refused.
    """
    if len(far_end(name)) > _NAME_BYTES_MAX:
        raise KernelError(f"entry device {name}: at most {_NAME_BYTES_MAX - 2} characters")
    link = netlink.find_link(name)
    if link is None:
        netlink.call(f"making the entry device {name}", lambda route: _add_pair(route, name))
    elif link.kind != "veth" or netlink.find_link(far_end(name)) is None:
        raise KernelError(f"entry device {name}: there is a {link.kind or link.driver} device of that name")
    _quieten(name)
    for end in (name, far_end(name)):
        _bring_up(end)
    netlink.add_address(name, f"{ADDRESS4}/32")
    netlink.add_route(PREFIX4, name, source=ADDRESS4)
    if netlink.read_switch("ipv6", name, "disable_ipv6") == 0:
        netlink.add_address(name, f"{ADDRESS6}/128")
        netlink.add_route(PREFIX6, name, source=ADDRESS6)
    return netlink.need_link(name).index


def delete_entry(name: str = DEFAULT_NAME) -> bool:
    """Remove the entry device, its addresses and routes; return whether it was there."""
    link = netlink.find_link(name)
    if link is None or link.kind != "veth":
        return False

    def work(route: IPRoute) -> None:
        with netlink.tolerated(errno.ENODEV):
            route.link("del", index=link.index)

    netlink.call(f"removing the entry device {name}", work)
    return True


def _add_pair(route: IPRoute, name: str) -> None:
    with netlink.tolerated(errno.EEXIST):
        route.link("add", ifname=name, kind="veth", peer={"ifname": far_end(name)})


def _quieten(name: str) -> None:
    """Keep the kernel's own IPv6 chatter off the device, and the far end from answering or forwarding.

    A router still announces its multicast groups once or twice; steering drops and counts that.
    """
    netlink.write_switch("ipv6", name, "addr_gen_mode", 1)
    netlink.write_switch("ipv6", name, "accept_ra", 0)
    netlink.write_switch("ipv6", name, "router_solicitations", 0)
    netlink.write_switch("ipv6", far_end(name), "disable_ipv6", 1)
    netlink.write_switch("ipv4", far_end(name), "forwarding", 0)


def _bring_up(name: str) -> None:
    link = netlink.need_link(name)
    flags = netlink.IFF_UP | netlink.IFF_NOARP
    options: dict[str, Any] = {"index": link.index, "flags": flags, "change": flags}
    if link.mtu != MTU_BYTES:
        options["mtu"] = MTU_BYTES
    netlink.call(f"bringing {name} up", lambda route: route.link("set", **options))
