"""What a lab leaves on a machine, and how all of it is removed, whoever died before.

Everything of a lab called NAME bears its name, so nothing has to be kept in step with a list:

    /run/netns/sdwan-lab-NAME-SITE      its namespaces, and every process in them
    /run/sdwan-lab/NAME/                keys, configurations, logs, sockets; `owner`, `emulator`, `lab.json`
    /sys/fs/bpf/sdwan-lab-NAME-SITE/    pinned programs and maps

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
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            raise LabError(
                f"there is a lab {self.name} already; `sdwan lab down {self.name}` ends it"
            ) from None
        (self.directory / "owner").write_text(_identity(os.getpid()))

    def keep(self) -> None:
        """Let the lab stay when we end."""
        (self.directory / "kept").touch()

    def note_emulator(self, process: int) -> None:
        """Remember the emulator, which lives in no namespace of the lab."""
        (self.directory / "emulator").write_text(_identity(process))

    def is_rubbish(self) -> bool:
        """Tell whether whoever made this lab has gone, without wanting it to stay."""
        return not (self.directory / "kept").exists() and not _lives(self.directory / "owner")

    def remove(self) -> None:
        """End and remove everything that bears the lab's name."""
        emulator = self.directory / "emulator"
        prefix = f"{PREFIX}{self.name}-"
        for namespace in _begins_with(NAMESPACES, prefix):
            Namespace(namespace.name).delete()
        if _lives(emulator):
            end_processes([int(emulator.read_text().split()[0])])
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


def _lives(file: Path) -> bool:
    try:
        process, started = file.read_text().split()
        return started == _started(int(process))
    except (OSError, ValueError):
        return False
