"""What we tell the peer about what arrived from it: one ``Reporter`` per peer.

Pure. In come the data plane's counters of opened datagrams and the kernel's of what it received, per path;
out goes a Report whenever something arrived since the last one that deserves an answer, at most one an
interval. Data and every control message but a Report deserve one: two idle sites do not answer each other's
answers for ever. A Report is itself control traffic, so it is counted and subtracted.

When a stream of arrivals ends, reports go on for a moment: that nothing arrives any more is what tells the
peer soonest that its path is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdwan.core.messages import PathReport, Report
from sdwan.core.wire import widen

# Implementation constants ------------------------------------------------------------------------

KERNEL_WORD_NS = 250 * 10**6
"""How long the kernel's count of arrivals may excuse the data plane for not having opened anything. Longer,
and unauthenticated datagrams could hide that nothing genuine arrives."""

STREAM_REPORTS = 3
"""So many reports in a row with news make a stream."""
LINGER_NS = 100 * 10**6
"""How long the end of a stream is reported: what is overdue by more is silence to the sender anyway."""

_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Inbound:
    """What arrived on one path so far."""

    path: int
    opened: int
    opened_bytes: int
    last_sequence: int
    """Highest link sequence among opened datagrams."""
    last_ns: int
    """When that one was opened."""
    kernel_last_ns: int
    """When the kernel last saw a datagram of the path, opened or still waiting."""
    lost: int
    delay_us: int
    delay_min_us: int
    """Since the counters were read before."""
    jitter_us: int


class Reporter:
    """When to report, and what."""

    def __init__(self, *, interval_ns: int) -> None:
        self.interval_ns = interval_ns
        self._inbound: Sequence[Inbound] = ()
        self._reports_received = 0
        self._answered = 0
        """Arrivals that deserved an answer, as of the last report."""
        self._deserving = 0
        self._number = 0
        self._made_ns = 0
        self._streak = 0
        """Reports in a row that had news."""
        self._news_ns = 0
        """When the newest of them was made."""
        self._least_us: dict[int, int] = {}
        """Least delay since the last report, by path."""

    @property
    def is_pending(self) -> bool:
        """Something arrived that the peer has not been told of."""
        return self._deserving > self._answered

    def next_timer_ns(self) -> int | None:
        """Return when a report is due; None while nothing asks for one."""
        due_ns = self._made_ns + self.interval_ns
        lingers = self._streak >= STREAM_REPORTS and due_ns <= self._news_ns + LINGER_NS
        return due_ns if self.is_pending or lingers else None

    def on_report_received(self) -> None:
        """Count a Report among the arrivals that deserve no answer."""
        self._reports_received += 1

    def on_inbound(self, inbound: Sequence[Inbound]) -> None:
        """Take the counters of all paths something was opened on."""
        for row in inbound:
            least_us = self._least_us.get(row.path, row.delay_us)
            self._least_us[row.path] = min(widen(row.delay_min_us, least_us), least_us)
        self._inbound = inbound
        self._deserving = sum(row.opened for row in inbound) - self._reports_received

    def make(self, *, next_counter: int, now_ns: int, repairs: int = 0, recovered: int = 0) -> Report:
        """Return the report of this moment."""
        self._made_ns = now_ns
        if self.is_pending:
            self._streak = self._streak + 1 if now_ns - self._news_ns <= LINGER_NS else 1
            self._news_ns = now_ns
        self._answered = max(self._answered, self._deserving)
        self._number = (self._number + 1) & _U32
        rows = tuple(_row(row, self._least_us.get(row.path, row.delay_us), now_ns) for row in self._inbound)
        self._least_us.clear()
        return Report(0, self._number, next_counter, rows, repairs & _U32, recovered & _U32)


def _row(row: Inbound, least_us: int, now_ns: int) -> PathReport:
    age_ns = now_ns - row.last_ns
    if age_ns < KERNEL_WORD_NS:
        # The data plane may be behind: what waits in its socket has arrived all the same.
        age_ns = now_ns - max(row.last_ns, row.kernel_last_ns)
    return PathReport(
        path=row.path,
        last_sequence=row.last_sequence & _U32,
        age_us=max(age_ns, 0) // 1000,
        opened=row.opened & _U32,
        opened_bytes=row.opened_bytes & _U32,
        lost=row.lost & _U32,
        delay_us=row.delay_us & _U32,
        delay_min_us=least_us & _U32,
        jitter_us=row.jitter_us,
    )
