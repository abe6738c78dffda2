"""Where things are pinned, and how the maps' keys and values are laid out.

The layout file is written by sdwan.io.bpf at attach time, from what BCC made of the C headers, and read
here into numpy dtypes. It lies on a file system that a reboot empties, as the pins do, so the two never
disagree. Pure but for reading that one file; used by sdwan.io.maps, sdwan.io.attach and sdwan-bpf.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdwan.errors import KernelError

# Specification constants (bpf/abi.h) ---------------------------------------------------------------

SCHEMA = 2

# Implementation constants --------------------------------------------------------------------------

DEFAULT_PIN_ROOT = Path("/sys/fs/bpf/sdwan/v2")
LAYOUT_DIRECTORY = Path("/run/sdwan/layouts")


@dataclass(frozen=True, slots=True)
class Layout:
    """The layouts of one pin root."""

    peers_max: int
    source_sha256: str
    keys: dict[str, np.dtype[Any]]
    values: dict[str, np.dtype[Any]]


def layout_path(pin_root: Path) -> Path:
    """Return the layout file of a pin root: its path with slashes made dashes, as systemd escapes."""
    name = str(pin_root.absolute()).strip("/").replace("-", "\\x2d").replace("/", "-")
    return LAYOUT_DIRECTORY / f"{name}.json"


def prune_layouts() -> None:
    """Remove layout files whose pins were removed by other means (``rm -r`` in the bpffs).

    Only of the bpffs we see: another mount namespace may have one of its own and share this directory.
    """
    for path in LAYOUT_DIRECTORY.glob("*.json"):
        try:
            description = json.loads(path.read_text())
            pin_root, device = Path(description["pin_root"]), description["device"]
            if not pin_root.exists() and device_of(pin_root) == device:
                path.unlink()
        except (OSError, ValueError, KeyError, TypeError):
            continue


def device_of(path: Path) -> int:
    """Return the device of ``path``, or of its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


def read_layout(pin_root: Path) -> Layout:
    """Read the layout file of a pin root.

    Raises:
        KernelError: there is none, it is damaged, or it is of another schema.
    """
    path = layout_path(pin_root)
    try:
        description = json.loads(path.read_text())
        schema = description["schema"]
        if schema != SCHEMA:
            raise KernelError(f"{path}: schema {schema}, this version needs {SCHEMA}: run 'sdwan-bpf attach'")
        maps = description["maps"]
        return Layout(
            int(description["peers_max"]),
            str(description["source_sha256"]),
            {name: dtype_of(entry["key"]) for name, entry in maps.items()},
            {name: dtype_of(entry["value"]) for name, entry in maps.items()},
        )
    except FileNotFoundError as error:
        raise KernelError(
            f"{pin_root} is not attached ({path} is missing): run 'sdwan-bpf attach'"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelError(f"{path} is damaged ({error}): run 'sdwan-bpf attach'") from error


def dtype_of(description: dict[str, Any]) -> np.dtype[Any]:
    """Make the dtype a description stands for: a format, or names, formats, offsets and item size."""
    if "format" in description:
        return np.dtype(description["format"])
    whole: Any = {**description, "formats": [_format(entry) for entry in description["formats"]]}
    return np.dtype(whole)


def _format(entry: Any) -> Any:
    if isinstance(entry, dict) and "of" in entry:
        return (_format(entry["of"]), (entry["count"],))
    if isinstance(entry, dict):
        return dtype_of(entry)
    return entry


def describe_dtype(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Describe a dtype of integers, arrays and records of them, as JSON holds it; ``dtype_of`` reads it."""
    if dtype.fields is None:
        return {"format": dtype.str}
    fields = [dtype.fields[name] for name in dtype.names or ()]
    return {
        "names": list(dtype.names or ()),
        "formats": [_describe_member(member[0]) for member in fields],
        "offsets": [member[1] for member in fields],
        "itemsize": dtype.itemsize,
    }


def _describe_member(dtype: np.dtype[Any]) -> Any:
    if dtype.subdtype is not None:
        element, (count,) = dtype.subdtype
        return {"of": _describe_member(element), "count": count}
    return describe_dtype(dtype) if dtype.fields is not None else dtype.str
