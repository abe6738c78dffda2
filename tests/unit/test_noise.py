"""Noise beyond the vectors: what it refuses, and that a refusal leaves no trace."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.noise import KEY_BYTES, CipherState, HandshakeState, diffie_hellman, public_key
from sdwan.errors import HandshakeError

INITIATOR, RESPONDER, PSK = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
SMALL_ORDER_POINT = bytes(32)


def side(
    *, initiator: bool, seed: int = 1, psk: bytes | None = PSK, prologue: bytes = b"v1"
) -> HandshakeState:
    return HandshakeState(
        pattern="IKpsk2",
        initiator=initiator,
        prologue=prologue,
        static_key=INITIATOR if initiator else RESPONDER,
        ephemeral_key=Random(seed + initiator).randbytes(KEY_BYTES),
        remote_static=public_key(RESPONDER) if initiator else None,
        preshared_key=psk,
    )


def test_both_sides_end_with_the_same_keys_and_transcript() -> None:
    initiator, responder = side(initiator=True), side(initiator=False)
    assert responder.read_message(initiator.write_message(b"hello")) == b"hello"
    assert initiator.read_message(responder.write_message(b"well met")) == b"well met"
    assert initiator.split() == responder.split()[::-1]
    assert initiator.split()[0] != initiator.split()[1]
    assert initiator.transcript == responder.transcript
    assert responder.remote_static == public_key(INITIATOR)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("another version", side(initiator=False, prologue=b"v2")),
        (
            "another static key",
            HandshakeState(
                pattern="IKpsk2",
                initiator=False,
                prologue=b"v1",
                static_key=bytes([9]) * 32,
                ephemeral_key=bytes([8]) * 32,
            ),
        ),
    ],
)
def test_the_first_message_opens_only_where_all_agree(what: str, other: HandshakeState) -> None:
    with pytest.raises(HandshakeError, match="tag"):
        other.read_message(side(initiator=True).write_message(b""))


def test_another_preshared_key_shows_in_the_second_message() -> None:
    initiator, responder = side(initiator=True), side(initiator=False, psk=bytes(32))
    responder.read_message(initiator.write_message(b""))
    with pytest.raises(HandshakeError, match="tag"):
        initiator.read_message(responder.write_message(b""))


@settings(deadline=None)
@given(st.integers(0, 4095), st.integers(1, 255))
def test_no_altered_byte_passes(position: int, mask: int) -> None:
    message = bytearray(side(initiator=True).write_message(b"payload"))
    message[position % len(message)] ^= mask
    with pytest.raises(HandshakeError):
        side(initiator=False).read_message(bytes(message))


def test_a_forged_message_read_into_a_fork_leaves_the_original_able_to_go_on() -> None:
    initiator, responder = side(initiator=True), side(initiator=False)
    responder.read_message(initiator.write_message(b""))
    answer = responder.write_message(b"real")
    before = initiator.transcript
    with pytest.raises(HandshakeError):
        initiator.fork().read_message(answer[:-1] + bytes([answer[-1] ^ 1]))
    assert initiator.transcript == before
    assert initiator.read_message(answer) == b"real"


@pytest.mark.parametrize("size", [0, 31, 32, 79, 80, 95])
def test_a_short_message_is_refused(size: int) -> None:
    with pytest.raises(HandshakeError):
        side(initiator=False).read_message(side(initiator=True).write_message(b"")[:size])


def test_an_oversized_message_is_refused() -> None:
    with pytest.raises(HandshakeError, match="65536"):
        side(initiator=False).read_message(bytes(65536))


def test_a_point_of_small_order_is_refused() -> None:
    with pytest.raises(HandshakeError, match="all-zero"):
        diffie_hellman(RESPONDER, SMALL_ORDER_POINT)
    forged = SMALL_ORDER_POINT + side(initiator=True).write_message(b"")[32:]
    with pytest.raises(HandshakeError, match="all-zero"):
        side(initiator=False).read_message(forged)


def test_messages_out_of_turn_are_refused() -> None:
    with pytest.raises(HandshakeError, match="not ours to read"):
        side(initiator=True).read_message(b"")
    with pytest.raises(HandshakeError, match="not ours to write"):
        side(initiator=False).write_message(b"")
    finished = side(initiator=True)
    finished.write_message(b"")
    with pytest.raises(HandshakeError, match="before the handshake was complete"):
        finished.split()


def test_an_initiator_needs_the_peers_key_and_a_psk_pattern_its_psk() -> None:
    with pytest.raises(HandshakeError, match="public key"):
        HandshakeState(
            pattern="IK", initiator=True, prologue=b"", static_key=INITIATOR, ephemeral_key=RESPONDER
        )
    responder = side(initiator=False, psk=None)
    responder.read_message(side(initiator=True).write_message(b""))
    with pytest.raises(HandshakeError, match="preshared"):
        responder.write_message(b"")


def test_the_last_nonce_is_never_used() -> None:
    cipher = CipherState(PSK)
    cipher.nonce = 2**64 - 1
    with pytest.raises(HandshakeError, match="used up"):
        cipher.encrypt(b"", b"")


def test_without_a_key_a_cipher_passes_everything_through() -> None:
    assert CipherState().encrypt(b"", b"plain") == CipherState().decrypt(b"", b"plain") == b"plain"
