"""What a lab leaves on a machine, and how all of it is removed, whoever died before.

Everything of a lab called NAME bears its name, so nothing has to be kept in step with a list:

    /run/netns/sdwan-lab-NAME-SITE      its namespaces, and every process in them
    /run/sdwan-lab/NAME/                keys, configurations, logs, sockets
    /sys/fs/bpf/sdwan-lab-NAME-SITE/    pinned programs and maps

What lives elsewhere (the emulator, edges and interfaces in namespaces that are not the lab's) is noted in
the files ``processes`` and ``interfaces`` there before it is made use of.

``owner`` holds the process that made the lab; when that is gone and the lab was not meant to stay (``kept``),
what is left of it is rubbish and the next lab sweeps it up. Names hold no hyphen: one lab's prefix is never
the beginning of another's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sdwan.errors import LabError
from sdwan.lab.namespace import NAMESPACES, Namespace, end_processes

# Implementation constants --------------------------------------------------------------------------

PREFIX = "sdwan-lab-"
HOMES = Path("/run/sdwan-lab")
BPFFS = Path("/sys/fs/bpf")
_NAME = re.compile(r"[a-z0-9_]{1,24}")


class Home:
    """The directory of one lab, and the names of all that belongs to it."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise LabError(f"{name!r} is no name for a lab; 1 to 24 of a-z, 0-9 and _")
        self.name = name
        self.directory = HOMES / name

    def namespace(self, site: str) -> Namespace:
        """Return the namespace of a site."""
        return Namespace(f"{PREFIX}{self.name}-{site}")

    def pin_root(self, site: str) -> Path:
        """Return where a site pins its programs and maps."""
        return BPFFS / f"{PREFIX}{self.name}-{site}" / "v1"

    def claim(self) -> None:
        """Make the directory, in our name.

        Raises:
            LabError: there is such a lab already.
        """
        HOMES.mkdir(mode=0o755, parents=True, exist_ok=True)
        claim = HOMES / f".{self.name}.{os.getpid()}"
        claim.mkdir(mode=0o700)
        (claim / "owner").write_text(_identity(os.getpid()))
        try:
            claim.rename(
                self.directory
            )  # with its owner at once, or another's sweep would take it for rubbish
        except OSError:
            shutil.rmtree(claim)
            advice = f"`sdwan lab down {self.name}` ends it"
            raise LabError(f"there is a lab {self.name} already; {advice}") from None

    def keep(self) -> None:
        """Let the lab stay when we end."""
        (self.directory / "kept").touch()

    def note_process(self, process: int) -> None:
        """Remember a process that may live in no namespace of the lab."""
        _append(self.directory / "processes", _identity(process))

    def note_interface(self, namespace: Namespace, interface: str) -> None:
        """Remember an interface that may be made in no namespace of the lab."""
        _append(self.directory / "interfaces", f"{interface} {namespace.name}")

    def is_rubbish(self) -> bool:
        """Tell whether whoever made this lab has gone, without wanting it to stay."""
        owner = _lines(self.directory / "owner")
        return not (self.directory / "kept").exists() and not (owner and _is_living(owner[0]))

    def remove(self) -> None:
        """End and remove everything that bears the lab's name."""
        prefix = f"{PREFIX}{self.name}-"
        for namespace in _begins_with(NAMESPACES, prefix):
            Namespace(namespace.name).delete()
        living = [line for line in _lines(self.directory / "processes") if _is_living(line)]
        end_processes([int(line.split()[0]) for line in living])
        for line in _lines(self.directory / "interfaces"):
            interface, _, name = line.partition(" ")
            if Namespace(name).exists():
                with suppress(LabError):
                    Namespace(name).run(["ip", "link", "delete", interface], accept=(0, 1))
        for pins in _begins_with(BPFFS, prefix):
            shutil.rmtree(pins, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def homes() -> list[Home]:
    """Return all labs of this machine, those included of which only namespaces or pins are left."""
    names = {path.name for path in _begins_with(HOMES, "")}
    for place in (NAMESPACES, BPFFS):
        names |= {path.name.removeprefix(PREFIX).partition("-")[0] for path in _begins_with(place, PREFIX)}
    return [Home(name) for name in sorted(names) if _NAME.fullmatch(name)]


def sweep() -> list[str]:
    """Remove what dead labs left; return their names."""
    rubbish = [home for home in homes() if home.is_rubbish()]
    for home in rubbish:
        home.remove()
    return [home.name for home in rubbish]


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that every ``with`` cleans up."""

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that would end us, while cleaning up: a second Ctrl-C leaves no mess."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    except ValueError:  # not the main thread: signals are not ours to ignore
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begins_with(place: Path, prefix: str) -> list[Path]:
    with suppress(OSError):
        return [path for path in place.iterdir() if path.name.startswith(prefix)]
    return []


def _identity(process: int) -> str:
    """Return process id and start time: ids are used again, the pair is not."""
    return f"{process} {_started(process)}"


def _started(process: int) -> str:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _is_living(identity: str) -> bool:
    process, _, started = identity.partition(" ")
    return process.isdigit() and bool(started) and started == _started(int(process))


def _append(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(line + "\n")


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().splitlines()
    return []
