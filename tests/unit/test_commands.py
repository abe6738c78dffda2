"""What an operator may ask of a running edge: requests are answered, refused with a sentence, and bounded."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.edge.commands import REQUEST_BYTES_MAX, Commands, CommandServer
from sdwan.edge.events import EventLog
from sdwan.errors import CommandError
from sdwan.io.logs import get_log
from sdwan.metrics import Snapshot


class Desk:
    """Commands over a site that only takes notes."""

    def __init__(self) -> None:
        self.events = EventLog(clock=lambda: 7)
        self.drained: list[tuple[str, bool, bool]] = []
        self.commands = Commands(lambda: Snapshot(site="berlin"), self.events, self.set_drained)

    def set_drained(self, link: str, drained: bool, force: bool) -> None:
        if link == "last" and not force:
            raise CommandError("last is the only link in use to hub")
        self.drained.append((link, drained, force))

    def ask(self, **request: Any) -> dict[str, Any]:
        return self.commands.answer(json.dumps(request).encode())


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_snapshot(desk: Desk) -> None:
    assert desk.ask(command="snapshot")["snapshot"]["site"] == "berlin"


def test_drain_and_undrain(desk: Desk) -> None:
    assert desk.ask(command="drain", link="lte") == {"ok": True}
    assert desk.ask(command="undrain", link="lte") == {"ok": True}
    assert desk.ask(command="drain", link="last", force=True) == {"ok": True}
    assert desk.drained == [("lte", True, False), ("lte", False, False), ("last", True, True)]


def test_a_refusal_is_a_sentence(desk: Desk) -> None:
    answer = desk.ask(command="drain", link="last")
    assert answer == {"ok": False, "error": "last is the only link in use to hub"}


def test_events_beyond_a_number(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sdwan")
    desk.events.install()
    try:
        for number in range(5):
            get_log("sdwan.test").info("tun_mtu", mtu_bytes=number)
    finally:
        desk.events.uninstall()
    found = desk.ask(command="events", after=2, limit=2)
    assert [event["number"] for event in found["events"]] == [4, 5]
    assert found["newest"] == 5
    assert desk.ask(command="events", after=5)["events"] == []
    assert desk.ask(command="events", after=999)["events"] == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 4000, "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "command: a text is wanted"),
        (b'{"command": "reboot"}', "no such command; there are snapshot, events, drain, undrain"),
        (b'{"command": "drain"}', "link: a text is wanted"),
        (b'{"command": "drain", "link": "lte", "force": 1}', "force: true or false"),
        (b'{"command": "events", "after": -1}', "after: a number of 0 or more"),
        (b'{"command": "events", "limit": true}', "limit: a number of 0 or more"),
    ],
)
def test_what_is_wrong_is_said(desk: Desk, line: bytes, error: str) -> None:
    answer = desk.commands.answer(line)
    assert answer["ok"] is False
    assert error in answer["error"]
    assert desk.drained == []


@given(st.binary(max_size=200) | st.dictionaries(
    st.sampled_from(["command", "link", "force", "after", "limit"]),
    st.sampled_from(["drain", "undrain", "events", "snapshot", "x", 0, -1, 1 << 70, None, True, [], {}]),
).map(lambda request: json.dumps(request).encode()))  # fmt: skip
def test_any_request_is_answered(line: bytes) -> None:
    assert json.loads(json.dumps(Desk().commands.answer(line)))["ok"] in (True, False)


# The socket --------------------------------------------------------------------------------------------


def talk(path: Path, *requests: bytes) -> list[bytes]:
    """Serve a Desk at ``path`` and send each request over a connection of its own."""

    async def one(request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    async def all_of_them() -> list[bytes]:
        server = CommandServer(path, Desk().commands)
        await server.start()
        try:
            assert path.stat().st_mode & 0o777 == 0o600
            return [await one(request) for request in requests]
        finally:
            await server.close()

    return asyncio.run(all_of_them())


def test_one_line_in_one_line_out(tmp_path: Path) -> None:
    path = tmp_path / "berlin.ctl"
    (answer,) = talk(path, b'{"command": "drain", "link": "lte"}\n')
    assert answer == b'{"ok": true}\n'
    assert not path.exists()


def test_a_request_without_an_end_is_cut(tmp_path: Path) -> None:
    (answer,) = talk(tmp_path / "berlin.ctl", b"x" * (2 * REQUEST_BYTES_MAX))
    assert str(REQUEST_BYTES_MAX) in json.loads(answer)["error"]


def test_strangers_are_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdwan.edge.commands._may_command", lambda _: False)
    try:
        answers = talk(tmp_path / "berlin.ctl", b'{"command": "snapshot"}\n')
    except ConnectionResetError:
        return  # hung up before the request was read: no answer either
    assert answers == [b""]
