"""The virtual queue of a path, corrected by what was measured: pacing, draining and stepping down in one.

Pure; owned by ``sdwan.core.capacity``. The kernel adds what it sends to a path's virtual queue and lets
it drain at the estimated rate; an estimate is only about right, so the count drifts. Each report corrects
it:

    queue now = queue met by the newest reported datagram + what was sent since - what the path served since
"""

from __future__ import annotations

from sdwan.core.reading import Reading

SECOND_NS = 10**9

# Implementation constants ------------------------------------------------------------------------

SEEN_NS = 10**6
"""A queue from here on is seen; below, the kernel's own count is the better one."""
AHEAD_MAX_NS = SECOND_NS
"""The correction believes no more than this of what was sent since."""


def until_ns(reading: Reading, capacity_bps: float, *, target_ns: int) -> int | None:
    """Return when the path will have sent all it was given; None if the kernel's own count stands."""
    sample = reading.sample
    sent_since_ns = (sample.sent_total_bytes - sample.sent_bytes) * 8 * SECOND_NS / capacity_bps
    served_ns = sample.now_ns - sample.sent_ns
    queue_ns = max(reading.queue_ns + sent_since_ns - served_ns, 0.0)
    queue_ns = min(queue_ns, reading.queue_ns + AHEAD_MAX_NS)
    if queue_ns <= target_ns and reading.queue_ns <= SEEN_NS:
        return None
    return sample.now_ns + int(queue_ns)
