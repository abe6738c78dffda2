"""What a rule may ask of a packet: one condition of the file becomes a tuple of numbers, ranges or networks.

Each key takes one thing or a list of things. Like ``values``: pure, and each function refuses with ``Wrong``,
which says what is wrong and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from sdwan.config.values import Wrong, parse_name, parse_prefix, show
from sdwan.model import DSCP_NAMES, PROTOCOL_NAMES


def items(value: Any) -> list[Any]:
    """Take one thing or a list of them; an empty list, which would mean nothing at all, is refused."""
    if not isinstance(value, list | tuple):
        return [value]
    if not value:
        raise Wrong("is an empty list, which nothing matches", "at least one entry, or leave the key out")
    return list(value)


def parse_names(value: Any) -> tuple[str, ...]:
    """Parse one name or a list of different ones."""
    names = [parse_name(item) for item in items(value)]
    for name in names:
        if names.count(name) > 1:
            raise Wrong(f"{show(name)} stands here twice", "each name once")
    return tuple(names)


def parse_dscps(value: Any) -> tuple[int, ...]:
    """Parse code points: ``EF``, ``AF4x`` (all three of a class), 46, or a list of them."""
    found: list[int] = []
    for item in items(value):
        name = item.strip().upper() if isinstance(item, str) else ""
        if re.fullmatch(r"AF[1-4]X", name):
            found += [DSCP_NAMES[f"{name[:3]}{drop}"] for drop in (1, 2, 3)]
        elif name in DSCP_NAMES:
            found.append(DSCP_NAMES[name])
        elif type(item) is int and 0 <= item <= 63:
            found.append(item)
        else:
            raise Wrong(f"{show(item)} is no DSCP", "a name such as EF, AF41, AF4x or CS1, or a number 0..63")
    return tuple(dict.fromkeys(found))


def parse_protocols(value: Any) -> tuple[int, ...]:
    """Parse IP protocols: names, numbers, or a list of them."""
    found: list[int] = []
    for item in items(value):
        name = item.strip().lower() if isinstance(item, str) else ""
        if name in PROTOCOL_NAMES:
            found += PROTOCOL_NAMES[name]
        elif type(item) is int and 0 <= item <= 255:
            found.append(item)
        else:
            known = ", ".join(PROTOCOL_NAMES)
            raise Wrong(f"{show(item)} is no protocol", f"one of {known}, or a number 0..255")
    return tuple(dict.fromkeys(found))


def parse_port_ranges(value: Any) -> tuple[tuple[int, int], ...]:
    """Parse ports: 443, ``5060-5061``, or a list of them."""
    right = "a port 1..65535, or a range such as 5060-5061"
    found = []
    for item in items(value):
        match = re.fullmatch(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", str(item).strip())
        if isinstance(item, bool) or not isinstance(item, int | str) or match is None:
            raise Wrong(f"{show(item)} is no port", right)
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= 65535 or not last <= 65535:
            raise Wrong(f"{show(item)} is no port", right)
        if first > last:
            raise Wrong(f"the range {show(item)} is empty", f"write {last}-{first}")
        found.append((first, last))
    return tuple(found)


def parse_prefixes(value: Any) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse one prefix or a list of them; a bare address stands for itself."""
    return tuple(parse_prefix(item) for item in items(value))


def write_dscps(dscps: tuple[int, ...]) -> str:
    """Write code points so that ``parse_dscps`` reads the same back."""
    names = {number: name for name, number in DSCP_NAMES.items()}
    return _listed([names.get(number, str(number)) for number in dscps])


def write_protocols(protocols: tuple[int, ...]) -> str:
    """Write protocols so that ``parse_protocols`` reads the same back."""
    names = {numbers: name for name, numbers in PROTOCOL_NAMES.items()}
    whole = names.get(protocols)
    return _listed([whole] if whole else [names.get((number,), str(number)) for number in protocols])


def write_port_ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    """Write ports so that ``parse_port_ranges`` reads the same back."""
    return _listed([str(first) if first == last else f"{first}-{last}" for first, last in ranges])


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else ""


WRITERS: dict[str, Callable[[Any], str]] = {
    "dscp": write_dscps, "protocols": write_protocols,
    "ports": write_port_ranges, "source_ports": write_port_ranges, "destination_ports": write_port_ranges,
}  # fmt: skip
"""How conditions are written, by the name of their attribute in a rule."""
