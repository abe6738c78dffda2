"""What waits to leave: one packet, or a super-packet of which some segments may have gone already.

Data-plane process; made by sdwan.edge.outward from what the TUN gave, sent by sdwan.edge.departure, and
meanwhile the content of a queue's entry (sdwan.core.queue), in memory of its own.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import numpy.typing as npt

from sdwan.core.ecn import is_capable
from sdwan.core.fairqueue import Entry
from sdwan.core.inner import trim_template
from sdwan.core.staging import ROW_OVERHEAD_BYTES
from sdwan.edge.flows import Flow

_serial = count()


class Packet:
    """One whole packet; ``needs_csum``: its transport checksum is to be finished by whoever delivers it."""

    __slots__ = ("flow", "needs_csum", "view")

    def __init__(self, flow: Flow, packet: memoryview, *, needs_csum: bool) -> None:
        self.flow = flow
        self.view = memoryview(bytearray(packet))
        self.needs_csum = needs_csum

    def entry(self) -> Entry:
        """Return it as something that can wait."""
        return Entry(self, size_bytes=len(self.view), ecn=is_capable(self.view))


class SuperPacket:
    """Segments behind one template. Numbers of segments are those it had when it came from the TUN."""

    __slots__ = (
        "array", "base", "flow", "meta_flags", "row_bytes", "segment_bytes", "segments", "serial",
        "template_bytes",
    )  # fmt: skip

    def __init__(
        self, flow: Flow, array: npt.NDArray[np.uint8], *, template_bytes: int, segment_bytes: int,
        meta_flags: int,
    ) -> None:  # fmt: skip
        self.flow = flow
        self.array = array
        """Template and payloads, from segment ``base`` on; the read buffer's memory until ``entry``."""
        self.template_bytes = template_bytes
        self.segment_bytes = segment_bytes
        self.meta_flags = meta_flags
        self.row_bytes = ROW_OVERHEAD_BYTES + template_bytes + segment_bytes
        self.segments = -(-(array.shape[0] - template_bytes) // segment_bytes)
        self.base = 0
        """Segments cut off its front."""
        self.serial = next(_serial)
        """Tells super-packets apart for ever; memory addresses do not."""

    def entry(self, first: int) -> Entry:
        """Move to memory of its own; return what is left, from segment ``first`` on, as a queue's entry."""
        self.array = self.array.copy()
        size_bytes = self.array.shape[0] + (self.segments - 1) * self.template_bytes
        is_marked = is_capable(self.array.data)
        return Entry(self, size_bytes=size_bytes, segments=self.segments, first=first, ecn=is_marked)

    def piece(self, first: int, segments: int) -> memoryview:
        """Return some segments as a packet of their own, its header made right and its checksum open.

        Raises:
            WireError: the template is not TCP or UDP over IP.
        """
        begin = self.template_bytes + (first - self.base) * self.segment_bytes
        end = begin + segments * self.segment_bytes
        part = bytearray(self.array[: self.template_bytes].data) + self.array[begin:end].data
        trim_template(
            memoryview(part)[: self.template_bytes],
            payload_bytes=len(part) - self.template_bytes,
            first_index=first - self.base,
            is_last=end >= self.array.shape[0],
            segment_bytes=self.segment_bytes,
        )
        return memoryview(part)

    def cut(self, first: int) -> None:
        """Forget what stands before segment ``first``: the rest is a super-packet of its own.

        Raises:
            WireError: the template is not TCP or UDP over IP.
        """
        self.array = np.frombuffer(self.piece(first, self.segments - first), dtype=np.uint8)
        self.base = first
        self.serial = next(_serial)

    def chunk_bytes(self, first: int, segments: int) -> int:
        """Return the bytes of some segments; the template counts once, with the first of all."""
        index = first - self.base
        begin = self.template_bytes + index * self.segment_bytes
        end = min(begin + segments * self.segment_bytes, self.array.shape[0])
        return end - begin + (0 if first else self.template_bytes)
