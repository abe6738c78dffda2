"""What came of a scenario: plain data, shared by runner (makes it), suite, report and picture (show it)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdwan.lab.series import Series
from sdwan.lab.targets import Figures, Verdict
from sdwan.lab.traffic import PingSample

EMULATOR_CPU_DOUBTFUL = 70.0
"""Percent of a core; beyond it frames wait for the emulator and not for the link (docs/operate/lab.md)."""
EMULATOR_LATE_DOUBTFUL_MS = 1.0
MACHINE_CPU_DOUBTFUL = 90.0
"""Percent of all cores; beyond it everybody waits for everybody."""


@dataclass
class Trail:
    """One round over time: what a picture is drawn from."""

    begin_ns: int
    """When the loads began, CLOCK_MONOTONIC."""
    series: Series
    delays: list[tuple[int, float]] = field(default_factory=list)
    """(sent_ns, one-way delay in ms) of the stream."""
    pings: list[PingSample] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    """(seconds, what happened): the scenario's steps."""
    states: list[tuple[float, str, str]] = field(default_factory=list)
    """(seconds, link, state): what the sending edge said about its paths."""
    links: list[str] = field(default_factory=list)

    def as_plain(self) -> dict[str, Any]:
        """Return JSON-ready curves: a value for each of ``seconds``, rates over the tick before it."""
        series = self.series
        curves: dict[str, Any] = {
            "seconds": [round((moment - self.begin_ns) / 1e9, 3) for moment in series.moments_ns[1:]],
            "delivered_mbps": [round(rate, 3) for rate in series.rates_mbps(series.delivered)],
            "states": self.states,
        }
        for number, link in enumerate(self.links):
            for name, rows in (("sent", series.sent), ("arrived", series.arrived), ("ours", series.ours)):
                rates = series.rates_mbps(series.column(rows, number))
                curves[f"{link}_{name}_mbps"] = [round(rate, 3) for rate in rates]
            waits = series.column(series.queue_ms, number)
            curves[f"{link}_queue_ms"] = [round(wait, 2) for wait in waits[1:]]
        return curves


@dataclass
class Result:
    """What came of a scenario; figures that were not measured are missing."""

    scenario: str
    ok: bool = True
    figures: Figures = field(default_factory=dict)
    """Medians over the rounds, each in the unit of its metric."""
    rounds: list[Figures] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of the bytes the sender put into the tunnel, by path, in percent (last round)."""
    events: list[str] = field(default_factory=list)
    path_changes: list[str] = field(default_factory=list)
    """What the edges logged about their paths from the first load on (last round)."""
    trail: Trail | None = None
    """The last round over time; not part of the JSON."""

    @property
    def doubt(self) -> str:
        """Say why the figures may be the lab's fault, or nothing."""
        cpu = self.figures.get("emulator_cpu", 0.0)
        late_ms = self.figures.get("emulator_late_p99", 0.0)
        if cpu > EMULATOR_CPU_DOUBTFUL or late_ms > EMULATOR_LATE_DOUBTFUL_MS:
            return (
                f"the emulator was short of CPU ({cpu:.0f} % of a core, {late_ms:.1f} ms late): do not trust"
            )
        machine = self.figures.get("machine_cpu", 0.0)
        if machine > MACHINE_CPU_DOUBTFUL:
            return f"the machine was busy ({machine:.0f} % of all cores): do not trust"
        return ""

    def as_plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "figures": self.figures,
            "rounds": self.rounds,
            "checks": [verdict.as_plain() for verdict in self.verdicts],
            "shares": self.shares,
            "events": self.events,
            "path_changes": self.path_changes,
            "doubt": self.doubt,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per expectation, as build/scenarios.json holds them."""
        return [{"name": self.scenario, **verdict.as_plain()} for verdict in self.verdicts]
