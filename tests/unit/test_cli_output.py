"""What an operator reads: units and tables; a status from a stranger or another version breaks nothing."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sdwan.cli import output
from sdwan.cli.edge_view import status_view
from sdwan.metrics import LinkSnapshot, PathSnapshot, PeerSnapshot, Snapshot
from sdwan.model import DropReason, PathState


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (output.milliseconds, 12_345_678, "12.3 ms"),
        (output.milliseconds, 38_966, "0.04 ms"),
        (output.milliseconds, None, "-"),
        (output.milliseconds, True, "-"),
        (output.age, 42_000_000_000, "42 s"),
        (output.age, 180_000_000_000, "3 min"),
        (output.age, 18_720_000_000_000, "5.2 h"),
        (output.age, 4 * 86400 * 10**9, "4 d"),
        (output.rate, 94_200_000, "94.2 Mbit/s"),
        (output.rate, 999, "999 bit/s"),
        (output.rate, 2_500_000_000_000, "2500.0 Gbit/s"),
        (output.size, 1_400_000_000, "1.4 GB"),
        (output.size, "x", "-"),
        (output.percent, 5000, "0.5 %"),
    ],
)
def test_units(write: Any, value: Any, written: str) -> None:
    assert write(value) == written


def shown(status: dict[str, Any]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=output.PIPE_WIDTH, highlight=False, markup=False)
    console.print(status_view(status))
    return stream.getvalue()


def test_status_tells_paths_links_peers_and_drops() -> None:
    snapshot = Snapshot(
        site="berlin", uptime_ns=10**13, tun_mtu_bytes=1428, heartbeat_age_ns=10**7, dataplane_starts=1,
        paths=(PathSnapshot(
            peer="hub", path=0, link="dsl", remote="203.0.113.1:4510", state=PathState.UP, rtt_ns=12_000_000,
            loss_out_ppm=200, share_ppm=600_000, sent_bps=94_000_000, capacity_bps=100_000_000,
            queue_ns=3_000_000,
        ),),
        links=(LinkSnapshot(link="dsl", interface="eth0", up=False),),
        peers=(PeerSnapshot(peer="hub"), PeerSnapshot(peer="van", session_age_ns=10**10)),
        drops={DropReason.FORGED: 3, DropReason.LOOP: 0},
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in shown(snapshot.as_plain()).splitlines()]
    assert lines[0] == "site berlin, up 2.8 h, TUN MTU 1428, data plane alive, 1 start(s)"
    assert (
        "hub 0 dsl 203.0.113.1:4510 up 60 % 94.0 Mbit/s 100.0 Mbit/s 0 bit/s 12.0 ms - 3.00 ms 0.02 % - -"
        in lines
    )
    assert "dsl eth0 down - 0 B 0 B - -" in lines
    assert "hub none 0 0 B 0 B 0 0 0" in lines
    assert "van 10 s 0 0 B 0 B 0 0 0" in lines
    assert "forged 3" in lines and not any("loop" in line for line in lines)


def test_a_silent_data_plane_is_told() -> None:
    assert "data plane silent (5 s)" in shown({"heartbeat_age_ns": 5 * 10**9})
    assert "data plane silent (-)" in shown({})


def test_text_from_outside_is_text() -> None:
    told = shown({"site": "[red]x[/red]\x1b[31m", "paths": [{"peer": "a\nb", "state": "[bold]"}]})
    assert "[red]x[/red]?[31m" in told and "a?b" in told and "[bold]" in told and "\x1b" not in told


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["site", "paths", "links", "peers", "drops", "heartbeat_age_ns", "rtt_ns", "session_age_ns"]
)


@settings(deadline=None)
@given(st.dictionaries(names, anything | st.lists(st.dictionaries(names, anything, max_size=4), max_size=3)))
def test_any_status_can_be_shown(status: dict[str, Any]) -> None:
    assert shown(status)
