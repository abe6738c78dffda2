"""Loads and measurements by ordinary programs: iperf3 and ping, run between two namespaces.

Congestion control is CUBIC everywhere, and said so: a machine's default (often BBR) decides more about a
bonded link than the bond does. Rates are goodput at the receiver, payload bits per second.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.namespace import Namespace

# Implementation constants --------------------------------------------------------------------------

PORT = 5_201
CONGESTION_CONTROL = "cubic"
SOCKET_BYTES_MOST = 2 << 20
"""With the default of 208 KiB, iperf3 itself lost a tenth of 120 Mbit/s (RcvbufErrors)."""
PING_LOST_MS = 1000.0
"""What a lost ping counts as."""
PATIENCE_S = 15.0
"""A client may take this much longer than its measurement: set-up through a slow tunnel, last packets."""


@dataclass(frozen=True)
class IperfResult:
    """What iperf3 measured, at the receiver."""

    goodput_bps: float
    duration_s: float
    retransmits: int
    packets: int = 0
    """UDP only: datagrams that arrived."""
    lost: int = 0

    @property
    def packets_per_second(self) -> float:
        """UDP only: datagrams delivered per second."""
        return self.packets / self.duration_s if self.duration_s else 0.0


def _socket_bytes() -> int:
    """Return a socket buffer that loses nothing of a burst the tunnel releases at once, where allowed."""
    return min(int(Path("/proc/sys/net/core/rmem_max").read_text()), SOCKET_BYTES_MOST)


class Iperf:
    """A running measurement; ``wait`` gives its result."""

    def __init__(
        self,
        source: Namespace,
        target: Namespace,
        address: str,
        *,
        duration_s: float,
        streams: int = 1,
        datagram_bytes: int = 0,
        rate_bps: int = 0,
        skip_s: int = 0,
        port: int = PORT,
    ) -> None:
        """Start it: TCP, or UDP when ``datagram_bytes`` is given (``rate_bps`` 0 = as fast as it can)."""
        self.duration_s = duration_s
        serve = ["iperf3", "-s", "-1", "-p", str(port), "--forceflush"]
        self._server = target.start(serve, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        _wait_listening(self._server)
        kind = ["-C", CONGESTION_CONTROL]
        if datagram_bytes:
            kind = ["-u", "-l", str(datagram_bytes), "-b", str(rate_bps), "-w", str(_socket_bytes())]
        client = ["iperf3", "-c", address, "-p", str(port), "-t", f"{duration_s:g}", "-J", *kind]
        client += ["-P", str(streams)] if streams > 1 else []
        client += ["-O", str(skip_s)] if skip_s else []
        self._total_s = duration_s + skip_s
        self._client = source.start(client, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    @property
    def running(self) -> bool:
        """Tell whether the client is still sending."""
        return self._client.poll() is None

    def wait(self) -> IperfResult:
        """Wait for the end.

        Raises:
            LabError: iperf3 failed or hangs; with its own words.
        """
        try:
            output, _ = self._client.communicate(timeout=self._total_s + PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise LabError("iperf3 did not end; the far end stopped answering") from error
        finally:
            self.close()
        try:
            report = json.loads(output)
        except ValueError as error:
            raise LabError(f"iperf3 said no JSON: {output[-200:]!r}") from error
        if "error" in report:
            raise LabError(f"iperf3: {report['error']}")
        return _parse(report["end"])

    def close(self) -> None:
        """End both, however they are."""
        for process in (self._client, self._server):
            if process.poll() is None:
                process.kill()
            process.wait()


def iperf(source: Namespace, target: Namespace, address: str, **options: Any) -> IperfResult:
    """Measure once, to the end. Options as of ``Iperf``."""
    return Iperf(source, target, address, **options).wait()


def _parse(end: dict[str, Any]) -> IperfResult:
    received = end.get("sum_received") or end["sum"]
    lost = received.get("lost_packets", 0)
    return IperfResult(
        goodput_bps=received["bits_per_second"],
        duration_s=received["seconds"],
        retransmits=end.get("sum_sent", {}).get("retransmits", 0),
        packets=received.get("packets", 0) - lost,
        lost=lost,
    )


def _wait_listening(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None
    for line in server.stdout:
        if b"listening" in line:
            return
    raise LabError("iperf3 -s ended at once; is its port taken?")


@dataclass(frozen=True)
class PingResult:
    """What ping measured."""

    sent: int
    received: int
    minimum_ms: float
    average_ms: float
    maximum_ms: float


_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+) (?:packets )?received")
_TIMES = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)")


def ping(source: Namespace, address: str, *, count: int = 20, interval_s: float = 0.02) -> PingResult:
    """Ping ``count`` times; none answered is a result, not an error (times are then infinite)."""
    command = ["ping", "-n", "-q", "-c", str(count), "-i", f"{interval_s:g}", "-W", "1", address]
    try:
        text = source.run(command, accept=(0, 1), timeout_s=count * interval_s + PATIENCE_S)
    except LabError as error:
        if "unreachable" not in str(error):
            raise
        text = f"{count} packets transmitted, 0 received"
    counts, times = _COUNTS.search(text), _TIMES.search(text)
    if counts is None:
        raise LabError(f"ping said {text[-200:]!r}")
    minimum, average, maximum = map(float, times.groups()) if times else (float("inf"),) * 3
    return PingResult(int(counts[1]), int(counts[2]), minimum, average, maximum)


class Pinging:
    """A ping that runs until it is stopped; its lines go to a file, for they are more than a pipe holds."""

    def __init__(self, source: Namespace, address: str, file: Path, *, interval_ns: int, dscp: int = 0):
        self._file = file
        self._wall_less_monotonic_ns = time.time_ns() - time.monotonic_ns()
        command = ["ping", "-n", "-D", "-i", f"{interval_ns / 1e9:g}", "-Q", str(dscp << 2), address]
        with file.open("wb") as output:
            self._process = source.start(command, stdout=output, stderr=output)

    def stop(self) -> list[PingSample]:
        """End it and return every ping, in the order of sending."""
        self._process.send_signal(signal.SIGINT)
        self.close()
        return parse_ping(self._file.read_text(errors="replace"), self._wall_less_monotonic_ns)

    def close(self) -> None:
        """End it, however it is."""
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class PingSample:
    """One ping."""

    moment_ns: int
    """When the answer came, CLOCK_MONOTONIC; of a lost one, when the next answer came."""
    rtt_ms: float
    """``PING_LOST_MS`` if no answer came before a later one's."""


_ANSWER = re.compile(r"\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=([\d.]+) ms")
_SEQUENCES = 1 << 16


def parse_ping(text: str, wall_less_monotonic_ns: int) -> list[PingSample]:
    """Read what ``ping -D`` printed; a number that was left out is a lost ping."""
    samples: list[PingSample] = []
    expected = 1
    for match in _ANSWER.finditer(text):
        moment_ns = int(float(match[1]) * 1e9) - wall_less_monotonic_ns
        skipped = (int(match[2]) - expected) % _SEQUENCES
        if skipped >= _SEQUENCES // 2:
            continue  # a late or second answer: it was counted lost, or counted already
        samples += [PingSample(moment_ns, PING_LOST_MS)] * skipped
        samples.append(PingSample(moment_ns, float(match[3])))
        expected = (int(match[2]) + 1) % _SEQUENCES
    return samples
