"""The traffic class of a packet: all rules at once, the first match wins.

Pure. Made by ``sdwan.edge.policy`` in control, sent to the data plane as JSON, asked there once for every new
flow. Its answer depends on the DSCP (if ``uses_dscp``), the protocol, the addresses, and the ports of an
unfragmented TCP or UDP packet, and on nothing else.

Every rule is a bit of a large integer. For each thing a rule may look at (protocol, DSCP, ports, addresses)
an axis is cut where any rule begins or ends, and each piece holds the bits of the rules that accept it. One
bisection per axis, the pieces ANDed, and the lowest bit left is the first match: about 2 us, and hardly more
for a thousand rules than for ten.
"""

from __future__ import annotations

import base64
import json
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sdwan.core.classes import READY, ClassSpec
from sdwan.core.rules import READY_RULES, Flow, Network, Rule, protocol_and_ports
from sdwan.errors import ConfigError
from sdwan.model import CLASSES

# Implementation constants ------------------------------------------------------------------------

RULES_MAX = 2000
"""Memory of the axes grows with the square: 2,000 rules that share no boundary take 14 MB."""
PLAIN_BYTES_MAX = 16384
"""Rules longer than this are packed, so that the text fits one message (sdwan.edge.channel)."""
TEXT_BYTES_MAX = 48 * 1024
_UNPACKED_BYTES_MAX = 1 << 21
DEFAULT_CLASS = 0

Span = tuple[int, int]
"""First and last value."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one rule."""

    rule: int
    """Its number, from 1."""
    reason: str
    """Why it did not match; empty if it did."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which class a packet gets, and why."""

    traffic_class: int
    rule: int
    """Number of the rule that matched, from 1; 0 = none did, and the default class took it."""
    steps: tuple[Step, ...]
    """Every rule tried, in order."""


class Classifier:
    """Classes and rules in force."""

    def __init__(self, specs: Sequence[ClassSpec] = READY, rules: Sequence[Rule] = READY_RULES) -> None:
        if not 1 <= len(specs) <= CLASSES:
            raise ConfigError("classes", f"{len(specs)} of them", f"1 to {CLASSES}")
        if len(rules) > RULES_MAX:
            raise ConfigError("rules", f"{len(rules)} of them", f"at most {RULES_MAX}")
        for number, rule in enumerate(rules, start=1):
            if not 0 <= rule.traffic_class < len(specs):
                raise ConfigError(
                    f"rule {number}", f"class {rule.traffic_class} does not exist", "one that does"
                )
        self.specs = tuple(specs)
        self.rules = tuple(rules)
        self.uses_dscp = any(rule.dscp for rule in rules)
        """A flow may change its class with its DSCP: keep flows of unlike DSCP apart."""
        self._compile()

    def classify(self, packet: memoryview) -> int:
        """Return the class number of an IP packet; what is no IP gets the default class."""
        size = len(packet)
        version = packet[0] >> 4 if size else 0
        if version == 4 and size >= 20:
            dscp = packet[1] >> 2
            source, destination = bytes(packet[12:16]), bytes(packet[16:20])
        elif version == 6 and size >= 40:
            dscp = (packet[0] & 15) << 2 | packet[1] >> 6
            source, destination = bytes(packet[8:24]), bytes(packet[24:40])
        else:
            return DEFAULT_CLASS
        if (
            packet[0] == 0x45
            and not packet[6] & 0x3F
            and not packet[7]
            and packet[9] in (6, 17)
            and size >= 24
        ):
            protocol = packet[9]
            ports: tuple[int | None, int | None] = (
                packet[20] << 8 | packet[21],
                packet[22] << 8 | packet[23],
            )
        else:
            protocol, ports = protocol_and_ports(packet)
        return self._class_of_bit[self._first(version, source, destination, protocol, ports, dscp)]

    def classify_flow(self, flow: Flow) -> int:
        """Return the class number of a flow."""
        return self._class_of_bit[self._bit_of(flow)]

    def explain(self, packet: memoryview | Flow) -> Explanation:
        """Say which rule decides, and why those before it did not; slow.

        Raises:
            WireError: a packet that is no IP.
        """
        flow = packet if isinstance(packet, Flow) else Flow.of(packet)
        steps = []
        for number, rule in enumerate(self.rules, start=1):
            reason = rule.mismatch(flow)
            steps.append(Step(number, reason))
            if not reason:
                return Explanation(rule.traffic_class, number, tuple(steps))
        return Explanation(DEFAULT_CLASS, 0, tuple(steps))

    # As text ----------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return classes and rules as JSON; ``from_json`` reads it back.

        Raises:
            ConfigError: it would not fit a message to the data plane.
        """
        classes = [spec.to_plain() for spec in self.specs]
        rules: Any = [rule.to_plain() for rule in self.rules]
        plain = json.dumps(rules, separators=(",", ":"))
        if len(plain) > PLAIN_BYTES_MAX:
            rules = base64.b64encode(zlib.compress(plain.encode(), 9)).decode()
        text = json.dumps({"classes": classes, "rules": rules}, separators=(",", ":"))
        if len(text) > TEXT_BYTES_MAX:
            why = f"packed they have {len(text)} bytes, at most {TEXT_BYTES_MAX} are possible"
            raise ConfigError("rules", why, "fewer rules, or shorter lists in them")
        return text

    @classmethod
    def from_json(cls, text: str) -> Classifier:
        """Undo ``to_json``.

        Raises:
            ConfigError: whatever is wrong with the text.
        """
        try:
            data = json.loads(text)
            specs = [ClassSpec.from_plain(plain) for plain in data["classes"]]
            rules = data["rules"]
            if isinstance(rules, str):
                unpacked = zlib.decompressobj().decompress(
                    base64.b64decode(rules, validate=True), _UNPACKED_BYTES_MAX
                )
                rules = json.loads(unpacked)
            return cls(specs, [Rule.from_plain(plain) for plain in rules])
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, zlib.error) as error:
            raise ConfigError("policy", f"{type(error).__name__}: {error}", "the text of to_json()") from None

    # Bits -------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        readings = [(rule, reading) for rule in self.rules for reading in rule.readings()]
        rows = [reading for _, reading in readings]
        self._class_of_bit = [*(rule.traffic_class for rule, _ in readings), DEFAULT_CLASS]
        """The last entry is the default: bit -1."""
        self._all = (1 << len(rows)) - 1
        self._dscp = _axis([_points(row.dscp) for row in rows], 63)
        self._protocol = _axis([_points(row.protocols) for row in rows], 255)
        self._ports = _Ends(
            _axis([row.ports for row in rows], 65535),
            _axis([row.source_ports for row in rows], 65535),
            _axis([row.destination_ports for row in rows], 65535),
        )
        self._addresses = {4: _address_ends(rows, 4, 32), 6: _address_ends(rows, 6, 128)}

    def _first(
        self, version: int, source: bytes, destination: bytes, protocol: int,
        ports: tuple[int | None, int | None], dscp: int,
    ) -> int:  # fmt: skip
        """Return the lowest bit all axes agree on, -1 if there is none."""
        left = self._all & self._dscp.at(dscp) & self._protocol.at(protocol) & self._ports.at(*ports)
        if left:
            a, b = int.from_bytes(source, "big"), int.from_bytes(destination, "big")
            left &= self._addresses[version].at(a, b)
        return (left & -left).bit_length() - 1

    def _bit_of(self, flow: Flow) -> int:
        return self._first(
            flow.source.version, flow.source.packed, flow.destination.packed, flow.protocol,
            (flow.source_port, flow.destination_port), flow.dscp,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Axis:
    """One thing rules look at, cut into pieces; each knows which rules accept it."""

    unbound: int
    """Bits of the rules that do not look at it."""
    starts: list[int]
    """Where pieces begin, ascending; empty if no rule looks."""
    bits: list[int]
    """Bits of the piece before the first start, then of each piece."""

    def at(self, value: int | None) -> int:
        """Return the bits of the rules that accept a value; None = it has none."""
        if value is None or not self.starts:
            return self.unbound
        return self.bits[bisect_right(self.starts, value)]


@dataclass(frozen=True, slots=True)
class _Ends:
    """Three axes over the two ends of a packet: what may be at either, at the source, at the destination."""

    either: _Axis
    source: _Axis
    destination: _Axis

    def at(self, source: int | None, destination: int | None) -> int:
        """Return the bits of the rules that accept both ends."""
        bits = self.source.at(source) & self.destination.at(destination)
        return bits & (self.either.at(source) | self.either.at(destination)) if bits else 0


def _axis(accepted: Sequence[Sequence[Span] | None], last: int) -> _Axis:
    """Cut an axis whose largest value is ``last``.

    ``accepted`` holds what each rule accepts: an empty sequence is everything, None nothing.
    """
    unbound = 0
    flips: dict[int, int] = {}
    for index, spans in enumerate(accepted):
        if spans is None:
            continue
        if not spans:
            unbound |= 1 << index
        for first, end in _merged(spans):
            flips[first] = flips.get(first, 0) ^ 1 << index
            if end < last:
                flips[end + 1] = flips.get(end + 1, 0) ^ 1 << index
    starts, bits = sorted(flips), [unbound]
    for start in starts:
        bits.append(bits[-1] ^ flips[start])
    return _Axis(unbound, starts, bits)


def _address_ends(rows: Sequence[Rule], version: int, bits: int) -> _Ends:
    last = (1 << bits) - 1
    return _Ends(
        _axis([_spans(row.prefixes, version) for row in rows], last),
        _axis([_spans(row.source, version) for row in rows], last),
        _axis([_spans(row.destination, version) for row in rows], last),
    )


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch."""
    out: list[Span] = []
    for first, last in sorted(spans):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def _points(values: Iterable[int]) -> list[Span]:
    return [(value, value) for value in values]


def _spans(networks: Sequence[Network], version: int) -> list[Span] | None:
    """Return what a rule accepts of one address family: () = no condition, None = nothing of this family."""
    if not networks:
        return []
    return [
        (int(network.network_address), int(network.broadcast_address))
        for network in networks
        if network.version == version
    ] or None
