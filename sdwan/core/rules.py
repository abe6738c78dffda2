"""Rules: which packets belong to a traffic class, one rule at a time.

Pure data and the slow, obvious judgement of one rule over one packet, with its reason in words; the fast one
over all rules is ``sdwan.core.classify``. Rules come from the configuration (``sdwan.edge.policy``) and
travel to the data plane as JSON.

A site classifies what it *sends*. A rule describes a conversation: ``source`` opened it, ``destination``
answers. ``Direction.OUT`` means conversations opened from this site, so a packet must match as written;
``IN`` those opened towards it, so a packet is an answer and must match with source and destination
exchanged; ``BOTH`` takes either. So the same rules serve at both ends, and each end marks its own half of a
conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from sdwan.core.classes import BULK, INTERACTIVE, VIDEO, VOICE
from sdwan.core.inner import TCP, UDP, transport
from sdwan.errors import WireError
from sdwan.model import DSCP_NAMES, PROTOCOL_NAMES

Network = IPv4Network | IPv6Network
PortRange = tuple[int, int]
"""First and last port."""

# Specification constants -------------------------------------------------------------------------

PORTED = frozenset({TCP, UDP})
"""Protocols whose ports tell flows apart; of others, and of fragments, no port is known."""

_PROTOCOL_OF = {number: name for name, numbers in PROTOCOL_NAMES.items() for number in numbers}
_DSCP_OF = {number: name for name, number in DSCP_NAMES.items() if name != "DF"}


class Direction(Enum):
    """Who opened the conversations a rule speaks of."""

    BOTH = "both"
    OUT = "out"
    """This site: a packet matches as the rule is written."""
    IN = "in"
    """The other end: a packet matches with source and destination exchanged."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What rules see of a packet."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int | None = None
    """None = unknown: the protocol has no ports, or the packet is a fragment."""
    destination_port: int | None = None
    dscp: int = 0

    @classmethod
    def of(cls, packet: memoryview) -> Flow:
        """Read the flow of one IP packet.

        Raises:
            WireError: it is no IP packet.
        """
        if len(packet) >= 20 and packet[0] >> 4 == 4:
            source, destination = IPv4Address(bytes(packet[12:16])), IPv4Address(bytes(packet[16:20]))
            flow = cls(source, destination, packet[9], dscp=packet[1] >> 2)
        elif len(packet) >= 40 and packet[0] >> 4 == 6:
            dscp = (packet[0] & 15) << 2 | packet[1] >> 6
            flow = cls(
                IPv6Address(bytes(packet[8:24])), IPv6Address(bytes(packet[24:40])), packet[6], dscp=dscp
            )
        else:
            raise WireError(f"inner packet of {len(packet)} bytes: not IP")
        protocol, ports = protocol_and_ports(packet)
        return replace(flow, protocol=protocol, source_port=ports[0], destination_port=ports[1])


def protocol_and_ports(packet: memoryview) -> tuple[int, tuple[int, int] | tuple[None, None]]:
    """Return protocol and (source, destination) port of an IP packet that is long enough for its addresses.

    Extension headers are stepped over; (None, None) where ports do not exist or cannot be known.
    """
    is_ipv4 = packet[0] >> 4 == 4
    protocol = packet[9] if is_ipv4 else packet[6]
    if is_ipv4 and (packet[6] & 0x3F or packet[7]):
        return protocol, (None, None)
    try:
        protocol, at = transport(packet)
    except WireError:
        return protocol, (None, None)
    if protocol not in PORTED or at + 4 > len(packet):
        return protocol, (None, None)
    return protocol, (packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3])


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets that match every condition belong to ``traffic_class``; () = no condition."""

    traffic_class: int
    dscp: tuple[int, ...] = ()
    protocols: tuple[int, ...] = ()
    ports: tuple[PortRange, ...] = ()
    """Of source or destination."""
    source_ports: tuple[PortRange, ...] = ()
    destination_ports: tuple[PortRange, ...] = ()
    prefixes: tuple[Network, ...] = ()
    """Of source or destination."""
    source: tuple[Network, ...] = ()
    destination: tuple[Network, ...] = ()
    direction: Direction = Direction.BOTH
    comment: str = field(default="", compare=False)

    @property
    def is_symmetric(self) -> bool:
        """Exchanging source and destination of a packet changes nothing."""
        return not (self.source or self.destination or self.source_ports or self.destination_ports)

    def readings(self) -> Iterator[Rule]:
        """Yield the one or two ways in which packets may match: each a rule to be taken as written."""
        if self.is_symmetric or self.direction is not Direction.IN:
            yield self
        if not self.is_symmetric and self.direction is not Direction.OUT:
            yield replace(
                self, source=self.destination, destination=self.source,
                source_ports=self.destination_ports, destination_ports=self.source_ports,
            )  # fmt: skip

    def mismatch(self, flow: Flow) -> str:
        """Return why a packet does not match, empty if it does."""
        reasons = [next(_refusals(reading, flow), "") for reading in self.readings()]
        if "" in reasons:
            return ""
        return "; as an answer: ".join(dict.fromkeys(reasons))

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold; conditions that are none are left out, and the comment, for people."""
        plain: dict[str, Any] = {"class": self.traffic_class}
        for name in ("dscp", "protocols", "ports", "source_ports", "destination_ports"):
            if getattr(self, name):
                plain[name] = getattr(self, name)
        for name in ("prefixes", "source", "destination"):
            if getattr(self, name):
                plain[name] = [str(network) for network in getattr(self, name)]
        if self.direction is not Direction.BOTH:
            plain["direction"] = self.direction.value
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Rule:
        """Undo ``to_plain``; whatever is wrong comes out as ValueError, TypeError or LookupError."""
        known = dict(plain)
        fields: dict[str, Any] = {"traffic_class": int(known.pop("class"))}
        fields["direction"] = Direction(known.pop("direction", "both"))
        for name in ("dscp", "protocols"):
            fields[name] = tuple(int(number) for number in known.pop(name, ()))
        for name in ("ports", "source_ports", "destination_ports"):
            fields[name] = tuple((int(first), int(last)) for first, last in known.pop(name, ()))
        for name in ("prefixes", "source", "destination"):
            fields[name] = tuple(network(text) for text in known.pop(name, ()))
        if known:
            raise ValueError(f"a rule has no {', '.join(map(str, known))}")
        return cls(**fields)


def network(text: str) -> Network:
    """Return the network a text names."""
    return IPv6Network(text) if ":" in text else IPv4Network(text)


def _refusals(rule: Rule, flow: Flow) -> Iterator[str]:
    """Yield every condition of a rule, taken as written, that a packet does not meet."""
    if rule.dscp and flow.dscp not in rule.dscp:
        yield f"DSCP {dscp_name(flow.dscp)} is not {_either(map(dscp_name, rule.dscp))}"
    if rule.protocols and flow.protocol not in rule.protocols:
        names = dict.fromkeys(map(protocol_name, rule.protocols))
        yield f"protocol {protocol_name(flow.protocol)} is not {_either(names)}"
    ports = (flow.source_port, flow.destination_port)
    for name, ranges, found in (
        ("port", rule.ports, ports),
        ("source port", rule.source_ports, ports[:1]),
        ("destination port", rule.destination_ports, ports[1:]),
    ):
        if ranges and not any(
            first <= port <= last for port in found if port is not None for first, last in ranges
        ):
            met = " and ".join(str(port) for port in found if port is not None) or "unknown"
            yield f"{name} {met} is not {_either(map(_range, ranges))}"
    ends = (flow.source, flow.destination)
    for name, networks, addresses in (
        ("address", rule.prefixes, ends),
        ("source", rule.source, ends[:1]),
        ("destination", rule.destination, ends[1:]),
    ):
        if networks and not any(address in prefix for address in addresses for prefix in networks):
            yield f"{name} {' and '.join(map(str, addresses))} is not in {_either(map(str, networks))}"


def dscp_name(dscp: int) -> str:
    """Return the name of a code point, or its number."""
    return _DSCP_OF.get(dscp, str(dscp))


def protocol_name(protocol: int) -> str:
    """Return the name of a protocol, or its number."""
    return _PROTOCOL_OF.get(protocol, str(protocol))


def _range(ports: PortRange) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _named(*names: str) -> tuple[int, ...]:
    return tuple(DSCP_NAMES[name] for name in names)


READY_RULES: tuple[Rule, ...] = (
    Rule(VOICE, dscp=_named("EF", "VA"), comment="voice, as phones mark it"),
    Rule(VIDEO, dscp=_named("AF41", "AF42", "AF43", "CS4"), comment="video conferences"),
    Rule(BULK, dscp=_named("CS1", "LE"), comment="marked as less than others: backups, scp"),
    Rule(INTERACTIVE, dscp=_named("CS6", "CS7"), comment="routing protocols"),
    Rule(INTERACTIVE, protocols=PROTOCOL_NAMES["icmp"], comment="ping and errors"),
    Rule(INTERACTIVE, protocols=(UDP, TCP), ports=((53, 53), (853, 853), (123, 123)), comment="DNS, time"),
    Rule(
        INTERACTIVE, protocols=(TCP,), ports=((22, 23), (3389, 3389), (5900, 5903)), comment="ssh, desktops"
    ),
    Rule(INTERACTIVE, protocols=(UDP, TCP), ports=((3389, 3389), (5060, 5061)), comment="desktops, calls"),
)
"""What is in force while no rule is written (RFC 4594 for the code points)."""
