"""Links, a bond over them and rivals, in virtual time: what capacity discovery is tried on.

Exact FIFO links (a cumulative service curve, inverted), a sender that keeps a virtual queue per path as
the kernel does and sends what the paths' backlog allows, earliest delivery first, and a receiver that
reports every 25 ms what it got. Estimators see nothing but samples, with an unknown offset between both
clocks.

Times are seconds and rates Mbit/s here, for the reader; nanoseconds and bits per second at the
estimator's door. Everything random comes from one seed. Sources and rivals are in ``bond_sources``."""

from __future__ import annotations

import bisect
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sdwan.core.capacity import Estimator
from sdwan.core.sample import Sample

DATAGRAM = 1500
SECOND_NS = 10**9
START_NS = 10**12
CLOCK_OFFSET_NS = 10**15
REPORT_S = 0.025
WATCH_S = 0.01

Arrived = Callable[[float], None]


class Rate:
    """A piecewise constant rate: ``Rate((0, 50), (5, 5))`` is 50 Mbit/s, then 5 from the fifth second on."""

    def __init__(self, *steps: tuple[float, float]) -> None:
        self._since = [since for since, _ in steps]
        self._bytes_s = [mbit * 1e6 / 8 for _, mbit in steps]
        self._served = [0.0]
        for at in range(1, len(steps)):
            lasted = self._since[at] - self._since[at - 1]
            self._served.append(self._served[-1] + self._bytes_s[at - 1] * lasted)

    def served(self, at: float) -> float:
        """Bytes it could have carried until then."""
        step = bisect.bisect_right(self._since, at) - 1
        return self._served[step] + self._bytes_s[step] * (at - self._since[step])

    def when(self, served: float) -> float:
        """When it will have carried so many bytes."""
        step = bisect.bisect_left(self._served, served) - 1
        step = max(step, 0)
        while self._bytes_s[step] == 0:
            step += 1
        return self._since[step] + (served - self._served[step]) / self._bytes_s[step]

    def mean(self, begin: float, end: float) -> float:
        """Mbit/s, on average."""
        return (self.served(end) - self.served(begin)) * 8e-6 / (end - begin)


def cellular(duration: float, *, seed: int = 1) -> Rate:
    """A radio on the road: 1 to 20 Mbit/s in steps of 100 ms, a fade to nothing now and then."""
    draw = random.Random(seed)
    mbit, steps, at = 10.0, [], 0.0
    while at < duration:
        mbit = min(max(mbit * draw.lognormvariate(0, 0.2), 1.0), 20.0)
        steps.append((at, mbit))
        at += 0.1
        if draw.random() < 0.005:
            steps.append((at, 0.0))
            at += draw.uniform(0.1, 0.5)
    return Rate(*steps, (at, 10.0))


class Link:
    """A drop-tail FIFO, and what happens behind it."""

    def __init__(
        self,
        rate: Rate | float,
        *,
        delay: float = 0.010,
        buffer: float = 0.300,
        buffer_bytes: int | None = None,
        loss: float = 0.0,
        gilbert: tuple[float, float] | None = None,
        jitter: float = 0.0,
        stalls: float = 0.0,
        policer: bool = False,
        longer: tuple[float, float] = (1e9, 0.0),
        seed: int = 1,
    ) -> None:
        """``buffer`` in seconds of the first rate; ``gilbert``: chance to enter and to leave the state that
        loses all; ``jitter``: mean of an exponential, in order; ``stalls``: longest nap of the receiver's
        processor, awake for 10 ms on average; ``longer``: (when, by how much) the route gets longer."""
        self.rate = rate if isinstance(rate, Rate) else Rate((0, rate))
        self.delay, self.longer = delay, longer
        self.buffer_bytes = buffer_bytes or self.rate.served(1.0) * buffer
        self.loss, self.gilbert, self.jitter, self.stalls, self.policer = (
            loss,
            gilbert,
            jitter,
            stalls,
            policer,
        )
        self.dropped = self.lost = 0
        self._random = random.Random(seed)
        self._end_bytes = 0.0
        self._is_bad = False
        self._arrived = 0.0
        self._nap = (0.0, 0.0)

    def queue(self, now: float) -> float:
        """The delay a datagram that entered now would meet."""
        served = self.rate.served(now)
        return max(0.0, self.rate.when(self._end_bytes) - now) if self._end_bytes > served else 0.0

    def send(self, size: int, now: float) -> float | None:
        """Take a datagram, or a burst; return when its end arrives, None if it never does."""
        served = self.rate.served(now)
        queued = max(self._end_bytes - served, 0.0)
        if queued + size > self.buffer_bytes:
            self.dropped += 1
            return None
        self._end_bytes = served + queued + size
        if self._takes():
            self.lost += 1
            return None
        left = now + size / 125e6 if self.policer else self.rate.when(self._end_bytes)
        arrived = left + self.delay + (self.longer[1] if now >= self.longer[0] else 0.0)
        if self.jitter:
            arrived += self._random.expovariate(1 / self.jitter)
        if self.stalls:
            arrived = self._awake(arrived)
        self._arrived = max(self._arrived, arrived)
        return self._arrived

    def _takes(self) -> bool:
        if self.gilbert is not None:
            leaves = self._random.random() < self.gilbert[self._is_bad]
            self._is_bad ^= leaves
            if self._is_bad:
                return True
        return self.loss > 0 and self._random.random() < self.loss

    def _awake(self, at: float) -> float:
        while at >= self._nap[1]:
            start = self._nap[1] + self._random.expovariate(100)
            self._nap = (start, start + self._random.uniform(0, self.stalls))
        return self._nap[1] if at >= self._nap[0] else at


@dataclass(slots=True)
class Moment:
    """A path as ``BondWorld`` saw it."""

    at: float
    queue: float
    delivered_bytes: int
    capacity: float
    state: str
    allowed: float


class WorldPath:
    """One path: the sender's virtual queue and log, the link, the receiver's counters, the estimator."""

    def __init__(self, link: Link, estimator: Estimator) -> None:
        self.link, self.estimator = link, estimator
        self.until = self.idle = 0.0
        self.sent_bytes = 0
        self.times: list[float] = []
        self._bytes: list[int] = []
        self._idle: list[float] = []
        self._backlog: list[float] = []
        self._datagrams: list[int] = []
        self.sent = 0
        self._flying: deque[tuple[float, int, int, int, Arrived | None]] = deque()
        self.received = self.received_bytes = 0
        self.highest = -1
        self._delay = self._delay_min = 0.0
        self._reported = -1
        self.moments: list[Moment] = []

    def backlog(self, now: float) -> float:
        """The virtual queue."""
        return max(self.until - now, 0.0)

    def send(
        self, now: float, *, datagrams: int = 1, size: int = DATAGRAM, arrived: Arrived | None = None
    ) -> None:
        """Do what the kernel does: count, note, hand over."""
        total = size * datagrams
        self._backlog.append(self.backlog(now))
        self.idle += max(now - self.until, 0.0)
        self.until = max(self.until, now) + total * 8 / self.estimator.capacity_bps
        self.sent += datagrams
        self.sent_bytes += total
        self.times.append(now)
        self._bytes.append(self.sent_bytes)
        self._idle.append(self.idle)
        self._datagrams.append(self.sent)
        at = self.link.send(total, now)
        if at is not None:
            self._flying.append((at, len(self.times) - 1, total, datagrams, arrived))

    def receive(self, now: float) -> None:
        """Take what has arrived until now."""
        while self._flying and self._flying[0][0] <= now:
            at, burst, size, datagrams, arrived = self._flying.popleft()
            self.received += datagrams
            self.received_bytes += size
            delay = at - self.times[burst]
            first = delay - (size - DATAGRAM) * 8e-6 / max(self.link.rate.mean(at - 1e-3, at), 1e-3)
            self._delay_min = min(self._delay_min, delay, max(first, self.link.delay)) if burst else delay
            self.highest, self._delay = burst, delay
            if arrived is not None:
                arrived(at)

    def report(self) -> dict[str, int] | None:
        """Say what arrived, if anything did since the last report."""
        if self.highest == self._reported:
            return None
        self._reported = burst = self.highest
        row = {
            "burst": burst,
            "delay_ns": int(self._delay * SECOND_NS) + CLOCK_OFFSET_NS,
            "delay_min_ns": int(min(self._delay_min, self._delay) * SECOND_NS) + CLOCK_OFFSET_NS,
            "received": self.received,
            "received_bytes": self.received_bytes,
            "lost": self._datagrams[burst] - self.received,
        }
        self._delay_min = 1e9
        return row

    def sample(self, row: dict[str, int], now: float) -> Sample:
        """Join a report with the log."""
        burst = row["burst"]
        return Sample(
            now_ns=START_NS + int(now * SECOND_NS),
            sent_ns=START_NS + int(self.times[burst] * SECOND_NS),
            delay_ns=row["delay_ns"],
            delay_min_ns=row["delay_min_ns"],
            jitter_ns=0,
            received=row["received"],
            received_bytes=row["received_bytes"],
            lost=row["lost"],
            sent=self._datagrams[burst],
            sent_bytes=self._bytes[burst],
            idle_ns=int(self._idle[burst] * SECOND_NS),
            backlog_ns=int(self._backlog[burst] * SECOND_NS),
            sent_total_bytes=self.sent_bytes,
        )

    def on_sample(self, sample: Sample) -> None:
        """Show it to the estimator; correct the virtual queue if it says so."""
        self.estimator.on_sample(sample)
        if self.estimator.until_ns is not None:
            self.until = (self.estimator.until_ns - START_NS) / SECOND_NS


class BondWorld:
    """Paths, what is offered to them, and the clock."""

    def __init__(
        self,
        *links: Link,
        start: float | None = 2.0,
        burst: int = 1,
        sender: float | None = None,
        report_loss: float = 0.0,
        seed: int = 1,
    ) -> None:
        """``start``: the estimators' first guess, Mbit/s; ``burst``: most datagrams sent at once;
        ``sender``: what the sender's processor is good for, Mbit/s."""
        start_bps = None if start is None else int(start * 1e6)
        self.paths = [WorldPath(link, Estimator(start_bps=start_bps)) for link in links]
        self.now = 0.0
        self.burst, self.sender, self.report_loss = burst, sender, report_loss
        self.waiting: deque[Arrived | None] = deque()
        self.saturated: list[tuple[float, float]] = []
        self.refused = 0
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._pump_at: float | None = None
        self._report_delay = min(link.delay for link in links) + 0.002
        self.at(REPORT_S, self._report)
        self.at(0.0, self._watch)
        self.at(0.05, self._probe)

    # the clock --------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[..., None], *args: object) -> None:
        """Call ``what`` then."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, args))

    def run(self, until: float) -> BondWorld:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what, args = heapq.heappop(self._events)
            what(*args)
        self.now = until
        return self

    # what is offered --------------------------------------------------------------------------

    def saturate(self, begin: float = 0.0, end: float = 1e9) -> BondWorld:
        """Always have something to send."""
        self.saturated.append((begin, end))
        self.at(begin, self.pump)
        return self

    def offer(self, arrived: Arrived | None = None, *, limit: int = 500) -> bool:
        """Queue one datagram; False if the queue is full."""
        if len(self.waiting) >= limit:
            self.refused += 1
            return False
        self.waiting.append(arrived)
        if self._pump_at is None:
            self.pump()
        return True

    def pump(self) -> None:
        """Send what the paths' backlog allows, earliest delivery first."""
        now = self.now
        if self._pump_at is not None and now < self._pump_at:
            return
        self._pump_at = None
        while self.waiting or any(begin <= now < end for begin, end in self.saturated):
            path = self._earliest()
            if path is None:
                wait = min(p.backlog(now) - p.estimator.queue_target_ns / SECOND_NS for p in self.paths)
                self._pump_later(min(max(wait, 1e-6), 0.05))
                return
            arrived = self.waiting.popleft() if self.waiting else None
            datagrams = self._burst()
            path.send(now, datagrams=datagrams, arrived=arrived)
            if self.sender is not None:
                self._pump_later(datagrams * DATAGRAM * 8e-6 / self.sender)
                return

    def _burst(self) -> int:
        """Half a millisecond of the bond's rate, as the data plane does."""
        if self.burst == 1:
            return 1
        rate_bps = sum(path.estimator.capacity_bps for path in self.paths)
        return max(1, min(self.burst, int(rate_bps * 0.0005 / 8 / DATAGRAM)))

    def _pump_later(self, wait: float) -> None:
        self._pump_at = self.now + wait
        self.at(self._pump_at, self.pump)

    def _earliest(self) -> WorldPath | None:
        best, best_at = None, 1e18
        for path in self.paths:
            backlog = path.backlog(self.now)
            if backlog <= path.estimator.queue_target_ns / SECOND_NS:
                at = backlog + DATAGRAM * 8 / path.estimator.capacity_bps + path.link.delay
                if at < best_at:
                    best, best_at = path, at
        return best

    # reports ----------------------------------------------------------------------------------

    def _report(self) -> None:
        rows = []
        for path in self.paths:
            path.receive(self.now)
            rows.append(path.report())
        if self._random.random() >= self.report_loss:
            self.at(self.now + self._report_delay, self._on_report, rows)
        self.at(self.now + REPORT_S, self._report)

    def _on_report(self, rows: list[dict[str, int] | None]) -> None:
        for path, row in zip(self.paths, rows, strict=True):
            if row is not None:
                path.on_sample(path.sample(row, self.now))
        if self._pump_at is not None:
            self._pump_at = self.now
        self.pump()

    def _probe(self) -> None:
        for path in self.paths:
            if not path.times or self.now - path.times[-1] > 0.1:
                path.send(self.now, size=100)
        self.at(self.now + 0.05, self._probe)

    # what is seen -----------------------------------------------------------------------------

    def _watch(self) -> None:
        for path in self.paths:
            path.receive(self.now)
            estimator = path.estimator
            path.moments.append(
                Moment(
                    self.now,
                    path.link.queue(self.now),
                    path.received_bytes,
                    estimator.capacity_bps / 1e6,
                    estimator.state.value,
                    path.link.rate.mean(self.now, self.now + WATCH_S),
                )
            )
        self.at(self.now + WATCH_S, self._watch)

    def moments(self, path: int, begin: float, end: float) -> list[Moment]:
        """What was seen of a path in a span of time, every 10 ms."""
        return [moment for moment in self.paths[path].moments if begin - 1e-6 <= moment.at <= end + 1e-6]

    def delivered(self, path: int, begin: float, end: float) -> float:
        """Mbit/s that arrived."""
        seen = self.moments(path, begin, end)
        return (seen[-1].delivered_bytes - seen[0].delivered_bytes) * 8e-6 / (seen[-1].at - seen[0].at)

    def used(self, path: int, begin: float, end: float) -> float:
        """Share of the link's capacity that arrived."""
        return self.delivered(path, begin, end) / self.paths[path].link.rate.mean(begin, end)

    def queue_ms(self, path: int, begin: float, end: float, *, percentile: int = 95) -> float:
        """The link's true queue."""
        seen = sorted(moment.queue for moment in self.moments(path, begin, end))
        return seen[min(len(seen) - 1, len(seen) * percentile // 100)] * 1000

    def settled(self, path: int, since: float, end: float, *, share: float = 0.95) -> float:
        """Seconds from ``since`` until 300 ms begin in which the link is used up and has a short queue at the
        end."""
        seen = self.moments(path, since, end)
        rate = self.paths[path].link.rate
        for first, last in zip(seen, seen[30:], strict=False):
            carried = rate.served(last.at) - rate.served(first.at)
            if last.delivered_bytes - first.delivered_bytes >= share * carried and last.queue <= 0.015:
                return first.at - since
        return float("inf")

    def states(self, path: int, begin: float, end: float) -> set[str]:
        """The states its estimator was in."""
        return {moment.state for moment in self.moments(path, begin, end)}
