"""The last decisions of this edge, with their reasons: a bounded memory of what the log was told.

Room: edge, control process. ``EventLog`` is a logging handler on our own loggers: every line at INFO or
above becomes one ``Noted`` with wall time, monotonic time, name, fields and a sentence for people. So a
decision is told once (``log.info`` in the shell, an ``Event`` action from core), and is in the log, in
`sdwan edge events`, in `sdwan edge top` and in ``sdwan_events_total``. Text of strangers comes through
``sdwan.io.logs`` made harmless; names are literals of our code, so there are few.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sdwan.io.clock import now_ns
from sdwan.io.logs import OURS, told_by

# Implementation constants --------------------------------------------------------------------------

EVENTS_MAX = 1000
"""Remembered; about 1 MB at the most usual lengths. At a decision a second, a quarter of an hour."""

_ID_FIELDS = ("peer", "path", "link")
_TEMPLATES: Mapping[str, str] = {
    "attach_failed": "kernel programs could not be attached: {error}",
    "attached": "kernel programs attached to {links}",
    "capacity_state": "{link} to {peer}: capacity {before} -> {state}, {capacity_mbps} Mbit/s",
    "config_change": "configuration: {change}",
    "dataplane_died": "the data plane died ({reason}); another one starts in {restart_in_s} s",
    "dataplane_hangs": "the data plane shows no sign of life for {heartbeat_age_s} s and is ended",
    "dataplane_ready": "the data plane is ready",
    "handshake_refused": "no handshake with {peer}: {error}",
    "link_drained": "{link} drained: no new data on it",
    "link_undrained": "{link} carries data again: drain undone",
    "nack_storm": "{peer}: {per_second} requests for missing datagrams a second",
    "nack_storm_over": "{peer}: requests for missing datagrams are few again",
    "path_refused": "path {path} to {peer} refused: {error}",
    "path_state": "{link} to {peer} is {state} (was {before}): {reason}",
    "peer_closed": "{peer} said goodbye",
    "peer_removed": "{peer} removed from the configuration",
    "reload_refused": "configuration refused, the old one stays: {error}",
    "reloaded": "configuration reloaded: {changes} change(s), {waiting_for_restart} waiting for a restart",
    "running": "site {site} runs on port {port}, TUN {tun}",
    "sla": "{reason}",
    "sla_back": "{reason}",
    "sla_out": "{reason}",
    "tun_mtu": "MTU of the TUN is {mtu_bytes}",
    "tun_mtu_refused": "MTU of the TUN refused: {error}",
}
"""How events are told; of an SLA, core brings the whole sentence as its reason."""


@dataclass(frozen=True, slots=True)
class Noted:
    """One event."""

    number: int
    """Counts from 1 without gaps."""
    wall_ns: int
    """Since 1970; may jump with the system's clock."""
    monotonic_ns: int
    level: str
    name: str
    sentence: str
    fields: dict[str, Any]

    def as_plain(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {name: getattr(self, name) for name in self.__slots__}


class EventLog(logging.Handler):
    """The newest ``EVENTS_MAX`` events, and how often each name was noted."""

    def __init__(self, size: int = EVENTS_MAX, *, clock: Callable[[], int] = now_ns) -> None:
        super().__init__(logging.INFO)
        self.newest = 0
        """Number of the newest event; 0 = none yet."""
        self._noted: deque[Noted] = deque(maxlen=size)
        self._counts: Counter[str] = Counter()
        self._clock = clock

    def install(self) -> None:
        """Listen to our loggers, whatever level is printed."""
        logging.getLogger(OURS).addHandler(self)

    def uninstall(self) -> None:
        """Listen no more."""
        logging.getLogger(OURS).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; logging calls this under the handler's lock."""
        name, fields = told_by(record)
        self.newest += 1
        self._counts[name] += 1
        self._noted.append(
            Noted(
                self.newest, int(record.created * 1e9), self._clock(), record.levelname.lower(), name,
                sentence(name, fields), fields,
            )
        )  # fmt: skip

    def after(self, number: int, limit: int) -> list[Noted]:
        """Return the newest ``limit`` events beyond ``number``, oldest first; negative = all there are."""
        with self._guarded():
            fresh = min(self.newest - max(number, 0), len(self._noted))
            wanted = max(min(fresh, limit), 0)
            return list(self._noted)[-wanted:] if wanted else []

    def counts(self) -> dict[str, int]:
        """Return how often each name was noted, forgotten events included."""
        with self._guarded():
            return dict(self._counts)

    def _guarded(self) -> AbstractContextManager[Any]:
        assert self.lock is not None  # logging makes one for every handler
        return self.lock


def sentence(name: str, fields: Mapping[str, Any]) -> str:
    """Say an event in words: by its template, else by its fields."""
    if name == "session":
        asked = "we" if fields.get("initiator") else "the peer"
        return f"new session with {fields.get('peer', '?')}: {asked} asked for it"
    if name == "link":
        return _link_sentence(fields)
    if name == "fec" and "class" in fields:
        return _fec_sentence(fields)
    template = _TEMPLATES.get(name)
    if template is not None:
        try:
            return template.format_map(fields)
        except (KeyError, ValueError):
            return _by_fields(name, fields)
    return _by_fields(name, fields)


def _link_sentence(fields: Mapping[str, Any]) -> str:
    link = fields.get("link", "?")
    if not fields.get("up"):
        return f"{link} is down: no carrier, or no such interface"
    return f"{link} is up: MTU {fields.get('mtu')}, {fields.get('addresses') or 'no address'}"


def _fec_sentence(fields: Mapping[str, Any]) -> str:
    repairs, sources = fields.get("repairs"), fields.get("sources")
    amount = f"{repairs} repair(s) for every {sources} datagrams" if repairs else "off"
    return f"FEC for {fields['class']} to {fields.get('peer', '?')}: {amount}; {fields.get('reason', '?')}"


def _by_fields(name: str, fields: Mapping[str, Any]) -> str:
    words = name.replace("_", " ")
    where = [str(fields[key]) for key in _ID_FIELDS if key in fields]
    rest = [
        f"{key} {value if isinstance(value, str | int | float) else json.dumps(value)}"
        for key, value in fields.items()
        if key not in _ID_FIELDS and key != "traceback"
    ]
    return " ".join([*where, words]) + (f": {', '.join(rest)}" if rest else "")
