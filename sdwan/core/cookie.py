"""The two MACs of a handshake datagram, and the cookies that tell real addresses from invented ones.

Pure. ``sdwan.core.handshake`` is the only caller. MAC1 costs a stranger who does not know the receiver's
public key one hash and nothing more. Under load the receiver answers an INIT not with key agreement but
with a cookie, sealed, that only somebody who reads mail at the claimed address can repeat in MAC2. The
receiver stores nothing per address: a cookie is a MAC of the address under a secret that changes.

The scheme is WireGuard's (Donenfeld, NDSS 2017, section 5.4.7), with HMAC-SHA256 and AES-256-GCM.
A MAC leaves out bytes 0..3 and 16..23 of the header: the sending kernel stamps them.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from sdwan.core.noise import CipherState, Entropy
from sdwan.core.wire import HEADER_BYTES, NONCE, TAG_BYTES
from sdwan.errors import HandshakeError

# Specification constants (docs/wire.md) ----------------------------------------------------------

MAC_BYTES = 16
COOKIE_BYTES = 16
SALT_BYTES = 16
COOKIE_BODY_BYTES = SALT_BYTES + COOKIE_BYTES + TAG_BYTES

SECRET_LIFETIME_NS = 120 * 10**9
"""A cookie is good for one to two of these, as long as WireGuard's."""

_LABEL_MAC1 = b"sdwan-bond mac1 "
_LABEL_COOKIE = b"sdwan-bond cookie "


def mac(key: bytes, datagram: bytes, end: int) -> bytes:
    """Return the 16-byte MAC of a handshake datagram up to ``end``, without the bytes the kernel stamps."""
    covered = datagram[NONCE] + datagram[HEADER_BYTES:end]
    return hmac.digest(key, covered, "sha256")[:MAC_BYTES]


def mac1_key(receiver_public: bytes) -> bytes:
    """Return the key of MAC1: known to whoever knows the receiver's public key."""
    return sha256(_LABEL_MAC1 + receiver_public).digest()


def is_equal(left: bytes, right: bytes) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(left, right)


def open_cookie(body: bytes, *, receiver_public: bytes, mac1: bytes) -> bytes:
    """Return the cookie inside the body of a COOKIE datagram.

    Args:
        body: salt, sealed cookie and tag, 48 bytes.
        receiver_public: public key of the peer that asks for the cookie.
        mac1: of the INIT it answers, which binds the cookie to it.

    Raises:
        HandshakeError: not made by somebody who saw that INIT and knows that public key.
    """
    salt, sealed = body[:SALT_BYTES], body[SALT_BYTES:]
    return _reply_cipher(receiver_public, salt).decrypt(mac1, sealed)


def _reply_cipher(receiver_public: bytes, salt: bytes) -> CipherState:
    # A key of its own for every salt: random 96-bit nonces under one key would be bounded to 2^32 replies.
    return CipherState(hmac.digest(sha256(_LABEL_COOKIE + receiver_public).digest(), salt, "sha256"))


class CookieKeeper:
    """The receiver's side: makes cookies and recognises them, with two secrets and no memory."""

    def __init__(self, *, own_public: bytes, entropy: Entropy) -> None:
        self._own_public, self._entropy = own_public, entropy
        self._secrets: tuple[bytes, ...] = ()
        self._made_ns = 0

    def __repr__(self) -> str:
        return "CookieKeeper()"

    def reply(self, *, source: bytes, mac1: bytes, now_ns: int) -> bytes:
        """Return the body of a COOKIE datagram for ``source`` (address and port, any fixed encoding)."""
        cookie = self._cookie(self._live_secrets(now_ns)[0], source)
        salt = self._entropy(SALT_BYTES)
        return salt + _reply_cipher(self._own_public, salt).encrypt(mac1, cookie)

    def is_proven(self, datagram: bytes, *, source: bytes, now_ns: int) -> bool:
        """Tell whether MAC2, the last 16 bytes, repeats a cookie that was sent to ``source``."""
        end = len(datagram) - MAC_BYTES
        return any(
            is_equal(mac(self._cookie(secret, source), datagram, end), datagram[end:])
            for secret in self._live_secrets(now_ns)
        )

    @staticmethod
    def _cookie(secret: bytes, source: bytes) -> bytes:
        return hmac.digest(secret, source, "sha256")[:COOKIE_BYTES]

    def _live_secrets(self, now_ns: int) -> tuple[bytes, ...]:
        age_ns = now_ns - self._made_ns
        if not self._secrets or age_ns >= SECRET_LIFETIME_NS:
            previous = self._secrets[:1] if age_ns < 2 * SECRET_LIFETIME_NS else ()
            self._secrets = (self._entropy(32), *previous)
            self._made_ns = now_ns
        return self._secrets


def check_mac1(datagram: bytes, *, key: bytes, trailing_bytes: int) -> bytes:
    """Return MAC1 of a datagram in which ``trailing_bytes`` follow it.

    Raises:
        HandshakeError: it does not match.
    """
    end = len(datagram) - trailing_bytes - MAC_BYTES
    mac1 = datagram[end : end + MAC_BYTES]
    if not is_equal(mac(key, datagram, end), mac1):
        raise HandshakeError("handshake: MAC1 does not match, the sender does not know our public key")
    return mac1
