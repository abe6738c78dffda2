"""Talk to the running edge of a site: ask for its status, give it commands, have it reload.

Its sockets are the only door: whoever listens there *is* the running edge, and the kernel tells its process
id (SO_PEERCRED), so no stale pid file can make us signal a stranger. The status socket tells the snapshot to
whoever connects; the command socket takes a request (sdwan.edge.commands). What comes back is untrusted as
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
from sdwan.errors import SdwanError, redact

# Implementation constants --------------------------------------------------------------------------

ANSWER_BYTES_MAX = 16 << 20
"""A thousand peers of eight paths, 1.5 KiB each."""

EVENTS_MAX = 1000
"""As many as an edge remembers."""

ANSWER_TIMEOUT_S = 3.0
RELOAD_TIMEOUT_S = 10.0
POLL_INTERVAL_S = 0.05

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


def ask_status(path: Path) -> tuple[dict[str, Any], int]:
    """Return the status of the edge behind a status socket, and its process id.

    Raises:
        NotRunningError: nobody listens there.
        SdwanError: somebody does, but may not be asked or does not answer sensibly.
    """
    return _ask(path, b"")


def command(path: Path, name: str, **arguments: object) -> dict[str, Any]:
    """Have the edge behind a command socket carry out a command; return its answer.

    Raises:
        NotRunningError: nobody listens there.
        SdwanError: it refused, with its reason; or it does not answer sensibly.
    """
    answer, _ = _ask(path, json.dumps({"command": name, **arguments}).encode() + b"\n")
    if answer.get("ok") is not True:
        raise SdwanError(redact(str(answer.get("error") or "the edge refused, without saying why")))
    return answer


def snapshot(path: Path) -> dict[str, Any]:
    """Return the status of the edge behind a command socket."""
    found = command(path, "snapshot").get("snapshot")
    return found if isinstance(found, dict) else {}


def events(path: Path, *, after: int = 0, limit: int = EVENTS_MAX) -> tuple[list[dict[str, Any]], int]:
    """Return the newest events beyond a number, oldest first, and the number of the newest of all."""
    answer = command(path, "events", after=after, limit=limit)
    found, newest = answer.get("events"), answer.get("newest")
    rows = [event for event in found if isinstance(event, dict)] if isinstance(found, list) else []
    return rows, newest if isinstance(newest, int) else after


def wait_until_quiet(
    path: Path, link: str, timeout_s: float, *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Wait until nothing is under way any more on the paths of a drained link.

    Raises:
        SdwanError: there still is after so many seconds, or somebody undid the drain.
    """
    deadline = clock() + timeout_s
    while clock() < deadline:
        paths = snapshot(path).get("paths")
        rows = [p for p in paths if isinstance(p, dict) and p.get("link") == link] if paths else []
        if not all(p.get("drained") is True for p in rows):
            raise SdwanError(f"{link}: the drain was undone meanwhile")
        if all(p.get("is_quiet") is True for p in rows):
            return
        time.sleep(POLL_INTERVAL_S)
    raise SdwanError(f"{link}: something is still under way after {timeout_s:g} s; the link stays drained")


def _ask(path: Path, request: bytes) -> tuple[dict[str, Any], int]:
    """Send a request, if any, and return the JSON object that comes back, and who sent it."""
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
            if request:
                connection.sendall(request)
            answer = json.loads(_read_all(connection, path))
        except OSError:
            raise SdwanError(f"{path}: the edge (process {pid}) does not answer; see its log") from None
        except (ValueError, RecursionError):
            raise SdwanError(f"{path}: the edge (process {pid}) answers what is no status") from None
    if not isinstance(answer, dict):
        raise SdwanError(f"{path}: the edge (process {pid}) answers what is no status")
    return answer, pid


def _read_all(connection: socket.socket, path: Path) -> bytes:
    answer = bytearray()
    while chunk := connection.recv(65536):
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            raise SdwanError(f"{path}: the answer is longer than {ANSWER_BYTES_MAX} bytes")
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
