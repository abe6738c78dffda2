"""From records to figures: goodput against what the links had to give, shares, queues, memory. Pure.

In comes the record of the loads and the series of one round; out come the figures of sdwan.lab.targets that
need both. The scenario's own timeline says what the links could carry at any moment (sdwan.lab.ceiling).
"""

from __future__ import annotations

import statistics
from itertools import accumulate

from sdwan.lab.ceiling import mean_bps, tcp_payload_share, udp_payload_share
from sdwan.lab.impairment import LATENESS_BITS
from sdwan.lab.loads import LoadRecord, stream_figures
from sdwan.lab.scenario import Scenario
from sdwan.lab.series import Series
from sdwan.lab.targets import Figures

# Implementation constants --------------------------------------------------------------------------

MS = 1e6
SECOND_NS = 10**9


def round_figures(scenario: Scenario, record: LoadRecord, series: Series) -> Figures:
    """Return all figures of one round."""
    figures = dict(record.figures)
    if record.stream is not None:
        best_ns = min(_delay_ns(scenario, link) for link in _links(scenario))
        figures |= stream_figures(record.stream, scenario, record.begin_ns, best_ns)
    figures |= _goodput(scenario, record, series, figures)
    figures |= _rival(scenario, record, series, figures)
    figures |= _memory(series)
    figures |= emulator_figures(series)
    if series.machine_cpu:
        figures["machine_cpu"] = series.machine_cpu
    shares = path_shares(series)
    if shares:
        figures["used"] = min(shares)
    return figures


def path_shares(series: Series) -> list[float]:
    """Return each path's part of the bytes sent, in percent."""
    if len(series.sent) < 2:
        return []
    sent = [last - first for first, last in zip(series.sent[0], series.sent[-1], strict=True)]
    return [100 * part / max(sum(sent), 1) for part in sent]


def _goodput(scenario: Scenario, record: LoadRecord, series: Series, figures: Figures) -> Figures:
    """Return goodput where it counts, against ceiling and sum there."""
    if "goodput" not in figures or len(series.moments_ns) < 2:
        return {}
    intervals = scenario.counted()
    begin_ns = record.begin_ns
    goodput_mbps = figures["goodput"]
    found: Figures = {}
    if scenario.grace.down or scenario.grace.up:
        counted = [series.between(series.delivered, begin_ns + a, begin_ns + b) for a, b in intervals]
        mean_mbps = sum(counted) * 8e3 / sum(b - a for a, b in intervals)
        goodput_mbps = found["goodput"] = mean_mbps * _payload_part(scenario, record, series, figures)
    sum_bps = mean_bps([scenario.timeline(link) for link in _links(scenario)], intervals)
    if sum_bps:
        found["of_sum"] = goodput_mbps * 1e8 / sum_bps
        found["of_ceiling"] = found["of_sum"] / payload_share(scenario)
    if any(bound.metric == "wire_overhead" for bound in scenario.expect):
        found["wire_overhead"] = _wire_overhead(scenario, record, series, figures)
    return found


def _wire_overhead(scenario: Scenario, record: LoadRecord, series: Series, figures: Figures) -> float:
    """Return the tunnel's bytes that arrived beyond the goodput and its headers, in percent of those.

    Right where the goodput is steady: iperf3 begins to count some tens of milliseconds after us.
    """
    since_ns, until_ns = record.begin_ns + scenario.warm_up, _end_ns(scenario, record)
    links = range(len(series.ours[0]))
    arrived = sum(series.between(series.column(series.ours, link), since_ns, until_ns) for link in links)
    needed = figures["goodput"] * 1e6 / 8 * scenario.duration / 1e9 / payload_share(scenario)
    return 100 * (arrived / max(needed, 1) - 1)


def _payload_part(scenario: Scenario, record: LoadRecord, series: Series, figures: Figures) -> float:
    """Return the load's payload as a part of the bytes that left the TUN, measured over the whole run."""
    whole = series.between(series.delivered, record.begin_ns + scenario.warm_up, _end_ns(scenario, record))
    return figures["goodput"] * 1e6 / 8 * scenario.duration / 1e9 / max(whole, 1)


def payload_share(scenario: Scenario) -> float:
    """Return what the tunnel's overhead leaves of a frame for the scenario's main load."""
    return tcp_payload_share() if scenario.loads.tcp else udp_payload_share(scenario.loads.udp_size)


def _rival(scenario: Scenario, record: LoadRecord, series: Series, figures: Figures) -> Figures:
    """Return our part of the link we share, and our worst second against all the others' ceiling."""
    if record.rival is None:
        return {}
    since_ns, until_ns = record.begin_ns + scenario.warm_up, _end_ns(scenario, record)
    place = _links(scenario).index(scenario.loads.rival or 0)
    arrived, ours = (
        series.between(series.column(rows, place), since_ns, until_ns)
        for rows in (series.arrived, series.ours)
    )
    found = {"our_share": 100 * ours / max(arrived, 1)}
    others = [scenario.timeline(link) for link in _links(scenario) if link != scenario.loads.rival]
    others_bps = mean_bps(others, [(scenario.warm_up, scenario.total_ns)])
    if others_bps and "goodput" in figures:
        part = _payload_part(scenario, record, series, figures)
        seconds = range(since_ns, until_ns - SECOND_NS + 1, SECOND_NS)
        worst = min(series.between(series.delivered, at, at + SECOND_NS) for at in seconds)
        found["others_kept"] = 100 * worst * 8 * part / (others_bps * payload_share(scenario))
    return found


def _memory(series: Series) -> Figures:
    """Return the memory at the end, and what it grew by after the first fifth of the run."""
    values = [mib for _, mib in series.memory]
    fifth = len(values) // 5
    if not fifth:
        return {"memory": values[-1]} if values else {}
    last = statistics.median(values[-fifth:])
    return {"memory": last, "memory_growth": last - statistics.median(values[fifth : 2 * fifth])}


def emulator_figures(series: Series) -> Figures:
    """Return how busy and how punctual the emulator was; nothing where there was none."""
    frames = sum(series.lateness)
    if not frames or len(series.moments_ns) < 2:
        return {}
    steps = accumulate(series.lateness)
    late = next(step for step, until in enumerate(steps, start=1) if until * 100 >= frames * 99)
    length_ns = series.moments_ns[-1] - series.moments_ns[0]
    return {
        "emulator_cpu": 100 * series.emulator_cpu_ns / max(length_ns, 1),
        "emulator_late_p99": (late << LATENESS_BITS) / MS,
    }


def _links(scenario: Scenario) -> list[int]:
    """Return the numbers of the links between the sites of the loads."""
    joined = set(scenario.ends)
    cables = scenario.plan.cables
    return [number for number, cable in enumerate(cables) if {cable.first, cable.second} == joined]


def _delay_ns(scenario: Scenario, link: int) -> int:
    cable = scenario.plan.cables[link]
    spec = cable.spec
    return spec.forward.delay_ns if cable.first == scenario.ends[0] else spec.backward.delay_ns


def _end_ns(scenario: Scenario, record: LoadRecord) -> int:
    return record.begin_ns + scenario.total_ns
