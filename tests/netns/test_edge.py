"""Edges and a hub, as processes, in namespaces, with real traffic: sessions, peers, death and return.

edge (10.77.1.1) ══ wan0, wan1 ══ (10.77.2.1) hub        inner prefixes 10.77.n.0/24, fd77:n::/64
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdwan.lab import site as lab_site
from sdwan.lab.namespace import inside
from tests.netns.edge_world import World, wait_until, world

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

HUB4, HUB6 = "10.77.2.1", "fd77:2::1"


@pytest.fixture(scope="module")
def pair() -> Iterator[World]:
    """One edge and its hub, two links, up; tests leave it as they found it."""
    with world() as made:
        made.change("hub", lambda d: d.update(metrics={"listen": "127.0.0.1:9105"}))
        made.start()
        yield made


# Sessions and peers --------------------------------------------------------------------------------


def test_inner_ipv4_and_ipv6_pass_over_outer_ipv4(pair: World) -> None:
    assert pair.pings("edge", HUB4) == 3
    assert pair.pings("edge", HUB6) == 3
    assert pair.pings("hub", "10.77.1.1") == 3


def test_the_tun_takes_what_the_paths_take(pair: World) -> None:
    wait_until(lambda: pair["edge"].status()["tun_mtu_bytes"] == 1428, "path MTU discovery")
    assert pair.run("edge", "ping", "-q", "-c", "1", "-M", "do", "-s", "1400", HUB4)


def test_a_hub_serves_three_edges() -> None:
    with world(edges=3) as made:
        made.start()
        for number, site in enumerate(("edge1", "edge2", "edge3"), start=1):
            assert made.pings(site, "10.77.4.1") == 3
            assert made.pings("hub", f"fd77:{number}::1") == 3
        assert {peer["peer"] for peer in made["hub"].status()["peers"] if peer["session_age_ns"]} == {
            "edge1", "edge2", "edge3",
        }  # fmt: skip


def test_inner_ipv4_and_ipv6_pass_over_outer_ipv6() -> None:
    with world() as made:
        made.change("edge", lambda d: _use_ipv6(d, 0, 1))
        made.start()
        assert made.path("edge", 0)["remote"] == "[fd90:0::2]:4510".replace(":0::", "::")
        assert made.pings("edge", HUB4) == 3
        assert made.pings("edge", HUB6) == 3
        wait_until(lambda: made["edge"].status()["tun_mtu_bytes"] == 1408, "path MTU discovery over IPv6")


def test_one_path_may_be_ipv4_and_another_ipv6() -> None:
    with world() as made:
        made.change("edge", lambda d: _use_ipv6(d, 1))
        made.start()
        assert made.pings("edge", HUB4, count=20, interval_s=0.02) == 20
        made.run("edge", "ip", "link", "set", "wan1", "down")
        is_noticed = lambda: made.states("edge") == ["up", "down"] == made.states("hub")  # noqa: E731
        wait_until(is_noticed, "one path, which may be idle, is down", timeout_s=60)
        assert made.pings("edge", HUB4, count=20, interval_s=0.02) == 20


def _use_ipv6(document: dict[str, Any], *links: int) -> None:
    for link in links:
        document["peers"][0]["endpoints"][link]["address"] = f"[fd90:{link}::2]:4510"


@pytest.mark.parametrize("secret", ["private key", "preshared key"])
def test_a_wrong_key_gets_no_session(secret: str) -> None:
    with world() as made:
        directory = made["edge"].plan.directory
        wrong = directory / "wrong.key"
        wrong.touch(0o600)
        wrong.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
        if secret == "private key":
            made.change("edge", lambda d: d.update(private_key="wrong.key"))
        else:
            made.change("edge", lambda d: d["peers"][0].update(preshared_key="wrong.key"))
        for edge in made.overlay.edges.values():
            edge.start()
        wait_until(lambda: _answers(made, "edge") and _answers(made, "hub"), "both edges run")
        assert made.pings("edge", HUB4, count=10, interval_s=0.1) == 0
        assert made["hub"].status()["peers"][0]["session_age_ns"] is None
        assert made["hub"].status()["paths"] == []


def _answers(made: World, site: str) -> bool:
    try:
        made[site].status()
    except lab_site.LabError:
        return False
    return True


def test_a_second_daemon_of_a_site_is_refused(pair: World) -> None:
    command = [sys.executable, "-m", "sdwan.cli.main", "edge", "run", "-c", str(pair["hub"].plan.config_file)]
    second = subprocess.run(
        pair.lab.namespace("hub").command(command), capture_output=True, text=True, check=False, timeout=20
    )
    assert second.returncode == 1
    assert "is running already" in second.stderr
    assert pair.reaches("edge", HUB4)


# Telling -------------------------------------------------------------------------------------------


def test_metrics_and_status_tell_the_same(pair: World) -> None:
    with inside("/run/netns/" + pair.lab.namespace("hub").name):
        text = urllib.request.urlopen("http://127.0.0.1:9105/metrics", timeout=5).read().decode()
    assert 'sdwan_path_up{link="wan0",path="0",peer="edge"} 1.0' in text
    status = pair["hub"].status()
    assert status["paths"][0]["rtt_ns"] < 5_000_000
    assert status["dataplane_starts"] == 1


def test_no_log_holds_a_key(pair: World) -> None:
    for site in ("edge", "hub"):
        secret = (pair[site].plan.directory / "site.key").read_text().strip()
        assert secret not in pair.log(site)
        assert "session" in pair.log(site)


# Reload --------------------------------------------------------------------------------------------


def test_a_reload_applies_what_it_can_and_loses_nothing(pair: World) -> None:
    stream = _ping_stream(pair, count=100)
    pair.change("edge", lambda d: d["links"][1].update(weight=0.5))
    pair["edge"].reload()
    wait_until(lambda: pair["edge"].status()["reloads_applied"] == 1, "the reload")
    assert pair.path("edge", 0)["share_ppm"] == pytest.approx(666_667, rel=0.02)
    wait_until(lambda: pair.path("hub", 0)["share_ppm"] > 600_000, "the hub heard of it")
    assert _received(stream) == 100
    pair.change("edge", lambda d: d["links"][1].pop("weight"))
    pair["edge"].reload()
    wait_until(lambda: pair["edge"].status()["reloads_applied"] == 2, "the second reload")


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(pair: World) -> None:
    file = pair["edge"].plan.config_file
    good = file.read_text()
    file.write_text(good + "\nnonsense: 1\n")
    pair["edge"].reload()
    wait_until(lambda: pair["edge"].status()["reloads_refused"] == 1, "the refusal")
    assert "nonsense" in pair.log("edge")
    assert pair.reaches("edge", HUB4)
    file.write_text(good)
    pair["edge"].reload()
    wait_until(lambda: pair["edge"].status()["reloads_applied"] == 3, "the good one again")


def test_a_reload_brings_and_removes_a_peer(pair: World) -> None:
    file = pair["hub"].plan.config_file
    good = file.read_text()
    stranger = {
        "name": "stranger", "public_key": base64.b64encode(os.urandom(32)).decode(),
        "prefixes": ["10.99.0.0/16"],
    }  # fmt: skip
    pair.change("hub", lambda d: d["peers"].append(stranger))
    pair["hub"].reload()
    wait_until(lambda: len(pair["hub"].status()["peers"]) == 2, "the new peer")
    assert "10.99.0.0/16" in pair.run("hub", "ip", "route")
    file.write_text(good)
    pair["hub"].reload()
    wait_until(lambda: len(pair["hub"].status()["peers"]) == 1, "the peer is gone")
    assert "10.99.0.0/16" not in pair.run("hub", "ip", "route")
    assert pair.reaches("edge", HUB4)


def _ping_stream(made: World, *, count: int, interval_s: float = 0.02) -> subprocess.Popen[bytes]:
    command = ["ping", "-q", "-c", str(count), "-i", f"{interval_s:g}", "-W", "1", HUB4]
    return made.lab.namespace("edge").start(command, stdout=subprocess.PIPE)


def _received(stream: subprocess.Popen[bytes]) -> int:
    output, _ = stream.communicate(timeout=60)
    line = next(line for line in output.decode().splitlines() if "received" in line)
    return int(line.split(" received")[0].split()[-1])


# Death and return ----------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["edge", "hub"])
def test_a_killed_data_plane_is_replaced_and_sessions_begin_anew(pair: World, site: str) -> None:
    starts = pair[site].status()["dataplane_starts"]
    os.kill(pair[site].processes()["data plane"], signal.SIGKILL)
    wait_until(lambda: pair[site].status()["dataplane_starts"] == starts + 1, "another data plane")
    assert wait_until(lambda: pair.reaches("edge", HUB4), "traffic again") < 8
    wait_until(lambda: pair.states("edge") == ["up", "up"] == pair.states("hub"), "all paths again")


@pytest.mark.parametrize("site", ["edge", "hub"])
def test_a_killed_control_leaves_nothing_in_the_way_of_the_next(pair: World, site: str) -> None:
    process = pair[site].process
    assert process is not None
    data_plane = pair[site].processes()["data plane"]
    process.kill()
    process.wait()
    wait_until(lambda: not Path(f"/proc/{data_plane}").exists(), "the data plane ends, too")
    assert "dev sdwan01" in pair.run(site, "ip", "route", "get", HUB4 if site == "edge" else "10.77.1.1"), (
        "what was meant for the tunnel must not leave in the clear"
    )
    pair.run(site, "ip", "address", "add", "10.66.6.6/24", "dev", "sdwan01")
    pair.run(
        site, "ip", "route", "add", "10.66.7.0/24", "dev", "sdwan01", "proto", "static", "scope", "global"
    )
    pair[site].start()
    assert wait_until(lambda: pair.reaches("edge", HUB4), "traffic again") < 15
    assert "10.66." not in pair.run(site, "ip", "route"), "nothing of an earlier configuration stays"
    wait_until(lambda: pair.states("edge") == ["up", "up"] == pair.states("hub"), "all paths again")


def test_a_clean_stop_says_goodbye_and_tidies_up() -> None:
    with world() as made:
        made.start()
        pins = made["edge"].plan.pin_root
        process = made["edge"].process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
        links = made.run("edge", "ip", "-br", "link")
        assert "sdwan01" not in links
        assert "sdwan-entry" not in links
        assert (pins / "progs").is_dir()  # counters and programs stay until somebody detaches them
        assert not (made["edge"].plan.directory / "edge.sock").exists()
        assert "peer_closed" in made.log("hub")
        made["edge"].start()
        assert wait_until(lambda: made.reaches("edge", HUB4), "the edge returns") < 15


def test_a_rekey_under_traffic_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = (
        "import sdwan.core.epochs as e; e.REKEY_AFTER_NS = 2 * 10**9; e.REKEY_SPREAD_NS = 10**8\n"
        "from sdwan.cli.main import main; main()"
    )
    monkeypatch.setattr(lab_site, "EDGE", [sys.executable, "-c", hurried, "edge"])
    with world() as made:
        made.start()
        stream = _ping_stream(made, count=600, interval_s=0.02)
        assert _received(stream) == 600
        assert made["edge"].status()["peers"][0]["epochs"] >= 2
        assert made["hub"].status()["peers"][0]["epochs"] >= 2


def test_garbage_at_the_port_costs_the_sender_only(pair: World) -> None:
    stream = _ping_stream(pair, count=100)
    shower = (
        "import os, socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for n in range(20000):\n"
        "    s.sendto(os.urandom(n % 1400), ('10.90.0.2', 4510))\n"
    )
    pair.run("edge", sys.executable, "-c", shower)
    assert _received(stream) == 100
    assert json.dumps(pair["hub"].status()["drops"])
    assert pair["hub"].status()["drops"]["malformed"] > 10_000


def test_the_status_socket_is_for_root_only(pair: World) -> None:
    path = pair["hub"].plan.directory / "hub.sock"
    assert path.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as impatient:
        impatient.connect(str(path))  # and hang up without reading
    assert pair["hub"].status()["site"] == "hub"


def test_a_deleted_entry_device_is_made_again(pair: World) -> None:
    pair.run("edge", "ip", "link", "delete", "sdwan-entry")
    wait_until(lambda: pair.reaches("edge", HUB4), "traffic through another entry device")


def test_a_deleted_tun_ends_the_edge_with_one_sentence() -> None:
    with world() as made:
        made.start()
        process = made["edge"].process
        assert process is not None
        made.run("edge", "ip", "link", "delete", "sdwan01")
        assert process.wait(timeout=10) == 1
        assert "the TUN sdwan01 was removed" in made.log("edge").splitlines()[-1]
