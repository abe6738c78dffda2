"""`sdwan edge drain`, `events` and `top` beside a running edge: here, its real Commands behind a socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdwan.cli import entry, running
from sdwan.cli.entry import EXIT_ERROR, EXIT_NOT_RUNNING, EXIT_OK
from sdwan.cli.main import sdwan
from sdwan.edge.commands import Commands
from sdwan.edge.events import EventLog
from sdwan.errors import CommandError, SdwanError
from sdwan.io.logs import get_log
from sdwan.metrics import PathSnapshot, Snapshot
from sdwan.model import PathState


def run(*args: str) -> int:
    return entry.run(sdwan, "sdwan", list(args))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "edge.yaml"
    path.write_text(f"site: berlin\nruntime_dir: {tmp_path}\n")
    return path


class Edge:
    """Answers commands about one path over the link lte; a drain takes a few looks to become quiet."""

    def __init__(self, path: Path) -> None:
        self.events = EventLog()
        self.is_drained = False
        self.looks = 0
        self.quiet_after = 3
        self._commands = Commands(self._snapshot, self.events, self._set_drained)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _snapshot(self) -> Snapshot:
        self.looks += 1
        path = PathSnapshot(
            peer="hub", path=0, link="lte", state=PathState.UP, drained=self.is_drained,
            is_quiet=self.looks >= self.quiet_after,
        )  # fmt: skip
        return Snapshot(site="berlin", paths=(path,))

    def _set_drained(self, link: str, drained: bool, force: bool) -> None:
        if link != "lte":
            raise CommandError(f"{link}: no such link; there are lte")
        if drained and not force:
            raise CommandError("lte is the only link in use to hub")
        self.is_drained = drained

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                connection.sendall(json.dumps(self._commands.answer(lines.readline())).encode() + b"\n")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def edge(site: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Edge]:
    caplog.set_level("INFO", "sdwan")
    made = Edge(site.parent / "berlin.ctl")
    made.events.install()
    yield made
    made.events.uninstall()
    made.close()


@pytest.mark.parametrize("command", [("drain", "lte"), ("events",), ("top",)])
def test_without_an_edge(command: tuple[str, ...], site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", *command, "-c", str(site)) == EXIT_NOT_RUNNING
    assert "no edge is running here" in capsys.readouterr().err


# drain -----------------------------------------------------------------------------------------------------


def test_drain_waits_until_nothing_is_under_way(
    site: Path, edge: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("edge", "drain", "lte", "--force", "--wait", "-c", str(site)) == EXIT_OK
    assert edge.is_drained
    assert edge.looks == edge.quiet_after
    assert "lte: drained, nothing is under way" in capsys.readouterr().out


def test_a_refusal_is_told(site: Path, edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", "drain", "lte", "-c", str(site)) == EXIT_ERROR
    assert run("edge", "drain", "dsl", "-c", str(site)) == EXIT_ERROR
    assert capsys.readouterr().err.splitlines() == [
        "sdwan: lte is the only link in use to hub",
        "sdwan: dsl: no such link; there are lte",
    ]
    assert not edge.is_drained


def test_undo(site: Path, edge: Edge) -> None:
    run("edge", "drain", "lte", "--force", "-c", str(site))
    assert run("edge", "drain", "lte", "--undo", "-c", str(site)) == EXIT_OK
    assert not edge.is_drained


def test_waiting_ends(site: Path, edge: Edge) -> None:
    edge.is_drained, edge.quiet_after = True, 10**9
    ticks = iter(range(1000))
    with pytest.raises(SdwanError, match="still under way after 5 s; the link stays drained"):
        running.wait_until_quiet(site.parent / "berlin.ctl", "lte", 5.0, clock=lambda: float(next(ticks)))
    edge.is_drained = False
    with pytest.raises(SdwanError, match="undone meanwhile"):
        running.wait_until_quiet(site.parent / "berlin.ctl", "lte", 5.0)


# events ----------------------------------------------------------------------------------------------------


def test_events_as_lines_and_as_json(site: Path, edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    log = get_log("sdwan.test")
    log.info("sla_out", reason="lte out for voice: rtt 180 ms > 150 ms for 1 s")
    log.info("tun_mtu", mtu_bytes=1400)
    assert run("edge", "events", "-c", str(site)) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert [line[24:] for line in lines] == [
        " lte out for voice: rtt 180 ms > 150 ms for 1 s", " MTU of the TUN is 1400",
    ]  # fmt: skip
    assert run("edge", "events", "--json", "-n", "1", "-c", str(site)) == EXIT_OK
    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (event["name"], event["fields"], event["number"]) == ("tun_mtu", {"mtu_bytes": 1400}, 2)
    assert event["time"].endswith("Z")


def test_follow_goes_on_also_when_the_edge_counts_anew(
    site: Path, edge: Edge, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = get_log("sdwan.test")
    for number in range(3):
        log.info("tun_mtu", mtu_bytes=number)

    def restart() -> None:
        edge.events.newest = 0
        edge.events._noted.clear()
        log.info("running", site="berlin", port=4510, tun="sdwan01")

    steps = iter([lambda: log.info("tun_mtu", mtu_bytes=3), lambda: None, restart])

    def sleep(_: float) -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr("sdwan.cli.edge.time.sleep", sleep)
    run("edge", "events", "--follow", "-n", "1", "-c", str(site))
    told = [line.split("Z ")[1] for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "MTU of the TUN is 2", "MTU of the TUN is 3", "site berlin runs on port 4510, TUN sdwan01",
    ]  # fmt: skip


# top -------------------------------------------------------------------------------------------------------


def test_top_without_a_terminal_is_one_view(
    site: Path, edge: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    get_log("sdwan.test").info("tun_mtu", mtu_bytes=1400)
    assert run("edge", "top", "-c", str(site)) == EXIT_OK
    told = capsys.readouterr().out
    assert "site berlin" in told and "lte" in told and "MTU of the TUN is 1400" in told
    assert "\x1b" not in told


def test_top_as_json(site: Path, edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", "top", "--json", "-c", str(site)) == EXIT_OK
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["snapshot"]["paths"][0]["link"] == "lte" and told["events"] == []


@pytest.mark.parametrize(
    "answer", ['{"ok": true}', '{"ok": true, "events": 3, "newest": "x", "snapshot": []}']
)
def test_an_answer_of_another_version_is_no_error(
    site: Path, edge: Edge, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge._commands, "answer", lambda _: json.loads(answer))
    assert run("edge", "top", "-c", str(site)) == EXIT_OK
    assert run("edge", "events", "-c", str(site)) == EXIT_OK
