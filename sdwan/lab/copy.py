"""A plain TCP copy of a file, with a checksum at both ends: what any program would do.

    python -m sdwan.lab.copy receive ADDRESS PORT FILE      (ready; at the end one JSON line)
    python -m sdwan.lab.copy send ADDRESS PORT FILE         (at the end one JSON line)

Nothing here knows the tunnel. CUBIC is asked for, so that two machines with other defaults compare.
``copy_file`` runs the pair; ``make_file`` makes something worth copying: random, so nothing compresses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.namespace import Namespace, wait_line

# Implementation constants --------------------------------------------------------------------------

PORT = 7_008
CHUNK_BYTES = 1 << 18
TIMEOUT_S = 60.0
"""Silence after which either end gives up."""
CONGESTION_CONTROL = b"cubic"


@dataclass(frozen=True)
class CopyResult:
    """What came of a copy."""

    size_bytes: int
    duration_s: float
    checksum_sent: str
    checksum_received: str

    @property
    def goodput_bps(self) -> float:
        """Payload bits per second, connection set-up included."""
        return self.size_bytes * 8 / self.duration_s

    @property
    def intact(self) -> bool:
        """Tell whether what arrived is what was sent."""
        return self.checksum_sent == self.checksum_received


class Copy:
    """A running copy; ``wait`` gives its result."""

    def __init__(self, source: Namespace, target: Namespace, address: str, file: Path, into: Path, port: int):
        module = [sys.executable, "-m", "sdwan.lab.copy"]
        where = [address, str(port)]
        self._receiver = target.start([*module, "receive", *where, str(into)], stdout=subprocess.PIPE)
        wait_line(self._receiver, "ready", self._receiver.stdout)
        self._sender = source.start([*module, "send", *where, str(file)], stdout=subprocess.PIPE)

    @property
    def running(self) -> bool:
        """Tell whether the receiver has not finished yet."""
        return self._receiver.poll() is None and self._sender.poll() in (None, 0)

    def wait(self) -> CopyResult:
        """Wait for the end.

        Raises:
            LabError: one end failed; the other is ended.
        """
        sent, received = _result(self._sender, "sender"), _result(self._receiver, "receiver")
        if sent["size_bytes"] != received["size_bytes"]:
            raise LabError(f"{sent['size_bytes']} bytes were sent, {received['size_bytes']} arrived")
        return CopyResult(
            size_bytes=received["size_bytes"],
            duration_s=(received["end_ns"] - sent["begin_ns"]) / 1e9,
            checksum_sent=sent["sha256"],
            checksum_received=received["sha256"],
        )

    def close(self) -> None:
        """End both, however they are."""
        for process in (self._sender, self._receiver):
            if process.poll() is None:
                process.kill()
            process.wait()


def make_file(path: Path, size_bytes: int) -> None:
    """Write a file of random bytes.

    Raises:
        LabError: the disk is full or not writable.
    """
    try:
        with path.open("wb") as file:
            for begin in range(0, size_bytes, CHUNK_BYTES):
                file.write(os.urandom(min(CHUNK_BYTES, size_bytes - begin)))
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}; {size_bytes >> 20} MiB are needed there") from error


def _result(process: subprocess.Popen[bytes], name: str) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode != 0 or not output:
        raise LabError(f"the {name} of the file copy failed with code {process.returncode}")
    return dict(json.loads(output))


def _send(address: str, port: int, path: Path) -> dict[str, Any]:
    digest, size_bytes, begin_ns = hashlib.sha256(), 0, time.monotonic_ns()
    with _socket(address) as client, path.open("rb") as file:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_CONTROL)
        client.connect((address, port))
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)  # the far end has read it all
    return {"size_bytes": size_bytes, "sha256": digest.hexdigest(), "begin_ns": begin_ns}


def _receive(address: str, port: int, path: Path) -> dict[str, Any]:
    digest, size_bytes = hashlib.sha256(), 0
    with _socket(address) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen()
        print("ready", flush=True)
        connection, _ = server.accept()
        connection.settimeout(TIMEOUT_S)
        with connection, path.open("wb") as file:
            while chunk := connection.recv(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                file.write(chunk)
            end_ns = time.monotonic_ns()
    return {"size_bytes": size_bytes, "sha256": digest.hexdigest(), "end_ns": end_ns}


def _socket(address: str) -> socket.socket:
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.settimeout(TIMEOUT_S)
    return made


def main(arguments: list[str]) -> int:
    """Be one end of a copy; see the head of this file."""
    role, address, port, path = arguments[0], arguments[1], int(arguments[2]), Path(arguments[3])
    try:
        result = (_receive if role == "receive" else _send)(address, port, path)
    except OSError as error:
        print(f"{role} {path}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
