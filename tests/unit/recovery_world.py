"""A class of traffic over lossy links in virtual time, protected by the real encoder, mended by the real one.

Nothing waits and nothing is random but the seed. ``run`` sends packets at a steady pace, as copies on every
path or dealt by turns, with repairs as the policy asks for them, and says what arrived and when.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sdwan.core.fec import Closed, Encoder
from sdwan.core.mending import Decoder
from sdwan.core.recovery import Protection
from sdwan.core.wire import Header, Type

MILLISECOND_NS = 10**6
RECEIVER = 0x5D5D_0001


def sealed_row(counter: int, size_bytes: int) -> bytes:
    """Make something like a sealed datagram."""
    head = Header(path=0, class_flags=3, receiver=RECEIVER, type=Type.SINGLE, counter=counter).pack()
    return head + counter.to_bytes(8, "big") * ((size_bytes - 24) // 8)


def lost_of_block(lost: Sequence[bool], sources: int, repairs: int) -> int:
    """Send one block through encoder and decoder; return how many sources stay lost.

    ``lost`` is the fate of each datagram: sources, then repairs.
    """
    encoder = Encoder(3, sources=sources, repairs=repairs, datagram_bytes=1472)
    decoder = Decoder(lambda counter: True)
    rows = [sealed_row(counter, 272) for counter in range(sources)]
    array = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(sources, -1)
    (block,) = encoder.add(array, 272, 0, now_ns=0)
    present = {counter for counter in range(sources) if not lost[counter]}
    mended: list[bytes] = []
    for counter in sorted(present):
        mended += decoder.note(counter, memoryview(rows[counter]), 272, 1, now_ns=0)
    for index, plaintext in enumerate(block.plaintexts):
        if not lost[sources + index]:
            mended += decoder.on_repair(plaintext, RECEIVER, top=0, now_ns=0)
    for datagram in mended:
        counter = int.from_bytes(datagram[12:16], "big")
        assert datagram[24:] == rows[counter][24:]
        present.add(counter)
    return sources - len(present)


@dataclass
class Link:
    """A link of constant delay and Gilbert loss; a burst of 1 / (1 - loss) is independent loss."""

    loss: float
    delay_ns: int = 10 * MILLISECOND_NS
    burst: float = 1.0
    seed: int = 1
    _is_bad: bool = False
    _noise: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._noise = random.Random(self.seed)
        self._stay_bad = max(1 - 1 / self.burst, self.loss)
        self._turn_bad = self.loss * (1 - self._stay_bad) / (1 - self.loss)

    def loses(self) -> bool:
        """Draw the fate of the next datagram."""
        self._is_bad = self._noise.random() < (self._stay_bad if self._is_bad else self._turn_bad)
        return self._is_bad


@dataclass
class Outcome:
    """What came of it."""

    sent: int = 0
    lost: int = 0
    repairs: int = 0
    bytes_sent: int = 0
    bytes_of_repairs: int = 0
    delays_ns: list[int] = field(default_factory=list)

    @property
    def residual(self) -> float:
        return self.lost / self.sent

    @property
    def overhead(self) -> float:
        """Repairs per row."""
        return self.repairs / self.sent

    def delay_ns(self, percentile: float) -> int:
        """Of what arrived."""
        return sorted(self.delays_ns)[int(len(self.delays_ns) * percentile / 100)]


class World:
    """One class from one sender to one receiver."""

    def __init__(
        self, links: list[Link], protection: Protection, *, interval_ns: int, size_bytes: int, copies: bool
    ) -> None:
        self._links, self._copies, self._interval_ns = links, copies, interval_ns
        self._encoder: Encoder | None = None
        if protection.repairs:
            self._encoder = Encoder(3, sources=1, repairs=1, datagram_bytes=1472)
            self._encoder.configure(
                sources=protection.sources, repairs=protection.repairs, close_ns=protection.close_ns
            )
        self._decoder = Decoder(lambda counter: counter not in self._arrived)
        self._arrived: dict[int, int] = {}
        self._flying: list[tuple[int, int, int, bytes]] = []
        """Arrival, tie breaker, counter (-1 for a repair), bytes."""
        self._number = 0
        self._sent_on = [0] * len(links)
        self._size_bytes = size_bytes
        self.outcome = Outcome()

    def run(self, packets: int) -> Outcome:
        """Send so many packets; return when everything that will arrive has."""
        encoder, out = self._encoder, self.outcome
        for counter in range(packets):
            now_ns = counter * self._interval_ns
            if encoder is not None and encoder.due_ns is not None and encoder.due_ns <= now_ns:
                due_ns = encoder.due_ns
                self._send_repairs(encoder.close(), due_ns)
            self._receive(now_ns)
            row = sealed_row(counter, self._size_bytes)
            out.bytes_sent += len(row)
            self._send(counter, row, now_ns, counter % len(self._links))
            if encoder is not None:
                array = np.frombuffer(row, dtype=np.uint8).reshape(1, -1)
                self._send_repairs(encoder.add(array, len(row), counter, now_ns=now_ns), now_ns)
        if encoder is not None:
            self._send_repairs(encoder.close(), packets * self._interval_ns)
        self._receive(1 << 62)
        out.sent, out.lost = packets, packets - len(self._arrived)
        out.delays_ns = [at_ns - counter * self._interval_ns for counter, at_ns in self._arrived.items()]
        return out

    def _send(self, counter: int, datagram: bytes, now_ns: int, path: int) -> None:
        for number in range(len(self._links)) if self._copies else (path,):
            link = self._links[number]
            self._sent_on[number] += 1
            if not link.loses():
                self._number += 1
                heapq.heappush(self._flying, (now_ns + link.delay_ns, self._number, counter, datagram))

    def _send_repairs(self, closed: list[Closed], now_ns: int) -> None:
        for block in closed:
            for plaintext in block.plaintexts:
                self.outcome.repairs += 1
                self.outcome.bytes_of_repairs += len(plaintext)
                self._send(-1, plaintext, now_ns, self._sent_on.index(min(self._sent_on)))

    def _receive(self, until_ns: int) -> None:
        flying = self._flying
        while flying and flying[0][0] < until_ns:
            now_ns, _, counter, datagram = heapq.heappop(flying)
            if counter in self._arrived:
                continue  # the replay window's duty
            if counter >= 0:
                self._arrived[counter] = now_ns
                row = memoryview(datagram)
                self._enter(self._decoder.note(counter, row, len(row), 1, now_ns=now_ns), now_ns)
            else:
                self._enter(self._decoder.on_repair(datagram, RECEIVER, top=0, now_ns=now_ns), now_ns)

    def _enter(self, mended: list[bytes], now_ns: int) -> None:
        for datagram in mended:
            counter = int.from_bytes(datagram[12:16], "big")
            assert datagram[24:] == sealed_row(counter, self._size_bytes)[24:]
            self._arrived.setdefault(counter, now_ns)
