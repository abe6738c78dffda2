"""Key files: what is read, what is refused and why, and that a key is written whole or not at all."""

from __future__ import annotations

import base64
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.errors import KeyFileError
from sdwan.io import keyfile
from sdwan.io.keyfile import format_key, parse_key, read_key, write_key

KEY = bytes(range(1, 33))
TEXT = base64.b64encode(KEY)


def put(path: Path, content: bytes = TEXT + b"\n", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


# Writing -------------------------------------------------------------------------------------------------


def test_a_written_key_is_one_line_for_its_owner_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    write_key(path, KEY)
    assert path.read_bytes() == TEXT + b"\n"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert read_key(path) == KEY
    assert names(tmp_path) == ["site.key"], "nothing is left beside it"


def test_no_umask_opens_a_key_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "site.key", KEY)
    finally:
        os.umask(before)
    assert (tmp_path / "site.key").stat().st_mode & 0o7777 == 0o600


def test_an_existing_file_is_never_touched(tmp_path: Path) -> None:
    path = put(tmp_path / "site.key", b"precious")
    with pytest.raises(KeyFileError, match="exists already"):
        write_key(path, KEY)
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["site.key"]


def test_a_link_that_waits_at_the_name_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "site.key").symlink_to(target)
    with pytest.raises(KeyFileError, match="exists already"):
        write_key(tmp_path / "site.key", KEY)
    assert not target.exists()


def test_a_full_disk_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keyfile.os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        write_key(tmp_path / "site.key", KEY)
    assert names(tmp_path) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"nowhere/site.key: cannot be written: No such file"):
        write_key(tmp_path / "nowhere" / "site.key", KEY)


# Reading: the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601, 0o602, 0o777])
def test_a_file_open_to_others_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = put(tmp_path / "site.key", mode=mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o} .* chmod 600 {path}"):
        read_key(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_for_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert read_key(put(tmp_path / "site.key", mode=mode)) == KEY


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "real.key")
    (tmp_path / "site.key").symlink_to(tmp_path / "real.key")
    with pytest.raises(KeyFileError, match="symbolic link"):
        read_key(tmp_path / "site.key")


def test_what_is_no_regular_file_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(KeyFileError, match="not a regular file"):
            read_key(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="does not exist; make one with: sdwan keygen"):
        read_key(tmp_path / "site.key")


@pytest.mark.root
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "site.key")
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to user 12345"):
        read_key(path)


# Reading: the content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [TEXT, TEXT + b"\n", b"  " + TEXT + b" \r\n"])
def test_white_space_around_a_key_is_allowed(tmp_path: Path, content: bytes) -> None:
    assert read_key(put(tmp_path / "site.key", content)) == KEY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        TEXT[:-1],
        TEXT[:-2],
        TEXT + b"=",
        TEXT * 2,
        TEXT + b"\n" + TEXT,
        b"# my key\n" + TEXT,
        base64.b64encode(KEY[:31]),
        base64.b64encode(KEY + b"x"),
        base64.b64encode(bytes([255]) * 32).replace(b"/", b"_"),
        KEY.hex().encode(),
        KEY,
        "schlüssel".encode(),
        b"\0" * 44,
        base64.b64encode(bytes(32)),
        TEXT.ljust(200),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_anything_but_one_key_is_refused_and_never_repeated(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(KeyFileError, match=r"site\.key: ") as caught:
        read_key(put(tmp_path / "site.key", content))
    assert TEXT.decode()[:20] not in str(caught.value)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32).filter(any))
def test_every_key_survives_the_way_through_text(key: bytes) -> None:
    assert parse_key(format_key(key).encode(), "here") == key


@settings(deadline=None)
@given(st.binary(max_size=130))
def test_whatever_the_text_only_a_key_file_error_escapes(content: bytes) -> None:
    try:
        key = parse_key(content, "here")
    except KeyFileError as error:
        assert str(error).startswith("here: ")
    else:
        assert format_key(key).encode() == content.strip()


def test_one_key_has_one_spelling() -> None:
    """Base64 leaves the last two bits of a 32-byte key open: another spelling is refused."""
    assert TEXT.endswith(b"A=")
    with pytest.raises(KeyFileError):
        parse_key(TEXT[:-2] + b"B=", "here")
