"""Classes and rules that are each well-formed, but impossible together, or not what anybody meant.

Part of ``check``: in comes a ``SiteConfig``, out come ``Problem``s. Impossible is a rule no packet can match,
a name that does not exist, more classes than fit three bits. A warning goes to a rule that never gets its
turn, because one above it takes everything it could match.

For that, a rule is read as a set of packets (``_Scope``): each condition is a list of spans of numbers, each
rule one or two such sets, one per half of a conversation. Two rules are compared in about a microsecond, so
the two million pairs of the largest file take some seconds and those of an ordinary one nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from sdwan.config.document import Location, Problem
from sdwan.config.schema import RuleConfig, SiteConfig
from sdwan.model import CLASSES, PROTOCOL_NAMES, READY_CLASSES

# Specification constants ---------------------------------------------------------------------------

PORTED = (*PROTOCOL_NAMES["tcp"], *PROTOCOL_NAMES["udp"])
"""Protocols whose ports rules can see (sdwan.core.rules)."""

_FAMILY = 1 << 128
"""Distance between the numbers of IPv4 and of IPv6 addresses, so that both fit one axis."""

Span = tuple[int, int]


def errors(config: SiteConfig) -> Iterator[Problem]:
    """Yield what makes classes or rules impossible."""
    yield from _classes(config)
    names = class_names(config)
    links = {link.name for link in config.links}
    for index, rule in enumerate(config.rules):
        location: Location = ("rules", index)
        if rule.class_name not in names:
            yield _unknown((*location, "class"), "class", rule.class_name, names)
        if rule.link is not None and rule.link not in links:
            yield _unknown((*location, "link"), "link", rule.link, sorted(links))
        yield from _impossible(location, rule)


def warnings(config: SiteConfig) -> Iterator[Problem]:
    """Yield what will run, but probably not as meant."""
    if config.links and all(link.only_when_needed for link in config.links):
        why = "every link is only a backup"
        yield Problem(("links",), why, "fine, but then none is: leave `only_when_needed` to the dear ones")
    used = {rule.class_name for rule in config.rules}
    for name in config.classes if config.rules else ():
        if name not in used and name not in READY_CLASSES:
            yield Problem(
                ("classes", name), "no rule puts anything into this class", "add a rule, or drop it"
            )
    yield from _shadowed(config.rules)


def class_names(config: SiteConfig) -> list[str]:
    """Return the names of all classes in the order of their numbers: the ready ones, then those written."""
    return list(dict.fromkeys([*READY_CLASSES, *config.classes]))


def pinned(config: SiteConfig) -> list[tuple[str, str]]:
    """Return each (class, link) some rule asks for; each is a class of its own, after the named ones."""
    return list(dict.fromkeys((rule.class_name, rule.link) for rule in config.rules if rule.link))


def _classes(config: SiteConfig) -> Iterator[Problem]:
    names, pins = class_names(config), pinned(config)
    if len(names) + len(pins) > CLASSES:
        why = f"{len(names)} classes"
        if pins:
            why += f" and {len(pins)} more for rules with a link of their own"
        right = f"at most {CLASSES} are possible; {', '.join(READY_CLASSES)} exist always and can be changed"
        yield Problem(("classes",) if len(names) > CLASSES else ("rules",), why, right)
    links = sorted(link.name for link in config.links)
    for name, settings in config.classes.items():
        for key in ("links", "backup_links"):
            for link in getattr(settings, key) or ():
                if link not in links:
                    yield _unknown(("classes", name, key), "link", link, links)
        if settings.preference == "ordered" and not settings.links:
            right = f"list them in `links`, the best first: {', '.join(links)}"
            yield Problem(
                ("classes", name, "prefer"), "an order of links is wanted, but none is given", right
            )


def _unknown(location: Location, what: str, name: str, known: Sequence[str]) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    right = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return Problem(location, f"no {what} is called {name!r}", right)


def _impossible(location: Location, rule: RuleConfig) -> Iterator[Problem]:
    has_ports = rule.ports or rule.source_ports or rule.destination_ports
    if has_ports and rule.protocols and not set(rule.protocols) & set(PORTED):
        yield Problem((*location, "protocol"), "ports are asked of a protocol without ports", "tcp or udp")
    asked = [
        (key, {prefix.version for prefix in prefixes})
        for key, prefixes in (
            ("prefixes", rule.prefixes),
            ("source", rule.source),
            ("destination", rule.destination),
        )
        if prefixes
    ]
    if asked and not set.intersection(*(versions for _, versions in asked)):
        keys = " and ".join(f"`{key}`" for key, _ in asked)
        right = "both ends of a packet have addresses of one family: write a rule for each"
        yield Problem(location, f"no packet can match: {keys} have no address family in common", right)


# What a rule matches, as sets ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scope:
    """The packets one reading of a rule matches; () = all."""

    looks_at: int
    """Bits of what is asked: DSCP 1, protocol 2, ports 4, addresses 8. Cheap to compare first."""
    dscp: tuple[Span, ...]
    protocols: tuple[Span, ...]
    ports: tuple[tuple[Span, ...], ...]
    """At either end, source, destination."""
    addresses: tuple[tuple[Span, ...], ...]

    def covers(self, other: _Scope) -> bool:
        """Tell whether every packet of ``other`` is one of ours."""
        return (
            not self.looks_at & ~other.looks_at
            and _covers(self.dscp, other.dscp)
            and _covers_ends(self.ports, other.ports)
            and _covers_ends(self.addresses, other.addresses)
            and _covers(self.protocols, other.protocols)
        )


def _shadowed(rules: Sequence[RuleConfig]) -> Iterator[Problem]:
    scopes = [_scopes(rule) for rule in rules]
    for index, mine in enumerate(scopes):
        for above in range(index):
            if all(any(theirs.covers(one) for theirs in scopes[above]) for one in mine):
                why = f"never gets its turn: rule {above + 1} takes everything it could match"
                yield Problem(("rules", index), why, "move it up, or drop it")
                break


def _scopes(rule: RuleConfig) -> list[_Scope]:
    ports = (rule.ports, rule.source_ports, rule.destination_ports)
    addresses = (_numbers(rule.prefixes), _numbers(rule.source), _numbers(rule.destination))
    readings = [(ports, addresses)] if rule.direction != "in" else []
    if rule.direction != "out":
        readings.append((tuple(ports[i] for i in (0, 2, 1)), tuple(addresses[i] for i in (0, 2, 1))))  # type: ignore[arg-type]
    protocols = tuple(p for p in rule.protocols if p in PORTED) or PORTED if any(ports) else rule.protocols
    dscp = _merged([(value, value) for value in rule.dscp])
    known = _merged([(value, value) for value in protocols])
    looks_at = bool(dscp) | bool(known) << 1 | any(ports) << 2 | any(addresses) << 3
    return [
        _Scope(looks_at, dscp, known, tuple(map(_merged, some)), tuple(map(_merged, others)))
        for some, others in dict.fromkeys(readings)
    ]


def _covers(ours: tuple[Span, ...], theirs: tuple[Span, ...]) -> bool:
    """Tell whether spans (merged) hold every number of others; () = all numbers."""
    if not ours:
        return True
    return bool(theirs) and all(
        any(low <= first and last <= high for low, high in ours) for first, last in theirs
    )


def _covers_ends(ours: tuple[tuple[Span, ...], ...], theirs: tuple[tuple[Span, ...], ...]) -> bool:
    either, source, destination = ours
    return (
        _covers(source, theirs[1])
        and _covers(destination, theirs[2])
        and (not either or any(_covers(either, spans) for spans in theirs if spans))
    )


def _numbers(prefixes: Sequence[IPv4Network | IPv6Network]) -> tuple[Span, ...]:
    return tuple(
        (
            (prefix.version == 6) * _FAMILY + int(prefix.network_address),
            (prefix.version == 6) * _FAMILY + int(prefix.broadcast_address),
        )
        for prefix in prefixes
    )


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Join spans that overlap or touch."""
    out: list[Span] = []
    for first, last in sorted(spans):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return tuple(out)
