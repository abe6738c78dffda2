"""Messages that travel sealed in CONTROL datagrams, and their encoding.

Pure. Who sends what, and when, is decided in sdwan.core.tunnel and its kin. The first byte is the
kind, the second the path the message speaks of (or was pinned to). All integers in network order.
Trailing zero bytes are allowed everywhere (padding: MTU probes are made of it).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

from sdwan.errors import WireError
from sdwan.model import PATHS_PER_PEER


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Nothing but a sign of life on one path; also confirms a new session."""

    KIND: ClassVar[int] = 0
    path: int
    next_counter: int
    """The sender's next DATA counter (64 bit): lets an idle path close a hole."""


@dataclass(frozen=True, slots=True)
class PathReport:
    """What the receiver opened on one path (cumulative; low 32 bits)."""

    path: int
    last_sequence: int
    """Highest link sequence among opened datagrams."""
    age_us: int
    """Time from that datagram's arrival to this report."""
    opened: int
    opened_bytes: int
    lost: int
    """By link sequence, as the receiving kernel counts."""
    delay_us: int
    """Receive clock - send stamp of the newest datagram, modulo 2^32."""
    delay_min_us: int
    """The least such delay since the report before, modulo 2^32."""
    jitter_us: int


@dataclass(frozen=True, slots=True)
class Report:
    """What arrived, per path: the receiver's view that steers the sender."""

    KIND: ClassVar[int] = 1
    path: int
    number: int
    """Goes up by one with each report; an older one is ignored."""
    next_counter: int
    paths: tuple[PathReport, ...]
    repairs: int = 0
    """Repairs received so far, and ..."""
    recovered: int = 0
    """... datagrams made whole with them (low 32 bits): who sends repairs sees whether they help."""


@dataclass(frozen=True, slots=True)
class Hello:
    """One end's word about one of its paths, sent on that path."""

    KIND: ClassVar[int] = 2
    path: int
    receive_rate_bps: int
    """What it can receive here; 0 = unknown."""
    weight_ppm: int
    """Operator's preference, 1,000,000 = normal; 0 = do not send data here."""
    is_metered: bool = False
    """Each byte costs."""
    is_backup: bool = False
    """Only when no other path is usable."""
    is_used_up: bool = False
    """The month's quota is spent."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Sent to a new address; only who can open it there may move the path (RFC 9000 §8.2)."""

    KIND: ClassVar[int] = 3
    path: int
    token: int


@dataclass(frozen=True, slots=True)
class ChallengeResponse:
    """The answer, sent pinned on the same path."""

    KIND: ClassVar[int] = 4
    path: int
    token: int


@dataclass(frozen=True, slots=True)
class MtuProbe:
    """A datagram padded to exactly ``size_bytes`` of outer IP packet (RFC 8899)."""

    KIND: ClassVar[int] = 5
    path: int
    size_bytes: int
    number: int


@dataclass(frozen=True, slots=True)
class MtuAck:
    """Probe ``number`` of ``size_bytes`` arrived."""

    KIND: ClassVar[int] = 6
    path: int
    size_bytes: int
    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """The sender goes away; forget the session, keep the configuration."""

    KIND: ClassVar[int] = 7
    path: int


@dataclass(frozen=True, slots=True)
class Nack:
    """DATA counters that are certainly missing: send them again if they are worth it."""

    KIND: ClassVar[int] = 8
    path: int
    proven: bool
    """The path that lost them has delivered something later: it may carry them again."""
    ranges: tuple[tuple[int, int], ...]
    """First counter (low 32 bits) and how many from there on (1..65535); at most ``NACK_RANGES_MAX``."""


NACK_RANGES_MAX = 128
"""772 bytes: fits the smallest path MTU."""

Message = Keepalive | Report | Hello | Challenge | ChallengeResponse | MtuProbe | MtuAck | Close | Nack

_FIXED: dict[type[Any], struct.Struct] = {
    Keepalive: struct.Struct("!BBQ"),
    Hello: struct.Struct("!BBQI???"),
    Challenge: struct.Struct("!BBQ"),
    ChallengeResponse: struct.Struct("!BBQ"),
    MtuProbe: struct.Struct("!BBHI"),
    MtuAck: struct.Struct("!BBHI"),
    Close: struct.Struct("!BB"),
}
_BY_KIND: dict[int, type[Any]] = {cls.KIND: cls for cls in _FIXED}
_REPORT_HEAD = struct.Struct("!BBBIQII")
_REPORT_PATH = struct.Struct("!BIIIIIIII")
_NACK_HEAD = struct.Struct("!BBBB")
_NACK_RANGE = struct.Struct("!IH")
_U32 = 0xFFFFFFFF


def encode(message: Message) -> bytes:
    """Encode one message as the plaintext of a CONTROL datagram."""
    if isinstance(message, Report):
        head = _REPORT_HEAD.pack(
            Report.KIND, message.path, len(message.paths), message.number & _U32, message.next_counter,
            message.repairs & _U32, message.recovered & _U32,
        )  # fmt: skip
        return head + b"".join(
            _REPORT_PATH.pack(
                p.path, p.last_sequence & _U32, min(p.age_us, _U32), p.opened & _U32,
                p.opened_bytes & _U32, p.lost & _U32, p.delay_us & _U32, p.delay_min_us & _U32,
                min(p.jitter_us, _U32),
            )
            for p in message.paths
        )  # fmt: skip
    if isinstance(message, Nack):
        head = _NACK_HEAD.pack(Nack.KIND, message.path, message.proven, len(message.ranges))
        return head + b"".join(_NACK_RANGE.pack(first & _U32, count) for first, count in message.ranges)
    fields = [getattr(message, name) for name in type(message).__slots__]
    return _FIXED[type(message)].pack(message.KIND, *fields)


def decode(plaintext: bytes | memoryview) -> Message:
    """Decode the plaintext of a CONTROL datagram.

    Raises:
        WireError: unknown kind, too short, or a path number out of range.
    """
    if len(plaintext) < 2:
        raise WireError(f"control message: {len(plaintext)} bytes, needs at least 2")
    kind, path = plaintext[0], plaintext[1]
    if path >= PATHS_PER_PEER:
        raise WireError(f"control message: path {path}, highest is {PATHS_PER_PEER - 1}")
    if kind == Report.KIND:
        return _decode_report(plaintext)
    if kind == Nack.KIND:
        return _decode_nack(plaintext)
    cls = _BY_KIND.get(kind)
    if cls is None:
        raise WireError(f"control message: unknown kind {kind}")
    layout = _FIXED[cls]
    if len(plaintext) < layout.size:
        raise WireError(f"{cls.__name__}: {len(plaintext)} bytes, needs {layout.size}")
    message: Message = cls(*layout.unpack_from(plaintext)[1:])
    return message


def next_counter_of(plaintext: bytes | memoryview) -> int | None:
    """Return the sender's next DATA counter if this message carries it, without decoding the rest."""
    kind = plaintext[0] if len(plaintext) >= 2 else -1
    if kind == Keepalive.KIND and len(plaintext) >= _FIXED[Keepalive].size:
        return int.from_bytes(plaintext[2:10], "big")
    if kind == Report.KIND and len(plaintext) >= _REPORT_HEAD.size:
        return int.from_bytes(plaintext[7:15], "big")
    return None


def _decode_report(plaintext: bytes | memoryview) -> Report:
    if len(plaintext) < _REPORT_HEAD.size:
        raise WireError(f"Report: {len(plaintext)} bytes, needs {_REPORT_HEAD.size}")
    _, path, count, number, next_counter, repairs, recovered = _REPORT_HEAD.unpack_from(plaintext)
    if count > PATHS_PER_PEER or len(plaintext) < _REPORT_HEAD.size + count * _REPORT_PATH.size:
        raise WireError(f"Report: {count} paths do not fit {len(plaintext)} bytes")
    rows = tuple(
        PathReport(*_REPORT_PATH.unpack_from(plaintext, _REPORT_HEAD.size + i * _REPORT_PATH.size))
        for i in range(count)
    )
    if any(row.path >= PATHS_PER_PEER for row in rows):
        raise WireError(f"Report: path number above {PATHS_PER_PEER - 1}")
    return Report(path, number, next_counter, rows, repairs, recovered)


def _decode_nack(plaintext: bytes | memoryview) -> Nack:
    count = plaintext[3] if len(plaintext) >= _NACK_HEAD.size else NACK_RANGES_MAX + 1
    end = _NACK_HEAD.size + count * _NACK_RANGE.size
    if count > NACK_RANGES_MAX or len(plaintext) < end:
        raise WireError(f"Nack: {count} ranges do not fit {len(plaintext)} bytes")
    ranges = tuple(_NACK_RANGE.iter_unpack(plaintext[_NACK_HEAD.size : end]))
    if not all(length for _, length in ranges):
        raise WireError("Nack: an empty range")
    return Nack(plaintext[1], bool(plaintext[2]), ranges)
