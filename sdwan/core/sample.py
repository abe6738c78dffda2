"""What one report says of a path, joined with what is known of the datagram it names: capacity comes from it.

Pure data; made by ``sdwan.core.path`` from a report row and the log of what was sent, read by
``sdwan.core.capacity``. All times of sending are our kernel's clock, delays carry the unknown (constant)
offset between two clocks, counters are cumulative and never wrap here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of a path in the outward direction, as of its newest datagram that a report names."""

    now_ns: int
    """When the report arrived."""
    sent_ns: int
    """When that datagram was sent."""
    delay_ns: int
    """Its one-way delay."""
    delay_min_ns: int
    """The least one since the report before."""
    jitter_ns: int
    received: int
    """Datagrams opened by the peer so far, those of all types."""
    received_bytes: int
    """Their bytes on the wire, frame headers included."""
    lost: int
    """Datagrams lost so far, by link sequence."""
    sent: int
    """Datagrams sent up to and including that one."""
    sent_bytes: int
    """Their bytes on the wire, frame headers included."""
    idle_ns: int
    """How long, up to its sending, the path's virtual queue was empty."""
    backlog_ns: int
    """The virtual queue it met: what was predicted when it was sent."""
    sent_total_bytes: int
    """Bytes sent until now."""
