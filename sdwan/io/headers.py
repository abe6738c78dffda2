"""The tree of kernel headers BCC compiles against, made of what every system can install.

BCC wants the headers of the running kernel and refuses to start without them. Our programs touch
nothing but the kernel's stable interface (struct __sk_buff, struct xdp_md, packet bytes), so the
user-space API headers (Debian: linux-libc-dev) serve any kernel. ``ensure()`` lays a small tree of
symbolic links to them, shaped as BCC expects a kernel source to look, and returns its path, which
belongs into ``BCC_KERNEL_SOURCE``.

Called by sdwan.io.bpf before compiling and by the set-up script. Writes only below its directory,
in one rename, so an interrupted run leaves either the old tree or the new one.
"""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
import tempfile
from pathlib import Path

from sdwan.errors import KernelError, UnsupportedError

DEFAULT_DIRECTORY = Path("/var/lib/sdwan/headers")

# Implementation constants ------------------------------------------------------------------------

RECIPE = 1
"""Goes up when the tree's shape changes, so that an old tree is replaced."""

_INCLUDE = Path("/usr/include")

_KCONFIG = """\
#pragma once
/* Force-included by BCC before everything else: what its helpers.h expects a kernel to define. */
#define CONFIG_BPF_SYSCALL 1
#include <uapi/linux/types.h>
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __packed __attribute__((packed))
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
enum { false = 0, true = 1 };
#ifndef NULL
#define NULL ((void *)0)
#endif
"""

_BPF = """\
/* BCC includes its own copy under this guard; the installed header uses another one. */
#ifndef _UAPI__LINUX_BPF_H__
#define _UAPI__LINUX_BPF_H__
#include "{include}/linux/bpf.h"
#endif
"""

_FILES = {
    "include/linux/kconfig.h": _KCONFIG,
    "include/linux/log2.h": "#pragma once\n",
    "include/asm/page.h": "#pragma once\n#ifndef PAGE_SIZE\n#define PAGE_SIZE 4096\n#endif\n",
}


def ensure(directory: Path = DEFAULT_DIRECTORY) -> Path:
    """Make the header tree if it is missing or of another recipe, and return it.

    Raises:
        UnsupportedError: the user-space API headers are not installed.
        KernelError: the directory cannot be written.
    """
    stamp = _stamp()
    if _read(directory / "stamp") == stamp:
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".headers-", dir=directory.parent))
        scratch.chmod(0o755)
        try:
            _lay(scratch)
            (scratch / "stamp").write_text(stamp)
            _swap(scratch, directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise KernelError(
            f"header tree {directory}: {error}; run as root or name another directory"
        ) from error
    return directory


def _stamp() -> str:
    return f"recipe {RECIPE}\nasm {_find_asm()}\n"


def _find_asm() -> Path:
    """Return the directory that holds asm/types.h; distributions differ where it stands."""
    triplets = [sysconfig.get_config_var("MULTIARCH"), f"{platform.machine()}-linux-gnu", None]
    for triplet in triplets:
        asm = _INCLUDE / triplet / "asm" if triplet else _INCLUDE / "asm"
        if (asm / "types.h").exists() and (_INCLUDE / "linux/bpf.h").exists():
            return asm
    raise UnsupportedError(
        f"the kernel's user-space headers are missing ({_INCLUDE}/linux/bpf.h); "
        "install linux-libc-dev (Debian, Ubuntu) or kernel-headers (Fedora)"
    )


def _lay(root: Path) -> None:
    uapi = root / "include/uapi"
    for folder in (uapi / "linux", root / "include/linux", root / "include/asm"):
        folder.mkdir(parents=True)
    for entry in (_INCLUDE / "linux").iterdir():
        if entry.name != "bpf.h":
            (uapi / "linux" / entry.name).symlink_to(entry)
    (uapi / "linux/bpf.h").write_text(_BPF.format(include=_INCLUDE))
    (uapi / "asm-generic").symlink_to(_INCLUDE / "asm-generic")
    (uapi / "asm").symlink_to(_find_asm())
    for name, text in _FILES.items():
        (root / name).write_text(text)


def _swap(fresh: Path, place: Path) -> None:
    """Put ``fresh`` where ``place`` is; two processes doing this at once both end with a good tree."""
    old = Path(tempfile.mkdtemp(prefix=".headers-old-", dir=place.parent))
    try:
        if place.exists():
            place.rename(old / "tree")
        fresh.rename(place)
    except FileNotFoundError:
        pass  # another process swapped in the same moment; its tree is as good as ours
    except OSError:
        if not (place / "stamp").exists():
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


if __name__ == "__main__":
    print(ensure(Path(os.environ.get("SDWAN_HEADERS", DEFAULT_DIRECTORY))))
