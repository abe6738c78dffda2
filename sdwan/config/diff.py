"""What changed between two configurations, and whether a reload can apply it.

Pure. Called by edge control at a reload, after the new file passed every check, and written to the log.
Links, peers and classes are matched by name, so one more peer is one change, not a shift of all that follow.
Whether a change is live stands with each key in ``schema``: one that is not keeps its old value until a
restart.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from sdwan.config import match
from sdwan.config.schema import Section, SiteConfig, facts_of, keys_of
from sdwan.config.values import write_duration, write_rate, write_share, write_size
from sdwan.model import SteerMode


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs; an empty ``before`` was added, an empty ``after`` removed."""

    where: str
    """Dotted; list entries by name: ``peers[hub].endpoints``."""
    before: str
    after: str
    live: bool
    """A reload applies it; otherwise it waits for a restart."""

    def __str__(self) -> str:
        what = f"{self.before or 'nothing'} -> {self.after or 'nothing'}"
        return f"{self.where}: {what}" + ("" if self.live else " (needs a restart)")


def diff(old: SiteConfig, new: SiteConfig) -> list[Change]:
    """List the changes from ``old`` to ``new`` in the order of the schema; empty if nothing changed."""
    return _sections(old, new, "")


def _sections(old: Section, new: Section, prefix: str) -> list[Change]:
    changes: list[Change] = []
    for (key, field), attribute in zip(keys_of(type(old)).items(), type(old).model_fields, strict=True):
        before, after = getattr(old, attribute), getattr(new, attribute)
        where, live = prefix + key, facts_of(field).live
        if before == after:
            continue
        if isinstance(before, Section) and isinstance(after, Section):
            changes += _sections(before, after, f"{where}.")
        elif _are_named(before) and _are_named(after):
            changes += _named({i.name: i for i in before}, {i.name: i for i in after}, where, live)
        elif attribute == "classes" and isinstance(old, SiteConfig):
            changes += _named(before, after, where, live)
        elif attribute == "rules":
            changes += _rules(before, after, where, live)
        else:
            changes.append(Change(where, write(before, attribute), write(after, attribute), live))
    return changes


def _are_named(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(item, Section) and hasattr(item, "name") for item in value
    )


def _rules(old: tuple[Any, ...], new: tuple[Any, ...], where: str, live: bool) -> list[Change]:
    """Rules have places, not names; when their number changes, nobody knows which is which."""
    if len(old) != len(new):
        return [Change(where, f"{len(old)} rules", f"{len(new)} rules", live)]
    return [
        Change(f"{where}[{place}]", write(before), write(after), live)
        for place, (before, after) in enumerate(zip(old, new, strict=True))
        if before != after
    ]


def _named(before: dict[str, Any], after: dict[str, Any], where: str, live: bool) -> list[Change]:
    changes = []
    for name in [*before, *(name for name in after if name not in before)]:
        here = f"{where}[{name}]"
        if name not in after:
            changes.append(Change(here, "present", "", live))
        elif name not in before:
            changes.append(Change(here, "", "present", live))
        else:
            changes += _sections(before[name], after[name], f"{here}.")
    kept_before = [name for name in before if name in after]
    kept_after = [name for name in after if name in before]
    if kept_before != kept_after:
        changes.append(Change(f"{where} order", ", ".join(kept_before), ", ".join(kept_after), live))
    return changes


def write(value: Any, attribute: str = "") -> str:
    """Write a value as the file has it; the name of its attribute (``keepalive_ns``) tells the unit."""
    match value:
        case None:
            return "auto" if attribute == "mtu_bytes" else ""
        case bool():
            return str(value).lower()
        case SteerMode():
            return value.name.lower()
        case int() if attribute.endswith("_ns"):
            return write_duration(value)
        case int() if attribute.endswith("_bps"):
            return write_rate(value)
        case int() if attribute.endswith("_ppm"):
            return write_share(value)
        case int() if attribute == "quota_bytes":
            return write_size(value)
        case bytes():
            return base64.b64encode(value).decode()
        case tuple() if attribute in match.WRITERS:
            return match.WRITERS[attribute](value)
        case (str(host), int(port)):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case tuple():
            return "[" + ", ".join(write(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {write(item)}" for key, item in value.items()) + "}"
        case Section():
            pairs = zip(keys_of(type(value)), type(value).model_fields, strict=True)
            texts = ((key, write(getattr(value, attribute), attribute)) for key, attribute in pairs)
            return "{" + ", ".join(f"{key}: {text}" for key, text in texts if text not in ("", "[]")) + "}"
        case _:
            return str(value)
