"""Talk to the running edge of a site: ask for its status, have it reload.

The status socket is the only door: whoever listens there *is* the running edge, and the kernel tells its
process id (SO_PEERCRED), so no stale pid file can make us signal a stranger. What comes back is untrusted as
any input: bounded, waited for only so long, and JSON or a refusal.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdwan.cli.entry import NotRunningError
from sdwan.errors import SdwanError

# Implementation constants --------------------------------------------------------------------------

ANSWER_BYTES_MAX = 16 << 20
"""A thousand peers of eight paths, 1.5 KiB each."""

ANSWER_TIMEOUT_S = 3.0
RELOAD_TIMEOUT_S = 10.0
POLL_INTERVAL_S = 0.05

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


def ask_status(path: Path) -> tuple[dict[str, Any], int]:
    """Return the status of the edge behind a socket, and its process id.

    Raises:
        NotRunningError: nobody listens there.
        SdwanError: somebody does, but may not be asked or does not answer sensibly.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunningError(f"no edge is running here: nobody answers at {path}") from None
        except PermissionError:
            raise SdwanError(f"{path}: asking needs the rights of the user the edge runs as (root)") from None
        except OSError as error:
            raise SdwanError(f"{path}: cannot be asked: {error.strerror or error}") from None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid = _CREDENTIALS.unpack(credentials)[0]
        try:
            status = json.loads(_read_all(connection, path))
        except OSError:
            raise SdwanError(f"{path}: the edge (process {pid}) does not answer; see its log") from None
        except (ValueError, RecursionError):
            raise SdwanError(f"{path}: the edge (process {pid}) answers what is no status") from None
    if not isinstance(status, dict):
        raise SdwanError(f"{path}: the edge (process {pid}) answers what is no status")
    return status, pid


def _read_all(connection: socket.socket, path: Path) -> bytes:
    answer = bytearray()
    while chunk := connection.recv(65536):
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            raise SdwanError(f"{path}: the status is longer than {ANSWER_BYTES_MAX} bytes")
    return bytes(answer)


def reload(path: Path, *, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Have the edge reload, wait until it did, and return its status.

    Raises:
        NotRunningError: there is no running edge.
        SdwanError: it refused the configuration, or did not reload in time.
    """
    before, pid = ask_status(path)
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise NotRunningError(f"the edge (process {pid}) just stopped") from None
    deadline = clock() + RELOAD_TIMEOUT_S
    while clock() < deadline:
        after, _ = ask_status(path)
        if _count(after, "reloads_refused") > _count(before, "reloads_refused"):
            raise SdwanError("the edge refused the configuration and keeps the old one; its log says why")
        if _count(after, "reloads_applied") > _count(before, "reloads_applied"):
            return after
        time.sleep(POLL_INTERVAL_S)
    raise SdwanError(f"the edge (process {pid}) did not reload within {RELOAD_TIMEOUT_S:g} s; see its log")


def _count(status: dict[str, Any], name: str) -> int:
    value = status.get(name, 0)
    return value if isinstance(value, int) else 0
