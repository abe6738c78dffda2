"""What control and data plane say to each other, and how it is encoded.

One SOCK_SEQPACKET pair joins the two processes: one message, one packet. Down go keys, peers and
plaintext to seal; up come handshake datagrams, opened control messages and wishes. The data plane
parses what strangers send, so control treats what comes up as untrusted: fixed layouts, no pickle.
File descriptors ride beside ``AddSocket`` as SCM_RIGHTS. Counters and rates do not travel here: they
stand in the shared board (sdwan.edge.board).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from sdwan.errors import WireError

Address = tuple[str, int]
"""Textual IP address and port, as socket.recvmsg gives them (IPv4 never mapped into IPv6)."""

MESSAGE_BYTES_MAX = 65536


# Down: control to data plane ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Create a peer or change what is wanted of it."""

    OP: ClassVar[int] = 1
    peer: int
    datagram_bytes: int
    """Largest UDP payload its smallest path takes."""
    burst_segments: int
    """Datagrams per GSO send, 1..44."""
    hole_wait_us: int
    """How long a packet may wait for one that is missing and not proven lost."""
    prefixes: tuple[str, ...]
    """Inner prefixes that belong to the peer, both directions."""
    families: tuple[int, ...] = ()
    """Address families of the paths in use, one entry for each burst of a round: with IPv4 and IPv6 paths
    they take turns, since the kernel chooses only among paths of the socket's family. () = all equally."""
    repair_wait_us: int = 150_000
    """From asking for a lost datagram to its coming: round trip of the best path, a quarter more, and slack.
    It is asked for again after so long, at most thrice in all."""


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Forget a peer, its sessions and sockets."""

    OP: ClassVar[int] = 2
    peer: int


@dataclass(frozen=True, slots=True)
class AddSocket:
    """A UDP socket connected to the peer's virtual address; the descriptor rides along."""

    OP: ClassVar[int] = 3
    peer: int
    family: int


@dataclass(frozen=True, slots=True)
class SetEndpoint:
    """The validated remote address of one path; datagrams from elsewhere are reported as moved."""

    OP: ClassVar[int] = 4
    peer: int
    path: int
    address: Address


@dataclass(frozen=True, slots=True)
class Install:
    """A session's keys. Opens at once; seals when ``active`` or once the peer has confirmed it."""

    OP: ClassVar[int] = 5
    peer: int
    local_index: int
    remote_index: int
    active: bool
    incarnation: int
    """Random number of the peer's data-plane process: a new one resets counters and order."""
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Forget:
    """Stop opening with this session."""

    OP: ClassVar[int] = 6
    local_index: int


@dataclass(frozen=True, slots=True)
class SealControl:
    """Seal ``plaintext`` as a CONTROL datagram.

    With ``local_index`` 0 the peer's sending session is used. ``path_byte`` 0xff lets the kernel
    choose, 0x80|n pins. With ``to`` set, the datagram goes there directly from ``source`` instead of
    through the entry device (a challenge to an address that is not validated yet).
    """

    OP: ClassVar[int] = 7
    peer: int
    local_index: int
    path_byte: int
    to: Address | None
    source: str
    ifindex: int
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Retire:
    """Seal no more with this session; it still opens. The newest other active one takes over, if any."""

    OP: ClassVar[int] = 8
    local_index: int


@dataclass(frozen=True, slots=True)
class SetClasses:
    """The policy in force: ``text`` is JSON for sdwan.core.classify (classes and rules)."""

    OP: ClassVar[int] = 9
    text: str


@dataclass(frozen=True, slots=True)
class SetRecovery:
    """How much FEC a class to a peer gets at present: ``repairs`` rows for every ``sources``; 0 = none."""

    OP: ClassVar[int] = 10
    peer: int
    traffic_class: int
    sources: int
    repairs: int
    close_us: int = 5000
    """How long a block may stay open for its rows to come."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Path ``path`` has named nothing beyond link sequence ``sequence`` (low 32 bits): send what was sent on
    it after that again, elsewhere."""

    OP: ClassVar[int] = 11
    peer: int
    path: int
    sequence: int


# Up: data plane to control -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The data plane runs and has dropped its privileges; ``facts`` is JSON for the log."""

    OP: ClassVar[int] = 65
    facts: str


@dataclass(frozen=True, slots=True)
class Plain:
    """A handshake datagram, whole."""

    OP: ClassVar[int] = 66
    source: Address
    local: str
    ifindex: int
    datagram: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened CONTROL message; or, with empty plaintext, word that data came from a new address."""

    OP: ClassVar[int] = 67
    peer: int
    local_index: int
    path: int
    """The unauthenticated path byte of its header."""
    source: Address
    local: str
    ifindex: int
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The first datagram was opened under this session: the peer has it."""

    OP: ClassVar[int] = 68
    peer: int
    local_index: int


@dataclass(frozen=True, slots=True)
class WantSession:
    """Traffic waits for a peer without a session, or its session nears the counter limit."""

    OP: ClassVar[int] = 69
    peer: int


Message = (
    SetPeer | RemovePeer | AddSocket | SetEndpoint | Install | Forget | SealControl | Retire
    | SetClasses | SetRecovery | Suspect
    | Ready | Plain | Opened | Confirmed | WantSession
)  # fmt: skip
_CLASSES: tuple[type[Any], ...] = (
    SetPeer, RemovePeer, AddSocket, SetEndpoint, Install, Forget, SealControl, Retire,
    SetClasses, SetRecovery, Suspect,
    Ready, Plain, Opened, Confirmed, WantSession,
)  # fmt: skip
_BY_OP = {cls.OP: cls for cls in _CLASSES}
_HEAD = struct.Struct("!BH")


def encode(message: Message) -> bytes:
    """Encode: op u8, length u16 of a JSON list of the plain fields, that list, the byte fields.

    JSON because these messages are rare (tens a second and peer) and a person may read a dump;
    byte fields follow raw, each with a u32 length, so keys are never text.
    """
    plain: list[Any] = []
    blobs: list[bytes] = []
    for declared in fields(message):
        value = getattr(message, declared.name)
        (blobs if isinstance(value, bytes) else plain).append(value)
    text = json.dumps(plain, separators=(",", ":")).encode()
    return b"".join([
        _HEAD.pack(message.OP, len(text)), text, *(struct.pack("!I", len(b)) + b for b in blobs)
    ])  # fmt: skip


def decode(packet: bytes) -> Message:
    """Decode one message; every field has the type its class declares.

    Raises:
        WireError: whatever is wrong with it.
    """
    try:
        op, length = _HEAD.unpack_from(packet)
        cls = _BY_OP[op]
        plain = json.loads(packet[3 : 3 + length])
        offset = 3 + length
        values: dict[str, Any] = {}
        for declared in fields(cls):
            name, form = declared.name, str(declared.type)
            if form == "bytes":
                (size,) = struct.unpack_from("!I", packet, offset)
                values[name] = packet[offset + 4 : offset + 4 + size]
                offset += 4 + size
            else:
                value = plain.pop(0)
                values[name] = tuple(value) if isinstance(value, list) else value
            if not _FORMS[form](values[name]):
                raise WireError(f"channel: {cls.__name__}.{name} is not of type {form}")
        if plain or offset != len(packet):
            raise WireError(f"channel: {cls.__name__} is cut short or has something left over")
        message: Message = cls(**values)
    except WireError:
        raise
    except (struct.error, LookupError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise WireError(f"channel: {type(error).__name__}: {error}") from error
    return message


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_address(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_text(value[0]) and _is_number(value[1])


_FORMS: dict[str, Callable[[Any], bool]] = {
    "int": _is_number,
    "bool": lambda value: type(value) is bool,
    "str": _is_text,
    "bytes": lambda value: type(value) is bytes,
    "Address": _is_address,
    "Address | None": lambda value: value is None or _is_address(value),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(map(_is_text, value)),
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(map(_is_number, value)),
}
"""What may come out of JSON for each declared type; numbers are unsigned and at most 64 bits long."""
