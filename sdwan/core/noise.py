"""The Noise protocol framework as far as this project uses it: pattern IK, with or without a preshared key.

Pure. ``sdwan.core.handshake`` drives it and nobody else does. In come static and ephemeral keys, a
prologue, payloads and the peer's messages; out come messages, payloads and, after the second message,
one key per direction. The framing of datagrams, cookies and peers are not this room's business.

Source: "The Noise Protocol Framework", revision 34 (noiseprotocol.org/noise.html); the words of its
section 5 (CipherState, SymmetricState, HandshakeState) are kept. Cipher suite 25519_AESGCM_SHA256.
"""

from __future__ import annotations

import copy
import hmac
from collections.abc import Callable
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sdwan.errors import HandshakeError

# Specification constants (Noise revision 34) -----------------------------------------------------

KEY_BYTES = 32
"""Private, public, symmetric and preshared keys; also DHLEN and HASHLEN."""
TAG_BYTES = 16
MESSAGE_BYTES_MAX = 65535

PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
    "IKpsk1": (("e", "es", "s", "ss", "psk"), ("e", "ee", "se")),
    "IKpsk2": (("e", "es", "s", "ss"), ("e", "ee", "se", "psk")),
}
"""Tokens of the two messages; the pre-message of all of them is the responder's static key."""

_NONCE_MAX = 2**64 - 2

Entropy = Callable[[int], bytes]
"""Gives that many unpredictable bytes (``os.urandom``)."""


def public_key(private_key: bytes) -> bytes:
    """Return the X25519 public key of a private one; both are 32 bytes, little-endian as in RFC 7748."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def diffie_hellman(private_key: bytes, public: bytes) -> bytes:
    """Return the X25519 shared secret.

    Raises:
        HandshakeError: the result is all zero, which a point of small order forces (RFC 7748 §6.1).
    """
    try:
        return X25519PrivateKey.from_private_bytes(private_key).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise HandshakeError("noise: the peer's public key forces an all-zero secret") from error


def hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """Derive ``outputs`` keys of 32 bytes: HKDF-SHA256 (RFC 5869) with the chaining key as salt, no info."""
    secret = hmac.digest(chaining_key, material, "sha256")
    derived, block = [], b""
    for number in range(1, outputs + 1):
        block = hmac.digest(secret, block + bytes([number]), "sha256")
        derived.append(block)
    return derived


class CipherState:
    """One symmetric key and its nonce counter; without a key it passes everything through."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key = key
        self.nonce = 0

    def _next_nonce(self) -> bytes:
        if self.nonce > _NONCE_MAX:
            raise HandshakeError("noise: nonces of this key are used up")
        return self.nonce.to_bytes(12, "big")

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """Return ciphertext and tag; the plaintext itself while there is no key."""
        if self.key is None:
            return plaintext
        sealed = AESGCM(self.key).encrypt(self._next_nonce(), plaintext, associated)
        self.nonce += 1
        return sealed

    def decrypt(self, associated: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            HandshakeError: the tag does not match; the nonce has not moved.
        """
        if self.key is None:
            return ciphertext
        try:
            plaintext = AESGCM(self.key).decrypt(self._next_nonce(), ciphertext, associated)
        except InvalidTag:
            raise HandshakeError("noise: the tag does not match (wrong key, or altered on the way)") from None
        self.nonce += 1
        return plaintext


class SymmetricState:
    """Chaining key, transcript hash and the current cipher (Noise section 5.2)."""

    def __init__(self, protocol_name: bytes) -> None:
        padded = protocol_name.ljust(KEY_BYTES, b"\0")
        self.hash = padded if len(padded) == KEY_BYTES else sha256(protocol_name).digest()
        self.chaining_key = self.hash
        self.cipher = CipherState()

    def mix_hash(self, data: bytes) -> None:
        """Bind ``data`` to everything that follows."""
        self.hash = sha256(self.hash + data).digest()

    def mix_key(self, material: bytes) -> None:
        """Make the next key depend on ``material``."""
        self.chaining_key, key = hkdf(self.chaining_key, material, 2)
        self.cipher = CipherState(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        """Do both: how a preshared key enters."""
        self.chaining_key, transcript, key = hkdf(self.chaining_key, material, 3)
        self.mix_hash(transcript)
        self.cipher = CipherState(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Encrypt under the transcript hash, then add the ciphertext to it."""
        ciphertext = self.cipher.encrypt(self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Reverse ``encrypt_and_hash``."""
        plaintext = self.cipher.decrypt(self.hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Return the two transport keys: initiator to responder, responder to initiator."""
        first, second = hkdf(self.chaining_key, b"", 2)
        return first, second


class HandshakeState:
    """One side of one handshake: two messages, then ``split``.

    The responder learns who the initiator is from the first message; ``preshared_key`` may therefore be
    set at any time before the message that mixes it in. ``ephemeral_key`` is made by the caller and used
    for one handshake only.
    """

    def __init__(
        self,
        *,
        pattern: str,
        initiator: bool,
        prologue: bytes,
        static_key: bytes,
        ephemeral_key: bytes,
        remote_static: bytes | None = None,
        preshared_key: bytes | None = None,
    ) -> None:
        self._messages = PATTERNS[pattern]
        self._with_psk = "psk" in pattern
        self._initiator = initiator
        self._static, self._ephemeral = static_key, ephemeral_key
        self.remote_static, self._remote_ephemeral = remote_static, b""
        self.preshared_key = preshared_key
        self._done = 0
        self._symmetric = SymmetricState(f"Noise_{pattern}_25519_AESGCM_SHA256".encode())
        self._symmetric.mix_hash(prologue)
        responder_static = remote_static if initiator else public_key(static_key)
        if responder_static is None:
            raise HandshakeError("noise: an initiator of IK needs the responder's public key")
        self._symmetric.mix_hash(responder_static)

    def fork(self) -> HandshakeState:
        """Return an independent copy: a forged message read into it harms nothing."""
        return copy.deepcopy(self)

    @property
    def transcript(self) -> bytes:
        """The hash of everything said so far: equal on both sides, different for every handshake."""
        return self._symmetric.hash

    def write_message(self, payload: bytes) -> bytes:
        """Return the next message of this side."""
        parts = []
        for token in self._begin(writing=True):
            if token == "e":
                parts.append(self._mix_ephemeral(public_key(self._ephemeral)))
            elif token == "s":
                parts.append(self._symmetric.encrypt_and_hash(public_key(self._static)))
            else:
                self._mix_secret(token)
        parts.append(self._symmetric.encrypt_and_hash(payload))
        return b"".join(parts)

    def read_message(self, message: bytes) -> bytes:
        """Read the peer's next message and return its payload.

        Raises:
            HandshakeError: cut short, forged, or made with other keys. The state is spoilt then: read
                into a ``fork`` where the real message may still come.
        """
        if len(message) > MESSAGE_BYTES_MAX:
            raise HandshakeError(f"noise: message of {len(message)} bytes, at most {MESSAGE_BYTES_MAX}")
        for token in self._begin(writing=False):
            if token == "e":
                self._remote_ephemeral, message = _cut(message, KEY_BYTES)
                self._mix_ephemeral(self._remote_ephemeral)
            elif token == "s":
                sealed, message = _cut(message, KEY_BYTES + TAG_BYTES)
                self.remote_static = self._symmetric.decrypt_and_hash(sealed)
            else:
                self._mix_secret(token)
        return self._symmetric.decrypt_and_hash(message)

    def split(self) -> tuple[bytes, bytes]:
        """Return (send key, receive key) of this side, once both messages are through."""
        if self._done < len(self._messages):
            raise HandshakeError("noise: keys asked for before the handshake was complete")
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def _begin(self, *, writing: bool) -> tuple[str, ...]:
        ours = (self._done % 2 == 0) == self._initiator
        if self._done >= len(self._messages) or ours is not writing:
            raise HandshakeError(
                f"noise: message {self._done + 1} is not ours to {'write' if writing else 'read'}"
            )
        self._done += 1
        return self._messages[self._done - 1]

    def _mix_ephemeral(self, public: bytes) -> bytes:
        self._symmetric.mix_hash(public)
        if self._with_psk:
            self._symmetric.mix_key(public)
        return public

    def _mix_secret(self, token: str) -> None:
        if token == "psk":
            if self.preshared_key is None:
                raise HandshakeError("noise: this pattern needs a preshared key")
            self._symmetric.mix_key_and_hash(self.preshared_key)
            return
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._static if mine == "s" else self._ephemeral
        public = self.remote_static if theirs == "s" else self._remote_ephemeral
        self._symmetric.mix_key(diffie_hellman(private, public or b""))


def _cut(message: bytes, size_bytes: int) -> tuple[bytes, bytes]:
    if len(message) < size_bytes:
        raise HandshakeError(f"noise: message ends {size_bytes - len(message)} bytes too early")
    return message[:size_bytes], message[size_bytes:]
