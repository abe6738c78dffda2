"""A session: the keys shared with one peer for one epoch, and sealing and opening with them.

Pure. One process seals under one key, so that no nonce can repeat: DATA counters belong to the peer
(they run on across epochs), CONTROL counters to the session; the type byte in the nonce keeps the two
apart. Opening proves authenticity only: the caller asks the replay window afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import repeat

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sdwan.core.replay import CONTROL_WINDOW, ReplayWindow
from sdwan.core.staging import Rows
from sdwan.core.wire import HEADER_BYTES, NONCE, TAG_BYTES, Header, Type, widen
from sdwan.errors import OpenError
from sdwan.model import DropReason

consume: Callable[[Iterable[object]], None] = deque[object](maxlen=0).extend
"""Run an iterator for its effects at C speed: the loop over rows never enters the interpreter."""


class Session:
    """Keys of one epoch, in use. ``local_index`` is ours (datagrams to us carry it)."""

    __slots__ = (
        "active", "confirmed", "control_counter", "control_window", "incarnation", "local_index",
        "open_into", "peer_number", "remote_index", "seal_into", "sealed",
    )  # fmt: skip

    def __init__(
        self, peer_number: int, local_index: int, remote_index: int, send_key: bytes, receive_key: bytes,
        incarnation: int = 0,
    ) -> None:  # fmt: skip
        self.peer_number = peer_number
        self.local_index = local_index
        self.remote_index = remote_index
        self.incarnation = incarnation
        """Of the peer's data plane that agreed to it."""
        self.seal_into = AESGCM(send_key).encrypt_into
        self.open_into = AESGCM(receive_key).decrypt_into
        self.active = False
        """Seals DATA: control said so, or the peer has proven that it has the keys."""
        self.confirmed = False
        """A datagram was opened under it."""
        self.sealed = 0
        """Datagrams sealed so far; bounded by wire.REKEY_AFTER_DATAGRAMS."""
        self.control_counter = 0
        self.control_window = ReplayWindow(CONTROL_WINDOW)

    def seal_rows(self, rows: Rows, count: int, last_bytes: int) -> None:
        """Seal ``count`` staged rows in place; the last one is ``last_bytes`` long with its tag."""
        full = count if last_bytes == rows.datagram_bytes else count - 1
        if full:
            consume(map(self.seal_into, rows.nonces[:full], rows.plaintexts, repeat(None), rows.ciphertexts))
        if full < count:
            at = full * rows.datagram_bytes
            self.seal_into(
                rows.nonces[full],
                rows.flat[at + HEADER_BYTES : at + last_bytes - TAG_BYTES],
                None,
                rows.flat[at + HEADER_BYTES : at + last_bytes],
            )
        self.sealed += count

    def seal_control(
        self, plaintext: bytes, path_byte: int, *, kind: Type = Type.CONTROL, class_flags: int = 0
    ) -> bytes:
        """Return one CONTROL datagram, or a REPAIR, which shares its counter."""
        counter = self.control_counter
        self.control_counter += 1
        self.sealed += 1
        header = Header(
            path=path_byte, class_flags=class_flags, receiver=self.remote_index, type=kind,
            counter=counter & 0xFFFFFFFF,
        ).pack()  # fmt: skip
        datagram = bytearray(header) + bytearray(len(plaintext) + TAG_BYTES)
        self.seal_into(header[NONCE], plaintext, None, memoryview(datagram)[HEADER_BYTES:])
        return bytes(datagram)

    def open_control(self, datagram: memoryview) -> bytes:
        """Open one CONTROL or REPAIR datagram, then check its counter.

        Raises:
            OpenError: FORGED or REPLAYED.
        """
        out = bytearray(len(datagram) - HEADER_BYTES - TAG_BYTES)
        try:
            self.open_into(datagram[NONCE], datagram[HEADER_BYTES:], None, out)
        except InvalidTag:
            raise OpenError(DropReason.FORGED) from None
        window = self.control_window
        counter = widen(int.from_bytes(datagram[12:16], "big"), max(window.top, 0))
        if not window.accept(counter):
            raise OpenError(DropReason.REPLAYED, f"control counter {counter}")
        return bytes(out)
