"""Which part of a new configuration a reload can put into force.

Pure. Keys that are not live (sdwan.config.schema says which) keep the value the edge was started with; all
others take the new one. Links and peers are matched by name, so a link's weight changes at once although
the list of links does not. ``sdwan.config.diff`` tells people the same in words.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sdwan.config.schema import Section, facts_of

AnySection = TypeVar("AnySection", bound=Section)


def applicable(old: AnySection, new: AnySection) -> AnySection:
    """Return ``new``, with the values of ``old`` for whatever needs a restart."""
    values = {
        name: _value(getattr(old, name), getattr(new, name), live=facts_of(field).live)
        for name, field in type(old).model_fields.items()
    }
    return new.model_copy(update=values)


def _value(old: Any, new: Any, *, live: bool) -> Any:
    if isinstance(old, Section) and isinstance(new, Section):
        return applicable(old, new)
    if _are_named(old) and _are_named(new):
        before, after = {item.name: item for item in old}, {item.name: item for item in new}
        names = after if live else before
        return tuple(
            applicable(before[name], after[name]) if name in before and name in after else names[name]
            for name in names
        )
    return new if live else old


def _are_named(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(hasattr(item, "name") for item in value)
