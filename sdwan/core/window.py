"""What happened on a path between two of its samples: rates, idle time, loss, the queue that stood
throughout.

Pure; owned by ``sdwan.core.reading``. In come samples (``sdwan.core.sample``), refused if they cannot be
true; out come ``Window``s that end at the newest one. Time of arrival is time of sending plus one-way
delay, so the travelling time of reports is in no rate.

A peer writes its own reports and may lie in them. What it says it received counts up to what we know we
sent between the same two datagrams, and never more."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sdwan.core.sample import Sample

SECOND_NS = 10**9

# Implementation constants ------------------------------------------------------------------------

SAMPLES_MAX = 64
"""1.6 s at the default report interval; the longest window asked for at rates above 1 Mbit/s is 0.27 s."""
DELAY_LEAP_NS = 30 * SECOND_NS
"""Two delays of a path that differ by more are two clocks, not one queue: outages of 14 s were recorded."""
RECEIVED_SLACK_BYTES = 1 << 20
"""Bytes by which arrivals may exceed sends between two samples: what is reordered around a named one."""
PATIENCE = 4
"""Refused samples in a row after which they are believed: the peer, or its clock, started anew."""


@dataclass(frozen=True, slots=True)
class Window:
    """A path between two samples."""

    delivered_bps: float
    sent_bps: float
    idle: float
    """Share of the time in which our virtual queue was empty."""
    delay_least_ns: int
    """Least one-way delay of any datagram in it, clock offset included."""
    datagrams: int
    lost: int
    received_ns: int
    """From the arrival of the first sample's datagram to that of the last."""

    @property
    def loss(self) -> float:
        """Share of its datagrams that were lost."""
        return self.lost / self.datagrams if self.datagrams else 0.0


class History:
    """The newest samples of one path."""

    def __init__(self) -> None:
        self.refused = 0
        """Samples that could not be true."""
        self.is_continued = True
        """The newest sample continues those before: it was not believed for want of anything better."""
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self._refused_in_row = 0

    @property
    def newest(self) -> Sample | None:
        """The newest sample taken."""
        return self._samples[-1] if self._samples else None

    def take(self, sample: Sample) -> bool:
        """Take a sample; tell whether it can be true.

        After ``PATIENCE`` untrue ones in a row, begin anew with it.
        """
        newest = self.newest
        self.is_continued = True
        if newest is not None and not _follows(newest, sample):
            self.refused += 1
            self._refused_in_row += 1
            if self._refused_in_row < PATIENCE:
                return False
            self._samples.clear()
            self.is_continued = False
        self._refused_in_row = 0
        self._samples.append(sample)
        return True

    def forget(self) -> None:
        """Begin anew: what comes next does not continue what was."""
        self._samples.clear()
        self._refused_in_row = 0

    def window(self, length_ns: float, *, since_ns: int = 0) -> Window | None:
        """Return the shortest window of at least ``length_ns`` of arrival time, else the longest there is.

        None before two datagrams sent after ``since_ns`` arrived at different times.
        """
        samples = self._samples
        if len(samples) < 2:
            return None
        last = samples[-1]
        last_arrival_ns = last.sent_ns + last.delay_ns
        least_ns = min(last.delay_ns, last.delay_min_ns)
        first = None
        for at in range(len(samples) - 2, -1, -1):
            if samples[at].sent_ns < since_ns:
                break
            first = samples[at]
            if last_arrival_ns - first.sent_ns - first.delay_ns >= length_ns:
                break
            least_ns = min(least_ns, first.delay_ns, first.delay_min_ns)
        return None if first is None else _between(first, last, least_ns)


def _between(first: Sample, last: Sample, least_ns: int) -> Window | None:
    sending_ns = last.sent_ns - first.sent_ns
    receiving_ns = sending_ns + last.delay_ns - first.delay_ns
    if sending_ns <= 0 or receiving_ns <= 0:
        return None
    sent_bits = (last.sent_bytes - first.sent_bytes) * 8
    received_bits = min((last.received_bytes - first.received_bytes) * 8, sent_bits)
    datagrams = last.sent - first.sent
    return Window(
        delivered_bps=received_bits * SECOND_NS / receiving_ns,
        sent_bps=sent_bits * SECOND_NS / sending_ns,
        idle=min(max((last.idle_ns - first.idle_ns) / sending_ns, 0.0), 1.0),
        delay_least_ns=least_ns,
        datagrams=datagrams,
        lost=min(max(last.lost - first.lost, 0), datagrams),
        received_ns=receiving_ns,
    )


def _follows(before: Sample, after: Sample) -> bool:
    """Tell whether one sample can come after another: times and counters run on, none of them leaps."""
    sent = after.sent - before.sent
    sent_bytes = after.sent_bytes - before.sent_bytes
    return (
        after.now_ns >= before.now_ns
        and after.now_ns >= after.sent_ns > before.sent_ns
        and sent > 0
        and sent_bytes >= 0
        and after.sent_total_bytes >= after.sent_bytes
        and after.idle_ns >= before.idle_ns
        and after.received >= before.received
        and 0 <= after.received_bytes - before.received_bytes <= 2 * sent_bytes + RECEIVED_SLACK_BYTES
        and after.lost - before.lost <= sent
        and after.delay_min_ns <= after.delay_ns
        and abs(after.delay_ns - before.delay_ns) < DELAY_LEAP_NS
    )
