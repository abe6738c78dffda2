"""The primitives and the Noise patterns against public vectors (tests/vectors/README.md).

The vectors of each primitive go through the very function the product calls, so that a wrong argument
order or nonce layout of ours shows as well as a broken library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdwan.core.noise import CipherState, HandshakeState, diffie_hellman, hkdf, public_key
from sdwan.errors import HandshakeError

VECTORS = Path(__file__).parent.parent / "vectors"


def load(name: str, key: str) -> list[Any]:
    """Return the list ``key`` of one vector file, which must not be empty."""
    found: list[Any] = json.loads((VECTORS / name).read_text())[key]
    assert found
    return found


NOISE = load("noise_ik_aesgcm_sha256.json", "vectors")


def parties(vector: dict[str, Any]) -> tuple[HandshakeState, HandshakeState]:
    """Build both sides of one Noise vector."""
    pattern = vector["protocol_name"].split("_")[1]
    sides = []
    for side in ("init", "resp"):
        psks = vector.get(f"{side}_psks") or [None]
        remote = vector["init_remote_static"] if side == "init" else None
        sides.append(
            HandshakeState(
                pattern=pattern,
                initiator=side == "init",
                prologue=bytes.fromhex(vector[f"{side}_prologue"]),
                static_key=bytes.fromhex(vector[f"{side}_static"]),
                ephemeral_key=bytes.fromhex(vector[f"{side}_ephemeral"]),
                remote_static=bytes.fromhex(remote) if remote else None,
                preshared_key=bytes.fromhex(psks[0]) if psks[0] else None,
            )
        )
    return sides[0], sides[1]


@pytest.mark.parametrize("vector", NOISE, ids=lambda v: f"{v['protocol_name']}-{v['source']}")
def test_noise_patterns_reproduce_every_byte(vector: dict[str, Any]) -> None:
    initiator, responder = parties(vector)
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]

    for (payload, ciphertext), writer, reader in zip(
        messages, (initiator, responder), (responder, initiator), strict=False
    ):
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload

    assert initiator.transcript == responder.transcript
    if "handshake_hash" in vector:
        assert initiator.transcript.hex() == vector["handshake_hash"]
    assert responder.remote_static == public_key(bytes.fromhex(vector["init_static"]))

    sends, receives = initiator.split()
    assert responder.split() == (receives, sends)
    assert len(messages) > 3, "the vector has transport messages"
    ciphers = (CipherState(sends), CipherState(receives))
    for number, (payload, ciphertext) in enumerate(messages[2:]):
        assert ciphers[number % 2].encrypt(b"", payload) == ciphertext


@pytest.mark.parametrize("case", load("wycheproof_x25519.json", "tests"), ids=lambda c: f"tc{c['tcId']}")
def test_x25519(case: dict[str, Any]) -> None:
    private, public = bytes.fromhex(case["private"]), bytes.fromhex(case["public"])
    if "ZeroSharedSecret" in case["flags"]:
        with pytest.raises(HandshakeError, match="all-zero"):
            diffie_hellman(private, public)
    else:
        assert diffie_hellman(private, public).hex() == case["shared"]


@pytest.mark.parametrize("case", load("wycheproof_hkdf_sha256.json", "tests"), ids=lambda c: f"tc{c['tcId']}")
def test_hkdf(case: dict[str, Any]) -> None:
    derived = b"".join(hkdf(bytes.fromhex(case["salt"]), bytes.fromhex(case["ikm"]), 3))
    assert derived[: case["size"]].hex() == case["okm"]


class FixedNonce(CipherState):
    """A CipherState at an arbitrary nonce: the vectors' nonces are no counters."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        super().__init__(key)
        self.fixed = nonce

    def _next_nonce(self) -> bytes:
        return self.fixed


@pytest.mark.parametrize("case", load("wycheproof_aes_gcm.json", "tests"), ids=lambda c: f"tc{c['tcId']}")
def test_aes_256_gcm(case: dict[str, Any]) -> None:
    key, nonce, associated, plaintext, ciphertext, tag = (
        bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
    )
    if case["result"] == "valid":
        assert FixedNonce(key, nonce).encrypt(associated, plaintext) == ciphertext + tag
        assert FixedNonce(key, nonce).decrypt(associated, ciphertext + tag) == plaintext
    else:
        with pytest.raises(HandshakeError, match="tag"):
            FixedNonce(key, nonce).decrypt(associated, ciphertext + tag)
