"""Structured logs on top of stdlib logging: an event, its fields, and never a key.

    log = get_log(__name__)
    log.info("path_state", peer="hub", path=1, state="up")

becomes, by configuration, one line for people or one JSON object:

    2026-01-31T12:00:00.250Z info edge.control path_state peer=hub path=1 state=up
    {"time": "2026-01-31T12:00:00.250Z", "level": "info", "logger": "edge.control", "event": ...}

Whatever travels through the handler made by ``setup`` is made harmless, also what libraries log: bytes are
never printed, text that looks like a key is redacted, control characters are escaped, so that no peer can
write a line of its own. Any process calls ``setup`` once at its start; any room may call ``get_log``.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import IO, Any, Literal

from sdwan.errors import redact

# Implementation constants --------------------------------------------------------------------------

OURS = "sdwan"
"""Every logger of ours is below this one."""

VALUE_CHARS_MAX = 1024
"""Longest value of one field; the rest is cut, and said to be."""

DEPTH_MAX = 6
"""Containers nested deeper than this in a field are not looked into."""


class Log:
    """A logger whose messages are event names and whose details are fields."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """Log what helps to follow a single datagram or decision."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what an operator wants to find later: starts, sessions, path states."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what works, but worse than it should."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what does not work and needs somebody."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error together with the exception being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: Mapping[str, object], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields}, exc_info=exc_info, stacklevel=3)


def get_log(name: str) -> Log:
    """Return the log of a module (pass ``__name__``)."""
    return Log(logging.getLogger(name))


def setup(level: int, form: Literal["text", "json"], stream: IO[str] | None = None) -> None:
    """Send every log record of this process to ``stream`` (standard error); may be called again.

    ``level`` counts for our own events; of libraries, which tell every message at DEBUG, warnings are enough.
    Our events at INFO are made in any case: other handlers may remember what is not printed.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger(OURS).setLevel(min(level, logging.INFO))
    logging.captureWarnings(True)


def told_by(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Return the event and the fields of a record, harmless, for handlers of other rooms."""
    return redact(_event_of(record)), _fields_of(record)


class TextFormatter(logging.Formatter):
    """``time level logger event key=value ...``, one line whatever the values hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record for people."""
        head = (_time_of(record), record.levelname.lower(), _short(record.name), _quoted(_event_of(record)))
        fields = (f"{_quoted(name)}={_quoted(value)}" for name, value in _fields_of(record).items())
        return redact(" ".join((*head, *fields)))


class JsonFormatter(logging.Formatter):
    """One JSON object a line; the fields stand beside time, level, logger and event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record for machines."""
        head = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": _short(record.name),
            "event": _event_of(record),
        }
        fields = {name if name not in head else f"{name}_": v for name, v in _fields_of(record).items()}
        return redact(json.dumps({**head, **fields}))


def harmless(value: object, depth: int = 0) -> Any:
    """Return ``value`` as JSON-ready data in which nothing can be a key."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if depth < DEPTH_MAX and isinstance(value, Mapping):
        return {str(key): harmless(item, depth + 1) for key, item in value.items()}
    if depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [harmless(item, depth + 1) for item in value]
    text = redact(str(value))
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + f"… ({len(text)} characters)"


def _event_of(record: logging.LogRecord) -> str:
    if record.args:  # of a library's record: bytes among the arguments would be printed raw
        args = record.args if isinstance(record.args, Mapping) else tuple(record.args)
        safe = harmless(args)
        record = logging.makeLogRecord(
            {**record.__dict__, "args": safe if isinstance(safe, dict) else tuple(safe)}
        )
    try:
        return str(harmless(record.getMessage()))
    except (TypeError, ValueError):  # the record's own format does not fit its arguments
        return str(harmless(record.msg))


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = harmless(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields["error"] = harmless(f"{type(error).__name__}: {error}")
        fields["traceback"] = [harmless(line) for line in _traceback_lines(error)]
    return fields


def _traceback_lines(error: BaseException) -> list[str]:
    # Where, not what: source lines and values of a frame may hold what must not be logged.
    lines, at = [], error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        lines.append(f"{code.co_filename}:{at.tb_lineno} {code.co_name}")
        at = at.tb_next
    return lines


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    plain = text and text.isprintable() and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)


def _short(name: str) -> str:
    return name.removeprefix(f"{OURS}.")


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
