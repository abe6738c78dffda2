"""The demo, small: a newcomer's first sight must work, with and without a terminal, and leave nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "sdwan.cli.main", "lab", "demo"]
PROMISED = {
    "single_link_mbps", "bonded_mbps", "sum_of_links_mbps", "efficiency", "failover_gap_ms", "packets_lost",
    "checksum_ok",
}  # fmt: skip


def leftovers() -> list[Path]:
    places = (Path("/run/netns"), Path("/sys/fs/bpf"))
    found = [path for place in places for path in place.glob("sdwan-lab-demo-*")]
    return found + list(Path("/run/sdwan-lab").glob("demo"))


def test_the_demo_moves_a_file_over_a_cut_and_says_what_it_cost(tmp_path):
    output = tmp_path / "build" / "demo.json"
    done = subprocess.run(
        [*COMMAND, "--output", str(output), "--size", "150"],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    result = json.loads(output.read_text())
    assert result.keys() >= PROMISED
    assert result["checksum_ok"] is True
    assert result["sum_of_links_mbps"] == pytest.approx(sum(result["single_link_mbps"]), abs=0.01)
    assert result["efficiency"] == pytest.approx(
        result["bonded_mbps"] / result["sum_of_links_mbps"], abs=0.01
    )
    assert sum(result["shares"]) == pytest.approx(1, abs=0.01), "the kernel counted both links"
    assert "is cut" in done.stdout
    assert "bpftool" in done.stdout
    assert leftovers() == []


def test_an_interrupted_demo_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--output", str(tmp_path / "demo.json")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"starting the tunnel" in line:
            break
    time.sleep(1)  # somewhere in the middle of it: any moment must do
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert leftovers() == []
