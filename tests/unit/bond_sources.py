"""Who sends through a ``BondWorld``, or beside it: constant and on/off rates, and TCPs with CUBIC."""

from __future__ import annotations

from collections import deque

from tests.unit.bond_world import DATAGRAM, BondWorld, Link


class Constant:
    """So many Mbit/s into the bond, all the time or for a part of each period."""

    def __init__(
        self,
        world: BondWorld,
        mbit: float,
        *,
        begin: float,
        end: float,
        period: float = 1.0,
        duty: float = 1.0,
    ) -> None:
        self.world, self.end, self.period, self.duty = world, end, period, duty
        self.gap = DATAGRAM * 8e-6 / mbit
        world.at(begin, self._send)

    def _send(self) -> None:
        now = self.world.now
        if now >= self.end:
            return
        if now % self.period < self.duty * self.period:
            self.world.offer()
        self.world.at(now + self.gap, self._send)


class Cubic:
    """A TCP flow with CUBIC (RFC 9438), an ACK per datagram; on a link of its own choice or into the bond.

    The way keeps order, so what lies before an acknowledged datagram and is still out is lost.
    """

    C, BETA = 0.4, 0.7

    def __init__(
        self, world: BondWorld, link: Link | None, *, way_back: float, begin: float = 0.0, end: float = 1e9
    ) -> None:
        self.world, self.link, self.way_back, self.end = world, link, way_back, end
        self.window, self.threshold, self.most = 10.0, 1e9, 0.0
        self.epoch: float | None = None
        self.inflection = self.reno = 0.0
        self.out: deque[tuple[int, float]] = deque()
        self.next = self.recover = 0
        self.rtt = self.rtt_min = 1e9
        self.acked: list[float] = []
        self.cuts = 0
        self.heard = begin
        world.at(begin, self._push)
        world.at(begin + 0.3, self._timer)

    def mbit(self, begin: float, end: float) -> float:
        """Mbit/s that were acknowledged."""
        return sum(begin <= at < end for at in self.acked) * DATAGRAM * 8e-6 / (end - begin)

    def _push(self) -> None:
        now = self.world.now
        while len(self.out) < self.window and now < self.end:
            number, self.next = self.next, self.next + 1
            self.out.append((number, now))
            if self.link is None:
                self.world.offer(lambda at, number=number: self._arrived(at, number))  # type: ignore[misc]
            elif (at := self.link.send(DATAGRAM, now)) is not None:
                self._arrived(at, number)

    def _arrived(self, at: float, number: int) -> None:
        self.world.at(max(at + self.way_back, self.world.now), self._on_ack, number)

    def _on_ack(self, number: int) -> None:
        now = self.world.now
        self.heard = now
        lost = False
        while self.out and self.out[0][0] <= number:
            sent, at = self.out.popleft()
            lost |= sent < number
            if sent == number:
                self.acked.append(now)
                self.rtt = now - at
                self.rtt_min = min(self.rtt_min, self.rtt)
        if lost and number >= self.recover:
            self._cut()
        elif self.window < self.threshold:
            self.window += 1
            if self.window > 16 and self.rtt > self.rtt_min + max(0.016, self.rtt_min / 8):
                self.threshold = self.window
        elif number >= self.recover:
            self._grow(now)
        self._push()

    def _grow(self, now: float) -> None:
        if self.epoch is None:
            self.epoch, self.reno = now, self.window
            self.most = max(self.most, self.window)
            self.inflection = ((self.most - self.window) / self.C) ** (1 / 3)
        target = self.C * (now - self.epoch + self.rtt - self.inflection) ** 3 + self.most
        self.reno += 0.53 / self.window
        self.window += max(0.0, min(0.5, (target - self.window) / self.window))
        self.window = max(self.window, self.reno)

    def _cut(self) -> None:
        self.cuts += 1
        self.most = self.window if self.window >= self.most else self.window * (1 + self.BETA) / 2
        self.window = self.threshold = max(2.0, self.window * self.BETA)
        self.epoch, self.recover = None, self.next

    def _timer(self) -> None:
        now = self.world.now
        if now >= self.end:
            return
        if self.out and now - self.heard > max(0.25, 2 * min(self.rtt, 2.0)):
            self.out.clear()
            self._cut()
            self.window, self.heard = 2.0, now
        self._push()
        self.world.at(now + 0.05, self._timer)
