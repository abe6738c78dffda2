"""A probe stream: datagrams at even intervals, the fate of each, and the longest silence a listener bore.

Two processes, one in each namespace, as a voice call has two ends::

    python -m sdwan.lab.stream receive ADDRESS PORT                              (ready; at SIGTERM: JSON)
    python -m sdwan.lab.stream send ADDRESS PORT INTERVAL_NS SIZE FLOWS DSCP     (ready; at SIGTERM: JSON)

By default one flow, a small datagram every 5 ms. Several flows are several source ports that take turns.
Both read the same clock, since namespaces share a machine, and ask for real-time scheduling: the stream
measures the network, not the queue for the CPU. ``ProbeStream`` runs the pair, ``Record`` judges what came.
"""

from __future__ import annotations

import itertools
import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.namespace import Namespace, wait_line
from sdwan.lab.timer import Timer, become_punctual

# Implementation constants --------------------------------------------------------------------------

INTERVAL_NS = 5_000_000
PORT = 7_007
PRIORITY = 10
"""Below the emulator's: the wire comes first."""
SETTLE_S = 0.7
"""After the last probe was sent, until the receiver is asked: longer than any ready scenario delays."""
END_TIMEOUT_S = 5.0
_PROBE = struct.Struct("!QQ")
PAYLOAD_BYTES = 160
"""A 20 ms frame of G.711, what a voice call sends."""


@dataclass(frozen=True)
class Gap:
    """What a listener noticed between two moments."""

    longest_ns: int
    """Longest time between two arrivals."""
    lost: int
    """Probes sent in that time which never came."""
    sent: int
    late: int
    """Probes that arrived after a later one."""
    delay_median_ns: int
    delay_p95_ns: int
    delay_p99_ns: int
    started_ns: int
    """When the longest gap began, CLOCK_MONOTONIC."""


@dataclass(frozen=True)
class Record:
    """All probes of a stream: ``arrivals`` are (number, sent_ns, arrived_ns) in order of arrival."""

    arrivals: list[tuple[int, int, int]]
    sent: int
    first_sent_ns: int
    interval_ns: int

    def judge(self, since_ns: int = 0, until_ns: int | None = None) -> Gap:
        """Return what happened to the probes sent between two moments.

        Raises:
            LabError: nothing was sent then, or nothing arrived at all.
        """
        until_ns = until_ns if until_ns is not None else self.first_sent_ns + self.sent * self.interval_ns
        first = max(0, -(-(since_ns - self.first_sent_ns) // self.interval_ns))
        last = min(self.sent, -(-(until_ns - self.first_sent_ns) // self.interval_ns))
        if last <= first:
            raise LabError("no probe was sent in the time to be judged; the stream was too short")
        came = [arrival for arrival in self.arrivals if first <= arrival[0] < last]
        if not came:
            raise LabError(f"of {last - first} probes none arrived; is the tunnel up?")
        moments = [since_ns or came[0][2], *(arrived_ns for _, _, arrived_ns in came)]
        if len(came) < last - first and came[-1][0] < last - 1:
            moments.append(until_ns)  # silent to the end
        longest_ns, started_ns = max((b - a, a) for a, b in itertools.pairwise(moments))
        delays = sorted(arrived_ns - sent_ns for _, sent_ns, arrived_ns in came)
        highest, late = -1, 0
        for number, _, _ in came:
            late += number < highest
            highest = max(highest, number)
        return Gap(
            longest_ns=longest_ns,
            lost=last - first - len({number for number, _, _ in came}),
            sent=last - first,
            late=late,
            delay_median_ns=delays[len(delays) // 2],
            delay_p95_ns=delays[len(delays) * 95 // 100],
            delay_p99_ns=delays[len(delays) * 99 // 100],
            started_ns=started_ns,
        )


@dataclass(frozen=True)
class Shape:
    """What a stream sends."""

    interval_ns: int = INTERVAL_NS
    """Of each flow."""
    payload_bytes: int = PAYLOAD_BYTES
    flows: int = 1
    dscp: int = 0


class ProbeStream:
    """A running pair; ``stop`` ends it and returns the record."""

    def __init__(self, source: Namespace, target: Namespace, address: str, shape: Shape, port: int):
        module = [sys.executable, "-m", "sdwan.lab.stream"]
        where = [address, str(port)]
        self._interval_ns = shape.interval_ns // shape.flows
        what = map(str, (self._interval_ns, shape.payload_bytes, shape.flows, shape.dscp))
        self._receiver = target.start([*module, "receive", *where], stdout=subprocess.PIPE)
        wait_line(self._receiver, "ready", self._receiver.stdout)
        self._sender = source.start([*module, "send", *where, *what], stdout=subprocess.PIPE)
        wait_line(self._sender, "ready", self._sender.stdout)

    def stop(self) -> Record:
        """End sender, then receiver, and return what arrived."""
        sent = _end(self._sender)
        time.sleep(SETTLE_S)
        received = _end(self._receiver)
        arrivals = list(zip(received["numbers"], received["sent_ns"], received["arrived_ns"], strict=True))
        return Record(arrivals, sent["count"], sent["first_ns"], self._interval_ns)

    def close(self) -> None:
        """End both, however they are."""
        for process in (self._sender, self._receiver):
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def probe_stream(
    source: Namespace, target: Namespace, address: str, shape: Shape | None = None, *, port: int = PORT
) -> Iterator[ProbeStream]:
    """Run a stream from ``source`` to ``address`` in ``target`` for the length of a ``with``."""
    stream = ProbeStream(source, target, address, shape or Shape(), port)
    try:
        yield stream
    finally:
        stream.close()


def _end(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=END_TIMEOUT_S)
        return dict(json.loads(output))
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise LabError(f"an end of the probe stream did not report: {error}") from error


def _receive(address: str, port: int, stop: _Stop) -> dict[str, Any]:
    numbers, sent_ns, arrived_ns = array("Q"), array("Q"), array("Q")
    with _socket(address) as server:
        server.bind((address, port))
        server.settimeout(0.1)
        print("ready", flush=True)
        while not stop.asked:
            with suppress(TimeoutError):
                datagram = server.recv(2048)
                if len(datagram) >= _PROBE.size:
                    number, moment_ns = _PROBE.unpack_from(datagram)
                    numbers.append(number)
                    sent_ns.append(moment_ns)
                    arrived_ns.append(time.monotonic_ns())
    return {"numbers": list(numbers), "sent_ns": list(sent_ns), "arrived_ns": list(arrived_ns)}


def _send(address: str, port: int, shape: Shape, stop: _Stop) -> dict[str, Any]:
    """Send until asked to stop; ``shape.interval_ns`` is that between two datagrams of any flow."""
    timer = Timer()
    filling = bytes(shape.payload_bytes - _PROBE.size)
    with ExitStack() as stack:
        clients = [stack.enter_context(_socket(address, shape.dscp)) for _ in range(shape.flows)]
        for client in clients:
            client.connect((address, port))
        print("ready", flush=True)
        first_ns = time.monotonic_ns()
        count = 0
        while not stop.asked:
            timer.set(first_ns + count * shape.interval_ns)
            select.select([timer.descriptor], [], [])
            with suppress(OSError):  # unreachable for the moment: that is what is being measured
                clients[count % shape.flows].send(_PROBE.pack(count, time.monotonic_ns()) + filling)
            count += 1
    return {"count": count, "first_ns": first_ns}


class _Stop:
    """Set by SIGTERM."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def _socket(address: str, dscp: int = 0) -> socket.socket:
    if ip_address(address).version == 6:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
    else:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
    return made


def main(arguments: list[str]) -> None:
    """Be one end of a stream; see the head of this file."""
    become_punctual(PRIORITY)
    stop = _Stop()
    role, address, port = arguments[0], arguments[1], int(arguments[2])
    if role == "receive":
        result = _receive(address, port, stop)
    else:
        result = _send(address, port, Shape(*map(int, arguments[3:7])), stop)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
