"""What happened over time: counters read ten times a second while a scenario plays.

A ``Sampler`` is a thread that reads, at every tick, what the sending kernel gave to each path and what came
out of each link (pinned BPF counters), what came out of the receiver's TUN (interface counter), how long the
oldest frame in each link's buffer has waited (the emulator, or the kernel's token bucket), and each second
the memory of all of the product. Out comes a ``Series``: plain lists, cumulative where counters are, from
which figures makes figures and picture draws curves.

The thread lives in the receiver's network namespace, so the TUN's counter is in one small file of /proc.
"""

from __future__ import annotations

import socket
import threading
import time
from bisect import bisect_left
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from sdwan.errors import LabError
from sdwan.io.maps import Maps
from sdwan.lab.configs import TUN
from sdwan.lab.emulator import DIRECTIONS, ask
from sdwan.lab.link import EmulatedLink
from sdwan.lab.namespace import inside
from sdwan.lab.site import Edge, Overlay
from sdwan.lab.topology import Lab, Port
from sdwan.model import PATHS_PER_PEER

# Implementation constants --------------------------------------------------------------------------

TICK_NS = 100_000_000
"""A tick takes 1.5 ms of CPU with two emulated links (measured): 1.5 % of a core."""
KERNEL_QUEUE_TICKS = 3
"""Reading the kernel's queues takes 1.5 ms more per link; between readings the last one stands."""
MEMORY_TICKS = 10
SAMPLES_MAX = 40_000
"""An hour; a longer scenario keeps only every second sample from there on."""


@dataclass
class Series:
    """Samples of one run, in order; ``sent``, ``arrived`` and ``queue_ms`` hold a list of links each."""

    moments_ns: list[int] = field(default_factory=list)
    """CLOCK_MONOTONIC."""
    sent: list[list[int]] = field(default_factory=list)
    """Bytes the sender's kernel gave to each path."""
    arrived: list[list[int]] = field(default_factory=list)
    """Bytes of whole frames that came out of each link, everybody's."""
    ours: list[list[int]] = field(default_factory=list)
    """... those of the tunnel."""
    delivered: list[int] = field(default_factory=list)
    """Bytes that came out of the receiver's TUN."""
    queue_ms: list[list[float]] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    """(moment_ns, MiB resident)."""
    machine_cpu: float = 0.0
    """Percent of all cores' time that was used, by anybody, over the run."""
    emulator_cpu_ns: int = 0
    lateness: list[int] = field(default_factory=list)
    """Frames the emulator delivered, by lateness (impairment.LATENESS_BITS), over the run."""

    def between(self, counter: list[int], begin_ns: int, end_ns: int) -> float:
        """Return how much a cumulative counter grew between two moments, interpolated."""
        return self._at(counter, end_ns) - self._at(counter, begin_ns)

    def rates_mbps(self, counter: list[int]) -> list[float]:
        """Return the rate between neighbouring samples; one fewer than there are samples."""
        moments = pairwise(self.moments_ns)
        pairs = zip(pairwise(counter), moments, strict=True)
        return [(b - a) * 8e3 / max(end - begin, 1) for (a, b), (begin, end) in pairs]

    def column(self, rows: list[list[Any]], number: int) -> list[Any]:
        """Return one link's values."""
        return [row[number] for row in rows]

    def _at(self, counter: list[int], moment_ns: int) -> float:
        place = min(max(bisect_left(self.moments_ns, moment_ns), 1), len(counter) - 1)
        if place < 1:
            raise LabError("too few samples were taken to tell a rate; did the run end at once?")
        begin_ns, end_ns = self.moments_ns[place - 1], self.moments_ns[place]
        part = min(max((moment_ns - begin_ns) / max(end_ns - begin_ns, 1), 0.0), 1.0)
        return counter[place - 1] + part * (counter[place] - counter[place - 1])


class Sampler:
    """Runs from ``start`` to ``stop``; samples what goes from one site to another."""

    def __init__(self, lab: Lab, running: Overlay, sender: str, receiver: str) -> None:
        self.series = Series()
        self._lab, self._edges = lab, list(running.edges.values())
        self._sender: Edge = running.edges[sender]
        self._receiver: Edge = running.edges[receiver]
        self._near = [port for port in lab.ports(sender) if port.far_site == receiver]
        self._far = [port for port in lab.ports(receiver) if port.far_site == sender]
        self._queues = Queues(lab, sender, self._near)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> Series:
        """End and return what was seen.

        Raises:
            LabError: sampling failed on the way.
        """
        self.end()
        if self._failure is not None:
            raise LabError(f"sampling failed: {self._failure}") from self._failure
        return self.series

    def end(self) -> None:
        """End, whatever came of it; may be called again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                stack.enter_context(inside(str(self._receiver.namespace.path)))
                near = Maps.open(self._sender.plan.pin_root)
                stack.callback(near.close)
                far = Maps.open(self._receiver.plan.pin_root)
                stack.callback(far.close)
                stack.callback(self._queues.close)
                self._sample_until_stopped(near, far)
        except (OSError, LabError, ValueError) as error:
            self._failure = error

    def _sample_until_stopped(self, near: Maps, far: Maps) -> None:
        next_ns, tick = time.monotonic_ns(), 0
        indices = [socket.if_nametoindex(port.interface) for port in self._far]
        first, used = self._queues.emulator(), _machine_time()
        while not self._stop.is_set():
            self._sample(near, far, indices, tick)
            tick += 1
            next_ns = max(next_ns + TICK_NS, time.monotonic_ns())
            self._stop.wait((next_ns - time.monotonic_ns()) / 1e9)
        last, used_then = self._queues.emulator(), _machine_time()
        busy, total = (then - before for before, then in zip(used, used_then, strict=True))
        self.series.machine_cpu = 100 * busy / max(total, 1)
        self.series.emulator_cpu_ns = last[0] - first[0]
        self.series.lateness = [b - a for a, b in zip(first[1], last[1], strict=True)]

    def _sample(self, near: Maps, far: Maps, indices: list[int], tick: int) -> None:
        series = self.series
        if len(series.moments_ns) >= SAMPLES_MAX and tick % 2:
            return
        paths = near.tx_stats()[PATHS_PER_PEER : PATHS_PER_PEER + len(self._near)]
        links = far.link_stats()
        before = series.delivered[-1] if series.delivered else 0
        series.moments_ns.append(time.monotonic_ns())
        series.delivered.append(_interface_bytes().get(TUN, before))
        series.sent.append([int(value) for value in paths["bytes"]])
        series.arrived.append([links[index].rx_bytes if index in links else 0 for index in indices])
        series.ours.append([links[index].rx_tunnel_bytes if index in links else 0 for index in indices])
        series.queue_ms.append(self._queues.read_ms(tick))
        if tick % MEMORY_TICKS == 0:
            series.memory.append((series.moments_ns[-1], _resident_mib(self._edges)))


class Queues:
    """How long the oldest frame waits in the buffer of each of a site's links, outward."""

    def __init__(self, lab: Lab, sender: str, ports: list[Port]) -> None:
        self._links = [lab.links[port.link] for port in ports]
        self._sides = [0 if lab.plan.cables[port.link].first == sender else 1 for port in ports]
        self._emulated = next((link for link in self._links if isinstance(link, EmulatedLink)), None)
        self._route: IPRoute | None = None
        self._indices: dict[int, int] = {}
        self._kernel_ms = [0.0] * len(ports)
        if self._emulated is None:
            with inside(str(lab.namespace(sender).path)):
                self._route = IPRoute()
                for number, port in enumerate(ports):
                    self._indices[self._route.link_lookup(ifname=port.interface)[0]] = number

    def read_ms(self, tick: int) -> list[float]:
        """Return the wait of each link; of a kernel queue, what it takes to drain."""
        if self._emulated is None:
            if tick % KERNEL_QUEUE_TICKS == 0:
                self._read_kernel()
            return list(self._kernel_ms)
        wires = ask(self._emulated.control, {"look": True})["wires"]
        waits = []
        for link, side in zip(self._links, self._sides, strict=True):
            seen = wires.get(link.name) if isinstance(link, EmulatedLink) else None
            waits.append(seen[side][1] / 1e6 if seen else 0.0)
        return waits

    def emulator(self) -> tuple[int, list[int]]:
        """Return the emulator's CPU time (ns) and frames by lateness so far; zero without one."""
        if self._emulated is None:
            return 0, []
        seen = ask(self._emulated.control, {"look": True})
        return int(seen["cpu_ns"]), list(seen["lateness"])

    def close(self) -> None:
        """Give the netlink socket back."""
        if self._route is not None:
            self._route.close()

    def _read_kernel(self) -> None:
        """Note how long each token bucket would take to drain; links without one keep zero."""
        with suppress(NetlinkError):
            for qdisc in self._route.get_qdiscs() if self._route is not None else ():
                number = self._indices.get(qdisc["index"])
                if number is None or qdisc.get_attr("TCA_KIND") != "tbf":
                    continue
                queue = qdisc.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")
                rate_bps = getattr(self._links[number].spec, DIRECTIONS[self._sides[number]]).rate_bps
                self._kernel_ms[number] = float(queue["backlog"]) * 8e3 / max(rate_bps, 1)


def _interface_bytes() -> dict[str, int]:
    """Return the bytes each interface of this thread's namespace has received."""
    found = {}
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        found[name.strip()] = int(rest.split(None, 1)[0])
    return found


def _machine_time() -> tuple[int, int]:
    """Return the time all cores have been busy, and that time with the idle one, in ticks (proc(5))."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _resident_mib(edges: list[Edge]) -> float:
    """Return the resident memory of all the product's processes; of those that are gone, nothing."""
    pages = 0
    for edge in edges:
        with suppress(LabError, OSError):
            for process in edge.processes().values():
                pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20
