"""The kernel's side of one site: programs attached, maps opened, TUN configured; and all of it undone.

Used by sdwan.edge.control at start and stop, and when a link appears. Compiling needs BCC, which the
daemon never loads: ``sdwan-bpf attach`` does it in a process of its own and ends. What is left behind at a
stop is what an operator attached: programs, counters and link sequences.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Iterable, Sequence

from sdwan.config.schema import SiteConfig
from sdwan.core.wire import HEADER_BYTES, META_BYTES, TAG_BYTES
from sdwan.errors import KernelError
from sdwan.io import attach, entry, logs, netlink
from sdwan.io.maps import Maps, Weights
from sdwan.io.udp import BURST_SEGMENTS_MAX
from sdwan.model import CLASSES, PATHS_PER_PEER

log = logs.get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

MARK = 0x5D3A
"""SO_MARK of sockets whose datagrams are steered; setting it needs CAP_NET_ADMIN."""

ATTACH_TIMEOUT_S = 120
"""A first compilation took 7 s in a slow virtual machine."""

TUN_MTU_LEAST = {False: 576, True: 1280}
"""By "has IPv6 addresses": IPv6 leaves an interface with less than 1280 bytes (RFC 8200 section 5), and takes
its addresses along; 576 is what every IPv4 host takes (RFC 791)."""

TUN_MTU_FIRST = 1280
"""Until path MTU discovery has an answer, a round trip after the first session."""


def ensure_attached(config: SiteConfig, *, force: bool = False) -> list[str]:
    """Attach the programs to every link that is there and to the entry device, unless they are.

    Programs of another version of this package are replaced, without a gap, and their counters kept.

    Returns the interfaces that were attached now.

    Raises:
        KernelError: no link of the site exists, or attaching was refused; with the command's own sentence.
    """
    wanted = [link.interface for link in config.links]
    present = {link.name for link in netlink.links()}
    interfaces = [name for name in wanted if name in present]
    if not interfaces:
        raise KernelError(
            f"none of the site's links exists: {', '.join(wanted)}; there are: {', '.join(sorted(present))}"
        )
    status = attach.status(config.bpf.pin_root)
    current = [link for link in status.links if not (status.outdated or link.outdated)]
    if len(current) < len(status.links):
        log.info("programs_outdated", pins=status.pin_root)
    done = {link.link for link in current if link.receive_hook and link.counts_sent}
    steers = any(link.steers for link in current)
    missing = [name for name in interfaces if name not in done]
    if not missing and steers and not force:
        return []
    command = [
        sys.executable, "-m", "sdwan.cli.bpf", "attach", *interfaces, "--json",
        "--pins", str(config.bpf.pin_root), "--peers", str(config.bpf.peers_max), "--hook", config.bpf.hook,
    ]  # fmt: skip
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=ATTACH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise KernelError(f"attaching took longer than {ATTACH_TIMEOUT_S} s: {' '.join(command)}") from None
    if result.returncode:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        raise KernelError(f"attaching to {', '.join(interfaces)} failed: {said}")
    return missing or interfaces


def open_maps(config: SiteConfig) -> Maps:
    """Open the maps, clear what an earlier run wanted, and switch steering and receiving on."""
    maps = Maps.open(config.bpf.pin_root)
    if maps.peers_max < config.bpf.peers_max:
        maps.close()
        raise KernelError(
            f"{config.bpf.pin_root} is sized for {maps.peers_max} peers, bpf.peers_max is "
            f"{config.bpf.peers_max}: run 'sdwan-bpf detach' with this --pins, then start again"
        )
    clear(maps)
    maps.config["mark"] = MARK
    maps.set_port(config.port)
    return maps


def clear(maps: Maps) -> None:
    """Switch steering off and forget all that is wanted; counters and link sequences stay."""
    maps.config["mark"] = 0
    maps.set_port(0)
    maps.clear_receivers()
    peers = {int(row) // PATHS_PER_PEER for row in maps.live["paths"]["ifindex"].nonzero()[0]}
    for peer in peers:
        forget_peer(maps, peer)


def forget_peer(maps: Maps, peer: int) -> None:
    """Clear paths and weights of a peer."""
    for path in range(PATHS_PER_PEER):
        maps.clear_path(peer, path)
    maps.write_weights({(peer, traffic_class): Weights() for traffic_class in range(CLASSES)})


def close(maps: Maps) -> None:
    """Leave programs and counters to whoever looks at them; remove the entry device."""
    clear(maps)
    maps.close()
    entry.delete_entry()


def tun_mtu(config: SiteConfig, datagram_sizes: Iterable[int]) -> int:
    """Return the MTU the TUN should have: what is configured, or what the narrowest peer takes.

    Where that is less than the interface may have, what does not fit is dropped and counted as TOO_BIG.
    """
    if config.tun.mtu_bytes:
        return config.tun.mtu_bytes
    inner = min(datagram_sizes, default=0) - HEADER_BYTES - META_BYTES - TAG_BYTES
    if inner <= 0:
        return TUN_MTU_FIRST
    has_ipv6 = any(address.version == 6 for address in config.tun.addresses)
    return max(inner, TUN_MTU_LEAST[has_ipv6])


def set_up_tun(config: SiteConfig) -> None:
    """Bring the TUN up with its addresses and routes, and with nothing else a killed run left on it."""
    name = config.tun.name
    netlink.set_mtu(name, config.tun.mtu_bytes or TUN_MTU_FIRST)
    netlink.set_gso_segments(name, BURST_SEGMENTS_MAX)
    netlink.set_up(name)
    set_addresses(name, netlink.need_link(name).addresses, config.tun.addresses)
    wanted = {str(prefix) for peer in config.peers for prefix in peer.prefixes}
    delete_routes(config, [prefix for prefix in netlink.static_routes(name) if prefix not in wanted])


def set_addresses(name: str, old: Iterable[object], new: Iterable[object]) -> None:
    """Change the addresses of the TUN."""
    before, after = [str(a) for a in old], [str(a) for a in new]
    for address in after:
        if address not in before:
            netlink.add_address(name, address)
    for address in before:
        if address not in after:
            netlink.delete_address(name, address)


def add_routes(config: SiteConfig, prefixes: Iterable[object]) -> None:
    """Route inner prefixes into the TUN, with its own address as source."""
    for prefix in prefixes:
        network = ipaddress.ip_network(str(prefix))
        sources = [str(a.ip) for a in config.tun.addresses if a.version == network.version]
        if sources:
            netlink.add_route(str(network), config.tun.name, source=sources[0])


def delete_routes(config: SiteConfig, prefixes: Sequence[object]) -> None:
    """Take routes out of the TUN again."""
    for prefix in prefixes:
        netlink.delete_route(str(prefix), config.tun.name)
