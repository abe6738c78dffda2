"""One file becomes one ``SiteConfig``, or one clear refusal.

In comes a path, out goes a configuration that passed every check, or ``ConfigError`` naming the key (dotted,
with file and line), the reason and what would be right; nothing else escapes, whatever the file holds.
Called at start, at reload and by ``sdwan edge check``. Key files are not opened here.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdwan.config import check
from sdwan.config.document import TEXT_BYTES_MAX, Document, Location, Problem, dotted, parse
from sdwan.config.schema import KeyFacts, Section, SiteConfig, SiteIdentity, facts_of, keys_of, section_of
from sdwan.config.values import Wrong, show
from sdwan.errors import ConfigError

# Implementation constants --------------------------------------------------------------------------

ERRORS_MAX = 50
"""Errors reported of one file; a file with more is not a configuration."""


@dataclass(frozen=True, slots=True)
class Examined:
    """All that can be said about one file: a configuration or errors, and warnings beside it."""

    config: SiteConfig | None
    errors: tuple[ConfigError, ...]
    warnings: tuple[ConfigError, ...]


def load(path: Path) -> SiteConfig:
    """Load a configuration.

    Raises:
        ConfigError: the first thing that is wrong with it.
    """
    examined = examine(path)
    if examined.config is None:
        first, more = examined.errors[0], len(examined.errors) - 1
        if not more:
            raise first
        raise ConfigError(first.where, first.why, f"{first.right} (and {more} more; see `sdwan edge check`)")
    return examined.config


def identify(path: Path) -> SiteIdentity:
    """Load only what it takes to find the running edge: it can be asked also when the rest is wrong by now.

    Raises:
        ConfigError: the file cannot be read, or the site's name or runtime directory is wrong.
    """
    text = _read(path)
    try:
        data = parse(text).data
    except ConfigError:
        data = None
    known = (
        {name: data[name] for name in keys_of(SiteIdentity) if name in data} if isinstance(data, dict) else {}
    )
    try:
        return SiteIdentity.model_validate(known)
    except ValidationError:
        raise examine_text(text, path).errors[0] from None


def examine(path: Path) -> Examined:
    """Read a file and say everything that is wrong or suspicious about it."""
    try:
        text = _read(path)
    except ConfigError as error:
        return Examined(None, (error,), ())
    return examine_text(text, path)


def examine_text(text: str, path: Path) -> Examined:
    """Say everything that is wrong or suspicious about a text that stands in ``path``."""
    try:
        document = parse(text)
    except ConfigError as error:
        return Examined(None, (ConfigError(f"{path.name}: {error.where}", error.why, error.right),), ())
    if not isinstance(document.data, dict):
        right = "begin with `site: NAME`; config/edge.yaml is a complete example"
        return Examined(None, (ConfigError(path.name, "holds no keys", right),), ())
    try:
        config = SiteConfig.model_validate(document.data, context={"directory": path.absolute().parent})
    except ValidationError as error:
        faults = error.errors(include_url=False)[:ERRORS_MAX]
        locations = [fault["loc"] for fault in faults]
        # A list whose entries are wrong is also reported as too short: the entries tell more.
        problems = [_problem(fault, document) for fault in faults if not _is_around(fault["loc"], locations)]
        return Examined(None, _located(problems, document, path), ())
    errors = _located(list(check.errors(config))[:ERRORS_MAX], document, path)
    warnings = _located(list(check.warnings(config))[:ERRORS_MAX], document, path)
    return Examined(None if errors else config, errors, warnings)


def _read(path: Path) -> str:
    try:
        # Not blocking on a FIFO, not reading a device without end: only a regular file is a configuration.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(str(path), "is not a regular file", "name a YAML file")
            content = file.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(path), f"cannot be read: {reason}", "name a readable YAML file") from None
    if len(content) > TEXT_BYTES_MAX:
        raise ConfigError(str(path), f"is larger than {TEXT_BYTES_MAX} bytes", "one file holds one site")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not UTF-8 at byte {error.start}", "save it as UTF-8") from None


def _located(problems: Iterable[Problem], document: Document, path: Path) -> tuple[ConfigError, ...]:
    found = [(document.line_of(problem.location), problem) for problem in problems]
    found.sort(key=lambda item: item[0] or 0)
    return tuple(
        ConfigError(f"{dotted(problem.location)} ({path.name}, line {line})", problem.why, problem.right)
        for line, problem in found
    )


def _is_around(location: Location, others: Iterable[Location]) -> bool:
    return any(len(other) > len(location) and other[: len(location)] == location for other in others)


def _problem(fault: Any, document: Document) -> Problem:
    """Translate one of pydantic's faults into the operator's words."""
    if fault["loc"][-1:] == ("[key]",):  # not the value: the key of a map is wrong
        *around, wrong, _ = fault["loc"]
        _, facts = _declared(tuple(around))
        return Problem(
            (*around, wrong), f"{show(wrong)} is no key here", f"expected: {facts.kind if facts else ''}"
        )
    location: Location = tuple(fault["loc"])
    section, facts = _declared(location)
    cause, value = fault.get("ctx", {}).get("error"), fault.get("input")
    expected = f"expected: {facts.kind}" if facts else "see the example file"
    match fault["type"]:
        case "extra_forbidden":
            return Problem(location, "unknown key", _suggest(str(location[-1]), section))
        case "missing":
            return Problem(
                location,
                "missing",
                f"add it ({facts.kind}): {facts.description.split('. ')[0]}" if facts else "",
            )
        case "value_error" if isinstance(cause, Wrong):
            return Problem(location, cause.why, cause.right)
        case "model_type":
            inner = ", ".join(keys_of(section)) if section else ""
            return Problem(location, f"{show(value)} is no section", f"a section with the keys {inner}")
        case "too_short":
            return Problem(location, "is empty", f"at least one entry; {expected}")
        case "too_long":
            return Problem(location, f"more than {fault['ctx']['max_length']} entries", expected)
        case "greater_than_equal" | "less_than_equal" | "less_than":
            written = _written(document.data, location)
            return Problem(location, f"{show(written)} is out of range", expected)
        case _:
            return Problem(location, f"{show(value)} does not fit here", expected)


def _declared(location: Location) -> tuple[type[Section] | None, KeyFacts | None]:
    """Find the section a location leads into (or stands in), and the facts of the last key on the way."""
    section: type[Section] | None = SiteConfig
    facts: KeyFacts | None = None
    is_name = False
    for step in location:
        field = keys_of(section).get(step) if section and isinstance(step, str) and not is_name else None
        is_name = False
        if field is not None:
            facts = facts_of(field)
            section = section_of(field.annotation) or section
            is_name = facts.kind.startswith("map")  # the next step is a name in it, not a key of a section
    return section, facts


def _suggest(wrong: str, section: type[Section] | None) -> str:
    known = list(keys_of(section)) if section else []
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"


def _written(data: Any, location: Location) -> Any:
    """Return what the file says at a location (``5ms``, not 5000000)."""
    for step in location:
        try:
            data = data[step]
        except (LookupError, TypeError):
            return data
    return data
