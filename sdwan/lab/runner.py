"""Plays a scenario on a lab and judges what came of it.

In comes a ``Scenario``; out comes a ``Result``: figures (medians over the rounds), a verdict on each
expectation, and the last round over time. The product is started once; between rounds every link gets its
first impairments back and all paths must be up again. Steps happen at their time after the loads began; one
that fails ends the run with its error, for a scenario half played proves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from sdwan.errors import LabError
from sdwan.io.maps import Maps
from sdwan.lab.configs import Settings
from sdwan.lab.figures import path_shares, round_figures
from sdwan.lab.loads import LoadRecord, Loads
from sdwan.lab.result import Result, Trail
from sdwan.lab.scenario import Scenario, StepPart
from sdwan.lab.series import Sampler, Series
from sdwan.lab.site import Edge, Overlay, overlay
from sdwan.lab.targets import judge, medians
from sdwan.lab.topology import Lab
from sdwan.lab.values import impairment_values
from sdwan.model import PATHS_PER_PEER

# Implementation constants --------------------------------------------------------------------------

PATH_EVENT = " path_state "
"""How the edge's log marks a path that goes from one state to another."""
SETTLE_S = 1.0
"""After the tunnel is up, before the loads begin: addresses are resolved, the MTU is found."""
BACK_TIMEOUT_S = 30.0

Say = Callable[[str], None]
"""Tell whoever watches what happens now."""


def play(scenario: Scenario, lab: Lab, say: Say = lambda _: None, *, rounds: int | None = None) -> Result:
    """Start the product on a lab that stands, play the scenario, end the product, judge.

    ``rounds`` replaces the scenario's own number.

    Raises:
        LabError: the product does not come up, a load or a step fails.
    """
    settings = Settings(extra=scenario.settings)
    result = Result(scenario.name)
    say("keys, configurations, edges")
    with overlay(lab, hub=scenario.hub, rates_known=scenario.rates_known, settings=settings) as running:
        for number in range(rounds or scenario.rounds):
            if number:
                _reset(scenario, lab, running)
            time.sleep(SETTLE_S)
            say(f"round {number + 1} of {rounds or scenario.rounds}")
            try:
                _play_round(scenario, lab, running, say, result)
            except LabError as error:
                raise LabError(f"{error}; logs and states of the sites: {_keep_evidence(running)}") from error
    result.figures = medians(result.rounds)
    result.verdicts = judge(result.figures, scenario.expect)
    result.ok = all(verdict.met for verdict in result.verdicts)
    return result


def _keep_evidence(running: Overlay) -> Path:
    """Save what the sites know of a run that broke; the lab is about to take it down."""
    directory = Path(tempfile.mkdtemp(prefix="sdwan-lab-"))
    for name, edge in running.edges.items():
        shutil.copy(edge.log, directory / f"{name}.log")
        with contextlib.suppress(LabError, OSError):
            (directory / f"{name}.json").write_text(json.dumps(edge.status(), indent=1))
    return directory


def _play_round(scenario: Scenario, lab: Lab, running: Overlay, say: Say, result: Result) -> None:
    """Play once; figures are added to the result, the rest of it is replaced."""
    result.events.clear()
    with ExitStack() as stack:
        loads = Loads(scenario, lab, running)
        stack.callback(loads.close)
        loads.idle()
        _restart_traces(scenario, lab)
        sampler = Sampler(lab, running, *scenario.ends)
        sampler.start()
        stack.callback(sampler.end)
        logged = {name: edge.log.stat().st_size for name, edge in running.edges.items()}
        begin_ns = loads.start()
        for at_ns, step in scenario.happenings():
            _sleep_until(begin_ns + at_ns)
            text = _describe(step)
            say(text)
            result.events.append(f"{at_ns / 1e9:g} s: {text}")
            _take(step, lab, running)
        _sleep_until(begin_ns + scenario.total_ns)
        record = loads.finish()
        series = sampler.stop()
    result.path_changes = [
        f"{name}: {line}" for name, edge in running.edges.items() for line in path_changes(edge, logged[name])
    ]
    result.rounds.append(round_figures(scenario, record, series))
    result.shares = path_shares(series)
    result.trail = _trail(scenario, lab, record, series, result)


def _restart_traces(scenario: Scenario, lab: Lab) -> None:
    """Begin every trace anew, so that loads meet the same piece of it each time."""
    for link, cable in zip(lab.links, scenario.plan.cables, strict=True):
        for way, impairment in (("forward", cable.spec.forward), ("backward", cable.spec.backward)):
            if impairment.trace:
                link.change({"trace": impairment.trace}, way)


def _reset(scenario: Scenario, lab: Lab, running: Overlay) -> None:
    """Give every link what it had at first, and wait until all paths are up again."""
    touched = {step.link for step in scenario.steps}
    pulled = {step.link for step in scenario.steps if step.carrier is not None}
    for number in touched:
        spec = scenario.plan.cables[number].spec
        if number in pulled:
            for end in range(2):
                lab.links[number].set_carrier(end, True)
        lab.links[number].change(asdict(spec.forward), "forward")
        lab.links[number].change(asdict(spec.backward), "backward")
    running.wait_up(timeout_s=BACK_TIMEOUT_S)


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


_STATE = re.compile(r"(\S+)Z .*path_state .*link=(\S+) .*state=(\S+)")


def _trail(scenario: Scenario, lab: Lab, record: LoadRecord, series: Series, result: Result) -> Trail:
    """Put together what a picture of the last round needs."""
    near, far = scenario.ends
    trail = Trail(record.begin_ns, series, pings=record.pings)
    trail.links = [port.interface for port in lab.ports(near) if port.far_site == far]
    if record.stream is not None:
        trail.delays = [(sent, (arrived - sent) / 1e6) for _, sent, arrived in record.stream.arrivals]
    trail.events = [(at_ns / 1e9, _describe(step)) for at_ns, step in scenario.happenings()]
    wall_begin_s = time.time() - (time.monotonic_ns() - record.begin_ns) / 1e9
    for line in result.path_changes:
        found = _STATE.search(line) if line.startswith(f"{near}:") else None
        if found:
            moment = datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc).timestamp()
            trail.states.append((moment - wall_begin_s, found[2], found[3]))
    return trail


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0.0, (moment_ns - time.monotonic_ns()) / 1e9))
