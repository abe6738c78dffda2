"""`sdwan-bpf weights`: what is in force, what paths still have to send, and shares set by hand."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from sdwan.cli.bpf import sdwan_bpf
from sdwan.io.maps import Weights
from sdwan.model import SteerMode
from tests.packet.runner import PEER, Kernel

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def weighed(kernel: Kernel) -> Kernel:
    """Path 0 at 8 Mbit/s with ten seconds of backlog; classes 0 and 1 alike, class 2 unbounded."""
    bounded = Weights(SteerMode.EARLIEST, (1, 3), (1_024_000,), (20_000,), (4_000,))
    unbounded = Weights(SteerMode.EARLIEST, (1, 3), (1_024_000,), (20_000,))
    kernel.maps.write_weights({(PEER, 0): bounded, (PEER, 1): bounded, (PEER, 2): unbounded})
    kernel.maps.busy[PEER * 8]["until_ns"] = time.monotonic_ns() + 10 * 10**9
    return kernel


def run(kernel: Kernel, *words: str) -> str:
    done = CliRunner().invoke(sdwan_bpf, [*words, "--pins", str(kernel.pin_root)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_show_tells_rates_delays_bounds_and_backlogs(weighed):
    found = json.loads(run(weighed, "weights", "show", str(PEER), "--json"))
    assert [(row["class"], row["bound_us"][0]) for row in found] == [(0, 4000), (1, 4000), (2, 0)]
    assert found[0]["ns_per_kib"][0] == 1_024_000
    assert 0 < found[0]["backlog_us"][0] <= 10_000_000
    assert not any(found[0]["backlog_us"][1:])


def test_show_puts_classes_that_agree_on_one_line(weighed):
    lines = [line.split() for line in run(weighed, "weights", "show").splitlines()]
    queues = [line[2:-2] for line in lines if "Mbit/s" in line]  # but for peer, path and backlog
    assert queues == [
        ["0,", "1", "8.0", "Mbit/s", "20.0", "ms", "4.00", "ms"],
        ["2", "8.0", "Mbit/s", "20.0", "ms", "none"],
    ]


def test_set_changes_mode_and_shares_and_keeps_the_rest(weighed):
    run(weighed, "weights", "set", str(PEER), "1", "1", "--class", "0", "--mode", "pin")
    read = weighed.maps.read_weights(PEER, 0)
    assert read.mode is SteerMode.PIN
    assert read.shares[:2] == (0.5, 0.5)
    assert (read.ns_per_kib[0], read.delay_us[0], read.bound_us[0]) == (1_024_000, 20_000, 4_000)
    assert weighed.maps.read_weights(PEER, 1).mode is SteerMode.EARLIEST
