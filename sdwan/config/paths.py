"""Which paths follow from a configuration, and which numbers peers and paths get.

Pure. Peers are numbered from 1 in the order of the file (0 is nobody). The site that has endpoints for
a peer, normally the edge, numbers the paths to it: links in the order of the file, endpoints of the peer
within each link, an endpoint bound to a link only there. The other end, normally the hub, learns the
paths and their numbers from sealed datagrams, so a peer without endpoints has no path here. Link and
endpoint of a path may turn out to have no address family in common; that is known only at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdwan.config.schema import SiteConfig
from sdwan.config.values import SocketAddress
from sdwan.model import PATHS_PER_PEER


@dataclass(frozen=True, slots=True)
class PathConfig:
    """What the operator wants of one path."""

    peer_number: int
    path_number: int
    link_name: str
    remote: SocketAddress
    """Textual IP address and port of the peer."""


def peer_numbers(config: SiteConfig) -> dict[str, int]:
    """Return the number of each peer, by name."""
    return {peer.name: number for number, peer in enumerate(config.peers, start=1)}


def paths_of(config: SiteConfig) -> list[PathConfig]:
    """Return every path this site numbers, at most eight per peer (``check`` refuses more)."""
    paths = []
    for peer_number, peer in enumerate(config.peers, start=1):
        pairs = [
            (link.name, endpoint.address)
            for link in config.links
            for endpoint in peer.endpoints
            if endpoint.link in (None, link.name)
        ]
        paths += [
            PathConfig(peer_number, path_number, link_name, remote)
            for path_number, (link_name, remote) in enumerate(pairs[:PATHS_PER_PEER])
        ]
    return paths
