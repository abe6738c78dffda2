"""Bare link, our tunnel, OpenVPN, wireguard-go: started alike, asked alike.

Each contender has a lab of its own with one bare veth link, so that no one's programs stand in another's way.
All stand at once, idle but for the one being measured; that lets rounds be interleaved, so that a slow minute
of the machine hits all of them. Used by benchmarks.benchmark.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdwan.errors import LabError
from sdwan.lab.link import LinkSpec
from sdwan.lab.namespace import Namespace, end_processes
from sdwan.lab.site import Overlay, Settings
from sdwan.lab.topology import Lab, Plan, build
from sdwan.lab.traffic import ping

# Implementation constants --------------------------------------------------------------------------

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
READY_ATTEMPTS = 100
READY_INTERVAL_S = 0.05
"""Between pings, until a tunnel must answer."""


class Contender(ABC):
    """One way to get from one end of a link to the other."""

    name: str
    title: str

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def near(self) -> Namespace:
        """Where loads start."""
        return self.lab.namespace("edge")

    @property
    def far(self) -> Namespace:
        """Where they are received."""
        return self.lab.namespace("hub")

    @property
    @abstractmethod
    def address(self) -> str:
        """The far end's address inside the tunnel."""

    @abstractmethod
    def start(self) -> None:
        """Bring it up at both ends."""

    @abstractmethod
    def stop(self) -> None:
        """Take it down."""

    @abstractmethod
    def processes(self) -> list[int]:
        """Return the processes that move its packets, both ends."""

    def wait_ready(self) -> None:
        """Wait until a ping comes back.

        Raises:
            LabError: it never does.
        """
        for _ in range(READY_ATTEMPTS):
            if ping(self.near, self.address, count=1).received:
                return
            time.sleep(READY_INTERVAL_S)
        raise LabError(f"{self.title} does not carry a ping")

    def cpu_s(self) -> float:
        """Return the CPU seconds its processes have used so far, user and system."""
        return sum(map(cpu_s, self.processes()))


class Bare(Contender):
    """No tunnel at all: the ceiling."""

    name, title = "bare", "bare veth"

    @property
    def address(self) -> str:
        """The link's own address."""
        return self.lab.ports("edge")[0].far_address

    def start(self) -> None:
        """The link stands already."""

    def stop(self) -> None:
        """The link goes with its lab."""

    def processes(self) -> list[int]:
        """The kernel moves its packets alone."""
        return []


class Ours(Contender):
    """The product, over the links of its lab."""

    name, title = "ours", "this tunnel"

    def __init__(self, lab: Lab, settings: Settings | None = None) -> None:
        super().__init__(lab)
        self.overlay = Overlay(lab, settings=settings)

    @property
    def address(self) -> str:
        """The hub's inner address."""
        return self.overlay.edges["hub"].address

    def start(self) -> None:
        """Start both edges and wait until all paths are up."""
        self.overlay.start()

    def stop(self) -> None:
        """End both edges."""
        self.overlay.stop()

    def processes(self) -> list[int]:
        """Control and data plane of both edges."""
        return [process for edge in self.overlay.edges.values() for process in edge.processes().values()]

    def data_planes(self) -> list[int]:
        """Return the data planes only."""
        return [edge.processes()["data plane"] for edge in self.overlay.edges.values()]

    def tun_mtu_bytes(self) -> int:
        """Return the MTU the tunnel offers at present."""
        return int(self.overlay.edges["edge"].status()["tun_mtu_bytes"])


class Daemons(Contender):
    """A rival: one program at each end."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.directory = lab.home.directory / self.name
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.started: list[int] = []

    @property
    def address(self) -> str:
        """Inner address of the far end."""
        return "10.78.0.2"

    def processes(self) -> list[int]:
        """The two daemons."""
        return self.started

    def stop(self) -> None:
        """End them."""
        end_processes(self.started)
        self.started.clear()

    def launch(
        self, namespace: Namespace, argv: list[str], environment: dict[str, str] | None = None
    ) -> None:
        """Start one daemon with its log in the contender's directory."""
        number = len(self.started)
        with (self.directory / f"log{number}").open("wb") as log:
            merged = {**os.environ, **(environment or {})}
            self.started.append(namespace.start(argv, stdout=log, stderr=log, env=merged).pid)


@contextmanager
def standing(kind: type[Contender], name: str, plan: Plan | None = None) -> Iterator[Contender]:
    """Build a lab for a contender and bring it up, for the length of a ``with``."""
    with build(name, plan or Plan.pair(LinkSpec())) as lab:
        contender = kind(lab)
        try:
            contender.start()
            contender.wait_ready()
            yield contender
        finally:
            contender.stop()


def cpu_s(process: int) -> float:
    """Return user and system seconds of a process, all its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_bytes(process: int) -> tuple[int, int]:
    """Return the memory of a process: resident now, and at its peak."""
    values = {}
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM"):
            values[key] = int(value.split()[0]) * 1024
    return values["VmRSS"], values["VmHWM"]
