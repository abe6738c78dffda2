"""An administrative drain with real traffic: nothing is lost, both directions leave the link, it comes back.

edge (10.77.1.1) ══ wan0, wan1 ══ (10.77.2.1) hub
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from sdwan.cli import running
from sdwan.errors import SdwanError
from sdwan.lab.site import EDGE
from tests.netns.edge_world import World, wait_until, world

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

HUB = "10.77.2.1"
PINGS, INTERVAL_S = 1000, 0.005


@pytest.fixture(scope="module")
def pair() -> Iterator[World]:
    with world() as made:
        made.start()
        yield made


def ctl(pair: World, site: str = "edge") -> Any:
    return pair[site].plan.directory / f"{site}.ctl"


def pinging(pair: World) -> subprocess.Popen[str]:
    """Ping the hub two hundred times a second for five seconds: DATA in both directions."""
    command = ["ping", "-q", "-c", str(PINGS), "-i", f"{INTERVAL_S:g}", "-W", "2", HUB]
    return subprocess.Popen(
        pair.lab.namespace("edge").command(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sent_bytes(pair: World, site: str, path: int) -> int:
    return int(pair.path(site, path)["sent_bytes"])


def test_a_link_is_drained_under_traffic_and_given_back(pair: World) -> None:
    pings = pinging(pair)
    wait_until(lambda: sent_bytes(pair, "edge", 0) > 20_000, "traffic")
    link = pair.path("edge", 0)["link"]
    config = str(pair["edge"].plan.config_file)
    subprocess.run([*EDGE, "drain", link, "--wait", "-c", config], check=True, timeout=60)
    assert pair.path("edge", 0)["drained"] and pair.path("edge", 0)["is_quiet"]
    assert pair.path("hub", 0)["drained_by_peer"]
    assert [pair.path(site, 0)["share_ppm"] for site in ("edge", "hub")] == [0, 0]
    told, _ = pings.communicate(timeout=60)
    assert f"{PINGS} packets transmitted, {PINGS} received" in told
    assert pair.states("edge") == ["up", "up"]

    with pytest.raises(SdwanError, match="is the only link in use to hub"):
        running.command(ctl(pair), "drain", link=pair.path("edge", 1)["link"])

    pair["edge"].reload()
    wait_until(lambda: pair["edge"].status()["reloads_applied"] == 1, "the reload")
    assert pair.path("edge", 0)["share_ppm"] == 0

    running.command(ctl(pair), "undrain", link=link)
    wait_until(lambda: pair.path("hub", 0)["share_ppm"] > 0, "the peer is told")
    assert pair.path("edge", 0)["share_ppm"] > 0

    names = [event["name"] for event in running.events(ctl(pair))[0]]
    assert [name for name in names if name.startswith("link_") or name == "reloaded"] == [
        "link_drained", "reloaded", "link_undrained",
    ]  # fmt: skip
    assert pair["edge"].status()["events"]["link_drained"] == 1
