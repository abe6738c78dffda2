"""What the pure control core asks the world to do: the vocabulary between Tunnel and its shell.

Pure data. ``sdwan.core.tunnel`` returns lists of these, ``sdwan.edge.site`` carries them out in the order
given. The actions of ``sdwan.core.epochs`` (Initiate, Install, Retire, Forget) pass through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sdwan.core import epochs
from sdwan.core.roaming import Whereabouts
from sdwan.core.schedule import Decision


@dataclass(frozen=True, slots=True)
class SendControl:
    """Seal ``plaintext`` and send it as a CONTROL datagram."""

    plaintext: bytes
    path: int | None = None
    """Pinned to this path; None = the kernel chooses."""
    to: Whereabouts | None = None
    """Directly there, past the entry device: an address that is not proven yet."""
    local_index: int = 0
    """Under this very session; 0 = the one that seals."""


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Tell the kernel to expect ``token``, then send it in a PROBE pinned to ``path``."""

    path: int
    token: int


@dataclass(frozen=True, slots=True)
class MovePath:
    """The peer has proved that ``path`` leads to ``whereabouts`` now: give the tunnel its new place."""

    path: int
    whereabouts: Whereabouts


@dataclass(frozen=True, slots=True)
class SetPathMtu:
    """Data packets up to this size (IP, bytes) may use ``path``."""

    path: int
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class SetShares:
    """Put these decisions into force, one for each traffic class."""

    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class SetBusy:
    """Correct the kernel's virtual queue of ``path``: it will have sent all it was given at ``until_ns``."""

    path: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Resend:
    """Send again, elsewhere, what left on ``path`` after link sequence ``sequence``: the path is suspect."""

    path: int
    sequence: int


@dataclass(frozen=True, slots=True)
class SetShape:
    """Tell the data plane how to cut and how long to wait for this peer."""

    datagram_bytes: int
    burst_segments: int
    hole_wait_us: int
    repair_wait_us: int


@dataclass(frozen=True, slots=True)
class SetProtection:
    """Tell the data plane how much forward error correction a class gets: 0 repairs = none."""

    traffic_class: int
    sources: int
    repairs: int
    close_us: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator wants to find in the log."""

    name: str
    fields: dict[str, object] = field(default_factory=dict)
    is_warning: bool = False


Action = (
    SendControl | SendProbe | MovePath | SetPathMtu | SetShares | SetBusy | Resend | SetShape | SetProtection
    | Event
    | epochs.Initiate | epochs.Install | epochs.Retire | epochs.Forget
)  # fmt: skip
