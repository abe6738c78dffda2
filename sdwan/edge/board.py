"""The board: counters the data plane writes and control reads, in one shared anonymous mapping.

Control creates it and hands its descriptor to the data plane. One writer, many readers, 64-bit
aligned words: a reader sees each word whole, never a promise across words. Layout is this file's
numpy dtypes and nothing else.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np

from sdwan.model import CLASSES, PATHS_PER_PEER

DROP_SLOTS = 64

PATH_DTYPE = np.dtype([
    ("opened", "u8"),  # datagrams opened, all types
    ("opened_bytes", "u8"),  # their UDP payload bytes
    ("last_sequence", "u4"),  # highest link sequence among them
    ("last_send_us", "u4"),  # that datagram's kernel send stamp
    ("last_ns", "u8"),  # CLOCK_MONOTONIC when it was opened
    ("sent", "u8"),  # unused by the data plane: the kernel counts what it sends
])  # fmt: skip
"""Per (peer, path), receive direction: row ``peer * 8 + path``."""

PEER_DTYPE = np.dtype([
    ("tx_packets", "u8"),  # inner packets read from the TUN for this peer (segments counted)
    ("tx_bytes", "u8"),
    ("tx_datagrams", "u8"),
    ("rx_packets", "u8"),
    ("rx_bytes", "u8"),
    ("next_counter", "u8"),  # next DATA counter
    ("held", "u8"),  # times a packet had to wait for its turn
    ("holes_closed", "u8"),  # holes closed because the loss was proven
    ("holes_expired", "u8"),  # ... because the wait ran out
    ("held_now", "u8"),  # packets waiting at this moment
    ("nacks_sent", "u8"),  # requests for missing datagrams
    ("nacks_received", "u8"),
    ("resent", "u8"),  # datagrams sent again, asked for or because their path is suspect
    ("resent_bytes", "u8"),
    ("resend_missed", "u8"),  # asked for, but not kept any more
    ("kept_bytes", "u8"),  # sealed datagrams kept for resending, at this moment
    ("kept_evicted", "u8"),  # given up because the memory was full
    ("late_repaired", "u8"),  # missing datagrams that came after being asked for
    ("repairs_sent", "u8"),  # FEC rows
    ("repair_bytes", "u8"),
    ("repairs_received", "u8"),
    ("recovered", "u8"),  # datagrams made whole by FEC
    ("unrecovered", "u8"),  # missing datagrams of blocks that closed with too few rows
])  # fmt: skip
"""Per peer."""

CLASS_DTYPE = np.dtype([
    ("tx_packets", "u8"),  # inner packets sent (segments counted)
    ("tx_bytes", "u8"),
    ("rx_packets", "u8"),  # inner packets delivered
    ("rx_bytes", "u8"),
    ("queued_packets", "u8"),  # at this moment
    ("queued_bytes", "u8"),
    ("queue_delay_us", "u8"),  # sojourn of the newest dequeued packet
    ("dropped", "u8"),  # by CoDel
    ("overflowed", "u8"),  # because the queue was full
    ("marked", "u8"),  # ECN
    ("flows", "u8"),  # with something queued, at this moment
])  # fmt: skip
"""Per (peer, class), send direction but for rx: row ``peer * 8 + class``."""

GLOBAL_DTYPE = np.dtype([
    ("heartbeat_ns", "u8"),
    ("tun_reads", "u8"),
    ("tun_writes", "u8"),
    ("drops", "u8", (DROP_SLOTS,)),  # by DropReason
])  # fmt: skip


class Board:
    """Numpy views over the mapping: ``paths``, ``peers``, ``classes`` and ``total`` (one row)."""

    def __init__(self, descriptor: int, peers_max: int) -> None:
        sizes = self._sizes(peers_max)
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, sum(sizes))
        whole = np.frombuffer(self._map, dtype=np.uint8)
        total_end = sizes[0]
        peers_end = total_end + sizes[1]
        self.total = whole[:total_end].view(GLOBAL_DTYPE)[:1]
        self.peers = whole[total_end:peers_end].view(PEER_DTYPE)
        paths_end = peers_end + sizes[2]
        self.paths = whole[peers_end:paths_end].view(PATH_DTYPE)
        self.classes = whole[paths_end:].view(CLASS_DTYPE)

    @staticmethod
    def _sizes(peers_max: int) -> tuple[int, int, int, int]:
        return (
            GLOBAL_DTYPE.itemsize,
            PEER_DTYPE.itemsize * peers_max,
            PATH_DTYPE.itemsize * peers_max * PATHS_PER_PEER,
            CLASS_DTYPE.itemsize * peers_max * CLASSES,
        )

    @classmethod
    def create(cls, peers_max: int) -> Board:
        """Make a new zeroed board in a memfd, to be handed to a child.

        Its size is sealed: a child that shrank it would end its reader by SIGBUS.
        """
        descriptor = os.memfd_create("sdwan-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, sum(cls._sizes(peers_max)))
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return cls(descriptor, peers_max)
