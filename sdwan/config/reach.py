"""Which rules never get their turn, because one above takes everything they could match.

Pure; called by ``check_policy`` for its warnings. A rule is read as one or two sets of packets (``_Scope``),
one for each half of a conversation it may mean; each condition is a list of spans of numbers. A rule is
shadowed by one above whose sets hold all of its own.

To compare two thousand rules in a fraction of a second (a reload waits for it), scopes are bits of large
integers, as in ``sdwan.core.classify``: an axis tells for every condition which scopes hold all of it, and
the axes are ANDed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from sdwan.config.policy import RuleConfig
from sdwan.model import PROTOCOL_NAMES

# Specification constants ---------------------------------------------------------------------------

PORTED = (*PROTOCOL_NAMES["tcp"], *PROTOCOL_NAMES["udp"])
"""Protocols whose ports rules can see (sdwan.core.rules)."""

_FAMILY = 1 << 128
"""Distance between the numbers of IPv4 and of IPv6 addresses, so that both fit one axis."""

Span = tuple[int, int]
Spans = tuple[Span, ...]
"""Sorted, apart from each other; () = everything."""


@dataclass(frozen=True, slots=True)
class _Ends:
    """What is asked of the two ends of a packet."""

    either: Spans
    source: Spans
    destination: Spans

    def exchanged(self) -> _Ends:
        return _Ends(self.either, self.destination, self.source)

    def either_way(self) -> Iterator[_Ends]:
        """Yield parts that together are all of it, or more: "at either end" is here or over there."""
        if not self.either:
            yield self
            return
        yield replace(self, source=self.source or self.either)
        yield replace(self, destination=self.destination or self.either)


@dataclass(frozen=True, slots=True)
class _Scope:
    """The packets that one reading of a rule matches."""

    dscp: Spans
    protocols: Spans
    ports: _Ends
    addresses: _Ends

    def pieces(self) -> Iterator[_Scope]:
        """Yield parts in which nothing is asked of "either end" that is not asked of one of them."""
        for ports in self.ports.either_way():
            for addresses in self.addresses.either_way():
                yield replace(self, ports=ports, addresses=addresses)


def shadowed(rules: Sequence[RuleConfig]) -> Iterator[tuple[int, int]]:
    """Yield (index of a rule that never gets its turn, index of the rule above that takes it all)."""
    by_rule = [_scopes(rule) for rule in rules]
    cover = _Cover([scope for scopes in by_rule for scope in scopes])
    firsts = sum(1 << 2 * index for index in range(len(rules)))  # of each rule's two bits
    for index, scopes in enumerate(by_rule):
        takers = firsts & ((1 << 2 * index) - 1)
        for piece in (piece for scope in dict.fromkeys(scopes) for piece in scope.pieces()):
            bits = cover.of(piece)
            takers &= bits | bits >> 1
            if not takers:
                break
        if takers:
            yield index, ((takers & -takers).bit_length() - 1) // 2


class _Cover:
    """Answers which of many scopes hold all of another."""

    def __init__(self, scopes: Sequence[_Scope]) -> None:
        self._dscp = _Axis([scope.dscp for scope in scopes])
        self._protocols = _Axis([scope.protocols for scope in scopes])
        self._ports = [
            _Axis([scope.ports.either for scope in scopes]),
            _Axis([scope.ports.source for scope in scopes]),
            _Axis([scope.ports.destination for scope in scopes]),
        ]
        self._addresses = [
            _Axis([scope.addresses.either for scope in scopes]),
            _Axis([scope.addresses.source for scope in scopes]),
            _Axis([scope.addresses.destination for scope in scopes]),
        ]

    def of(self, piece: _Scope) -> int:
        """Return the bits of the scopes that hold all of a piece."""
        bits = self._dscp.holding(piece.dscp) & self._protocols.holding(piece.protocols)
        bits &= self._of_ends(self._ports, piece.ports)
        return bits & self._of_ends(self._addresses, piece.addresses) if bits else 0

    @staticmethod
    def _of_ends(axes: Sequence[_Axis], ends: _Ends) -> int:
        either, source, destination = axes
        bits = source.holding(ends.source) & destination.holding(ends.destination)
        return bits & (either.holding(ends.source) | either.holding(ends.destination)) if bits else 0


class _Axis:
    """One condition of many scopes, cut wherever one of them begins or ends."""

    def __init__(self, conditions: Sequence[Spans]) -> None:
        self._unbound = sum(1 << index for index, spans in enumerate(conditions) if not spans)
        flips: dict[int, int] = {}
        for index, spans in enumerate(conditions):
            for first, last in spans:
                flips[first] = flips.get(first, 0) ^ 1 << index
                flips[last + 1] = flips.get(last + 1, 0) ^ 1 << index
        self._starts = sorted(flips)
        self._bits = [self._unbound]
        for start in self._starts:
            self._bits.append(self._bits[-1] ^ flips[start])

    def holding(self, spans: Spans) -> int:
        """Return the bits of the scopes that accept every number of all spans."""
        if not spans:
            return self._unbound
        bits = -1
        for first, last in spans:
            for place in range(bisect_right(self._starts, first), bisect_right(self._starts, last) + 1):
                bits &= self._bits[place]
                if bits == self._unbound:
                    return bits
        return bits


def _scopes(rule: RuleConfig) -> tuple[_Scope, _Scope]:
    """Return both readings of a rule; the same twice where there is only one."""
    ports = _Ends(_merged(rule.ports), _merged(rule.source_ports), _merged(rule.destination_ports))
    addresses = _Ends(_numbers(rule.prefixes), _numbers(rule.source), _numbers(rule.destination))
    protocols = rule.protocols
    if ports != _Ends((), (), ()):
        protocols = tuple(protocol for protocol in protocols if protocol in PORTED) or PORTED
    plain = _Scope(_merged(_points(rule.dscp)), _merged(_points(protocols)), ports, addresses)
    answer = replace(plain, ports=ports.exchanged(), addresses=addresses.exchanged())
    return (plain if rule.direction != "in" else answer, answer if rule.direction != "out" else plain)


def _points(values: Sequence[int]) -> list[Span]:
    return [(value, value) for value in values]


def _numbers(prefixes: Sequence[IPv4Network | IPv6Network]) -> Spans:
    base = {4: 0, 6: _FAMILY}
    return _merged(
        [
            (base[p.version] + int(p.network_address), base[p.version] + int(p.broadcast_address))
            for p in prefixes
        ]
    )


def _merged(spans: Sequence[Span]) -> Spans:
    out: list[Span] = []
    for first, last in sorted(spans):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return tuple(out)
