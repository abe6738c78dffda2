"""A link: a wire between two namespaces with an interface at each end, and a way to trouble it.

Five kinds, one face (``create``, ``change``, ``set_carrier``); a link goes with its namespaces, or with its
emulator:

    bare      a veth pair, as fast as the machine
    tbf       a veth pair with the kernel's token bucket at both ends: rate and drop-tail buffer
    netem     ... and netem below it: delay, jitter, loss, duplicates
    emulated  two TAPs and sdwan/lab/emulator.py between them: everything ``Impairment`` knows
    auto      netem where the kernel has it and it suffices, else emulated

Directions: ``forward`` is from the first end to the second, ``backward`` the other way.
"""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sdwan.errors import LabError
from sdwan.lab import shaping
from sdwan.lab.emulator import DIRECTIONS, WireSpec, ask
from sdwan.lab.impairment import Impairment
from sdwan.lab.namespace import Namespace, wait_line

Kind = Literal["bare", "tbf", "netem", "emulated", "auto"]


@dataclass(frozen=True)
class LinkSpec:
    """What a link shall be."""

    kind: Kind = "bare"
    forward: Impairment = field(default_factory=Impairment)
    backward: Impairment = field(default_factory=Impairment)
    mtu_bytes: int = 1500
    seed: int = 1

    @classmethod
    def even(cls, kind: Kind, impairment: Impairment) -> LinkSpec:
        """Return a link that does the same in both directions."""
        return cls(kind, impairment, impairment)


@dataclass(frozen=True)
class LinkEnd:
    """One end: where, how the interface is called, and its addresses with prefix lengths."""

    namespace: Namespace
    interface: str
    addresses: tuple[str, ...] = ()


class Link(ABC):
    """The common face; ``connect`` makes the right kind."""

    def __init__(self, spec: LinkSpec, ends: Sequence[LinkEnd]) -> None:
        self.spec = spec
        self.ends = tuple(ends)

    @property
    @abstractmethod
    def kind(self) -> str:
        """Name of the kind."""

    @abstractmethod
    def create(self) -> None:
        """Make the devices and bring them up with their addresses."""

    @abstractmethod
    def change(self, values: dict[str, Any], direction: str = "both") -> None:
        """Change some impairments of a living link.

        Raises:
            LabError: this kind of link cannot do that.
        """

    def cut(self) -> None:
        """Swallow everything from now on; both interfaces stay up, as behind a modem."""
        self.change({"blackhole": True})

    def restore(self) -> None:
        """End a ``cut``."""
        self.change({"blackhole": False})

    def set_carrier(self, end: int, up: bool) -> None:
        """Take the interface of one end down, or up again with its addresses."""
        here = self.ends[end]
        here.namespace.run(["ip", "link", "set", here.interface, "up" if up else "down"])
        if up:
            self._address(here)

    def _bring_up(self) -> None:
        for end in self.ends:
            end.namespace.run(["ip", "link", "set", end.interface, "mtu", str(self.spec.mtu_bytes), "up"])
            self._address(end)

    def _address(self, end: LinkEnd) -> None:
        for address in end.addresses:
            quiet = ["nodad"] if ":" in address else []
            end.namespace.run(["ip", "address", "replace", address, "dev", end.interface, *quiet])


class VethLink(Link):
    """A veth pair, bare or with the kernel's qdiscs at both ends."""

    def __init__(self, kind: str, spec: LinkSpec, ends: Sequence[LinkEnd]) -> None:
        super().__init__(spec, ends)
        self._kind = kind
        self._now = [spec.forward, spec.backward]

    @property
    def kind(self) -> str:
        """Bare, tbf or netem."""
        return self._kind

    def create(self) -> None:
        """Make the pair, up, addressed and shaped."""
        first, second = self.ends
        peer = ["peer", "name", second.interface, *_netns(second.namespace)]
        first.namespace.run(["ip", "link", "add", first.interface, "type", "veth", *peer])
        self._bring_up()
        for side in range(2):
            self._shape(side)

    def change(self, values: dict[str, Any], direction: str = "both") -> None:
        """Replace the qdiscs of one direction or both."""
        for side, name in enumerate(DIRECTIONS):
            if direction in (name, "both"):
                self._now[side] = Impairment.from_dict({**asdict(self._now[side]), **values})
                self._shape(side)

    def _shape(self, side: int) -> None:
        wanted, end = self._now[side], self.ends[side]
        replace = ["tc", "qdisc", "replace", "dev", end.interface]
        if self._kind == "tbf":
            end.namespace.run([*replace, "root", *shaping.tbf(wanted)])
        elif self._kind == "netem":
            for arguments in shaping.netem(wanted):
                end.namespace.run([*replace, *arguments])
        elif wanted != Impairment():
            raise LabError("a bare link has no impairments; use kind tbf, netem or emulated")


class EmulatedLink(Link):
    """Two TAPs and a wire of the lab's emulator between them."""

    def __init__(self, spec: LinkSpec, ends: Sequence[LinkEnd], control: Path, name: str) -> None:
        super().__init__(spec, ends)
        self.control = control
        self.name = name

    @property
    def kind(self) -> str:
        """Always emulated."""
        return "emulated"

    def create(self) -> None:
        """Have the emulator make the devices, then bring them up."""
        first, second = self.ends
        wire = WireSpec(
            name=self.name,
            namespaces=(first.namespace.path, second.namespace.path),
            interfaces=(first.interface, second.interface),
            forward=asdict(self.spec.forward),
            backward=asdict(self.spec.backward),
            seed=self.spec.seed,
        )
        ask(self.control, {"add": asdict(wire)})
        self._bring_up()

    def change(self, values: dict[str, Any], direction: str = "both") -> None:
        """Tell the emulator; it obeys at once."""
        ask(self.control, {"set": values, "wire": self.name, "direction": direction})

    def status(self) -> dict[str, Any]:
        """Return impairments and counters of both directions."""
        return dict(ask(self.control, {"status": True})[self.name])


def connect(spec: LinkSpec, ends: Sequence[LinkEnd], *, name: str, emulator: Callable[[], Path]) -> Link:
    """Create a link of the kind asked for.

    ``emulator`` gives the control socket of a running emulator; it is asked only if one is needed.

    Raises:
        LabError: a device name is taken, or the kind cannot do what the specification asks.
    """
    kind = spec.kind
    if kind == "auto":
        able = shaping.netem_can(spec.forward) and shaping.netem_can(spec.backward)
        kind = "netem" if able and shaping.kernel_has_netem() else "emulated"
    link: Link
    if kind == "emulated":
        link = EmulatedLink(spec, ends, emulator(), name)
    else:
        link = VethLink(kind, spec, ends)
    link.create()
    return link


def start_emulator(control: Path) -> subprocess.Popen[bytes]:
    """Start an emulator and wait until it takes requests at ``control``; the caller ends it."""
    control.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sdwan.lab.emulator", str(control)]
    with control.with_suffix(".log").open("wb") as log:  # never our own stderr: it outlives us
        process = Namespace().start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    wait_line(process, "ready", process.stdout)
    return process


def _netns(namespace: Namespace) -> list[str]:
    return ["netns", namespace.name] if namespace.name else []
