"""Plays a scenario on a lab and judges what came of it.

In comes a ``Scenario``; out comes a ``Result``: figures, the checks the scenario asked for, and what the
kernel counted per link. Loads run from the first site to the hub. Steps happen at their time after the loads
began; a step that fails ends the run with its error, for a scenario half played proves nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from sdwan.io.maps import Maps
from sdwan.lab.configs import Settings
from sdwan.lab.scenario import ExpectPart, Scenario, StepPart
from sdwan.lab.site import Edge, Overlay, overlay
from sdwan.lab.stream import Gap, probe_stream
from sdwan.lab.topology import Lab
from sdwan.lab.traffic import Iperf, IperfResult
from sdwan.lab.values import impairment_values
from sdwan.model import PATHS_PER_PEER

# Implementation constants --------------------------------------------------------------------------

UDP_BYTES = 1200
PATH_EVENT = " path_state "
"""How the edge's log marks a path that goes from one state to another."""
TCP_PORT, UDP_PORT = 5201, 5202
SETTLE_S = 1.0
"""After the tunnel is up, before the loads begin: addresses are resolved, the MTU is found."""

Say = Callable[[str], None]
"""Tell whoever watches what happens now."""


@dataclass(frozen=True)
class Check:
    """One expectation and what became of it."""

    name: str
    wanted: str
    measured: str
    ok: bool


@dataclass
class Result:
    """What came of a scenario; figures that were not measured are None."""

    scenario: str
    ok: bool = True
    longest_gap_ms: float | None = None
    probes_sent: int | None = None
    probes_lost: int | None = None
    delay_median_ms: float | None = None
    delay_p99_ms: float | None = None
    tcp_mbps: float | None = None
    tcp_retransmits: int | None = None
    udp_mbps: float | None = None
    udp_lost_ppm: int | None = None
    shares_ppm: list[int] = field(default_factory=list)
    """Of the bytes the first site sent through the tunnel, by path."""
    events: list[str] = field(default_factory=list)
    path_changes: list[str] = field(default_factory=list)
    """What the edges logged about their paths from the first load on."""
    checks: list[Check] = field(default_factory=list)

    def as_plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def play(scenario: Scenario, lab: Lab, say: Say = lambda _: None) -> Result:
    """Start the product on a lab that stands, play the scenario, end the product, judge.

    Raises:
        LabError: the product does not come up, a load or a step fails.
    """
    settings = Settings(extra=scenario.settings)
    say("keys, configurations, edges")
    with overlay(lab, hub=scenario.hub, rates_known=scenario.rates_known, settings=settings) as running:
        time.sleep(SETTLE_S)
        return _play_on(scenario, lab, running, say)


def _play_on(scenario: Scenario, lab: Lab, running: Overlay, say: Say) -> Result:
    result = Result(scenario.name)
    source, target = lab.namespace(scenario.sites[0]), lab.namespace(scenario.hub)
    address = running.edges[scenario.hub].address
    before = sent_bytes(running, scenario.sites[0])
    duration_s = scenario.duration / 1e9
    with ExitStack() as stack:
        stream = stack.enter_context(probe_stream(source, target, address)) if scenario.loads.probe else None
        loads: dict[str, Iperf] = {}
        if scenario.loads.tcp:
            loads["tcp"] = Iperf(
                source, target, address, duration_s=duration_s, streams=scenario.loads.tcp, port=TCP_PORT
            )
        if scenario.loads.udp:
            loads["udp"] = Iperf(
                source, target, address, duration_s=duration_s, datagram_bytes=UDP_BYTES,
                rate_bps=scenario.loads.udp, port=UDP_PORT,
            )  # fmt: skip
        for load in loads.values():
            stack.callback(load.close)
        logged = {name: edge.log.stat().st_size for name, edge in running.edges.items()}
        begin_ns = time.monotonic_ns()
        for step in sorted(scenario.steps, key=lambda step: step.at):
            _sleep_until(begin_ns + step.at)
            text = _describe(step)
            say(text)
            result.events.append(f"{step.at / 1e9:g} s: {text}")
            _take(step, lab, running)
        _sleep_until(begin_ns + scenario.duration)
        _note_loads(result, {name: load.wait() for name, load in loads.items()})
        if stream is not None:
            _note_gap(result, stream.stop().judge(begin_ns, begin_ns + scenario.duration))
    after = sent_bytes(running, scenario.sites[0])
    result.shares_ppm = shares_ppm(before, after, len(lab.ports(scenario.sites[0])))
    result.path_changes = [
        f"{name}: {line}" for name, edge in running.edges.items() for line in path_changes(edge, logged[name])
    ]
    result.checks = judge(result, scenario.expect)
    result.ok = all(check.ok for check in result.checks)
    return result


def sent_bytes(running: Overlay, site: str) -> list[int]:
    """Return what a site's kernel has sent to its first peer, by path, from the pinned BPF counters."""
    maps = Maps.open(running.edges[site].plan.pin_root)
    try:
        rows = maps.tx_stats()[PATHS_PER_PEER : 2 * PATHS_PER_PEER]
        return [int(value) for value in rows["bytes"]]
    finally:
        maps.close()


def path_changes(edge: Edge, begin_bytes: int) -> list[str]:
    """Return what an edge has logged about the states of its paths since its log had this length."""
    lines = edge.log.read_bytes()[begin_bytes:].decode(errors="replace").splitlines()
    return [line for line in lines if PATH_EVENT in line]


def shares_ppm(before: list[int], after: list[int], paths: int) -> list[int]:
    """Return each path's part of what was sent meanwhile."""
    sent = [b - a for a, b in zip(before, after, strict=True)][:paths]
    total = sum(sent)
    return [part * 1_000_000 // total if total else 0 for part in sent]


def _take(step: StepPart, lab: Lab, running: Overlay) -> None:
    link, edge = lab.links[step.link], running.edges[step.site]
    if step.set is not None:
        link.change(impairment_values(step.set, "set"), step.direction)
    elif step.carrier is not None:
        names = (lab.plan.cables[step.link].first, lab.plan.cables[step.link].second)
        link.set_carrier(names.index(step.site), step.carrier)
    elif step.address is not None:
        end = lab.end(step.link, step.site)
        end.namespace.run(["ip", "address", "flush", "dev", end.interface, "scope", "global"])
        end.namespace.run(["ip", "address", "add", step.address, "dev", end.interface])
    elif step.edge == "reload":
        edge.reload()
    elif step.edge == "restart":
        edge.stop()
        edge.start()
    elif step.edge == "kill":
        os.kill(edge.processes()["control"], signal.SIGKILL)
        edge.stop()
        edge.start()
    else:
        os.kill(edge.processes()["data plane"], signal.SIGKILL)


def _describe(step: StepPart) -> str:
    if step.set is not None:
        way = "" if step.direction == "both" else f" {step.direction}"
        return f"link {step.link}{way}: " + ", ".join(f"{key} {value}" for key, value in step.set.items())
    if step.carrier is not None:
        return f"link {step.link}: {step.site} takes it {'up' if step.carrier else 'down'}"
    if step.address is not None:
        return f"link {step.link}: {step.site} moves to {step.address}"
    return f"{step.site}: {str(step.edge).replace('_', ' ')}"


def _note_loads(result: Result, loads: dict[str, IperfResult]) -> None:
    if tcp := loads.get("tcp"):
        result.tcp_mbps = tcp.goodput_bps / 1e6
        result.tcp_retransmits = tcp.retransmits
    if udp := loads.get("udp"):
        result.udp_mbps = udp.packets * UDP_BYTES * 8 / udp.duration_s / 1e6
        result.udp_lost_ppm = udp.lost * 1_000_000 // max(1, udp.lost + udp.packets)


def _note_gap(result: Result, gap: Gap) -> None:
    result.longest_gap_ms = gap.longest_ns / 1e6
    result.probes_sent, result.probes_lost = gap.sent, gap.lost
    result.delay_median_ms, result.delay_p99_ms = gap.delay_median_ns / 1e6, gap.delay_p99_ns / 1e6


def judge(result: Result, expect: ExpectPart) -> list[Check]:
    """Compare figures with expectations; one that was not measured is not met."""
    checks: list[Check] = []

    def at_most(name: str, limit: float | None, measured: float | None, unit: str) -> None:
        if limit is not None:
            ok = measured is not None and measured <= limit
            checks.append(Check(name, f"≤ {limit:g} {unit}", _shown(measured, unit), ok))

    def at_least(name: str, limit: float | None, measured: float | None, unit: str) -> None:
        if limit is not None:
            ok = measured is not None and measured >= limit
            checks.append(Check(name, f"≥ {limit:g} {unit}", _shown(measured, unit), ok))

    goodput_mbps = result.tcp_mbps if result.tcp_mbps is not None else result.udp_mbps
    at_most("longest gap", _scaled(expect.longest_gap, 1e6), result.longest_gap_ms, "ms")
    at_most("probes lost", expect.probes_lost, result.probes_lost, "")
    at_most("UDP lost", _scaled(expect.udp_lost, 1e4), _scaled(result.udp_lost_ppm, 1e4), "%")
    at_most("delay, 99 of 100 probes", _scaled(expect.delay_p99, 1e6), result.delay_p99_ms, "ms")
    at_least("goodput", _scaled(expect.goodput, 1e6), goodput_mbps, "Mbit/s")
    smallest = min(result.shares_ppm, default=None)
    at_least("smallest share of a link", _scaled(expect.used, 1e4), _scaled(smallest, 1e4), "%")
    return checks


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _shown(measured: float | None, unit: str) -> str:
    return "not measured" if measured is None else f"{measured:.4g} {unit}".strip()


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0.0, (moment_ns - time.monotonic_ns()) / 1e9))
