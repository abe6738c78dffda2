"""Traffic classes: what a kind of traffic needs from the bond, and which of it is recovered how.

Pure data; the agreed words between policy (which makes them), queue, schedule, recovery and reordering
(which obey them). A class has a number 0..7, which rides in three bits of every DATA datagram; the ready
classes are those of an ordinary office. Class 0 takes whatever no rule names.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from sdwan.model import CLASSES, READY_CLASSES, SteerMode

MILLISECOND_NS = 10**6


class Recovery(Enum):
    """How losses of a class are made good."""

    NONE = "none"
    RESEND = "resend"
    """Named holes are sent again: costs a round trip, and nothing while nothing is lost."""
    FEC = "fec"
    """Repair rows beside the data (and resends where the deadline allows): costs bytes, no time."""
    DUPLICATE = "duplicate"
    """A copy on every path: for the smallest and dearest traffic."""


class Preference(Enum):
    """Which links a class would rather use, where it has the choice."""

    ANY = "any"
    """All of them: earliest delivery decides."""
    LOWEST_LATENCY = "lowest_latency"
    """Only those that could deliver before the fastest does after a short wait: late is worse than slow."""
    HIGHEST_BANDWIDTH = "highest_bandwidth"
    """The widest one until its queue is full, then the others too."""
    ORDERED = "ordered"
    """The first usable one of ``links`` alone; others only while none of them is usable."""


@dataclass(frozen=True, slots=True)
class SlaLimits:
    """What a link must keep to carry a class; None = does not matter."""

    latency_ns: int | None = None
    """Round trip."""
    jitter_ns: int | None = None
    loss_ppm: int | None = None
    worse_for_ns: int = 1000 * MILLISECOND_NS
    """So long beyond a limit, and the link is out for the class ..."""
    better_for_ns: int = 10_000 * MILLISECOND_NS
    """... and so long within all of them, and it is back."""


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """What the operator wants for one traffic class."""

    name: str
    priority: int = 3
    """0 is served first; equal ones share."""
    steering: SteerMode = SteerMode.EARLIEST
    preference: Preference = Preference.ANY
    links: tuple[str, ...] = ()
    """Link names: the order of ``ORDERED``; with other preferences the only ones allowed, even if none of
    them is usable. () = all."""
    avoid_metered: bool = False
    backup_links: tuple[str, ...] = ()
    """Used only when no other link is usable."""
    recovery: Recovery = Recovery.RESEND
    deadline_ns: int = 1000 * MILLISECOND_NS
    """How long a packet of the class is worth repairing; later packets wait no longer for it."""
    residual_loss_ppm: int = 100
    """What FEC may leave unrepaired."""
    playout_ns: int = 0
    """Delivered so long after sending, evenly; 0 = at once, in order."""
    rate_limit_bps: int = 0
    """Of the whole class to one peer; 0 = none."""
    queue_target_ns: int = 40 * MILLISECOND_NS
    """CoDel's target (RFC 8289) for the class's flows."""
    copy_dscp: bool = False
    """Show the inner DSCP on the outer packet."""
    sla: SlaLimits = SlaLimits()

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold, defaults left out."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                plain[field.name] = value
        plain |= {name: plain[name].value for name in _ENUMS if name in plain}
        if "sla" in plain:
            plain["sla"] = {field.name: getattr(self.sla, field.name) for field in fields(self.sla)}
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ClassSpec:
        """Undo ``to_plain``; whatever is wrong comes out as ValueError or TypeError."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        known |= {name: kind(known[name]) for name, kind in _ENUMS.items() if name in known}
        if "sla" in known:
            known["sla"] = SlaLimits(**known["sla"])
        spec = cls(**known)
        for field in fields(cls):
            value = getattr(spec, field.name)
            if type(value) is not (str if field.name == "name" else type(field.default)):
                raise TypeError(f"{field.name} of a class cannot be {value!r}")
        return spec


_ENUMS: dict[str, type[Enum]] = {"steering": SteerMode, "preference": Preference, "recovery": Recovery}


BULK, INTERACTIVE, VIDEO, VOICE = 0, 1, 2, 3

READY: tuple[ClassSpec, ...] = (
    ClassSpec("bulk", priority=3),
    ClassSpec(
        "interactive", priority=1, deadline_ns=300 * MILLISECOND_NS, queue_target_ns=10 * MILLISECOND_NS
    ),
    ClassSpec(
        "video",
        priority=2,
        recovery=Recovery.FEC,
        deadline_ns=200 * MILLISECOND_NS,
        queue_target_ns=15 * MILLISECOND_NS,
    ),
    ClassSpec(
        "voice",
        priority=0,
        recovery=Recovery.DUPLICATE,
        deadline_ns=80 * MILLISECOND_NS,
        queue_target_ns=5 * MILLISECOND_NS,
    ),
)
assert tuple(spec.name for spec in READY) == READY_CLASSES and len(READY) <= CLASSES
