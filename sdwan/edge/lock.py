"""One daemon per site: the lock file.

Edge control holds an flock on ``<runtime_dir>/<site>.lock`` for as long as it lives; the kernel lets go of
it whatever kills the process, so no stale file ever has to be removed by hand. The file holds the process
id, for people.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sdwan.errors import AlreadyRunningError, KernelError


class SiteLock:
    """The lock of one site; held from construction until ``release``."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            AlreadyRunningError: another process holds it.
            KernelError: the file cannot be made.
        """
        self.path = path
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise KernelError(f"{path}: {error.strerror}; the edge needs a lock file it can write") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise AlreadyRunningError(
                f"site {path.stem} is running already (process {holder}); stop it first"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let go of the lock; the file stays, empty."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
