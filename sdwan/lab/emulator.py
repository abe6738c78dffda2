"""The emulator: a process that is the wires between namespaces, for kernels without netem.

For each wire it owns two TAP devices, one in each namespace. What one side sends is read here, goes through a
``Pipe`` (sdwan/lab/impairment.py: the model, pure) and is written to the other side when the model says so.
TAPs without offloads show single Ethernet frames, as a wire does, whatever super-packets the sender made.

Started with the path of its control socket (unix, SOCK_SEQPACKET); says ``ready`` on standard output; takes
one JSON object per connection::

    {"add": WireSpec}      {"status": true}      {"look": true}
    {"set": {"loss_ppm": 1000}, "wire": "link0", "direction": "both"}

and lives until it is killed; its devices vanish with it. One process for all wires of a lab: under load its
price is the wake-ups, and they are shared. Started by sdwan.lab.link; talked to through ``ask``.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from sdwan.errors import LabError
from sdwan.lab.impairment import Impairment, Pipe
from sdwan.lab.namespace import inside
from sdwan.lab.timer import Timer, become_punctual

# Specification constants (linux/if_tun.h) ----------------------------------------------------------

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000

# Implementation constants --------------------------------------------------------------------------

FRAME_BYTES_MAX = 9_234
BATCH_FRAMES = 64
"""Frames read from one side before the next gets its turn."""
BUSY_S = 0.001
REST_S = 0.000_25
"""Pause after a turn that moved frames less than BUSY_S after the last that did. So a lonely frame passes
within 50 µs, and under load at most 4,000 turns a second are taken: two links full at 100 Mbit/s take 0.3
of a core instead of 0.83 (measured)."""
EARLY_NS = 20_000
"""What is due this soon goes now and saves a wake-up."""
PRIORITY = 20
WIRES_MAX = 64
CLIENTS_MAX = 8
MESSAGE_BYTES_MAX = 1 << 17
"""SOCK_SEQPACKET messages must fit the socket's buffer (net.core.wmem_default is 208 KiB)."""
ASK_TIMEOUT_S = 5.0
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True, slots=True)
class WireSpec:
    """What the emulator is told of one wire; plain data, travels as JSON."""

    name: str
    namespaces: tuple[str, str]
    """Paths of the two namespaces, such as /run/netns/NAME; empty = the emulator's own."""
    interfaces: tuple[str, str]
    forward: dict[str, Any]
    """Impairment from the first namespace to the second."""
    backward: dict[str, Any]
    seed: int = 1


class Wire:
    """Two taps and two pipes."""

    def __init__(self, spec: WireSpec, now_ns: int) -> None:
        impairments = [Impairment.from_dict(values) for values in (spec.forward, spec.backward)]
        self.pipes: list[Pipe[bytes]] = [
            Pipe(impairment, random.Random(spec.seed + side).random, now_ns=now_ns)
            for side, impairment in enumerate(impairments)
        ]
        self.refused = [0, 0]
        """Frames the receiving device would not take (it is down), per direction."""
        self.taps: list[int] = []
        try:
            for namespace, interface in zip(spec.namespaces, spec.interfaces, strict=True):
                self.taps.append(open_tap(namespace, interface))
        except LabError:
            self.close()
            raise

    def read(self, side: int) -> int:
        """Take what one side has sent into its pipe; return the number of frames."""
        offer, descriptor = self.pipes[side].offer, self.taps[side]
        now_ns = time.monotonic_ns()
        count = 0
        with suppress(BlockingIOError):
            while count < BATCH_FRAMES:
                frame = os.read(descriptor, FRAME_BYTES_MAX)
                offer(frame, len(frame), now_ns=now_ns)
                count += 1
        return count

    def write_due(self, now_ns: int) -> int:
        """Give both sides what has arrived; return the number of frames."""
        count = 0
        for side, pipe in enumerate(self.pipes):
            for frame in pipe.due(now_ns=now_ns):
                count += 1
                try:
                    os.write(self.taps[1 - side], frame)
                except OSError:
                    self.refused[side] += 1
        return count

    def change(self, values: dict[str, Any], direction: str) -> None:
        """Replace some values of one direction or both."""
        if direction not in (*DIRECTIONS, "both"):
            raise LabError(f"direction {direction!r} does not exist; use forward, backward or both")
        for name, pipe in zip(DIRECTIONS, self.pipes, strict=True):
            if direction in (name, "both"):
                wanted = Impairment.from_dict({**asdict(pipe.impairment), **values})
                pipe.change(wanted, now_ns=time.monotonic_ns())

    def status(self) -> dict[str, Any]:
        """Return impairment, counters and frames in transit of each direction."""
        return {
            name: {
                "impairment": asdict(pipe.impairment),
                "counters": {**asdict(pipe.counters), "refused": self.refused[side]},
                "in_transit": pipe.in_transit,
            }
            for side, (name, pipe) in enumerate(zip(DIRECTIONS, self.pipes, strict=True))
        }

    def look(self, now_ns: int) -> list[list[int]]:
        """Return [bytes queued, ns the oldest of them has waited, bytes delivered] of each direction."""
        return [
            [pipe.queued_bytes, pipe.waiting_ns(now_ns), pipe.counters.delivered_bytes] for pipe in self.pipes
        ]

    def close(self) -> None:
        """Give the devices back."""
        for descriptor in self.taps:
            os.close(descriptor)


class Emulator:
    """All wires, one timer, one control socket, one loop."""

    def __init__(self, control: str) -> None:
        self.wires: dict[str, Wire] = {}
        self._sides: dict[int, tuple[Wire, int]] = {}
        self._timer = Timer()
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._control.bind(control)
        self._control.listen()
        self._clients: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._timer.descriptor, select.EPOLLIN)
        self._epoll.register(self._control, select.EPOLLIN)

    def run(self) -> NoReturn:
        """Move frames for ever."""
        last_moved_s = 0.0
        while True:
            moved = 0
            for descriptor, _ in self._epoll.poll():
                if descriptor in self._sides:
                    wire, side = self._sides[descriptor]
                    moved += wire.read(side)
                elif descriptor in self._clients:
                    self._answer(descriptor)
                elif descriptor == self._control.fileno():
                    self._accept()
            now_ns = time.monotonic_ns() + EARLY_NS
            for wire in self.wires.values():
                moved += wire.write_due(now_ns)
            moments = [pipe.next_due_ns() for wire in self.wires.values() for pipe in wire.pipes]
            self._timer.set(min((moment for moment in moments if moment is not None), default=None))
            if moved:
                now_s = time.monotonic()
                if now_s - last_moved_s < BUSY_S:
                    time.sleep(REST_S)
                last_moved_s = now_s

    def obey(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks for and return the answer.

        Raises:
            LabError, TypeError, ValueError: the request makes no sense; nothing was changed.
        """
        if "add" in request:
            self._add(WireSpec(**request["add"]))
        elif "set" in request:
            self._wire(request.get("wire")).change(request["set"], request.get("direction", "both"))
        elif "look" in request:
            return self._look()
        elif "status" not in request:
            raise LabError(f"no such request: {', '.join(request)}; there are add, set, status, look")
        return {name: wire.status() for name, wire in self.wires.items()}

    def _look(self) -> dict[str, Any]:
        """Return what changes all the time, cheap enough to be asked for ten times a second."""
        now_ns = time.monotonic_ns()
        lateness = zip(*(pipe.lateness for wire in self.wires.values() for pipe in wire.pipes), strict=True)
        return {
            "wires": {name: wire.look(now_ns) for name, wire in self.wires.items()},
            "lateness": [sum(step) for step in lateness],
            "cpu_ns": time.process_time_ns(),
        }

    def _wire(self, name: Any) -> Wire:
        if name not in self.wires:
            raise LabError(f"no wire {name!r}; there are {', '.join(self.wires) or 'none'}")
        return self.wires[name]

    def _add(self, spec: WireSpec) -> None:
        if spec.name in self.wires or len(self.wires) >= WIRES_MAX:
            raise LabError(f"wire {spec.name} exists already, or there are {WIRES_MAX}")
        wire = Wire(spec, time.monotonic_ns())
        self.wires[spec.name] = wire
        for side, descriptor in enumerate(wire.taps):
            self._sides[descriptor] = (wire, side)
            self._epoll.register(descriptor, select.EPOLLIN)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            client, _ = self._control.accept()
            if len(self._clients) >= CLIENTS_MAX:
                client.close()
                return
            client.setblocking(False)
            self._clients[client.fileno()] = client
            self._epoll.register(client, select.EPOLLIN)

    def _answer(self, descriptor: int) -> None:
        with self._clients.pop(descriptor) as client, suppress(OSError):
            self._epoll.unregister(client)
            try:
                answer = self.obey(json.loads(client.recv(MESSAGE_BYTES_MAX)))
            except (LabError, ValueError, TypeError, AttributeError) as error:
                answer = {"error": str(error)}
            client.send(json.dumps(answer).encode())


def open_tap(namespace: str, interface: str) -> int:
    """Create a TAP device in a namespace and return its non-blocking descriptor.

    Raises:
        LabError: the namespace is gone, /dev/net/tun is missing, or the name is taken.
    """
    try:
        with inside(namespace):
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = struct.pack("16sH22x", interface.encode(), _IFF_TAP | _IFF_NO_PI)
            fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as error:
        raise LabError(f"TAP {interface} in {namespace or 'this namespace'}: {error.strerror}") from error
    return descriptor


def ask(control: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request to a running emulator and return its answer.

    Raises:
        LabError: nobody answers there, or the emulator refuses the request.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(ASK_TIMEOUT_S)
        try:
            line.connect(str(control))
            line.send(json.dumps(request).encode())
            answer = json.loads(line.recv(MESSAGE_BYTES_MAX))
        except (OSError, ValueError) as error:
            raise LabError(f"no emulator answers at {control}: {error}; is the lab up?") from error
    if "error" in answer:
        raise LabError(f"the emulator at {control} refuses: {answer['error']}")
    return dict(answer)


def main(arguments: list[str]) -> None:
    """Bind the control socket, say ``ready``, be the wires until killed."""
    emulator = Emulator(arguments[0])
    become_punctual(PRIORITY)
    print("ready", flush=True)
    emulator.run()


if __name__ == "__main__":
    main(sys.argv[1:])
