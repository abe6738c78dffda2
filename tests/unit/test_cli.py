"""The sdwan command: exit codes, one sentence per failure, no traceback, no heavy import."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from sdwan.cli import entry, running
from sdwan.cli.entry import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_NOT_RUNNING, EXIT_OK, EXIT_USAGE
from sdwan.cli.main import COMMANDS, sdwan
from sdwan.errors import SdwanError
from sdwan.metrics import Snapshot

HUB_KEY = base64.b64encode(b"h" * 32).decode()


def run(*args: str) -> int:
    return entry.run(sdwan, "sdwan", list(args))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration whose runtime directory is ours."""
    (tmp_path / "edge.key").write_text(base64.b64encode(b"p" * 32).decode() + "\n")
    (tmp_path / "edge.key").chmod(0o600)
    path = tmp_path / "edge.yaml"
    path.write_text(
        f"site: berlin\nprivate_key: edge.key\nruntime_dir: {tmp_path}\n"
        "tun: {addresses: [10.77.1.1/24]}\nlinks: [{name: dsl, interface: eth0}]\n"
        f"peers: [{{name: hub, public_key: {HUB_KEY}, prefixes: [10.0.0.0/8]}}]\n"
    )
    return path


class FakeEdge:
    """Answers on the status socket, one document per connection; SIGHUPs are counted, not delivered."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer = json.dumps(Snapshot(site="berlin").as_plain()).encode()
        self.on_hangup: Callable[[], None] = lambda: None
        self.signalled: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "kill", self._kill)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _kill(self, pid: int, number: int) -> None:
        self.signalled.append((pid, number))
        self.on_hangup()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.answer)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def fake_edge(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEdge]:
    fake = FakeEdge(site.parent / "berlin.sock", monkeypatch)
    yield fake
    fake.close()


# Exit codes and failures -----------------------------------------------------------------------------


def failing(error: BaseException) -> click.Command:
    @click.command()
    @click.option("--debug", is_flag=True)
    def command(debug: bool) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SdwanError("the TUN is taken"), EXIT_ERROR, "sdwan: the TUN is taken\n"),
        (entry.NotRunningError("nobody there"), EXIT_NOT_RUNNING, "sdwan: nobody there\n"),
        (PermissionError(1, "Operation not permitted"), EXIT_ERROR, "this needs root\n"),
        (
            ValueError("odd"),
            EXIT_ERROR,
            "internal error, please report it with the output of --debug: ValueError",
        ),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, ""),
        (click.UsageError("no such thing"), EXIT_USAGE, "Error: no such thing"),
        (SdwanError(f"cannot use {HUB_KEY}"), EXIT_ERROR, "(redacted: looks like a key)"),
    ],
)
def test_failures(error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(failing(error), "sdwan", []) == code
    out, err = capsys.readouterr()
    assert told in err and "Traceback" not in err and out == ""


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(failing(SdwanError("odd")), "sdwan", ["--debug"]) == EXIT_ERROR
    assert "Traceback" in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == EXIT_OK
    assert run("edg") == EXIT_USAGE
    assert run("edge", "status", "--colour") == EXIT_USAGE
    assert run("version", "--json") == EXIT_OK
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])) == {"sdwan", "python", "kernel"}


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from sdwan.cli import entry; from sdwan.cli.main import sdwan\n"
        "code = entry.run(sdwan, 'sdwan', ['--help'])\n"
        "heavy = {'numpy', 'bcc', 'pydantic', 'yaml', 'cryptography', 'pyroute2', 'rich'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


# edge check ------------------------------------------------------------------------------------------


def test_check_says_fine(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", "check", "-c", str(site)) == EXIT_OK
    assert "site berlin, 1 link(s), 1 peer(s), 0 path(s) to endpoints: fine" in capsys.readouterr().out


def test_check_tells_every_error(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.write_text(site.read_text().replace("name: dsl", "nam: dsl").replace("10.0.0.0/8", "10.0.0.1/8"))
    assert run("edge", "check", "-c", str(site)) == EXIT_ERROR
    err = capsys.readouterr().err
    assert "error: links[0].nam (edge.yaml, line 5): unknown key; did you mean `name`?" in err
    assert "error: peers[0].prefixes[0] (edge.yaml, line 6): '10.0.0.1/8' has bits set" in err


def test_check_as_json(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.write_text(site.read_text() + "metrics: {listen: 192.0.2.1:9105}\nsit: x\n")
    assert run("edge", "check", "--json", "-c", str(site)) == EXIT_ERROR
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False and told["errors"][0]["right"] == "did you mean `site`?"
    site.write_text(site.read_text().replace("sit: x\n", ""))
    assert run("edge", "check", "--json", "-c", str(site)) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True and told["warnings"][0]["where"].startswith("metrics.listen")


def test_check_refuses_a_key_file_others_can_read(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site.parent / "edge.key").chmod(0o640)
    assert run("edge", "check", "-c", str(site)) == EXIT_ERROR
    assert "0640" in capsys.readouterr().err


def test_check_refuses_a_peer_with_the_sites_own_key(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pubkey", str(site.parent / "edge.key"))
    own = capsys.readouterr().out.strip()
    site.write_text(site.read_text().replace(HUB_KEY, own))
    assert run("edge", "check", "-c", str(site)) == EXIT_ERROR
    assert "peers[0].public_key: is this site's own key" in capsys.readouterr().err


# edge status and reload ------------------------------------------------------------------------------


def test_status_and_reload_without_an_edge(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", "status", "-c", str(site)) == EXIT_NOT_RUNNING
    assert run("edge", "reload", "-c", str(site)) == EXIT_NOT_RUNNING
    assert capsys.readouterr().err.count("no edge is running here") == 2


def test_a_stale_socket_is_no_edge(site: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(site.parent / "berlin.sock"))
    assert run("edge", "status", "-c", str(site)) == EXIT_NOT_RUNNING


def test_status(site: Path, fake_edge: FakeEdge, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", "status", "-c", str(site)) == EXIT_OK
    assert "site berlin" in capsys.readouterr().out
    assert run("edge", "status", "--json", "-c", str(site)) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == json.loads(fake_edge.answer)


def test_status_needs_only_the_name_of_the_site(site: Path, fake_edge: FakeEdge) -> None:
    site.write_text(site.read_text() + "sit: x\n")
    assert run("edge", "status", "-c", str(site)) == EXIT_OK
    site.write_text(site.read_text().replace("site: berlin", "site: 12"))
    assert run("edge", "status", "-c", str(site)) == EXIT_ERROR
    site.write_text("[")
    assert run("edge", "status", "-c", str(site)) == EXIT_ERROR


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_status(site: Path, fake_edge: FakeEdge, answer: bytes) -> None:
    fake_edge.answer = answer
    with pytest.raises(SdwanError, match="no status"):
        running.ask_status(site.parent / "berlin.sock")


def test_an_endless_answer_is_cut(site: Path, fake_edge: FakeEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ANSWER_BYTES_MAX", 100)
    with pytest.raises(SdwanError, match="longer than"):
        running.ask_status(site.parent / "berlin.sock")


def after_hangup(fake: FakeEdge, **counters: int) -> None:
    def answer_differently() -> None:
        fake.answer = json.dumps({**json.loads(fake.answer), **counters}).encode()

    fake.on_hangup = answer_differently


def test_reload_signals_whoever_holds_the_socket_and_waits(
    site: Path, fake_edge: FakeEdge, capsys: pytest.CaptureFixture[str]
) -> None:
    after_hangup(fake_edge, reloads_applied=1)
    assert run("edge", "reload", "-c", str(site)) == EXIT_OK
    assert fake_edge.signalled == [(os.getpid(), signal.SIGHUP)]
    assert "configuration applied" in capsys.readouterr().out


def test_reload_tells_a_refusal(site: Path, fake_edge: FakeEdge, capsys: pytest.CaptureFixture[str]) -> None:
    after_hangup(fake_edge, reloads_refused=1)
    assert run("edge", "reload", "-c", str(site)) == EXIT_ERROR
    assert "refused the configuration and keeps the old one" in capsys.readouterr().err


def test_reload_of_a_wrong_file_signals_nobody(site: Path, fake_edge: FakeEdge) -> None:
    site.write_text(site.read_text() + "sit: x\n")
    assert run("edge", "reload", "-c", str(site)) == EXIT_ERROR
    assert fake_edge.signalled == []


def test_reload_does_not_wait_for_ever(site: Path, fake_edge: FakeEdge) -> None:
    ticks = iter(range(0, 1000, 4))
    with pytest.raises(SdwanError, match="did not reload within 10 s"):
        running.reload(site.parent / "berlin.sock", clock=lambda: float(next(ticks)))
