"""``sdwan keygen``, ``sdwan pubkey`` and ``sdwan genpsk``: make keys and show the public ones.

Room: cli. ``sdwan.cli.main`` adds the commands to the ``sdwan`` group and turns an SdwanError into one
sentence on stderr. A private or preshared key is printed only when no file was named; with
``--out`` it goes to a file of mode 0600 and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from sdwan.core.noise import public_key
from sdwan.io.keyfile import FILE_BYTES_MAX, KEY_BYTES, format_key, parse_key, read_key, write_key

OUT: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the key to FILE (mode 0600, must not exist) instead of printing it.",
)


@click.command()
@OUT
def keygen(out: Path | None) -> None:
    """Make a site's private key.

    With --out the private key goes to FILE and the public key, which the other sites need, is printed:

    \b
        sdwan keygen --out /etc/sdwan/site.key
    """
    private = os.urandom(KEY_BYTES)
    if out is None:
        click.echo(format_key(private))
        return
    write_key(out, private)
    click.echo(format_key(public_key(private)))


@click.command()
@click.argument("file", default="-", type=click.Path(path_type=Path))
def pubkey(file: Path) -> None:
    """Print the public key of the private key in FILE, or on standard input (-)."""
    if str(file) == "-":
        private = parse_key(sys.stdin.buffer.read(FILE_BYTES_MAX + 1), "standard input")
    else:
        private = read_key(file)
    click.echo(format_key(public_key(private)))


@click.command()
@OUT
def genpsk(out: Path | None) -> None:
    """Make a preshared key for two sites; copy it to the other site by a way you trust."""
    key = os.urandom(KEY_BYTES)
    if out is None:
        click.echo(format_key(key))
        return
    write_key(out, key)
