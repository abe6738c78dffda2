"""Names for what tests make in the kernel, and the removal of what they left there.

Every namespace, bpffs directory and /run directory a test makes is called ``sdt<pid>-<name>``, pid being
the test run's: two runs at once never collide, and a later run can tell rubbish (its maker is dead) from
somebody's work. tests/conftest.py hands ``unique`` out as the fixture ``unique_name`` and calls ``sweep``
before and after.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

NAMESPACES = Path("/run/netns")
HOMES = (Path("/sys/fs/bpf"), Path("/run"))
"""Where tests make directories of their own, beside namespaces."""

DESCRIPTORS_LEFT_MAX = 200
"""A whole run leaves fewer than 90; what leaks in each test leaves thousands, and select() stops at 1024."""

_NAME = re.compile(r"^sdt(\d+)-")


def unique(name: str) -> str:
    """Return ``name`` with this run's prefix: for namespaces, bpffs directories and /run directories."""
    return f"sdt{os.getpid()}-{name}"


def is_rubbish(name: str) -> bool:
    """Tell whether ``name`` was made by this run, or by one that has died."""
    match = _NAME.match(name)
    if match is None:
        return False
    pid = int(match[1])
    return pid == os.getpid() or not Path(f"/proc/{pid}").exists()


def sweep() -> list[str]:
    """Remove what this run and dead ones left; return the names. Without root there is nothing to remove."""
    if os.geteuid() != 0:
        return []
    removed = []
    for namespace in _rubbish_in(NAMESPACES):
        subprocess.run(["ip", "netns", "delete", namespace.name], capture_output=True, check=False)
        removed.append(namespace.name)
    for home in HOMES:
        for path in _rubbish_in(home):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(str(path))
    return removed


def open_descriptors() -> int:
    """Count the descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _rubbish_in(home: Path) -> list[Path]:
    if not home.is_dir():
        return []
    return [path for path in home.iterdir() if is_rubbish(path.name)]
