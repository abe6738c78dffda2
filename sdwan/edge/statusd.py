"""Whom the edge answers unasked: the status socket of the machine, and Prometheus.

Room: edge, control process. A connection to ``<runtime_dir>/<site>.sock`` gets the snapshot as one JSON
object and is closed; only root may connect. ``/metrics`` is served over plain HTTP where the configuration
says. Requests are bounded in size, time and number, and nothing of them is believed. What an operator asks
for in words goes to the socket of sdwan.edge.commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from sdwan.errors import KernelError
from sdwan.io.logs import get_log
from sdwan.metrics import Metrics, Snapshot

log = get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

REQUEST_BYTES_MAX = 8192
TIMEOUT_S = 3.0
CONNECTIONS_MAX = 16

TakeSnapshot = Callable[[], Snapshot]


class StatusServer:
    """The unix socket behind ``sdwan edge status``."""

    def __init__(self, path: Path, take: TakeSnapshot) -> None:
        self._path, self._take = path, take
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket an earlier run left behind is replaced (the site's lock is ours)."""
        self._server = await listen_unix(self._path, self._answer)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_and_close(writer, json.dumps(self._take().as_plain()).encode())

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)


class MetricsServer:
    """``GET /metrics``."""

    def __init__(self, listen: tuple[str, int], take: TakeSnapshot) -> None:
        self._listen, self._take = listen, take
        self._metrics = Metrics()
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            KernelError: the address is taken or not ours.
        """
        try:
            self._server = await asyncio.start_server(
                self._answer, *self._listen, limit=REQUEST_BYTES_MAX, backlog=CONNECTIONS_MAX
            )
        except OSError as error:
            host, port = self._listen
            raise KernelError(f"metrics.listen {host} port {port}: {error.strerror or error}") from error

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS_MAX:
            writer.close()
            return
        self._open += 1
        try:
            await write_and_close(writer, await self._response(reader))
        finally:
            self._open -= 1

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return _http(b"400 Bad Request", b"a GET request was expected\n")
        words = head.split(b" ", 2)
        if len(words) < 3 or words[0] != b"GET":
            return _http(b"405 Method Not Allowed", b"only GET\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _http(b"404 Not Found", b"only /metrics is here\n")
        self._metrics.update(self._take())
        return _http(b"200 OK", self._metrics.exposition())

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()


def _http(status: bytes, body: bytes) -> bytes:
    kind = b"text/plain; version=0.0.4; charset=utf-8"
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, kind, len(body)) + body


async def listen_unix(
    path: Path,
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    request_bytes_max: int = REQUEST_BYTES_MAX,
) -> asyncio.Server:
    """Listen on a unix socket only its owner may use, in place of one an earlier run left behind.

    Raises:
        KernelError: what is there is no socket, or the directory is missing.
    """
    try:
        if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
            raise KernelError(f"{path}: exists and is no socket; remove it")
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(
                answer, path, limit=request_bytes_max, backlog=CONNECTIONS_MAX
            )
        finally:
            os.umask(mask)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}; the edge needs this socket") from error


async def write_and_close(writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Send a whole answer, for as long as the other side takes it, and hang up."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        writer.write(answer)
        await asyncio.wait_for(writer.drain(), TIMEOUT_S)
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), TIMEOUT_S)
