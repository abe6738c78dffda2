"""What the data plane may see of the kernel's maps: to read, without privilege and without a system call.

Control, as root, calls ``KernelView.describe`` and hands descriptors and text to the data plane it starts;
that one calls ``KernelView.open`` *before it looks at anything a stranger sent*. The text says how the rows
are laid out, so the data plane reads no layout file, opens no pin and needs no privilege.

The kernel refuses to map a descriptor opened for reading only (it wants a shared mapping, and of such a file
there is none: EINVAL, Linux 6.18). So the descriptors can write, and ``open`` closes them once the memory is
mapped for reading; a BPF map mapped so can never be made writable again. Python's own mmap would keep a copy
of the descriptor, hence libc's.

``busy``, ``weights`` and ``paths`` are the kernel's own memory: each word is read whole, words beside each
other may be of different moments. ``weights_of`` gives the row in force, which is never half an update.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdwan.errors import KernelError
from sdwan.io.layout import describe_dtype, dtype_of
from sdwan.io.ring import TxRing
from sdwan.model import CLASSES, PATHS_PER_PEER

if TYPE_CHECKING:
    from sdwan.io.maps import Maps

Array = np.ndarray[Any, np.dtype[Any]]

# Specification constants (bpf/abi.h, sys/mman.h) ---------------------------------------------------

_MAP_FAILED = ctypes.c_void_p(-1).value

_SHOWN = ("cfg", "busy", "weights", "paths", "rx_state", "tx_ring", "tx_ring_head")
"""The maps that are handed over: what the scheduler of bursts asks for, and nothing that is secret."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


@dataclass(frozen=True, slots=True)
class KernelView:
    """Read-only views: rows of struct sdwan_config, busy_state, weights, path and rx_state, and the ring."""

    cfg: Array
    """One row."""
    busy: Array
    """Row ``peer * 8 + path``: CLOCK_MONOTONIC when the path will have sent all it was given; idle time."""
    weights: Array
    """Both banks; see ``weights_of``."""
    paths: Array
    """Row ``peer * 8 + path``; addresses and ports in network order."""
    received: Array
    """Row ``peer * 8 + path`` of struct rx_state: what the link did to what came over it."""
    ring: TxRing = field(repr=False)
    """A reader of its own: it takes nothing from control's."""

    @staticmethod
    def describe(maps: Maps) -> tuple[list[int], str]:
        """Return the descriptors of what a data plane may see, and how; they stay ``maps``' own."""
        shown = [
            {"map": name, "entries": len(maps.live[name]), "value": describe_dtype(maps.live[name].dtype)}
            for name in _SHOWN
        ]
        return [maps.descriptors[name] for name in _SHOWN], json.dumps(shown)

    @classmethod
    def open(cls, text: str, descriptors: Sequence[int]) -> KernelView:
        """Map what ``describe`` described, in another process, and close the descriptors, come what may.

        Raises:
            KernelError: the text is damaged, or a descriptor is not the map it says.
        """
        try:
            shown = {
                str(entry["map"]): _view(descriptor, dtype_of(entry["value"]), int(entry["entries"]))
                for entry, descriptor in zip(json.loads(text), descriptors, strict=True)
            }
            ring = TxRing(shown["tx_ring"], shown["tx_ring_head"])
            return cls(
                shown["cfg"], shown["busy"], shown["weights"], shown["paths"], shown["rx_state"], ring
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KernelError(f"the kernel's maps cannot be seen by the data plane: {error}") from error
        finally:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def weights_of(self, peer: int, traffic_class: int) -> Any:
        """Return the row of struct weights in force."""
        config = self.cfg[0]
        peers = (int(config["bank"]) & 1) * int(config["peers_max"]) + peer
        return self.weights[peers * CLASSES + traffic_class]

    def lost_of(self, peer: int) -> Callable[[int], int]:
        """Return a function that tells, by path of a peer, how many link sequences are missing so far."""
        lost, first = self.received["lost"], peer * PATHS_PER_PEER
        return lambda path: int(lost[first + path])


def _view(descriptor: int, dtype: np.dtype[Any], entries: int) -> Array:
    """Map a whole array for reading, for as long as the process lives."""
    pages = -(-entries * dtype.itemsize // mmap.PAGESIZE)
    size = pages * mmap.PAGESIZE
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    view = np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(address)), dtype, entries)
    view.flags.writeable = False
    return view
