"""Logs: one line an event, in both forms, and never a key or a line of a stranger's making."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.io.logs import JsonFormatter, TextFormatter, get_log, setup

KEY = bytes(range(1, 33))
KEY_TEXT = base64.b64encode(KEY).decode()


@pytest.fixture
def restored() -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def stream(restored: None) -> io.StringIO:
    return io.StringIO()


def line(stream: io.StringIO) -> str:
    (only,) = stream.getvalue().splitlines()
    return only


def test_text_form_is_time_level_logger_event_fields(stream: io.StringIO) -> None:
    setup(logging.INFO, "text", stream)
    get_log("sdwan.edge.control").info("path_state", peer="hub", path=1, state="up", rtt_ns=None)
    time, rest = line(stream).split(" ", 1)
    assert rest == "info edge.control path_state peer=hub path=1 state=up rtt_ns=null"
    assert time.endswith("Z") and len(time) == len("2026-01-31T12:00:00.250Z")


def test_json_form_is_one_object_a_line(stream: io.StringIO) -> None:
    setup(logging.INFO, "json", stream)
    get_log("sdwan.edge.control").warning("path_state", peer="hub", path=1)
    record = json.loads(line(stream))
    assert record.pop("time")
    assert record == {
        "level": "warning", "logger": "edge.control", "event": "path_state", "peer": "hub", "path": 1,
    }  # fmt: skip


def test_level_decides(stream: io.StringIO) -> None:
    setup(logging.WARNING, "text", stream)
    log = get_log("sdwan.x")
    log.debug("a")
    log.info("b")
    assert stream.getvalue() == ""
    log.error("c")
    assert " error x c" in line(stream)


def test_of_libraries_only_warnings_are_told(stream: io.StringIO) -> None:
    setup(logging.DEBUG, "text", stream)
    logging.getLogger("chatty").info("every message")
    get_log("sdwan.x").debug("ours")
    assert " debug x ours" in line(stream)


def test_a_field_named_like_the_head_loses_nothing(stream: io.StringIO) -> None:
    setup(logging.INFO, "json", stream)
    get_log("sdwan.x").info("event", time="then", level=3)
    record = json.loads(line(stream))
    assert list(record)[:4] == ["time", "level", "logger", "event"]
    assert (record["level"], record["level_"], record["time_"]) == ("info", 3, "then")


def test_setup_again_replaces_the_first(stream: io.StringIO) -> None:
    setup(logging.INFO, "text", io.StringIO())
    setup(logging.INFO, "json", stream)
    get_log("sdwan.x").info("once")
    assert json.loads(line(stream))["event"] == "once"


def test_values_with_spaces_are_quoted(stream: io.StringIO) -> None:
    setup(logging.INFO, "text", stream)
    get_log("sdwan.x").info("refused", why='no "such" link', empty="")
    assert line(stream).endswith(r'refused why="no \"such\" link" empty=""')


SECRETS = [
    pytest.param({"key": KEY}, id="bytes"),
    pytest.param({"key": bytearray(KEY)}, id="bytearray"),
    pytest.param({"key": memoryview(KEY)}, id="memoryview"),
    pytest.param({"key": KEY_TEXT}, id="base64"),
    pytest.param({"key": KEY.hex()}, id="hexadecimal"),
    pytest.param({"why": f"cannot use {KEY_TEXT}!"}, id="inside text"),
    pytest.param({"peers": [{"psk": KEY}, (KEY_TEXT,)]}, id="nested"),
    pytest.param({"map": {KEY_TEXT: 1}}, id="as a key of a map"),
    pytest.param({"deep": [[[[[[[[KEY_TEXT]]]]]]]]}, id="deeper than looked into"),
]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("fields", SECRETS)
def test_no_key_comes_out(stream: io.StringIO, form: str, fields: dict[str, object]) -> None:
    setup(logging.INFO, form, stream)  # type: ignore[arg-type]
    get_log("sdwan.x").info("event", **fields)
    out = line(stream)
    assert KEY_TEXT not in out
    assert KEY.hex() not in out
    assert repr(KEY)[2:20] not in out and "\\u0003" not in out
    assert "event" in out


def test_no_key_comes_out_of_a_library_or_an_exception(stream: io.StringIO) -> None:
    setup(logging.INFO, "text", stream)
    logging.getLogger("lib").warning("key %s is %r and %s", "k", KEY, KEY_TEXT)
    try:
        raise ValueError(f"bad key {KEY_TEXT}")
    except ValueError:
        get_log("sdwan.x").exception("failed")
    out = stream.getvalue()
    assert KEY_TEXT not in out and "x03" not in out
    assert "ValueError" in out and "test_logs.py" in out


def test_a_library_record_that_does_not_format_is_still_logged(stream: io.StringIO) -> None:
    setup(logging.INFO, "text", stream)
    logging.getLogger("lib").warning("%d things", "no number")
    assert "%d things" in line(stream)


def test_long_values_are_cut(stream: io.StringIO) -> None:
    setup(logging.INFO, "text", stream)
    get_log("sdwan.x").info("event", text="a " * 100_000)
    assert len(line(stream)) < 1500 and "(200000 characters)" in line(stream)


@settings(deadline=None)
@given(st.text(), st.dictionaries(st.text(max_size=8), st.text() | st.binary() | st.floats()))
def test_any_record_is_one_line(event: str, fields: dict[str, object]) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (event,), "name": "n", "fields": fields})
    for formatter in (TextFormatter(), JsonFormatter()):
        assert len(formatter.format(record).splitlines()) == 1
    assert isinstance(json.loads(JsonFormatter().format(record)), dict)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_any_key_is_redacted(key: bytes) -> None:
    text = base64.b64encode(key).decode()
    record = logging.makeLogRecord({"msg": f"key={text}", "name": "n", "fields": {"a": text, "b": key}})
    for formatter in (TextFormatter(), JsonFormatter()):
        assert text not in formatter.format(record)


def test_a_key_is_redacted_whatever_touches_it() -> None:
    record = logging.makeLogRecord({"msg": "m", "name": "n", "fields": {"path": f"/etc/{KEY_TEXT}x"}})
    assert KEY_TEXT not in TextFormatter().format(record)
