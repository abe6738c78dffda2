"""``sdwan keygen``, ``pubkey`` and ``genpsk``, as somebody types them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sdwan.cli.keys import genpsk, keygen, pubkey
from sdwan.core.noise import public_key
from sdwan.errors import KeyFileError
from sdwan.io.keyfile import format_key, parse_key, read_key


def output_of(command: click.Command, *arguments: str, stdin: str = "") -> str:
    """Run a command; whatever it raises, the caller sees."""
    return CliRunner().invoke(command, arguments, input=stdin, catch_exceptions=False).output


def test_keygen_prints_a_fresh_private_key_each_time() -> None:
    first, second = (parse_key(output_of(keygen).encode(), "output") for _ in range(2))
    assert first != second


def test_keygen_into_a_file_prints_the_public_key_only(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    output = output_of(keygen, "--out", str(path))
    private = read_key(path)
    assert output == format_key(public_key(private)) + "\n"
    assert output_of(pubkey, str(path)) == output
    assert output_of(pubkey, "-", stdin=path.read_text()) == output
    assert output_of(pubkey, stdin=path.read_text()) == output


def test_keygen_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    output_of(keygen, "--out", str(path))
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists already"):
        output_of(keygen, "--out", str(path))
    assert path.read_bytes() == before


def test_genpsk_prints_a_key_or_writes_it_and_says_nothing(tmp_path: Path) -> None:
    assert parse_key(output_of(genpsk).encode(), "output")
    assert output_of(genpsk, "--out", str(tmp_path / "psk")) == ""
    assert read_key(tmp_path / "psk")


def test_pubkey_refuses_what_is_no_key_and_a_file_others_can_read(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="standard input"):
        output_of(pubkey, "-", stdin="hello\n")
    path = tmp_path / "site.key"
    output_of(keygen, "--out", str(path))
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        output_of(pubkey, str(path))
