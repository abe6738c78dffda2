"""Flows that come and go: clients that each open a TCP connection, send a little, and start again.

    python -m sdwan.lab.churn receive ADDRESS PORT                 (ready; until SIGTERM)
    python -m sdwan.lab.churn send ADDRESS PORT CLIENTS SEED       (ready; at SIGTERM: one JSON line)

Sizes and pauses come from the seed: most flows are a few packets, some are many. A flow counts as done
when the far end has read all of it and said so, as failed when that takes longer than ``TIMEOUT_S``.
``Churn`` runs the pair. Congestion control is CUBIC, as everywhere in the lab.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.namespace import Namespace, wait_line

# Implementation constants --------------------------------------------------------------------------

PORT = 7_009
TIMEOUT_S = 20.0
END_TIMEOUT_S = 5.0
SIZE_MEDIAN_BYTES = 12_000
SIZE_SPREAD = 1.2
"""Standard deviation of the size's logarithm: one flow in ten is over 55 kB."""
SIZE_MAX_BYTES = 1_000_000
PAUSE_MEAN_S = 1.0
CONGESTION_CONTROL = b"cubic"


@dataclass(frozen=True)
class ChurnResult:
    """What became of the flows."""

    done: int
    failed: int
    sent_bytes: int


class Churn:
    """A running pair; ``stop`` ends it and tells the result."""

    def __init__(self, source: Namespace, target: Namespace, address: str, *, clients: int, seed: int = 1):
        module = [sys.executable, "-m", "sdwan.lab.churn"]
        where = [address, str(PORT)]
        self._receiver = target.start([*module, "receive", *where], stdout=subprocess.PIPE)
        wait_line(self._receiver, "ready", self._receiver.stdout)
        command = [*module, "send", *where, str(clients), str(seed)]
        self._sender = source.start(command, stdout=subprocess.PIPE)
        wait_line(self._sender, "ready", self._sender.stdout)

    def stop(self) -> ChurnResult:
        """End both and return what was counted.

        Raises:
            LabError: the sending end does not report.
        """
        self._sender.send_signal(signal.SIGTERM)
        try:
            output, _ = self._sender.communicate(timeout=END_TIMEOUT_S)
            return ChurnResult(**json.loads(output))
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise LabError(f"the short flows' sender did not report: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """End both, however they are."""
        for process in (self._sender, self._receiver):
            if process.poll() is None:
                process.kill()
            process.wait()


class _Clients:
    """All clients of the sending end."""

    def __init__(self, address: str, port: int, seed: int) -> None:
        self._where = (address, port)
        self._chance = random.Random(seed)
        self.counts = {"done": 0, "failed": 0, "sent_bytes": 0}

    async def run(self, clients: int) -> None:
        """Run that many for ever, each starting at a moment of its own."""
        await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / PAUSE_MEAN_S))
            size_bytes = round(SIZE_MEDIAN_BYTES * self._chance.lognormvariate(0, SIZE_SPREAD))
            try:
                await asyncio.wait_for(self._flow(min(size_bytes, SIZE_MAX_BYTES)), TIMEOUT_S)
                self.counts["done"] += 1
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
                self.counts["failed"] += 1

    async def _flow(self, size_bytes: int) -> None:
        reader, writer = await asyncio.open_connection(*self._where)
        try:
            writer.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_CONTROL
            )
            writer.write(bytes(size_bytes))
            await writer.drain()
            writer.write_eof()
            await reader.readexactly(1)
            self.counts["sent_bytes"] += size_bytes
        finally:
            writer.close()


async def _send(address: str, port: int, clients: int, seed: int) -> dict[str, Any]:
    ours = _Clients(address, port, seed)
    running = asyncio.ensure_future(ours.run(clients))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    print("ready", flush=True)
    await asyncio.wait([running])
    return ours.counts


async def _receive(address: str, port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1 << 16):
                pass
            writer.write(b".")
            await writer.drain()
        except OSError:
            pass  # the sender gave up, and counts it
        finally:
            writer.close()

    server = await asyncio.start_server(serve, address, port, backlog=256)
    print("ready", flush=True)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    """Be one end; see the head of this file."""
    role, address, port = arguments[0], arguments[1], int(arguments[2])
    if role == "receive":
        asyncio.run(_receive(address, port))
    else:
        print(json.dumps(asyncio.run(_send(address, port, *map(int, arguments[3:5])))))


if __name__ == "__main__":
    main(sys.argv[1:])
