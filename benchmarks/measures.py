"""What is measured: each function takes what stands and returns numbers, units in their names.

Every function measures once; benchmarks.benchmark calls them in interleaved rounds and takes medians.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.contenders import Contender, Ours, resident_bytes
from sdwan.errors import LabError
from sdwan.lab.configs import Settings
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.stream import probe_stream
from sdwan.lab.topology import Plan, build
from sdwan.lab.traffic import Iperf, iperf, ping

# Specification constants ---------------------------------------------------------------------------

FRAME_BYTES = 1514
"""A full Ethernet frame: what a link's rate is counted in."""
INNER_HEADER_BYTES = 52
"""IPv4 and TCP with timestamps, inside."""

# Implementation constants --------------------------------------------------------------------------

MBIT = 1_000_000
BUFFER_NS = 50_000_000
UDP_BYTES = 200
PINGS = 200
PING_INTERVAL_S = 0.005
GAP_RATE_BPS = 50 * MBIT
GAP_DELAY_NS = 10_000_000
GAP_LOAD_BPS = 20 * MBIT
GAP_LOAD_BYTES = 1200
GAP_BEFORE_S = 1.0
GAP_CUT_S = 2.0
BACK_TIMEOUT_S = 30.0
MANY_PEERS = 100


def tcp(contender: Contender, streams: int, duration_s: float) -> dict[str, float]:
    """Measure TCP goodput, and the CPU its processes used for it."""
    before_s = contender.cpu_s()
    result = iperf(contender.near, contender.far, contender.address, duration_s=duration_s, streams=streams)
    gigabits = result.goodput_bps * result.duration_s / 1e9
    return {
        "goodput_bps": result.goodput_bps,
        "cpu_s_per_gbit": (contender.cpu_s() - before_s) / gigabits,
        "retransmits": result.retransmits,
    }


def udp(contender: Contender, duration_s: float) -> float:
    """Measure small datagrams delivered per second when more are offered than anyone can carry."""
    return iperf(
        contender.near, contender.far, contender.address, duration_s=duration_s, datagram_bytes=UDP_BYTES
    ).packets_per_second


def ping_ms(contender: Contender) -> float:
    """Measure the average round trip of an idle contender."""
    return ping(contender.near, contender.address, count=PINGS, interval_s=PING_INTERVAL_S).average_ms


def memory_bytes(ours: Ours) -> dict[str, int]:
    """Return resident memory of the larger data plane, now and at its peak."""
    both = [resident_bytes(process) for process in ours.data_planes()]
    return {"resident": max(now for now, _ in both), "peak": max(peak for _, peak in both)}


def bond_plan(rates_bps: tuple[int, ...]) -> Plan:
    """Plan TBF links of these rates with 50 ms of buffer."""
    links = (LinkSpec.even("tbf", Impairment(rate_bps=rate, buffer_ns=BUFFER_NS)) for rate in rates_bps)
    return Plan.pair(*links)


def bonded(ours: Ours, rates_bps: tuple[int, ...], duration_s: float) -> dict[str, float]:
    """Measure one TCP stream over a bond.

    ``ceiling_bps`` is what the tunnel's own overhead leaves of the sum of the rates, which count frames of
    1514 bytes: a segment of tun_mtu - 52 bytes rides in each.
    """
    result = iperf(ours.near, ours.far, ours.address, duration_s=duration_s)
    total_bps = sum(rates_bps)
    mtu_bytes = ours.tun_mtu_bytes()
    ceiling_bps = total_bps * (mtu_bytes - INNER_HEADER_BYTES) / FRAME_BYTES
    return {
        "goodput_bps": result.goodput_bps,
        "of_ceiling": result.goodput_bps / ceiling_bps,
        "of_sum": result.goodput_bps / total_bps,
        "tun_mtu_bytes": mtu_bytes,
        "retransmits": result.retransmits,
    }


def gap_plan() -> Plan:
    """Plan two links of 50 Mbit/s, 10 ms each way."""
    wire = Impairment(rate_bps=GAP_RATE_BPS, delay_ns=GAP_DELAY_NS)
    return Plan.pair(*[LinkSpec.even("emulated", wire)] * 2)


def blackhole_gap(ours: Ours, link: int) -> dict[str, float]:
    """Swallow everything on one link under load; measure the longest silence of a 5 ms probe stream."""
    duration_s = GAP_BEFORE_S + GAP_CUT_S + 1.0
    with ExitStack() as stack:
        stream = stack.enter_context(probe_stream(ours.near, ours.far, ours.address))
        load = Iperf(
            ours.near, ours.far, ours.address, duration_s=duration_s, datagram_bytes=GAP_LOAD_BYTES,
            rate_bps=GAP_LOAD_BPS,
        )  # fmt: skip
        stack.callback(load.close)
        time.sleep(GAP_BEFORE_S)
        cut_ns = time.monotonic_ns()
        ours.lab.links[link].cut()
        stack.callback(ours.lab.links[link].restore)
        time.sleep(GAP_CUT_S)
        until_ns = time.monotonic_ns()
        lost = load.wait().lost
        gap = stream.stop().judge(cut_ns, until_ns)
    _wait_all_up(ours)
    return {"gap_ms": gap.longest_ns / 1e6, "probes_lost": gap.lost, "load_packets_lost": lost}


def _wait_all_up(ours: Ours) -> None:
    deadline = time.monotonic() + BACK_TIMEOUT_S
    while time.monotonic() < deadline:
        states = [path["state"] for edge in ours.overlay.edges.values() for path in edge.status()["paths"]]
        if all(state == "up" for state in states):
            return
        time.sleep(0.2)
    raise LabError(f"a link that was cut did not come back within {BACK_TIMEOUT_S:g} s: {states}")


@contextmanager
def hub_of(name: str, peers: int) -> Iterator[Ours]:
    """Bring our tunnel up with a hub that knows ``peers`` peers, one of which is there."""
    with build(name, Plan.pair(LinkSpec())) as lab:
        ours = Ours(lab, Settings(strangers=peers - 1))
        try:
            ours.start()
            ours.wait_ready()
            yield ours
        finally:
            ours.stop()
