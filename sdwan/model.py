"""The words every room shares: identifiers, states, limits and the reasons for a drop.

Nothing here does anything. ``PathConfig`` and its kin (what the operator wants) live in
``sdwan.config``; what is measured lives with whoever measures it; both use these names.
"""

from __future__ import annotations

from enum import Enum, IntEnum

# Specification constants: fixed by docs/wire.md and bpf/abi.h ----------------------------------

PATHS_PER_PEER = 8
"""Paths one peer may have; also the stride of every (peer, path) index: ``peer * 8 + path``."""

CLASSES = 8
"""Traffic classes; the class rides in three bits of the header."""

READY_CLASSES = ("bulk", "interactive", "video", "voice")
"""Names of the classes that exist without being written, in the order of their numbers; 0 takes the rest."""

DSCP_NAMES: dict[str, int] = {
    **{f"CS{n}": n << 3 for n in range(8)},
    **{f"AF{c}{d}": c << 3 | d << 1 for c in range(1, 5) for d in range(1, 4)},
    "BE": 0, "DF": 0, "LE": 1, "VA": 44, "EF": 46,
}  # fmt: skip
"""Code points by name (RFC 2474, 2597, 3246, 5865, 8622)."""

PROTOCOL_NAMES: dict[str, tuple[int, ...]] = {
    "icmp": (1, 58), "igmp": (2,), "ipip": (4, 41), "tcp": (6,), "udp": (17,), "gre": (47,),
    "esp": (50,), "ah": (51,), "ospf": (89,), "sctp": (132,),
}  # fmt: skip
"""IP protocol numbers by name (IANA); ``icmp`` and ``ipip`` stand for both address families' own."""

DEFAULT_PORT = 4510
"""UDP port of a site."""

PATH_CHOOSE = 0xFF
"""Path byte: the kernel chooses."""

PATH_PIN = 0x80
"""Path byte: ``PATH_PIN | n`` pins a datagram to path n."""

# Implementation constants ------------------------------------------------------------------------

PEERS_MAX_DEFAULT = 256
"""Peers the BPF maps are sized for unless configured otherwise (a hub has a hundred)."""


class PathState(Enum):
    """What is measured of a path, in the order a healthy one passes through."""

    DOWN = "down"
    """The local link is down, or the path has been silent for longer than a second."""
    PROBING = "probing"
    """Not proven yet (new, or coming back): probes only, no data."""
    UP = "up"
    DEGRADED = "degraded"
    """Suspect: a report did not name a datagram that was due. No new data, probed at once."""


class SteerMode(IntEnum):
    """How the kernel chooses the path of a datagram, per (peer, traffic class)."""

    STRIDE = 0
    """Byte-fair weighted shares, per CPU."""
    EARLIEST = 1
    """Earliest delivery: busy time, rate and one-way delay of each path."""
    PIN = 2
    """Always the path with the largest weight."""
    DUPLICATE = 3
    """A copy on every path with a weight."""


class DropReason(IntEnum):
    """Why a datagram or packet was dropped: one enum for counters, logs, metrics and tests.

    Below 32: counted by the kernel programs (``enum drop_reason`` in bpf/abi.h carries the same
    numbers; a test compares). From 32 on: counted by the data plane.
    """

    # kernel: receive
    MALFORMED = 1
    """Too short, wrong version or non-zero reserved byte on our port."""
    UNKNOWN_RECEIVER = 2
    """Sealed datagram whose receiver index nobody here chose."""
    FLOOD_SOURCE = 3
    """One unvalidated source exceeded its token bucket."""
    FLOOD_GLOBAL = 4
    """All unvalidated sources together exceeded the shared token bucket."""
    PROBE_LIMIT = 5
    """Probe requests beyond the reflector's rate."""
    PROBE_STALE = 6
    """Probe reply whose token we did not ask for."""
    # kernel: send
    UNMARKED = 8
    """Something without our mark sent into the entry device."""
    NOT_TUNNEL = 9
    """Something that is no tunnel datagram was sent into the entry device."""
    LOOP = 10
    """A datagram that already has its path came to the entry again."""
    NO_PATH = 11
    """No path of this peer is eligible."""
    MTU_EXCEEDED = 12
    """Larger than the MTU of every eligible path."""
    PIN_INVALID = 13
    """Pinned to a path that does not exist or is down."""
    REWRITE_FAILED = 14
    """A kernel helper refused to rewrite the datagram."""
    # data plane: receive
    SHORT = 32
    """Shorter than header and tag."""
    UNKNOWN_SESSION = 33
    """No session has this receiver index (any more)."""
    FORGED = 34
    """The authentication tag does not match."""
    REPLAYED = 35
    """Its counter was opened before, or is older than the replay window."""
    BAD_INNER = 36
    """Opened, but what is inside is no well-formed packet or container."""
    INNER_SOURCE = 37
    """Opened, but the inner source address does not belong to the peer."""
    BAD_CONTROL = 38
    """Opened, but the control message inside is malformed."""
    TUN_WRITE = 39
    """The kernel refused the packet at the TUN."""
    UNKNOWN_TYPE = 40
    """A datagram type this version does not know."""
    REPAIR_MALFORMED = 41
    """Opened, but it is no repair, or contradicts an earlier one of its block."""
    REPAIR_USELESS = 42
    """What a block's repairs gave back is no datagram: the peer coded other rows than it sent."""
    # data plane: send
    NOT_IP = 48
    """The TUN handed over something that is neither IPv4 nor IPv6."""
    NO_ROUTE = 49
    """No peer's prefixes cover the destination."""
    NO_SESSION = 50
    """The peer has no confirmed session yet."""
    TOO_BIG = 51
    """Larger than a datagram can carry to this peer."""
    SEND_FAILED = 52
    """The socket refused the burst (its buffer is full, or the entry is gone)."""
    BAD_OFFLOAD = 53
    """The TUN's offload metadata does not describe the packet."""
    COUNTER_LIMIT = 54
    """The session reached its last permitted counter before a rekey completed."""
    QUEUE_CODEL = 55
    """Waited too long in our own queue: its sender is to slow down, or nobody waits for it any more."""
    QUEUE_FULL = 56
    """Our own queue had no room: dropped from the flow that has most waiting."""
    RATE_LIMIT = 57
    """Beyond the rate limit of its class, for longer than the queue holds."""
    # data plane: order
    REORDER_OVERFLOW = 60
    """Not lost: delivered before its turn because the reorder window was full."""
