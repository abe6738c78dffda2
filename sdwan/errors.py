"""Every error this project raises on purpose, in one tree.

Each says what was wrong, where, and what would be right. Parsers of untrusted input let nothing else
escape (tests/fuzz proves it).
"""

from __future__ import annotations

import re

_SECRET_LIKE = re.compile(r"[A-Za-z0-9+/]{43,}=|[0-9A-Fa-f]{64,}")


def redact(text: str) -> str:
    """Replace whatever has the form of a 32-byte key (base64 or hexadecimal), so that it may be shown."""
    return _SECRET_LIKE.sub("(redacted: looks like a key)", text)


class SdwanError(Exception):
    """Root of the tree; ``str()`` of it is fit to be shown to an operator."""


class WireError(SdwanError):
    """A datagram, or a message inside one, does not have the form the wire format gives it."""


class HandshakeError(SdwanError):
    """A Noise handshake message is forged, replayed, out of turn or from an unknown peer."""


class OpenError(SdwanError):
    """A sealed datagram could not be opened; ``reason`` is the DropReason it is counted under."""

    def __init__(self, reason: object, detail: str = "") -> None:
        super().__init__(f"{getattr(reason, 'name', reason)}{': ' if detail else ''}{detail}")
        self.reason = reason


class ConfigError(SdwanError):
    """A configuration was refused: where (dotted path), why, and what would be right."""

    def __init__(self, where: str, why: str, right: str = "") -> None:
        super().__init__(f"{where}: {why}" + (f"; {right}" if right else ""))
        self.where, self.why, self.right = where, why, right


class KeyFileError(SdwanError):
    """A key file is missing, malformed or readable by others than its owner."""


class KernelError(SdwanError):
    """The kernel, BCC or netlink refused something; says which call and what to do about it."""


class CommandError(SdwanError):
    """An operator's command was refused; says what stands against it and what would be right."""


class AlreadyRunningError(SdwanError):
    """Another daemon holds this site's lock."""


class UnsupportedError(SdwanError):
    """This system lacks something that is needed; one sentence names it and the way to get it."""


class LabError(SdwanError):
    """A lab topology or scenario could not be built or run."""
