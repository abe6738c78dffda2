"""The live view from fixed snapshots: what it shows, how it fits, and that nothing from outside breaks it."""

from __future__ import annotations

import io
import os
import pty
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sdwan.cli import screen
from sdwan.cli.top import SPARK_MAX, History, clock, sparkline, top_view
from sdwan.errors import SdwanError
from sdwan.metrics import ClassSnapshot, PathSnapshot, PeerSnapshot, Snapshot
from sdwan.model import PathState

MS = 10**6


def snapshot(paths: int = 2, sent_bps: int = 40_000_000) -> dict[str, Any]:
    """An edge with that many paths to its hub, the last one drained."""
    rows = tuple(
        PathSnapshot(
            peer="hub", path=n, link=f"wan{n}", state=PathState.UP, sent_bps=sent_bps >> n,
            received_bps=2_000_000, capacity_bps=50_000_000, share_ppm=500_000, rtt_ns=20 * MS,
            jitter_ns=MS // 2, loss_out_ppm=1000, loss_in_ppm=20_000, queue_ns=4 * MS,
            drained=n == paths - 1 > 0, is_quiet=True,
        )
        for n in range(paths)
    )  # fmt: skip
    classes = (
        ClassSnapshot(
            peer="hub", number=0, name="bulk", recovery="resend", sent_bps=39_000_000, sent_packets=10_000,
            queued_packets=20, queued_bytes=30_000, queue_delay_ns=12 * MS, dropped=3, overflowed=1, marked=2,
            flows=4,
        ),
        ClassSnapshot(
            peer="hub", number=2, name="video", recovery="fec", sent_bps=1_000_000, sent_packets=100,
            fec_sources=10, fec_repairs=2,
        ),
        ClassSnapshot(peer="hub", number=3, name="voice", recovery="duplicate"),
    )  # fmt: skip
    peers = (
        PeerSnapshot(
            peer="hub", session_age_ns=10**10, nacks_sent=7, nacks_received=9, resent=11, recovered=5,
            kept_bytes=1_500_000, overhead_ppm=12_000,
        ),
    )  # fmt: skip
    return Snapshot(
        site="berlin", uptime_ns=10**13, paths=rows, classes=classes, peers=peers, heartbeat_age_ns=MS,
        tun_mtu_bytes=1400, dataplane_starts=1,
    ).as_plain()  # fmt: skip


EVENTS = [
    {"wall_ns": 1_769_860_800_250 * MS + n, "level": level, "sentence": f"event {n}"}
    for n, level in enumerate(["info", "warning", "error", "info", "info", "info", "info", "info"])
]


def drawn(
    status: dict[str, Any],
    events: list[dict[str, Any]] | None = None,
    *,
    history: History | None = None,
    width: int = 160,
    height: int = 40,
    note: str = "",
    **console: Any,
) -> list[str]:
    stream = io.StringIO()
    view = top_view(
        status, events or [], history or History(), width=width, height=height, note=note
    )  # fmt: skip
    Console(file=stream, width=width, highlight=False, markup=False, **console).print(view)
    return stream.getvalue().splitlines()


def line_with(lines: list[str], *words: str) -> str:
    (found,) = [" ".join(line.split()) for line in lines if all(word in line for word in words)]
    return found


def test_links_with_state_rates_capacity_share_delay_loss_and_queue() -> None:
    lines = drawn(snapshot())
    assert line_with(lines, "wan0") == (
        "hub wan0 up 40.0 Mbit/s 2.0 Mbit/s 50.0 Mbit/s 50 % 20.0 ms 0.50 ms 2.00 % 4.00 ms"
    )
    assert "up drained" in line_with(lines, "wan1")


def test_classes_that_carried_something() -> None:
    lines = drawn(snapshot())
    assert line_with(lines, "bulk") == "bulk 39.0 Mbit/s 0 bit/s 30.0 kB 4 12.0 ms 4 2 resend - -"
    assert line_with(lines, "video").endswith("fec 10+2 20.0 %")
    assert not any("voice" in line for line in lines)


def test_classes_of_several_peers_are_summed() -> None:
    rows = tuple(
        ClassSnapshot(peer=f"p{n}", number=0, name="bulk", sent_bps=10_000_000, sent_packets=1, dropped=1)
        for n in range(3)
    )
    told = line_with(drawn(Snapshot(site="hub", classes=rows).as_plain()), "bulk")
    assert told.startswith("bulk 30.0 Mbit/s") and " 3 0 none" in told


def test_recovery() -> None:
    assert line_with(drawn(snapshot()), "1.5 MB") == "hub 7 9 11 0 0 0 5 0 1.5 MB 0 1.2 %"


def test_why_a_path_is_not_up() -> None:
    path = PathSnapshot(peer="hub", path=0, link="lte", state=PathState.DOWN, reason="link down")
    assert "down (link down)" in line_with(drawn(Snapshot(site="x", paths=(path,)).as_plain()), "lte")


def test_for_which_classes_a_path_is_out() -> None:
    path = PathSnapshot(peer="hub", path=0, link="lte", state=PathState.UP, out_for=("voice", "video"))
    assert "up out for voice, video" in line_with(drawn(Snapshot(site="x", paths=(path,)).as_plain()), "lte")


def test_a_peer_that_drains_is_told() -> None:
    path = PathSnapshot(peer="hub", path=0, link="lte", state=PathState.UP, drained_by_peer=True)
    assert "up drained there" in line_with(drawn(Snapshot(site="x", paths=(path,)).as_plain()), "lte")


def test_the_newest_events_fill_what_is_left() -> None:
    few = drawn(snapshot(), EVENTS, height=22)
    assert any("12:00:00 " in line and "event 7" in line for line in few)
    assert not any("event 0" in line for line in few)
    assert any("event 0" in line for line in drawn(snapshot(), EVENTS, height=60))


@pytest.mark.parametrize("height", [27, 40, 80])
@pytest.mark.parametrize("paths", [1, 2, 8, 300])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_it_fits(width: int, height: int, paths: int) -> None:
    lines = drawn(snapshot(paths), EVENTS, width=width, height=height, note="q quit")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(line for line in lines if "wan0" in line)


def test_of_many_paths_the_busiest_are_shown() -> None:
    lines = drawn(snapshot(30), height=40)
    assert any(line.startswith("Links: the ") and "of 30 paths" in line for line in lines)
    assert any("wan0 " in line for line in lines) and not any("wan28 " in line for line in lines)


def test_colours_only_on_a_terminal() -> None:
    assert "\x1b" not in "".join(drawn(snapshot(), EVENTS))
    assert "\x1b[33mevent 1" in "\n".join(drawn(snapshot(), EVENTS, force_terminal=True))


# Sparklines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "peak", "width", "bars"),
    [
        ([], 10, 4, "    "),
        ([0, 5, 10], 10, 3, " ▅█"),
        ([1], 1000, 3, "  ▁"),
        ([1, 2, 3, 4], 4, 2, "▆█"),
        ([20], 10, 1, "█"),
        ([3], 0, 2, "  "),
    ],
)
def test_sparkline(values: list[float], peak: float, width: int, bars: str) -> None:
    assert sparkline(values, peak, width) == bars


def test_sparklines_stand_beside_the_rates_where_there_is_room() -> None:
    history = History()
    for k in range(2 * SPARK_MAX):
        history.note(snapshot(sent_bps=1_000_000 * k))
    assert "▁" in line_with(drawn(snapshot(), history=history, width=180), "wan0")
    assert "▁" not in line_with(drawn(snapshot(), history=history, width=100), "wan0")
    assert len(history.of(snapshot()["paths"][0], 0)) == SPARK_MAX


def test_a_path_that_is_gone_is_forgotten() -> None:
    history = History()
    history.note(snapshot(2))
    history.note(snapshot(1))
    assert history.of(snapshot(2)["paths"][1], 0) == []
    assert history.of(snapshot(2)["paths"][0], 0) == [40_000_000, 40_000_000]


# What comes from outside -----------------------------------------------------------------------------------


def test_moments_are_those_of_the_log() -> None:
    assert clock(1_769_860_800_250 * MS) == "2026-01-31T12:00:00.250Z"
    assert clock(None) == clock(-1) == clock(10**30) == clock(float("nan")) == "-"


def test_text_from_outside_is_text() -> None:
    lines = drawn({"paths": [{"link": "[red]a\x1b[1m"}]}, [{"sentence": "x\x1b[2J[bold]"}])
    assert "\x1b" not in "".join(lines)
    assert any("[red]a?[1m" in line for line in lines) and any("x?[2J[bold]" in line for line in lines)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted(
    {name for rows in ("paths", "classes", "peers") for name in snapshot()[rows][0]}
    | {"wall_ns", "level", "sentence"}
)
rows = st.lists(st.dictionaries(st.sampled_from(NAMES), anything, max_size=8), max_size=3)


@settings(deadline=None)
@given(rows | anything, rows | anything, rows | anything, rows, st.integers(1, 200), st.integers(1, 60))
def test_anything_can_be_drawn(
    paths: Any, classes: Any, peers: Any, events: list[dict[str, Any]], width: int, height: int
) -> None:
    status, history = {"paths": paths, "classes": classes, "peers": peers}, History()
    history.note(status)
    drawn(status, events, history=history, width=width, height=height)


# The screen ------------------------------------------------------------------------------------------------


class Asked:
    """Answers with snapshots, and fails when told to."""

    def __init__(self) -> None:
        self.times = 0
        self.fails = False

    def __call__(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self.times += 1
        if self.fails:
            raise SdwanError("nobody answers")
        return snapshot(), EVENTS


def press(monkeypatch: pytest.MonkeyPatch, *pressed: str) -> None:
    """Let these keys be pressed, one each time the screen waits."""
    left = iter(pressed)

    class Keys:
        def __enter__(self) -> Any:
            return lambda _: next(left)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(screen, "keys", Keys)


def test_q_quits_and_p_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, stream = Asked(), io.StringIO()
    press(monkeypatch, "", "p", "", "", "p", "q")
    screen.show(asked, Console(file=stream, width=120, height=40, force_terminal=True), 0.5)
    assert asked.times == 3
    assert screen.PAUSED in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h\x1b[?1049l")  # cursor and first screen are back


def test_an_edge_that_stops_answering_is_told_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, stream = Asked(), io.StringIO()
    console = Console(file=stream, width=120, height=40, force_terminal=True)
    asked.fails = True
    with pytest.raises(SdwanError):
        screen.show(asked, console, 0.5)
    asked.fails = False
    press(monkeypatch, "", "", "q")
    screen.show(lambda: fail_after_first(asked), console, 0.5)
    assert "nobody answers; asking again" in stream.getvalue()


def fail_after_first(asked: Asked) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answer = asked()
    asked.fails = True
    return answer


def test_keys_are_read_one_by_one_and_the_terminal_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import termios

    leader, follower = pty.openpty()
    with open(follower, closefd=True) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        before = termios.tcgetattr(follower)
        with screen.keys() as wait_key:
            assert wait_key(0.0) == ""
            threading.Thread(target=os.write, args=(leader, b"p")).start()
            assert wait_key(10.0) == "p"
        assert termios.tcgetattr(follower) == before
    os.close(leader)
