"""Results as tables for people. Pure: in comes what was measured, out come rich tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdwan.lab.runner import Result


def table(title: str, *figures: str) -> Table:
    """Make a table; the title heads the first column, which is words, the others hold figures."""
    made = Table(box=None, pad_edge=False)
    made.add_column(title, header_style="bold", no_wrap=True)
    for heading in figures:
        made.add_column(heading, justify="right", header_style="dim", no_wrap=True)
    return made


def mark(ok: bool) -> Text:
    """Write whether something is as it should be."""
    return Text("ok", "green") if ok else Text("missed", "bold red")


def figure(value: float | None, unit: str, digits: int = 1) -> str:
    """Write a figure with its unit; what was not measured is a dash."""
    return "-" if value is None else f"{value:.{digits}f} {unit}".strip()


def percent(share_ppm: float | None, digits: int = 1) -> str:
    """Write parts per million as a percentage."""
    return figure(None if share_ppm is None else share_ppm / 1e4, "%", digits)


def scenario_view(result: Result) -> RenderableType:
    """Lay out one scenario: what happened, what was measured, what was expected."""
    figures = table(f"Scenario {result.scenario}", "")
    if result.probes_sent is not None:
        figures.add_row("longest gap of the 5 ms stream", figure(result.longest_gap_ms, "ms"))
        figures.add_row("probes lost", f"{result.probes_lost} of {result.probes_sent}")
        delays = f"{figure(result.delay_median_ms, '')} / {figure(result.delay_p99_ms, 'ms')}"
        figures.add_row("one-way delay, median / 99 %", delays)
    if result.tcp_mbps is not None:
        retransmits = f"{figure(result.tcp_mbps, 'Mbit/s')}, {result.tcp_retransmits} retransmits"
        figures.add_row("TCP", retransmits)
    if result.udp_mbps is not None:
        figures.add_row("UDP", f"{figure(result.udp_mbps, 'Mbit/s')}, {percent(result.udp_lost_ppm, 3)} lost")
    figures.add_row("shares of the links", " : ".join(percent(share, 0) for share in result.shares_ppm))
    parts: list[RenderableType] = [figures]
    if result.events:
        parts.append(Text("\n".join(f"  {event}" for event in result.events), "dim"))
    if result.checks:
        checks = table("expected", "", "measured", "")
        for check in result.checks:
            checks.add_row(check.name, check.wanted, check.measured, mark(check.ok))
        parts.append(checks)
    return Group(*parts)


def summary_view(results: Sequence[Result]) -> Table:
    """Lay out several scenarios, a line each."""
    made = table("Scenarios", "gap", "probes lost", "TCP", "UDP", "UDP lost", "")
    for result in results:
        made.add_row(
            result.scenario,
            figure(result.longest_gap_ms, "ms"),
            "-" if result.probes_lost is None else str(result.probes_lost),
            figure(result.tcp_mbps, "Mbit/s"),
            figure(result.udp_mbps, "Mbit/s"),
            percent(result.udp_lost_ppm, 3),
            mark(result.ok),
        )
    return made
