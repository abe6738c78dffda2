"""Classes and rules that are each well-formed, but impossible together, or not what anybody meant.

Part of ``check``: in comes a ``SiteConfig``, out come ``Problem``s. Impossible is a rule no packet can match,
a name that does not exist, more classes than fit three bits. A warning goes to a rule that never gets its
turn, because one above it takes everything it could match (``reach``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from sdwan.config.document import Location, Problem
from sdwan.config.reach import PORTED, shadowed
from sdwan.config.schema import RuleConfig, SiteConfig
from sdwan.model import CLASSES, READY_CLASSES


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
    for index, above in shadowed(config.rules):
        why = f"never gets its turn: rule {above + 1} takes everything it could match"
        yield Problem(("rules", index), why, "move it up, or drop it")


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
