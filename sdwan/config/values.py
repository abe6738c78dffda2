"""One scalar of a configuration file: what an operator writes becomes what the program uses.

In comes what YAML made of a scalar (text, number, truth value); out goes a value with its unit fixed:
bits per second, nanoseconds, ``ipaddress`` objects, raw keys. Pure, apart from joining relative paths
to the directory of the file, which the loader passes as validation context. Each function refuses with
``Wrong``, which says what is wrong and what would be right; the loader adds where.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

from sdwan.errors import redact
from sdwan.model import SteerMode

# Specification constants ---------------------------------------------------------------------------

KEY_BYTES = 32
"""Length of an X25519 public key and of a preshared key (RFC 7748; Noise revision 34)."""

INTERFACE_NAME_CHARS = 15
"""IFNAMSIZ - 1 (linux/if.h)."""

# Implementation constants --------------------------------------------------------------------------

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
"""Sites, links and peers: names become file names and metric labels."""

SHOWN_CHARS = 48
"""Longest piece of a wrong value repeated in an error."""

_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(bit|kbit|mbit|gbit)")
_RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_RATE_MAX_BPS = 400 * 10**9
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(us|ms|s|min)")
_DURATION_UNITS_NS = {"us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*(b|kb|mb|gb|tb)")
_SIZE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*(%)")

SocketAddress = tuple[str, int]
"""Textual IP address in its canonical form, and port."""


class Wrong(ValueError):
    """One value was refused: why, and what would be right."""

    def __init__(self, why: str, right: str = "") -> None:
        super().__init__(f"{why}; {right}" if right else why)
        self.why, self.right = why, right


def show(value: Any) -> str:
    """Repeat a wrong value in an error: short, on one line, and never if it looks like a key."""
    text = redact(repr(value))
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def text_of(value: Any, right: str) -> str:
    """Insist on text: YAML turns ``on``, ``012`` or ``1:30`` into something else unless quoted."""
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is not text", right)
    return value.strip()


def parse_name(value: Any) -> str:
    """Parse the name of a site, link or peer."""
    right = "1 to 32 letters, digits, '-', '_' or '.', the first a letter or digit, in quotes if only digits"
    text = text_of(value, right)
    if not NAME_PATTERN.fullmatch(text):
        raise Wrong(f"{show(text)} is no valid name", right)
    return text


def parse_interface(value: Any) -> str:
    """Parse the name of a network interface (the kernel's rule, dev_valid_name())."""
    right = f"the name of an interface, at most {INTERFACE_NAME_CHARS} characters, such as eth0"
    text = text_of(value, right)
    if not 1 <= len(text.encode()) <= INTERFACE_NAME_CHARS:
        raise Wrong(f"{show(text)} has {len(text.encode())} characters", right)
    if text in (".", "..") or re.search(r"[/:\s\x00-\x1f\x7f%]", text):
        raise Wrong(f"{show(text)} holds a character no interface name may have", right)
    return text


def _parse_quantity(value: Any, pattern: re.Pattern[str], units: dict[str, int], right: str) -> int:
    match = pattern.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise Wrong(f"{show(value)} is no number with a unit", right)
    return int(Decimal(match[1]) * units[match[2]])


def parse_rate(value: Any) -> int:
    """Parse ``20mbit`` into bits per second; units bit, kbit, mbit, gbit (powers of ten)."""
    right = "such as 20mbit (units: bit, kbit, mbit, gbit)"
    rate_bps = _parse_quantity(value, _RATE, _RATE_UNITS, right)
    if not 1000 <= rate_bps <= _RATE_MAX_BPS:
        raise Wrong(f"{show(value)} is out of range", "between 1kbit and 400gbit")
    return rate_bps


def parse_duration(value: Any) -> int:
    """Parse ``25ms`` into nanoseconds; units us, ms, s, min."""
    return _parse_quantity(value, _DURATION, _DURATION_UNITS_NS, "such as 25ms (units: us, ms, s, min)")


def parse_size(value: Any) -> int:
    """Parse ``20GB`` into bytes; units B, kB, MB, GB, TB (powers of ten), in any case."""
    size_bytes = _parse_quantity(value, _SIZE, _SIZE_UNITS, "such as 20GB (units: B, kB, MB, GB, TB)")
    if not size_bytes:
        raise Wrong(f"{show(value)} is out of range", "more than nothing")
    return size_bytes


def parse_share(value: Any) -> int:
    """Parse ``0.5%`` into parts per million."""
    share_ppm = _parse_quantity(value, _SHARE, {"%": 10**4}, "a share such as 0.5%")
    if share_ppm > 10**6:
        raise Wrong(f"{show(value)} is out of range", "between 0% and 100%")
    return share_ppm


def parse_address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse one unicast IP address without a zone."""
    text = text_of(value, "an IP address such as 192.0.2.1 or 2001:db8::1")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Wrong(
            f"{show(text)} is no IP address", "a numeric address; names are never looked up"
        ) from None
    if address.is_multicast or address.is_unspecified or "%" in text:
        raise Wrong(f"{show(text)} is not the address of one host", "a unicast address without a zone")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise Wrong(f"{show(text)} is an IPv4 address in disguise", f"write {address.ipv4_mapped}")
    return address


def parse_socket_address(value: Any) -> SocketAddress:
    """Parse ``203.0.113.1:4510`` or ``[2001:db8::1]:4510``."""
    right = "ADDRESS:PORT such as 203.0.113.1:4510 or, in quotes, '[2001:db8::1]:4510'"
    text = text_of(value, right)
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port_text) or (":" in host and not bracketed):
        raise Wrong(f"{show(text)} is no address with a port", right)
    address = parse_address(host[1:-1] if bracketed else host)
    port = int(port_text)
    if not 1 <= port <= 65535:
        raise Wrong(f"port {port} does not exist", "a port from 1 to 65535")
    return str(address), port


def parse_inner_interface(value: Any) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Parse an address with its prefix length, as it is put on the TUN."""
    right = "an address with prefix length such as 10.77.0.1/24"
    text = text_of(value, right)
    host, slash, length = text.partition("/")
    address = parse_address(host)
    try:
        if not slash:
            raise ValueError
        return ipaddress.ip_interface(f"{address}/{length}")
    except ValueError:
        raise Wrong(f"{show(text)} has no valid prefix length", right) from None


def parse_prefix(value: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse a prefix; bits beyond its length are refused rather than dropped in silence."""
    right = "a prefix such as 10.1.0.0/16"
    text = text_of(value, right)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Wrong(f"{show(text)} is no prefix", right) from None
    if "%" in text or network.is_multicast:
        raise Wrong(f"{show(text)} is not a prefix of hosts", right)
    if str(network.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
        raise Wrong(f"{show(text)} has bits set beyond its length", f"write {network}")
    return network


def parse_public_key(value: Any) -> bytes:
    """Parse a public key from base64 into its 32 raw bytes."""
    right = "the 44 characters that `sdwan pubkey` prints"
    try:
        key = base64.b64decode(text_of(value, right).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Wrong("is not base64", right) from None
    if len(key) != KEY_BYTES:
        raise Wrong(f"holds {len(key)} bytes, a public key has {KEY_BYTES}", right)
    if not any(key):
        raise Wrong("is all zero, which is nobody's key", right)
    return key


def parse_path(value: Any, info: ValidationInfo) -> Path:
    """Parse the path of a file; a relative one is meant from the directory of the configuration."""
    right = "the path of a file, such as keys/site.key"
    if isinstance(value, Path):
        return value
    text = text_of(value, right)
    if redact(text) != text:
        raise Wrong("looks like the key itself", "put the key into a file with mode 0600 and name that file")
    if not text or "\0" in text or len(text) > 1024:
        raise Wrong(f"{show(text)} is no path", right)
    base = (info.context or {}).get("directory")
    return Path(base) / text if base is not None else Path(text)


def parse_directory(value: Any) -> Path:
    """Parse an absolute directory."""
    right = "an absolute path such as /run/sdwan"
    if isinstance(value, Path):
        return value
    text = text_of(value, right)
    if not text.startswith("/") or "\0" in text or len(text) > 1024:
        raise Wrong(f"{show(text)} is no absolute path", right)
    return Path(text)


def parse_mode(value: Any) -> SteerMode:
    """Parse a steering mode from its lower-case name."""
    names = {mode.name.lower(): mode for mode in SteerMode}
    if isinstance(value, SteerMode):
        return value
    if not isinstance(value, str) or value not in names:
        raise Wrong(f"{show(value)} is no steering mode", "one of " + ", ".join(names))
    return names[value]


def parse_mtu(value: Any) -> int | None:
    """Parse the TUN's MTU in bytes; ``auto`` becomes None."""
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1280 <= value <= 9216:
        raise Wrong(f"{show(value)} is no usable MTU", "auto, or a number of bytes from 1280 to 9216")
    return value


def write_rate(rate_bps: int) -> str:
    """Write a rate so that ``parse_rate`` reads the same back."""
    return _write_quantity(rate_bps, _RATE_UNITS)


def write_duration(duration_ns: int) -> str:
    """Write a time of whole microseconds so that ``parse_duration`` reads the same back."""
    return _write_quantity(duration_ns, _DURATION_UNITS_NS)


def _write_quantity(value: int, units: dict[str, int]) -> str:
    return "".join(map(str, _whole_units(value, units)))


def write_size(size_bytes: int) -> str:
    """Write a size so that ``parse_size`` reads the same back."""
    amount, unit = _whole_units(size_bytes, _SIZE_UNITS)
    return f"{amount}{unit.replace('b', 'B') if unit == 'kb' else unit.upper()}"


def write_share(share_ppm: int) -> str:
    """Write a share so that ``parse_share`` reads the same back."""
    return f"{Decimal(share_ppm) / 10**4:f}%"


def _whole_units(value: int, units: dict[str, int]) -> tuple[int, str]:
    unit, factor = next(
        ((unit, factor) for unit, factor in reversed(units.items()) if value % factor == 0 and value),
        next(iter(units.items())),
    )
    return value // factor, unit
