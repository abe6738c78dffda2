"""What one key alone cannot tell: duplicates, overlaps, dangling names, limits; and warnings.

In comes a ``SiteConfig`` whose keys are each right, out come ``Problem``s: ``errors()`` refuse the file,
``warnings()`` are what an operator probably did not mean. Classes and rules are looked at in
``check_policy``. Pure: no file is opened here (the key files are read, and their modes refused, by
``sdwan.io.keyfile``). Called by ``load``, which adds line numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import chain

from sdwan.config import check_policy
from sdwan.config.document import Location, Problem
from sdwan.config.schema import PeerConfig, Prefix, SiteConfig
from sdwan.model import PATHS_PER_PEER

# Specification constants ---------------------------------------------------------------------------

SOCKET_PATH_BYTES_MAX = 107
"""sun_path of struct sockaddr_un, without its terminating zero (unix(7))."""

VIRTUAL_PREFIXES = (ip_network("198.18.0.0/15"), ip_network("fd5d:8a3e:77c1::/48"))
"""Virtual addresses of the peers and of the entry device they route into (bpf/abi.h)."""


def errors(config: SiteConfig) -> Iterator[Problem]:
    """Yield everything that makes the configuration impossible to run."""
    yield from _duplicate_names(config)
    yield from _limits(config)
    yield from _endpoints(config)
    yield from _prefixes(config)
    yield from _reserved(config)
    yield from _key_files(config)
    yield from check_policy.errors(config)


def warnings(config: SiteConfig) -> Iterator[Problem]:
    """Yield what will run, but probably not as meant."""
    if not config.peers:
        yield Problem(("peers",), "no peers", "add a peer, or nothing will go through the tunnel")
    if all(link.weight == 0 for link in config.links):
        yield Problem(("links",), "every link has weight 0", "give one link a weight, or no data will flow")
    if config.metrics and not ip_address(config.metrics.listen[0]).is_loopback:
        why = "metrics are served without authentication beyond this machine"
        yield Problem(("metrics", "listen"), why, "use 127.0.0.1 and a proxy, or a management address")
    yield from _nested_prefixes(config)
    yield from _swallowed_endpoints(config)
    yield from _own_subnet(config)
    yield from check_policy.warnings(config)


def _twice(items: Iterable[tuple[Location, Hashable]], what: str, right: str) -> Iterator[Problem]:
    seen: set[Hashable] = set()
    for location, item in items:
        if item in seen:
            yield Problem(location, f"{what} is used above already", right)
        seen.add(item)


def _duplicate_names(config: SiteConfig) -> Iterator[Problem]:
    links, peers = list(enumerate(config.links)), list(enumerate(config.peers))
    named = "names tell them apart: choose another"
    yield from _twice(((("links", i, "name"), link.name) for i, link in links), "this link name", named)
    yield from _twice(
        ((("links", i, "interface"), link.interface) for i, link in links),
        "this interface", "one link per interface",
    )  # fmt: skip
    yield from _twice(((("peers", i, "name"), peer.name) for i, peer in peers), "this peer name", named)
    yield from _twice(
        ((("peers", i, "public_key"), peer.public_key) for i, peer in peers),
        "this public key", "one peer per key: each site makes a key of its own",
    )  # fmt: skip
    yield from _twice(
        ((("tun", "addresses", i), address.ip) for i, address in enumerate(config.tun.addresses)),
        "this address", "keep one of them",
    )  # fmt: skip
    for i, link in links:
        if link.interface == config.tun.name:
            yield Problem(("links", i, "interface"), "is the TUN itself", "name a WAN interface")


def _limits(config: SiteConfig) -> Iterator[Problem]:
    if len(config.peers) >= config.bpf.peers_max:
        why = f"{len(config.peers)} peers, but the maps have room for {config.bpf.peers_max - 1}"
        yield Problem(("peers",), why, f"set bpf.peers_max to {len(config.peers) + 1} or more")
    length = len(str(config.status_socket).encode())
    if length > SOCKET_PATH_BYTES_MAX:
        why = f"the status socket's path has {length} bytes, at most {SOCKET_PATH_BYTES_MAX} are possible"
        yield Problem(("runtime_dir",), why, "a shorter directory such as /run/sdwan")


def _endpoints(config: SiteConfig) -> Iterator[Problem]:
    links = {link.name for link in config.links}
    owners: dict[tuple[str, int], int] = {}
    for p, peer in enumerate(config.peers):
        used: set[tuple[str, str, int]] = set()
        for e, endpoint in enumerate(peer.endpoints):
            location: Location = ("peers", p, "endpoints", e)
            if endpoint.link is not None and endpoint.link not in links:
                known = ", ".join(sorted(links))
                yield Problem((*location, "link"), f"no link is called {endpoint.link!r}", f"links: {known}")
            pairs = {(name, *endpoint.address) for name in links if endpoint.link in (None, name)}
            if pairs & used:
                why = "this endpoint stands here twice for the same link"
                yield Problem((*location, "address"), why, "keep one of them")
            used |= pairs
            if owners.setdefault(endpoint.address, p) != p:
                owner = config.peers[owners[endpoint.address]].name
                why = f"this endpoint belongs to peer {owner!r} already"
                yield Problem((*location, "address"), why, "each site has an address and port of its own")
        if len(used) > PATHS_PER_PEER:
            why = f"{len(used)} paths (links times endpoints), at most {PATHS_PER_PEER} are possible"
            yield Problem(("peers", p, "endpoints"), why, "bind endpoints to links with `link:`")


def _all_prefixes(config: SiteConfig) -> Iterator[tuple[Location, PeerConfig, Prefix]]:
    for p, peer in enumerate(config.peers):
        for i, prefix in enumerate(peer.prefixes):
            yield ("peers", p, "prefixes", i), peer, prefix


def _prefixes(config: SiteConfig) -> Iterator[Problem]:
    yield from _twice(
        ((location, prefix) for location, _, prefix in _all_prefixes(config)),
        "this prefix", "it can belong to one peer only; more specific parts of it may go elsewhere",
    )  # fmt: skip
    own = {address.ip for address in config.tun.addresses}
    for location, _, prefix in _all_prefixes(config):
        if prefix.num_addresses == 1 and prefix.network_address in own:
            yield Problem(location, "is this site's own TUN address", "name what is behind the peer")


def _reserved(config: SiteConfig) -> Iterator[Problem]:
    right = (
        "use other addresses: " + " and ".join(map(str, VIRTUAL_PREFIXES)) + " are used inside the machine"
    )
    addresses = chain(
        ((("tun", "addresses", i), a.ip) for i, a in enumerate(config.tun.addresses)),
        (
            (("peers", p, "endpoints", e, "address"), ip_address(endpoint.address[0]))
            for p, peer in enumerate(config.peers)
            for e, endpoint in enumerate(peer.endpoints)
        ),
    )
    for location, address in addresses:
        if any(address in virtual for virtual in VIRTUAL_PREFIXES):
            yield Problem(location, f"{address} lies in the range of virtual peer addresses", right)
    for location, _, prefix in _all_prefixes(config):
        if any(_inside(prefix, virtual) for virtual in VIRTUAL_PREFIXES):
            yield Problem(location, f"{prefix} lies in the range of virtual peer addresses", right)


def _key_files(config: SiteConfig) -> Iterator[Problem]:
    for p, peer in enumerate(config.peers):
        if peer.preshared_key == config.private_key:
            why = "is the file of the private key, which is never shared"
            yield Problem(("peers", p, "preshared_key"), why, "make one with `sdwan genpsk`")


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _nested_prefixes(config: SiteConfig) -> Iterator[Problem]:
    prefixes = {prefix: peer for _, peer, prefix in _all_prefixes(config)}
    lengths = sorted(
        {prefix.prefixlen for prefix in prefixes} - {0}, reverse=True
    )  # 0: meant to be nested into
    for location, peer, prefix in _all_prefixes(config):
        for length in (length for length in lengths if length < prefix.prefixlen):
            owner = prefixes.get(prefix.supernet(new_prefix=length))
            if owner is not None and owner is not peer:
                why = f"{prefix} is cut out of a prefix of peer {owner.name!r}"
                yield Problem(location, why, "fine if meant: the more specific prefix wins")
                break


def _swallowed_endpoints(config: SiteConfig) -> Iterator[Problem]:
    prefixes = [prefix for _, _, prefix in _all_prefixes(config)]
    for p, peer in enumerate(config.peers):
        for e, endpoint in enumerate(peer.endpoints):
            address: IPv4Address | IPv6Address = ip_address(endpoint.address[0])
            covering = next((prefix for prefix in prefixes if address in prefix), None)
            if covering is not None:
                why = f"{address} lies inside {covering}, which goes through the tunnel"
                right = "make sure that each link keeps a route of its own to the endpoint"
                yield Problem(("peers", p, "endpoints", e, "address"), why, right)


def _own_subnet(config: SiteConfig) -> Iterator[Problem]:
    for location, _, prefix in _all_prefixes(config):
        for address in config.tun.addresses:
            if prefix.num_addresses > 1 and address.ip in prefix and _inside(prefix, address.network):
                why = f"{prefix} holds this site's own TUN address {address.ip}"
                yield Problem(location, why, "fine if the rest of it is behind the peer")
