"""Key files: one 32-byte key in base64 on one line, readable by its owner alone.

Room: io. The edge reads the site's private key and preshared keys through here, ``sdwan keygen`` writes
them. A file that somebody else could read, write or swap is refused with the command that mends it. No
key ever stands in an error.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
import tempfile
from pathlib import Path

from sdwan.errors import KeyFileError

# Specification constants -------------------------------------------------------------------------

KEY_BYTES = 32
"""X25519 private and public keys (RFC 7748), Noise preshared keys (revision 34, section 9)."""

TEXT_CHARS = 44
"""Of 32 bytes in base64 (RFC 4648 section 4)."""

# Implementation constants ------------------------------------------------------------------------

FILE_BYTES_MAX = 128
"""A key and some white space; a larger file is not a key file."""


def read_key(path: Path) -> bytes:
    """Read a private or preshared key.

    Raises:
        KeyFileError: missing, no regular file, of another owner, open to others, or not one key in base64.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"{path}: {_why_not_opened(path, error)}") from error
    try:
        _check_guarded(path, os.fstat(descriptor))
        content = os.read(descriptor, FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > FILE_BYTES_MAX:
        raise KeyFileError(f"{path}: longer than {FILE_BYTES_MAX} bytes; expected one key on one line")
    return parse_key(content, str(path))


def write_key(path: Path, key: bytes) -> None:
    """Create a key file, mode 0600, whole or not at all; an existing file is never touched.

    Raises:
        KeyFileError: it exists already, or it cannot be written (no directory, no permission, disk full).
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".key-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(format_key(key).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise KeyFileError(
            f"{path}: exists already; move it away first, a lost key cannot be made again"
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def parse_key(content: bytes, where: str) -> bytes:
    """Return the 32 bytes of a key in base64; ``where`` names the source in the error.

    Raises:
        KeyFileError: anything else than one key on one line.
    """
    try:
        text = content.strip()
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyFileError(f"{where}: not base64; expected one line of {TEXT_CHARS} characters") from error
    if len(key) != KEY_BYTES or format_key(key).encode() != text:
        raise KeyFileError(
            f"{where}: {len(key)} bytes of base64; expected one key of {KEY_BYTES} ({TEXT_CHARS} characters)"
        )
    if not any(key):
        raise KeyFileError(f"{where}: the key is all zero, which is no secret; make one with sdwan keygen")
    return key


def format_key(key: bytes) -> str:
    """Return a key as base64 text, as configuration and key files have it."""
    return base64.b64encode(key).decode()


def _why_not_opened(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return "is a symbolic link, which its owner could point elsewhere; name the file itself"
    if isinstance(error, FileNotFoundError):
        return "does not exist; make one with: sdwan keygen --out FILE (or sdwan genpsk --out FILE)"
    return f"cannot be opened: {error.strerror}"


def _check_guarded(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path}: is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"{path}: belongs to user {status.st_uid}, who could change it; chown it to yourself"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(f"{path}: mode {mode:04o} lets others than its owner at it; run: chmod 600 {path}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
