"""Scenarios played for real: the product in namespaces, troubled links, real traffic.

A few ready scenarios stand for all of them here, since each takes ten seconds or more; `sdwan lab run --all`
plays the rest. Judged is what must hold on any machine, however busy: that traffic goes on, that what is
expected to be lossless is, that both links are used. How fast a cut is noticed is the benchmark's business.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdwan.lab.result import Result
from sdwan.lab.runner import play
from sdwan.lab.scenario import load
from sdwan.lab.topology import build

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]


def played(name: str) -> Result:
    scenario = load(name)
    with build(f"sc{os.getpid()}", scenario.plan) as lab:
        return play(scenario, lab)


def sdwan(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdwan.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.slow
def test_steady_links_lose_nothing():
    result = played("steady")
    assert result.figures["probes_lost"] == 0
    assert result.figures["udp_lost"] == 0
    assert result.figures["udp"] == pytest.approx(40, rel=0.02)


@pytest.mark.slow
def test_traffic_survives_a_link_that_goes_dark_and_comes_back():
    result = played("blackout")
    assert result.figures["longest_gap"] < 1000
    assert result.figures["probes_lost"] < 200, "the link was dark for 600 probes"
    assert any("wan0" in change and "state=up" in change for change in result.path_changes)


@pytest.mark.slow
def test_a_reload_is_not_noticed():
    result = played("reload")
    assert result.figures["probes_lost"] == 0
    assert result.figures["udp_lost"] == 0
    assert result.path_changes == []


@pytest.mark.slow
def test_the_edge_may_move():
    result = played("roaming")
    assert result.figures["longest_gap"] < 1000
    assert min(result.shares) > 5, "both links carry, the moved one too"


# The command ---------------------------------------------------------------------------------------


@pytest.fixture
def standing() -> Any:
    """A lab that `sdwan lab up` left standing, with the product running in it."""
    name = f"up{os.getpid()}"
    done = sdwan("lab", "up", name, "--link", "20mbit,5ms", "--link", "10mbit,8ms")
    assert done.returncode == 0, done.stderr
    yield name
    sdwan("lab", "down", name)


@pytest.mark.slow
def test_a_lab_stands_until_it_is_taken_down(standing):
    assert standing in json.loads(sdwan("lab", "list", "--json").stdout)["labs"]
    inside = sdwan(
        "lab", "shell", "edge", "--lab", standing, "--", "ping", "-c", "3", "-i", "0.2", "10.77.2.1"
    )
    assert " 0% packet loss" in inside.stdout
    config = Path("/run/sdwan-lab") / standing / "edge" / "site.yaml"
    paths = json.loads(sdwan("edge", "status", "-c", str(config), "--json").stdout)["paths"]
    assert [path["state"] for path in paths] == ["up", "up"]
    assert sdwan("lab", "link", "set", "1", "--lab", standing, "--loss", "100%").returncode == 0
    assert sdwan("lab", "link", "set", "7", "--lab", standing, "--loss", "1%").returncode == 1
    assert sdwan("lab", "down", standing).returncode == 0
    assert standing not in json.loads(sdwan("lab", "list", "--json").stdout)["labs"]
    assert not list(Path("/run/netns").glob(f"sdwan-lab-{standing}-*"))
    assert not list(Path("/sys/fs/bpf").glob(f"sdwan-lab-{standing}-*"))


def test_what_does_not_exist_is_refused_in_one_sentence():
    for command in (("run", "no-such"), ("down", "nosuch"), ("shell", "edge", "--lab", "nosuch")):
        done = sdwan("lab", *command)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_scenario_of_ones_own_gives_json_and_an_exit_code(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "description: Too much is expected.\n"
        "links: [{rate: 10mbit, delay: 2ms}, {rate: 10mbit, delay: 2ms}]\n"
        "loads: {udp: 4mbit}\n"
        "duration: 2s\n"
        "expect: {goodput: 100mbit}\n"
    )
    done = sdwan("lab", "run", str(file), "--json")
    assert done.returncode == 1
    (result,) = json.loads(done.stdout)
    assert result["scenario"] == "own"
    assert [(check["metric"], check["met"]) for check in result["checks"]] == [("goodput", False)]
    assert result["figures"]["udp"] == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_every_load_tells_its_figures_and_rows_and_picture_are_written(tmp_path):
    file = tmp_path / "everything.yaml"
    file.write_text(
        "description: All loads at once, twice, with something happening.\n"
        "links:\n"
        "  - {rate: 20mbit, delay: 5ms, buffer: 100ms}\n"
        "  - {rate: 10mbit, delay: 8ms, buffer: 100ms}\n"
        "loads:\n"
        "  tcp: 1\n"
        "  stream: {interval: 20ms, size: 200, flows: 4, dscp: 46}\n"
        "  ping: {interval: 50ms, dscp: 18}\n"
        "  rival: 0\n"
        "  churn: 10\n"
        "rates_known: false\n"
        "idle: 1s\n"
        "warm_up: 1s\n"
        "duration: 3s\n"
        "rounds: 2\n"
        "steps: [{at: 2s, link: 1, set: {rate: 5mbit}}]\n"
        "expect: {of_ceiling: 1%, our_share: [0%, 100%]}\n"
    )
    rows = tmp_path / "rows.json"
    done = sdwan("lab", "run", str(file), "--json", "--output", str(rows))
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert len(result["rounds"]) == 2
    assert {
        "of_ceiling", "of_sum", "tcp", "longest_gap", "quiet_gap", "probes_lost", "delay_p99",
        "ping_idle_p95", "ping_added", "ping_over_best", "our_share", "others_kept", "flows_done", "used",
    } <= result["figures"].keys()  # fmt: skip
    assert 0 < result["figures"]["our_share"] < 100
    assert 9 < result["figures"]["ping_idle_p95"] < 60
    assert result["figures"]["flows_done"] > 0
    assert [(row["name"], row["metric"], row["met"]) for row in json.loads(rows.read_text())] == [
        ("everything", "of_ceiling", True),
        ("everything", "our_share", True),
        ("everything", "our_share", True),
    ]
    assert (tmp_path / "scenarios" / "everything.png").read_bytes().startswith(b"\x89PNG")
