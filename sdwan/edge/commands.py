"""What an operator may ask of a running edge: one JSON line in, one JSON object out.

Room: edge, control process. Listens at ``<runtime_dir>/<site>.ctl``, root only (mode 0600, and the kernel's
word on who asks). One request per connection:

    {"command": "snapshot"}                         -> {"ok": true, "snapshot": {...}}
    {"command": "events", "after": 0, "limit": 100} -> {"ok": true, "events": [...], "newest": 7}
    {"command": "drain", "link": "lte"}             -> {"ok": true}      "force": true even if it is the last
    {"command": "undrain", "link": "lte"}           -> {"ok": true}

What is refused answers {"ok": false, "error": "a sentence"}. ``Commands`` decides what a request means and
touches no socket; ``CommandServer`` bounds requests in size, time and number. The socket ``<site>.sock``
beside it (sdwan.edge.statusd) goes on telling the snapshot to whoever connects, without a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdwan.edge.events import EVENTS_MAX, EventLog
from sdwan.edge.statusd import CONNECTIONS_MAX, TIMEOUT_S, TakeSnapshot, listen_unix, write_and_close
from sdwan.errors import CommandError, SdwanError
from sdwan.io.logs import get_log

log = get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

REQUEST_BYTES_MAX = 4096

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

Answer = dict[str, Any]
SetDrained = Callable[[str, bool, bool], None]
"""Link, drained, force; raises SdwanError with the reason for a refusal."""


class Commands:
    """The requests there are, and what they do."""

    def __init__(self, take: TakeSnapshot, events: EventLog, set_drained: SetDrained) -> None:
        self._take, self._events, self._set_drained = take, events, set_drained
        self._known: dict[str, Callable[[Answer], Answer]] = {
            "snapshot": self._snapshot,
            "events": self._newest_events,
            "drain": lambda request: self._drain(request, drained=True),
            "undrain": lambda request: self._drain(request, drained=False),
        }

    def answer(self, line: bytes) -> Answer:
        """Carry out one request; never raises for what is in it."""
        try:
            request = _parse(line)
            handle = self._known.get(_text(request, "command"))
            if handle is None:
                raise CommandError(f"no such command; there are {', '.join(self._known)}")
            return {"ok": True, **handle(request)}
        except SdwanError as error:
            return {"ok": False, "error": str(error)}

    def _snapshot(self, _: Answer) -> Answer:
        return {"snapshot": self._take().as_plain()}

    def _newest_events(self, request: Answer) -> Answer:
        after, limit = _number(request, "after", 0), _number(request, "limit", EVENTS_MAX)
        found = self._events.after(after, limit)
        return {"events": [noted.as_plain() for noted in found], "newest": self._events.newest}

    def _drain(self, request: Answer, *, drained: bool) -> Answer:
        force = request.get("force", False)
        if not isinstance(force, bool):
            raise CommandError("force: true or false is wanted")
        self._set_drained(_text(request, "link"), drained, force)
        return {}


def _parse(line: bytes) -> Answer:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise CommandError("the request is no JSON") from None
    if not isinstance(request, dict):
        raise CommandError('the request is no JSON object like {"command": "snapshot"}')
    return request


def _text(request: Answer, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise CommandError(f"{name}: a text is wanted")
    return value


def _number(request: Answer, name: str, default: int) -> int:
    value = request.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CommandError(f"{name}: a number of 0 or more is wanted")
    return value


class CommandServer:
    """The unix socket ``Commands`` are asked through."""

    def __init__(self, path: Path, commands: Commands) -> None:
        self._path, self._commands = path, commands
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        """Listen; a socket an earlier run left behind is replaced (the site's lock is ours).

        Raises:
            KernelError: something else is in the way, or the directory is missing.
        """
        self._server = await listen_unix(self._path, self._answer, REQUEST_BYTES_MAX)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS_MAX or not _may_command(writer):
            writer.close()
            return
        self._open += 1
        try:
            answer = await self._respond(reader)
            await write_and_close(writer, json.dumps(answer).encode() + b"\n")
        finally:
            self._open -= 1

    async def _respond(self, reader: asyncio.StreamReader) -> Answer:
        try:
            line = await asyncio.wait_for(reader.readuntil(b"\n"), TIMEOUT_S)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return {
                "ok": False,
                "error": f"one line of JSON, at most {REQUEST_BYTES_MAX} bytes, was expected",
            }
        return self._commands.answer(line)

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def _may_command(writer: asyncio.StreamWriter) -> bool:
    """Tell whether root, or the user the edge runs as, is asking."""
    connection = writer.get_extra_info("socket")
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return False
    _, uid, _ = _CREDENTIALS.unpack(packed)
    if uid not in (0, os.geteuid()):
        log.warning("command_refused", uid=uid)
        return False
    return True
