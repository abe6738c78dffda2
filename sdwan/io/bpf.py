"""Compiles bpf/sdwan.c and pins what comes out: the only module that imports BCC.

``build()`` compiles with the header tree of sdwan.io.headers, loads every program, and pins them under
PIN_ROOT/progs; maps are pinned under PIN_ROOT/maps the first time and adopted ever after, so counters
and link sequences outlive every new build. Beside that it writes the layout of all maps, as BCC saw
them in C, to a JSON file (``layout_path``): sdwan.io.maps reads it, so no process but this short-lived
one needs BCC, and no Python file holds a twin of a C struct.

Called by ``sdwan-bpf attach`` and by tests. Nothing is attached here: that is sdwan.io.attach.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sdwan.errors import KernelError, UnsupportedError
from sdwan.io import bpfsys, headers, sources
from sdwan.io.layout import DEFAULT_PIN_ROOT, SCHEMA, device_of, layout_path, prune_layouts
from sdwan.model import PEERS_MAX_DEFAULT

# Implementation constants ------------------------------------------------------------------------

TC_PROGRAMS = ("sdwan_steer", "sdwan_count", "sdwan_count_l3", "sdwan_account", "sdwan_account_l3")
XDP_PROGRAMS = ("sdwan_account_xdp",)
PROGRAMS = TC_PROGRAMS + XDP_PROGRAMS

MAPS = (
    *("cfg", "paths", "weights", "stride", "busy", "tx_state", "tx_stats", "rx_stats", "rx_state"),
    *("probes", "receivers", "sources", "sources_global", "reflector", "drops", "link_stats"),
    *("tx_ring", "tx_ring_head"),
)

LOG_LINES_SHOWN = 12
"""The end of a verifier's log names the instruction; the whole log has tens of thousands of lines."""


PROBE_RATE = 100
"""Probes reflected per second for a source without a session: an edge sends ten per path."""

SOURCE_RATE = 1000
"""Datagrams passed per second from one address that is not validated (a path that moves: for one rtt)."""

GLOBAL_RATE = 5000
"""... and from all such addresses: opening that many in vain costs about 1 % of a core."""


@dataclass(frozen=True, slots=True)
class Build:
    """What ``build`` made."""

    pin_root: Path
    peers_max: int
    adopted: bool
    """The maps were there before and kept what they hold."""
    programs: dict[str, bpfsys.ProgramInfo]


def build(
    pin_root: Path = DEFAULT_PIN_ROOT,
    *,
    peers_max: int = PEERS_MAX_DEFAULT,
    headers_directory: Path = headers.DEFAULT_DIRECTORY,
) -> Build:
    """Compile, load and pin. Existing maps are adopted, existing program pins replaced in one step each.

    Raises:
        UnsupportedError: root, bpffs, BCC or the headers are missing; nothing was changed.
        KernelError: compiler or verifier refused (with the end of their log), or the pinned maps are
            of another size or schema.
    """
    check_system(pin_root)
    adopt = _check_pinned(pin_root, peers_max)
    module = _compile(peers_max, pin_root / "maps" if adopt else None, headers_directory)
    try:
        description = _describe(module, peers_max)
        if adopt:
            _check_layout(description, pin_root)
        descriptors = _load_programs(module)
        _create_bpffs_directory(pin_root / "progs")
        if not adopt:
            _configure(module, peers_max)
            _pin_maps(module, pin_root)
        for name, descriptor in descriptors.items():
            _replace_pin(descriptor, pin_root / "progs" / name)
        prune_layouts()
        _write_layout(
            {"pin_root": str(pin_root), "device": device_of(pin_root), **description}, layout_path(pin_root)
        )
        programs = {name: bpfsys.program_info(descriptor) for name, descriptor in descriptors.items()}
        return Build(pin_root, peers_max, adopt, programs)
    finally:
        module.cleanup()  # closes what BCC opened; what is pinned stays


def check_system(pin_root: Path) -> None:
    """Refuse, before anything is changed, a system that cannot do it.

    Raises:
        UnsupportedError: one sentence with what is missing and how to get it.
    """
    if os.geteuid() != 0:
        raise UnsupportedError("loading BPF programs needs root: run with sudo")
    _import_bcc()
    sources.directory()
    place = pin_root
    while not place.exists():
        place = place.parent
    if not is_bpffs(place):
        raise UnsupportedError(f"{place} is no bpffs: mount -t bpf bpf /sys/fs/bpf, or choose another --pins")


def is_bpffs(path: Path) -> bool:
    """Tell whether ``path`` lies on a BPF file system (statfs f_type, include/uapi/linux/magic.h)."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), buffer) != 0:
        return False
    return int.from_bytes(buffer.raw[:8], sys.byteorder) & 0xFFFFFFFF == 0xCAFE4A11


def _import_bcc() -> ModuleType:
    try:
        import bcc
    except ImportError as error:
        raise UnsupportedError(
            f"BCC is missing ({error}): install python3-bpfcc and make the venv with --system-site-packages"
        ) from error
    if not hasattr(bcc, "BPF"):
        raise UnsupportedError(
            "the module called bcc is not BCC (the one on PyPI is something else): "
            "pip uninstall bcc, then install python3-bpfcc"
        )
    return bcc


def _check_pinned(pin_root: Path, peers_max: int) -> bool:
    """Return whether a full set of maps is pinned; refuse one that does not fit.

    The set is pinned in a scratch directory that is renamed when complete, so it is whole or absent.
    """
    directory = pin_root / "maps"
    if not directory.exists():
        return False
    for name in MAPS:
        if not (directory / name).exists():
            raise KernelError(f"{directory}/{name} is missing: run 'sdwan-bpf detach' and attach again")
    with bpfsys.opened(directory / "paths") as descriptor:
        entries = bpfsys.map_info(descriptor).max_entries
    if entries != peers_max * 8:
        raise KernelError(
            f"{pin_root} was attached for {entries // 8} peers, now {peers_max} are wanted: "
            f"use --peers {entries // 8}, or 'sdwan-bpf detach' first (counters begin anew)"
        )
    return True


def _check_layout(description: dict[str, Any], pin_root: Path) -> None:
    """Refuse pinned maps of another layout: BCC would adopt them unseen."""
    for name, entry in description["maps"].items():
        with bpfsys.opened(pin_root / "maps" / name) as descriptor:
            info = bpfsys.map_info(descriptor)
        wanted = entry["value"].get("itemsize") or int(entry["value"]["format"][1:])
        if info.value_bytes != wanted:
            raise KernelError(
                f"{pin_root} was attached by another version (map {name}: {info.value_bytes} bytes a value, "
                f"now {wanted}): run 'sdwan-bpf detach' first (counters begin anew)"
            )


def _compile(peers_max: int, pinned: Path | None, headers_directory: Path) -> Any:
    flags = [f"-I{sources.directory()}", f"-DSDWAN_PEERS_MAX={peers_max}", "-Wno-unused-function"]
    if pinned is not None:
        flags.append(f'-DSDWAN_PINS="{pinned}"')
    os.environ["BCC_KERNEL_SOURCE"] = str(headers.ensure(headers_directory))
    bcc = _import_bcc()
    with _captured("compiling bpf/sdwan.c"):
        return bcc.BPF(text=sources.joined(), cflags=flags)


def _load_programs(module: Any) -> dict[str, int]:
    bcc = _import_bcc()
    loaded = {}
    for name in PROGRAMS:
        kind = bcc.BPF.XDP if name in XDP_PROGRAMS else bcc.BPF.SCHED_CLS
        with _captured(f"loading {name}"):
            loaded[name] = module.load_func(name.encode(), kind).fd
    return loaded


@contextlib.contextmanager
def _captured(what: str) -> Iterator[None]:
    """Keep what compiler and verifier print to descriptor 2 and put its end into the error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception as error:  # BCC raises bare Exception
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            shown = "\n  ".join(lines[-LOG_LINES_SHOWN:])
            raise KernelError(f"{what}: {error}\n  {shown}" if lines else f"{what}: {error}") from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _create_bpffs_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KernelError(f"cannot make {path}: {error.strerror}") from error


def _configure(module: Any, peers_max: int) -> None:
    """Fill cfg[0]: no tunnel yet, so nothing is steered and foreign traffic is only counted."""
    table = module[b"cfg"]
    record = table.Leaf(
        schema=SCHEMA,
        peers_max=peers_max,
        probe_rate=PROBE_RATE,
        source_rate=SOURCE_RATE,
        global_rate=GLOBAL_RATE,
    )
    table[table.Key(0)] = record


def _pin_maps(module: Any, pin_root: Path) -> None:
    """Pin all maps or none: in a scratch directory, which becomes ``maps`` when it is complete."""
    scratch = pin_root / f"maps-{os.getpid()}"
    _create_bpffs_directory(scratch)
    try:
        for name in MAPS:
            bpfsys.obj_pin(module[name.encode()].get_fd(), scratch / name)
        scratch.rename(pin_root / "maps")
    except OSError as error:
        raise KernelError(f"{pin_root}: another attach ran at the same moment; run this one again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace_pin(descriptor: int, path: Path) -> None:
    fresh = path.with_name(f"{path.name}-{os.getpid()}")
    bpfsys.obj_pin(descriptor, fresh)
    fresh.replace(path)


# The layout ----------------------------------------------------------------------------------------


def _describe(module: Any, peers_max: int) -> dict[str, Any]:
    maps = {}
    for name in MAPS:
        table = module[name.encode()]
        leaf = getattr(table, "sLeaf", table.Leaf)  # of a per-CPU map, Leaf is an array of all CPUs' leaves
        maps[name] = {"key": _fields(table.Key), "value": _fields(leaf)}
    return {
        "schema": SCHEMA,
        "peers_max": peers_max,
        "source_sha256": sources.sha256(),
        "bcc": getattr(_import_bcc(), "__version__", "unknown"),
        "maps": maps,
    }


def _fields(kind: Any) -> dict[str, Any]:
    """Describe a ctypes type as numpy does: a format string, or names, formats, offsets and item size."""
    size = ctypes.sizeof(kind)
    if not hasattr(kind, "_fields_"):
        return {"format": _format(kind)}
    names, formats, offsets = [], [], []
    for name, member, *_ in kind._fields_:
        names.append(name)
        formats.append(_format(member))
        offsets.append(getattr(kind, name).offset)
    return {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}


def _format(kind: Any) -> Any:
    if hasattr(kind, "_length_"):
        return {"of": _format(kind._type_), "count": kind._length_}
    if hasattr(kind, "_fields_"):
        return _fields(kind)
    return f"u{ctypes.sizeof(kind)}"


def _write_layout(description: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(description, indent=1))
    fresh.chmod(0o644)
    fresh.replace(path)
