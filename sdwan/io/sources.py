"""The C sources of the kernel programs: where they are, as one text, and which version of them this is.

Compiled by sdwan.io.bpf alone. The hash is written beside the pins when they are; sdwan.io.attach compares,
so that programs of an older version of this package are noticed and replaced.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from sdwan.errors import UnsupportedError


def directory() -> Path:
    """Return where sdwan.c is: beside the package in a checkout, inside it when installed.

    Raises:
        UnsupportedError: nowhere.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package.parent / "bpf", package / "_bpf", Path(sys.prefix) / "share/sdwan/bpf"):
        if (place / "sdwan.c").exists():
            return place
    raise UnsupportedError(
        f"the BPF sources (sdwan.c) are missing beside {package}; install the package again"
    )


def joined() -> bytes:
    """Return sdwan.c with the .c files it includes put in place: BCC translates lookups there only."""
    place = directory()
    text = (place / "sdwan.c").read_text()
    return re.sub(
        r'^#include "(\w+\.c)"$', lambda match: (place / match[1]).read_text(), text, flags=re.M
    ).encode()


def sha256() -> str:
    """Return a hash of all of them."""
    digest = hashlib.sha256()
    for path in sorted(directory().glob("*.[ch]")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
