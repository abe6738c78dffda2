"""wireguard-go from the distribution: WireGuard in user space, set up by `wg`, its own defaults."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.contenders import Daemons
from sdwan.errors import LabError
from sdwan.lab.namespace import Namespace, run

PORT = 51820
MTU_BYTES = 1420
SOCKETS = Path("/var/run/wireguard")
APPEAR_TIMEOUT_S = 5.0


class WireGuardGo(Daemons):
    """wireguard-go at both ends."""

    name, title = "wireguard-go", "wireguard-go"

    def start(self) -> None:
        """Start both daemons, then give each its key, its peer and its address."""
        ends = [(self.near, "10.78.0.1/24"), (self.far, "10.78.0.2/24")]
        secrets = [run(["wg", "genkey"]).strip() for _ in ends]
        publics = [run(["wg", "pubkey"], text=secret).strip() for secret in secrets]
        # The control sockets of all namespaces lie in one directory: names must differ.
        names = [f"wg{os.getpid() % 10**7}{letter}" for letter in "ab"]
        for (namespace, _), name in zip(ends, names, strict=True):
            quiet = {"WG_PROCESS_FOREGROUND": "1", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}
            self.launch(namespace, ["wireguard-go", "-f", name], {**quiet, "LOG_LEVEL": "error"})
            _wait_for(SOCKETS / f"{name}.sock")
        far_endpoint = f"{self.lab.ports('edge')[0].far_address}:{PORT}"
        for side, (namespace, address) in enumerate(ends):
            endpoint = ["endpoint", far_endpoint] if side == 0 else []
            self._set_up(namespace, names[side], secrets[side], publics[1 - side], endpoint)
            namespace.run(["ip", "address", "add", address, "dev", names[side]])
            namespace.run(["ip", "link", "set", names[side], "mtu", str(MTU_BYTES), "up"])

    def _set_up(self, namespace: Namespace, name: str, secret: str, peer: str, endpoint: list[str]) -> None:
        key_file = self.directory / f"{name}.key"
        key_file.touch(mode=0o600)
        key_file.write_text(secret)
        allowed = ["peer", peer, "allowed-ips", "10.78.0.0/24", *endpoint]
        listen = ["listen-port", str(PORT), "private-key", str(key_file)]
        namespace.run(["wg", "set", name, *listen, *allowed])


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + APPEAR_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise LabError(f"wireguard-go did not start: no {path}")
        time.sleep(0.02)
