"""What a section of the file is made of: the base class, the declaration of a key, the types of values.

Used by ``schema`` and ``policy``, which declare the keys, and by whatever asks what was declared: error
texts, the reference page, ``diff``. Strict means: an unknown key is refused, and nothing is converted by
guessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from sdwan.config import match, values
from sdwan.model import SteerMode

MILLISECOND_NS = 10**6
SECOND_NS = 10**9

Name = Annotated[str, BeforeValidator(values.parse_name)]
Interface = Annotated[str, BeforeValidator(values.parse_interface)]
RateBps = Annotated[int, BeforeValidator(values.parse_rate)]
DurationNs = Annotated[int, BeforeValidator(values.parse_duration)]
IpAddress = Annotated[IPv4Address | IPv6Address, BeforeValidator(values.parse_address)]
InnerInterface = Annotated[IPv4Interface | IPv6Interface, BeforeValidator(values.parse_inner_interface)]
Prefix = Annotated[IPv4Network | IPv6Network, BeforeValidator(values.parse_prefix)]
SocketAddress = Annotated[values.SocketAddress, BeforeValidator(values.parse_socket_address)]
PublicKey = Annotated[bytes, BeforeValidator(values.parse_public_key)]
FilePath = Annotated[Path, BeforeValidator(values.parse_path)]
Directory = Annotated[Path, BeforeValidator(values.parse_directory)]
Mode = Annotated[SteerMode, BeforeValidator(values.parse_mode)]
SizeBytes = Annotated[int, BeforeValidator(values.parse_size)]
SharePpm = Annotated[int, BeforeValidator(values.parse_share)]
DscpSet = Annotated[tuple[int, ...], BeforeValidator(match.parse_dscps)]
ProtocolSet = Annotated[tuple[int, ...], BeforeValidator(match.parse_protocols)]
PortRanges = Annotated[tuple[tuple[int, int], ...], BeforeValidator(match.parse_port_ranges)]
PrefixSet = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(match.parse_prefixes)]
NameList = Annotated[tuple[str, ...], BeforeValidator(match.parse_names)]
TunMtu = Annotated[int | None, BeforeValidator(values.parse_mtu)]


def key(
    default: Any, kind: str, description: str, *, live: bool = True, shown: str = "", **rules: Any
) -> Any:
    """Declare one key of the file.

    ``kind`` is its type in the operator's words, ``live`` tells that a reload applies a change, ``shown`` is
    the default as the file would write it; ``rules`` go to pydantic (alias, ge, le, max_length, ...).
    """
    extra: dict[str, Any] = {"kind": kind, "live": live, "shown": shown}
    return Field(default, description=description, json_schema_extra=extra, **rules)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a key says about itself: for error texts, the reference page and ``diff``."""

    kind: str
    live: bool
    shown: str
    description: str


class Section(BaseModel):
    """What all sections share: frozen, strict, no unknown key, inputs never repeated by pydantic."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def keys_of(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields of a section under the names the file uses."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section inside a field's type (``X``, ``X | None``, ``tuple[X, ...]``), or None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_of(part))), None)


def facts_of(field: FieldInfo) -> KeyFacts:
    """Return what ``key()`` was told about a field."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)  # every field of this file is declared with key()
    return KeyFacts(str(extra["kind"]), bool(extra["live"]), str(extra["shown"]), field.description or "")
