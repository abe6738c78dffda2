"""The pinned maps of the kernel programs, as the daemon and the command line use them; no BCC.

``Maps.open(pin_root)`` opens what ``sdwan-bpf attach`` pinned and maps the arrays into memory: what is
called a *live* view below is the kernel's own memory, read and written without a system call. Layouts
come from the file written at attach time (sdwan.io.layout), never from numbers in this one. Path rows
are indexed ``peer * 8 + path``. One process (edge control) writes, any number read.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdwan.errors import KernelError
from sdwan.io import bpfsys
from sdwan.io.layout import DEFAULT_PIN_ROOT, SCHEMA, Layout, read_layout
from sdwan.io.ring import TxRing
from sdwan.io.rows import (
    FLAG_IPV6,
    FLAG_UP,
    U32,
    LinkStats,
    PathEntry,
    Weights,
    address_fields,
    load_path,
    load_weights,
    store_weights,
)
from sdwan.model import CLASSES, PATHS_PER_PEER, DropReason

__all__ = ["LinkStats", "Maps", "PathEntry", "Weights"]

Array = np.ndarray[Any, np.dtype[Any]]

# Specification constants (bpf/abi.h) ---------------------------------------------------------------

_PROBE_SLOTS = 8

_LIVE = ("cfg", "paths", "weights", "busy", "tx_state", "rx_state", "probes", "tx_ring", "tx_ring_head")
_OTHER = ("tx_stats", "rx_stats", "drops", "link_stats", "receivers")


@dataclass
class Maps:
    """Open maps of one pin root. Make one with ``open``; ``close`` when done."""

    pin_root: Path
    layout: Layout
    live: dict[str, Array] = field(repr=False)
    descriptors: dict[str, int] = field(repr=False)
    ring: TxRing = field(repr=False)

    @classmethod
    def open(cls, pin_root: str | os.PathLike[str] = DEFAULT_PIN_ROOT) -> Maps:
        """Open the maps pinned under ``pin_root``.

        Raises:
            KernelError: not attached, of another schema, or no permission.
        """
        root = Path(pin_root)
        if not (root / "maps").is_dir():
            raise KernelError(f"{root} is not attached: run 'sdwan-bpf attach' with this --pins")
        layout = read_layout(root)
        live: dict[str, Array] = {}
        descriptors: dict[str, int] = {}
        try:
            for name in _LIVE + _OTHER:
                descriptors[name] = bpfsys.obj_get(root / "maps" / name)
                _check_size(root, name, bpfsys.map_info(descriptors[name]), layout)
            for name in _LIVE:
                live[name] = _view(descriptors[name], layout.values[name])
        except BaseException:
            for descriptor in descriptors.values():
                os.close(descriptor)
            raise
        maps = cls(root, layout, live, descriptors, TxRing(live["tx_ring"], live["tx_ring_head"]))
        if int(maps.config["schema"]) != SCHEMA:
            maps.close()
            raise KernelError(f"{root} was never set up completely: run 'sdwan-bpf attach' again")
        return maps

    def close(self) -> None:
        """Close the descriptors; live views stay valid as long as somebody holds them."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()

    # What is wanted ------------------------------------------------------------------------------

    @property
    def peers_max(self) -> int:
        """Peers the maps are sized for; peer numbers are 1..peers_max-1."""
        return self.layout.peers_max

    @property
    def config(self) -> Any:
        """Live, writable record of struct sdwan_config; ``port`` is in network order: see ``set_port``."""
        return self.live["cfg"][0]

    def set_port(self, port: int) -> None:
        """Set the site's UDP port; 0 = no tunnel: links are counted, nothing else happens."""
        self.config["port"] = socket.htons(port)

    def port(self) -> int:
        """Return the site's UDP port, 0 = no tunnel."""
        return socket.ntohs(int(self.config["port"]))

    def set_path(
        self,
        peer: int,
        path: int,
        *,
        ifindex: int,
        up: bool,
        ipv6: bool,
        mtu: int,
        source: str,
        source_port: int,
        remote: str,
        remote_port: int,
    ) -> None:
        """Write one path. While addresses change it is down for an instant: none sees half of it.

        ``mtu`` bounds IP packets that carry data; probes and control messages pinned to the path are
        bounded by the link's own MTU, so that a larger one can be searched for.
        """
        row = self._path_row(peer, path)
        flags = (FLAG_UP if up else 0) | (FLAG_IPV6 if ipv6 else 0)
        wanted = {
            "ifindex": ifindex,
            "source_port": socket.htons(source_port),
            "remote_port": socket.htons(remote_port),
            **address_fields(source, remote, ipv6),
        }
        moved = any(not np.array_equal(row[name], value) for name, value in wanted.items())
        if moved or bool(row["flags"] & FLAG_IPV6) != ipv6:
            row["flags"] = 0
            for name, value in wanted.items():
                row[name] = value
        row["mtu"] = mtu
        row["generation"] = (int(row["generation"]) + 1) & U32
        row["flags"] = flags

    def clear_path(self, peer: int, path: int) -> None:
        """Forget one path; its counters and link sequence stay."""
        row = self._path_row(peer, path)
        generation = int(row["generation"])
        row["flags"] = 0
        row["ifindex"] = 0
        for name in ("mtu", "source_port", "remote_port", "source4", "remote4", "source6", "remote6"):
            row[name] = 0
        row["generation"] = (generation + 1) & U32

    def set_path_up(self, peer: int, path: int, up: bool) -> None:
        """Let the kernel use a path, or not: the link has carrier and an address."""
        row = self._path_row(peer, path)
        flags = int(row["flags"])
        row["flags"] = flags | FLAG_UP if up else flags & ~FLAG_UP

    def read_path(self, peer: int, path: int) -> PathEntry | None:
        """Return one path, or None if it is unused."""
        return load_path(self._path_row(peer, path))

    def write_weights(self, updates: Mapping[tuple[int, int], Weights]) -> None:
        """Put weights of (peer, class) into force, all at once.

        They are written to the bank no one reads, after that was made equal to the one in force; then
        the banks change places, so a reader sees all of an update or nothing of it.
        """
        rows = self.peers_max * CLASSES
        active = int(self.config["bank"]) & 1
        table = self.live["weights"].reshape(2, rows)
        table[1 - active] = table[active]
        for (peer, traffic_class), weights in updates.items():
            store_weights(table[1 - active][self._class_index(peer, traffic_class)], weights)
        self.config["bank"] = 1 - active

    def read_weights(self, peer: int, traffic_class: int) -> Weights:
        """Return the weights in force; shares add up to 1 (or to 0 where no path has any)."""
        active = int(self.config["bank"]) & 1
        row = self.live["weights"][active * self.peers_max * CLASSES + self._class_index(peer, traffic_class)]
        return load_weights(row)

    # Receivers -----------------------------------------------------------------------------------

    def set_receiver(self, index: int, peer: int) -> None:
        """Let datagrams to receiver ``index`` in as ``peer``'s."""
        value = np.zeros(1, self.layout.values["receivers"])
        value["peer"] = self._check_peer(peer)
        bpfsys.update(self.descriptors["receivers"], _receiver_key(index), value.tobytes())

    def delete_receiver(self, index: int) -> bool:
        """Let no more datagrams to this receiver in; return whether any were."""
        return bpfsys.delete(self.descriptors["receivers"], _receiver_key(index))

    def clear_receivers(self) -> None:
        """Let no sealed datagram in at all."""
        descriptor = self.descriptors["receivers"]
        for key in bpfsys.keys(descriptor, 4, bpfsys.map_info(descriptor).max_entries):
            bpfsys.delete(descriptor, key)

    def receivers(self) -> dict[int, int]:
        """Return peer by receiver index."""
        descriptor = self.descriptors["receivers"]
        found = {}
        for key in bpfsys.keys(descriptor, 4, bpfsys.map_info(descriptor).max_entries):
            value = bpfsys.lookup(descriptor, key, self.layout.values["receivers"].itemsize)
            if value is not None:
                record = np.frombuffer(value, self.layout.values["receivers"])[0]
                found[int.from_bytes(key, "big")] = int(record["peer"])
        return found

    # What is measured ----------------------------------------------------------------------------

    @property
    def tx_state(self) -> Array:
        """Live rows of struct tx_state."""
        return self.live["tx_state"]

    @property
    def rx_state(self) -> Array:
        """Live rows of struct rx_state; set ``delay_min_us`` to 0xffffffff to begin a new minimum."""
        return self.live["rx_state"]

    @property
    def busy(self) -> Array:
        """Live, writable rows of struct busy_state: the virtual queue of each path."""
        return self.live["busy"]

    def backlog_us(self, peer: int, *, now_ns: int) -> list[int]:
        """Return how long each path of a peer still has to send what it was given (CLOCK_MONOTONIC)."""
        first = self._path_index(peer, 0)
        until_ns = self.busy[first : first + PATHS_PER_PEER]["until_ns"].tolist()
        return [max(until - now_ns, 0) // 1000 for until in until_ns]

    @property
    def probes(self) -> Array:
        """Live rows of struct probe_state."""
        return self.live["probes"]

    def expect_probe(self, peer: int, path: int, token: int) -> None:
        """Say that a probe with this token (64 bit, not 0) is about to leave; eight may be outstanding.

        A ninth takes the place of the one whose token has the same low three bits.
        """
        slot = self.probes[self._path_index(peer, path)]["slot"][token % _PROBE_SLOTS]
        slot["token"] = 0
        slot["rtt_us"] = 0
        slot["reflect_time_us"] = 0
        slot["token"] = token

    def probe_rtt_us(self, peer: int, path: int, token: int) -> int | None:
        """Return the round trip of a probe, or None while it has not come back."""
        slot = self.probes[self._path_index(peer, path)]["slot"][token % _PROBE_SLOTS]
        if int(slot["token"]) != token or not slot["rtt_us"]:
            return None
        return int(slot["rtt_us"])

    def tx_stats(self) -> Array:
        """Return struct tx_stats of every (peer, path), added up over the CPUs."""
        return self._sum_rows("tx_stats")

    def rx_stats(self) -> Array:
        """Return struct rx_stats of every (peer, path), added up over the CPUs."""
        return self._sum_rows("rx_stats")

    def drops(self) -> dict[DropReason, int]:
        """Return datagrams dropped by the kernel programs, by reason; every kernel reason is there."""
        counts = self._per_cpu("drops").sum(axis=1)
        return {reason: int(counts[reason]) for reason in DropReason if reason < len(counts)}

    def link_stats(self) -> dict[int, LinkStats]:
        """Return counters by ifindex."""
        dtype = self.layout.values["link_stats"]
        descriptor = self.descriptors["link_stats"]
        stats = {}
        for key in bpfsys.keys(descriptor, 4, bpfsys.map_info(descriptor).max_entries):
            value = bpfsys.lookup(descriptor, key, dtype.itemsize * bpfsys.possible_cpus())
            if value is not None:
                rows = np.frombuffer(value, dtype)
                total = {name: int(rows[name].sum()) for name in dtype.names or ()}
                stats[int(np.frombuffer(key, np.uint32)[0])] = LinkStats(**total)
        return stats

    def add_link(self, ifindex: int) -> None:
        """Give an interface counters, unless it has some."""
        descriptor = self.descriptors["link_stats"]
        key = np.uint32(ifindex).tobytes()
        size = self.layout.values["link_stats"].itemsize * bpfsys.possible_cpus()
        if bpfsys.lookup(descriptor, key, size) is None:
            bpfsys.update(descriptor, key, bytes(size))

    def remove_link(self, ifindex: int) -> None:
        """Forget an interface's counters."""
        bpfsys.delete(self.descriptors["link_stats"], np.uint32(ifindex).tobytes())

    # ---------------------------------------------------------------------------------------------

    def _check_peer(self, peer: int) -> int:
        if not 0 < peer < self.peers_max:
            raise KernelError(f"peer {peer}: the maps are sized for peers 1..{self.peers_max - 1}")
        return peer

    def _path_index(self, peer: int, path: int) -> int:
        if not 0 <= path < PATHS_PER_PEER:
            raise KernelError(f"path {path}: a peer has paths 0..{PATHS_PER_PEER - 1}")
        return self._check_peer(peer) * PATHS_PER_PEER + path

    def _path_row(self, peer: int, path: int) -> Any:
        return self.live["paths"][self._path_index(peer, path)]

    def _class_index(self, peer: int, traffic_class: int) -> int:
        if not 0 <= traffic_class < CLASSES:
            raise KernelError(f"class {traffic_class}: there are classes 0..{CLASSES - 1}")
        return self._check_peer(peer) * CLASSES + traffic_class

    def _per_cpu(self, name: str) -> Array:
        """Read a per-CPU array: rows by CPUs."""
        dtype = self.layout.values[name]
        cpus = bpfsys.possible_cpus()
        rows = bpfsys.map_info(self.descriptors[name]).max_entries
        _, values = bpfsys.lookup_batch(self.descriptors[name], 4, dtype.itemsize * cpus, rows)
        return np.frombuffer(values, dtype).reshape(rows, cpus)

    def _sum_rows(self, name: str) -> Array:
        rows = self._per_cpu(name)
        total = np.zeros(len(rows), rows.dtype)
        for column in rows.dtype.names or ():
            total[column] = rows[column].sum(axis=1)
        return total


def _check_size(root: Path, name: str, info: bpfsys.MapInfo, layout: Layout) -> None:
    if info.value_bytes != layout.values[name].itemsize or info.key_bytes != layout.keys[name].itemsize:
        raise KernelError(
            f"{root}/maps/{name} has values of {info.value_bytes} bytes, "
            f"its layout file says {layout.values[name].itemsize}: run 'sdwan-bpf detach' and attach again"
        )


def _view(descriptor: int, dtype: np.dtype[Any]) -> Array:
    """Map an array; its elements lie 8-byte aligned, which all our values already are."""
    entries = bpfsys.map_info(descriptor).max_entries
    memory = bpfsys.map_memory(descriptor, entries * dtype.itemsize)
    return np.frombuffer(memory, dtype, entries)


def _receiver_key(index: int) -> bytes:
    return index.to_bytes(4, "big")
