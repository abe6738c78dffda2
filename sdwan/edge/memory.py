"""What a site remembers over a restart: how fast each path was, and how much of a quota is used.

Room: edge, control process. One small JSON file, written whole and moved into place; without it, or with a
damaged one, the site begins as a new one does: nothing here is worth refusing to start. Nothing in it is
secret.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdwan.io.logs import get_log

log = get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

FILE_BYTES_MAX = 1 << 20
ENTRIES_MAX = 8192
RATE_MAX_BPS = 1 << 40
"""A terabit: whatever claims more is no measurement."""


class Memory:
    """The file's content while the edge runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = _read(path)
        self._is_stale = False

    def capacity_bps(self, peer: str, path: int) -> int | None:
        """Return what a path carried in the past; None when nothing is known."""
        rate_bps = self._data["capacity_bps"].get(f"{peer}/{path}")
        return rate_bps if type(rate_bps) is int and 0 < rate_bps < RATE_MAX_BPS else None

    def note_capacity(self, peer: str, path: int, rate_bps: int) -> None:
        """Remember what a path carries."""
        rates = self._data["capacity_bps"]
        if len(rates) < ENTRIES_MAX or f"{peer}/{path}" in rates:
            rates[f"{peer}/{path}"] = rate_bps
            self._is_stale = True

    def quota(self, link: str) -> str:
        """Return what ``note_quota`` was told of a link last; empty when nothing."""
        found = self._data["quota"].get(link)
        return found if isinstance(found, str) else ""

    def note_quota(self, link: str, state: str) -> None:
        """Remember what of a link's quota is used."""
        if self._data["quota"].get(link) != state:
            self._data["quota"][link] = state
            self._is_stale = True

    def save(self) -> None:
        """Write the file if something changed; a full disk costs the memory, not the tunnel."""
        if not self._is_stale:
            return
        self._is_stale = False
        draft = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(self._data, indent=1))
            draft.replace(self._path)
        except OSError as error:
            log.warning("memory_not_saved", file=str(self._path), error=error.strerror)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    data: Any = None
    try:
        if path.stat().st_size <= FILE_BYTES_MAX:
            data = json.loads(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        log.warning("memory_not_read", file=str(path), error=str(error))
    found = data if isinstance(data, dict) else {}
    sections = {name: found.get(name) for name in ("capacity_bps", "quota")}
    return {name: part if isinstance(part, dict) else {} for name, part in sections.items()}
