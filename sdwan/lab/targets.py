"""What a scenario measures and what must come of it: metrics by name, bounds, verdicts, medians. Pure.

Figures travel as ``{metric: value}``, each in its metric's unit. A scenario's ``expect`` becomes ``Bound``s::

    expect: {of_ceiling: 97%, longest_gap: 60ms, our_share: [35%, 65%]}

(one number is bounded on the metric's bad side, a pair on both); ``judge`` holds them against the figures,
and a figure that is missing is not met. Used by scenario (to parse), runner and suite (to judge), report.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdwan.config.values import Wrong, parse_duration, parse_rate, show
from sdwan.errors import LabError
from sdwan.lab.values import parse_share, parse_size

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that can be measured."""

    text: str
    unit: str
    """ms, %, Mbit/s, MiB, or nothing for a number."""
    more_is_better: bool = False


METRICS: dict[str, Metric] = {
    "goodput": Metric("goodput", "Mbit/s", True),
    "of_ceiling": Metric("goodput, of the ceiling", "%", True),
    "of_sum": Metric("goodput, of the sum of the rates", "%", True),
    "tcp": Metric("TCP", "Mbit/s", True),
    "tcp_retransmits": Metric("TCP segments sent again", ""),
    "udp": Metric("UDP", "Mbit/s", True),
    "udp_lost": Metric("UDP lost", "%"),
    "longest_gap": Metric("longest gap of the stream", "ms"),
    "quiet_gap": Metric("... before anything happened", "ms"),
    "probes_sent": Metric("stream sent", "", True),
    "probes_lost": Metric("stream lost", ""),
    "probes_lost_share": Metric("stream lost, share", "%"),
    "delay_median": Metric("one-way delay, median", "ms"),
    "delay_p95": Metric("one-way delay, 95 of 100", "ms"),
    "delay_p99": Metric("one-way delay, 99 of 100", "ms"),
    "delay_added_p99": Metric("one-way delay over the best link's, 99 of 100", "ms"),
    "queueing_p95": Metric("queueing delay, 95 of 100", "ms"),
    "ping_idle_p95": Metric("ping when idle, 95 of 100", "ms"),
    "ping_median": Metric("ping under load, median", "ms"),
    "ping_p95": Metric("ping under load, 95 of 100", "ms"),
    "ping_added": Metric("ping under load over idle, both 95 of 100", "ms"),
    "ping_over_best": Metric("median ping over the best link's own", "ms"),
    "used": Metric("smallest share of a link", "%", True),
    "our_share": Metric("our share of the link with a rival", "%", True),
    "others_kept": Metric("worst second, of the other links' ceiling", "%", True),
    "wire_overhead": Metric("bytes sent beyond data and headers", "%"),
    "flows_done": Metric("short flows completed", "", True),
    "flows_failed": Metric("short flows failed", ""),
    "memory": Metric("resident, all processes of both sites", "MiB"),
    "memory_growth": Metric("... growth after the first fifth", "MiB"),
    "machine_cpu": Metric("the machine's cores, busy with anything", "%"),
    "emulator_cpu": Metric("emulator's part of a core", "%"),
    "emulator_late_p99": Metric("emulator late, 99 of 100 frames", "ms"),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """One expectation: a metric, and what it must at least (or at most) be."""

    metric: str
    at_least: bool
    limit: float

    @property
    def text(self) -> str:
        """The bound as people write it."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:.4g} {METRICS[self.metric].unit}".strip()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one expectation."""

    metric: str
    target: str
    value: float | None
    unit: str
    met: bool

    @property
    def measured(self) -> str:
        """The value as people write it."""
        return "not measured" if self.value is None else f"{self.value:.4g} {self.unit}".strip()

    def as_plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def parse_expectations(written: Mapping[str, Any]) -> tuple[Bound, ...]:
    """Read the ``expect`` of a scenario.

    Raises:
        LabError: an unknown metric or a value of the wrong kind, with its place.
    """
    if not isinstance(written, Mapping):
        raise LabError("expect: must be a section, such as {of_ceiling: 97%}")
    bounds: list[Bound] = []
    for name, value in written.items():
        if name not in METRICS:
            raise LabError(f"expect.{name}: no such metric; there are {', '.join(METRICS)}")
        pair = value if isinstance(value, list) else [value]
        try:
            limits = [_parse(limit, METRICS[name].unit) for limit in pair]
        except Wrong as error:
            raise LabError(f"expect.{name}: {error}") from None
        if len(limits) == 1:
            bounds.append(Bound(name, METRICS[name].more_is_better, limits[0]))
        elif len(limits) == 2 and limits[0] <= limits[1]:
            bounds += [Bound(name, True, limits[0]), Bound(name, False, limits[1])]
        else:
            raise LabError(f"expect.{name}: {show(value)} is no bound; give one value, or [least, most]")
    return tuple(bounds)


def judge(figures: Mapping[str, float], bounds: Iterable[Bound]) -> list[Verdict]:
    """Hold figures against bounds; what was not measured is not met."""
    verdicts = []
    for bound in bounds:
        value = figures.get(bound.metric)
        met = value is not None and (value >= bound.limit if bound.at_least else value <= bound.limit)
        verdicts.append(Verdict(bound.metric, bound.text, value, METRICS[bound.metric].unit, met))
    return verdicts


def medians(rounds: Sequence[Mapping[str, float]]) -> Figures:
    """Return the median of each metric over the rounds that measured it, in the order of ``METRICS``."""
    found = {name: [figures[name] for figures in rounds if name in figures] for name in METRICS}
    return {name: statistics.median(values) for name, values in found.items() if values}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is not below ``percent`` of all (nearest rank).

    Raises:
        LabError: there are no values.
    """
    if not values:
        raise LabError(f"the {percent:g}th percentile of nothing was asked for; was nothing measured?")
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__trunc__() - 1)]


def _parse(value: Any, unit: str) -> float:
    if unit == "ms":
        return parse_duration(value) / 1e6
    if unit == "%":
        return parse_share(value) / 1e4
    if unit == "Mbit/s":
        return parse_rate(value) / 1e6
    if unit == "MiB":
        return parse_size(value) / 2**20
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Wrong(f"{show(value)} is no count", "a whole number")
    return float(value)
