"""The lab on the real kernel: links do what they were told, and nothing of a lab stays behind.

    edge wan0 ═══ link 0 ═══ wan0 hub        emulated: rate, delay, loss, live control
    edge wan1 ─── link 1 ─── wan1 hub        veth with the kernel's token bucket

Delay is judged by ping, rate by iperf3: programs that know nothing of the emulator. Bounds are on the
instrument (does the emulated link have the rate it was given?), never on the machine's speed; the rates stay
far below what it carries.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdwan.errors import LabError
from sdwan.lab import home
from sdwan.lab.home import Home
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import EmulatedLink, LinkSpec
from sdwan.lab.namespace import Namespace
from sdwan.lab.shaping import shape_interface, unshape_interface
from sdwan.lab.stream import probe_stream
from sdwan.lab.topology import Lab, Plan, build, reopen
from sdwan.lab.traffic import iperf, ping

pytestmark = [pytest.mark.root, pytest.mark.netns]

MS = 1_000_000
MBIT = 1_000_000
RATE_BPS = 20 * MBIT
DELAY_NS = 10 * MS
TCP_SHARE = 1448 / 1514
"""What TCP with timestamps leaves of a link counted in whole frames."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    wires = (
        LinkSpec.even("emulated", Impairment(rate_bps=RATE_BPS, delay_ns=DELAY_NS)),
        LinkSpec.even("tbf", Impairment(rate_bps=RATE_BPS)),
    )
    with build(f"t{os.getpid()}", Plan.pair(*wires)) as made:
        yield made


@pytest.fixture
def wire(lab: Lab) -> Iterator[EmulatedLink]:
    """The emulated link, put back to what it was after the test."""
    link = lab.links[0]
    assert isinstance(link, EmulatedLink)
    yield link
    plain = Impairment(rate_bps=RATE_BPS, delay_ns=DELAY_NS)
    link.change({name: getattr(plain, name) for name in Impairment.__dataclass_fields__})


def goodput_bps(lab: Lab, link: int = 0) -> float:
    edge, hub = lab.namespace("edge"), lab.namespace("hub")
    return iperf(edge, hub, lab.ports("edge")[link].far_address, duration_s=3, skip_s=1).goodput_bps


def round_trip(lab: Lab, count: int = 20):
    return ping(lab.namespace("edge"), lab.ports("edge")[0].far_address, count=count)


def test_a_ping_takes_the_delay_of_both_directions(lab, wire):
    round_trip(lab, 2)  # address resolution
    result = round_trip(lab)
    assert result.received == 20
    assert 20.0 <= result.minimum_ms < 20.5


def test_ipv6_passes_as_well(lab, wire):
    assert ping(lab.namespace("edge"), "fd90:0::2", count=3).received == 3


@pytest.mark.parametrize("link", [0, 1], ids=["emulated", "tbf"])
def test_tcp_reaches_the_rate_of_the_link(lab, link):
    assert goodput_bps(lab, link) == pytest.approx(RATE_BPS * TCP_SHARE, rel=0.03)


def test_the_rate_of_one_direction_changes_while_traffic_flows(lab, wire):
    wire.change({"rate_bps": 5 * MBIT}, "forward")
    assert goodput_bps(lab) == pytest.approx(5 * MBIT * TCP_SHARE, rel=0.05)
    status = wire.status()
    assert status["forward"]["impairment"]["rate_bps"] == 5 * MBIT
    assert status["backward"]["impairment"]["rate_bps"] == RATE_BPS


def test_loss_and_counters_agree_with_what_arrives(lab, wire):
    before = wire.status()["forward"]["counters"]["lost"]
    wire.change({"loss_ppm": 100_000}, "forward")
    edge, hub = lab.namespace("edge"), lab.namespace("hub")
    result = iperf(
        edge, hub, lab.ports("edge")[0].far_address, duration_s=2, datagram_bytes=500, rate_bps=8 * MBIT
    )
    assert result.lost / (result.packets + result.lost) == pytest.approx(0.1, abs=0.03)
    assert wire.status()["forward"]["counters"]["lost"] - before == pytest.approx(result.lost, abs=20)


def test_a_cut_link_is_silent_and_comes_back(lab, wire):
    edge, hub = lab.namespace("edge"), lab.namespace("hub")
    round_trip(lab, 2)
    with probe_stream(edge, hub, lab.ports("edge")[0].far_address) as stream:
        time.sleep(0.3)
        wire.cut()
        time.sleep(0.3)
        wire.restore()
        time.sleep(0.3)
        gap = stream.stop().judge()
    assert 290 * MS <= gap.longest_ns <= 500 * MS
    assert gap.lost >= 58
    assert gap.delay_median_ns == pytest.approx(DELAY_NS, abs=MS)


def test_an_mtu_hole_lets_small_packets_through_only(lab, wire):
    wire.change({"mtu_bytes": 1000})
    edge, target = lab.namespace("edge"), lab.ports("edge")[0].far_address
    edge.run(["ping", "-c", "2", "-i", "0.1", "-s", "900", "-W", "1", target])
    edge.run(["ping", "-c", "2", "-i", "0.1", "-s", "1000", "-W", "1", target], accept=(1,))


def test_the_emulator_refuses_nonsense_and_works_on(lab, wire):
    with pytest.raises(LabError, match="no such impairment"):
        wire.change({"colour": 1})
    with pytest.raises(LabError, match="direction"):
        wire.change({"loss_ppm": 1}, "sideways")
    assert round_trip(lab, 2).received == 2


def test_a_name_is_taken_only_once(lab):
    with pytest.raises(LabError, match="already"), build(lab.home.name, Plan.pair(LinkSpec())):
        pass
    assert round_trip(lab, 2).received == 2, "the standing lab was not touched"


def test_a_kept_lab_is_found_again_and_its_links_obey(lab, wire):
    lab.keep()
    try:
        again = reopen(lab.home.name)
        again.links[0].cut()
        assert wire.status()["forward"]["impairment"]["blackhole"] is True
    finally:
        (lab.home.directory / "kept").unlink()


# Nothing stays behind ------------------------------------------------------------------------------

BUILDER = """
import sys, time
from sdwan.lab.home import ending_cleanly
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.topology import Plan, build
with ending_cleanly(), build(sys.argv[1], Plan.pair(LinkSpec.even("emulated", Impairment()))) as lab:
    lab.namespace("edge").start(["sleep", "1000"])
    print("stands", flush=True)
    time.sleep(1000)
"""


def traces(name: str) -> list[str]:
    """Return everything on the machine that bears a lab's name, the emulator included."""
    places = (Path("/run/netns"), Path("/run/sdwan-lab"), Path("/sys/fs/bpf"))
    found = [str(path) for place in places if place.is_dir() for path in place.iterdir() if name in path.name]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue
        if b"sdwan.lab.emulator" in command and f"/{name}/".encode() in command:
            found.append(f"emulator {process.parent.name}")
    return found


def start_builder(name: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", BUILDER, name], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"stands\n"
    assert len(traces(name)) == 4  # two namespaces, a home, an emulator
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(number):
    name = f"s{os.getpid()}"
    process = start_builder(name)
    process.send_signal(number)
    process.wait(timeout=20)
    assert traces(name) == []


def test_what_a_killed_lab_left_is_swept_up_by_the_next():
    name = f"k{os.getpid()}"
    process = start_builder(name)
    process.kill()
    process.wait(timeout=20)
    assert len(traces(name)) == 4
    assert name in home.sweep()
    assert traces(name) == []


def test_a_lab_that_stands_is_not_swept_up(lab):
    home.sweep()
    assert round_trip(lab, 2).received == 2
    assert not Home(lab.home.name).is_rubbish()


def test_a_lab_that_cannot_be_built_leaves_nothing():
    name = f"f{os.getpid()}"
    impossible = LinkSpec.even("tbf", Impairment(delay_ns=MS))
    with pytest.raises(LabError, match="tbf"), build(name, Plan.pair(LinkSpec(), impossible)):
        pass
    assert traces(name) == []


# On what is there already --------------------------------------------------------------------------


@pytest.fixture
def outside(unique_name) -> Iterator[Namespace]:
    """A namespace that is not the lab's."""
    namespace = Namespace(unique_name("outside"))
    namespace.create()
    yield namespace
    namespace.delete()


def interfaces(namespace: Namespace) -> set[str]:
    return {link["ifname"] for link in json.loads(namespace.run(["ip", "-j", "link", "show"]))}


@pytest.mark.parametrize("kind", ["bare", "emulated"])
def test_a_lab_borrows_a_namespace_and_gives_it_back(outside, kind):
    plan = Plan.pair(LinkSpec(kind))
    borrowed = Plan(plan.sites, plan.cables, {"edge": outside.name})
    with build(f"o{os.getpid()}", borrowed) as lab:
        assert lab.namespace("edge").name == outside.name
        assert "wan0" in interfaces(outside)
        assert round_trip(lab, 2).received == 2
    assert outside.exists()
    assert "wan0" not in interfaces(outside)


def test_an_interface_that_is_not_ours_is_never_taken(outside):
    outside.run(["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "other"])
    plan = Plan.pair(LinkSpec())
    borrowed = Plan(plan.sites, plan.cables, {"edge": outside.name})
    with pytest.raises(LabError, match="wan0 already"), build(f"o{os.getpid()}", borrowed):
        pass
    assert {"wan0", "other"} <= interfaces(outside)


def test_any_interface_can_be_shaped_and_freed(outside):
    outside.run(["ip", "link", "add", "some0", "type", "veth", "peer", "name", "some1"])
    shape_interface(outside, "some0", {"rate_bps": 5 * MBIT})
    assert "tbf" in outside.run(["tc", "qdisc", "show", "dev", "some0"])
    unshape_interface(outside, "some0")
    assert "tbf" not in outside.run(["tc", "qdisc", "show", "dev", "some0"])
