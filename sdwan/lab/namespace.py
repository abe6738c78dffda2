"""Network namespaces: make, enter, run programs in, remove with all that lives there.

Programs are started with ``nsenter --net``, never ``ip netns exec``: the latter mounts a fresh /sys and so
hides the bpffs. Every program started in a namespace gets a process group of its own, so that a Ctrl-C
meant for the lab reaches the lab alone, which then ends them in order.

Knows nothing of links, sites or the product. Used by everything in this room.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sdwan.errors import LabError

# Specification constants ---------------------------------------------------------------------------

NAMESPACES = Path("/run/netns")
"""Where iproute2 keeps named namespaces (ip-netns(8))."""
_CLONE_NEWNET = 0x40000000

# Implementation constants --------------------------------------------------------------------------

COMMAND_TIMEOUT_S = 30.0
END_TIMEOUT_S = 3.0
"""Between SIGTERM and SIGKILL."""
POLL_S = 0.02


class Namespace:
    """One network namespace by name; the empty name is the one we are in."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    @property
    def path(self) -> str:
        """Its file, or the empty string for the present namespace."""
        return str(NAMESPACES / self.name) if self.name else ""

    def exists(self) -> bool:
        """Tell whether there is such a namespace."""
        return not self.name or Path(self.path).exists()

    def create(self) -> None:
        """Make it, with loopback up, any source address accepted and no router's advice taken.

        Raises:
            LabError: the name is taken, or we may not.
        """
        run(["ip", "netns", "add", self.name])
        self.run(["ip", "link", "set", "lo", "up"])
        for setting in SETTINGS:
            self.run(["sysctl", "-q", "-w", setting])

    def delete(self) -> None:
        """End every process inside, then remove it; fine if it is gone already."""
        if not self.name or not self.exists():
            return
        end_processes(self.processes())
        with suppress(LabError):
            run(["ip", "netns", "delete", self.name])

    def processes(self) -> list[int]:
        """Return the ids of the processes that live inside."""
        return [int(line) for line in run(["ip", "netns", "pids", self.name]).split()]

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return ``argv`` made to run inside."""
        return ["nsenter", f"--net={self.path}", "--", *argv] if self.name else list(argv)

    def run(self, argv: Sequence[str], **options: Any) -> str:
        """Run a command inside to its end and return what it printed. See ``run``."""
        return run(self.command(argv), **options)

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program inside, in a process group of its own."""
        return subprocess.Popen(self.command(argv), start_new_session=True, **options)

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"


SETTINGS = (
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv4.ping_group_range=0 2147483647",
)
"""Several default routes need a loose path filter; addresses must be usable at once."""


@contextmanager
def inside(namespace_path: str) -> Iterator[None]:
    """Put this thread into a namespace for the length of a ``with``; the empty path changes nothing.

    Sockets and TAP devices belong to the namespace they were opened in and stay there.
    """
    if not namespace_path:
        yield
        return
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(namespace_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(descriptor: int) -> None:
    import ctypes  # os.setns exists from Python 3.12 on

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def run(
    argv: Sequence[str], *, timeout_s: float = COMMAND_TIMEOUT_S, accept: Sequence[int] = (0,), text: str = ""
) -> str:
    """Run a command to its end, with ``text`` as its input, and return what it printed.

    Raises:
        LabError: it cannot be started, takes too long, or ends with a code not in ``accept``; with its
            own last words.
    """
    shown = shlex.join(argv)
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed; scripts/setup.sh installs it") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{shown}` did not end within {timeout_s:g} s") from error
    if done.returncode not in accept:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise LabError(f"`{shown}` failed with code {done.returncode}: {last}")
    return done.stdout


def end_processes(processes: Sequence[int]) -> None:
    """Ask processes to end, wait a little, and kill those that did not; zombies count as ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        living = [process for process in processes if is_alive(process)]
        for process in living:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        deadline = time.monotonic() + END_TIMEOUT_S
        while any(map(is_alive, living)) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def is_alive(process: int) -> bool:
    """Tell whether a process exists and has not ended (a zombie has)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def wait_line(program: subprocess.Popen[bytes], wanted: str, stream: IO[bytes] | None) -> None:
    """Wait for a program to print one exact line; the way our own helpers say that they are ready.

    Raises:
        LabError: it ended or printed something else first.
    """
    line = stream.readline().decode(errors="replace").strip() if stream else ""
    if line != wanted:
        raise LabError(f"{program.args!r} did not start: it said {line!r}, expected {wanted!r}")
