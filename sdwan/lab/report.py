"""Results as tables for people. Pure: in comes what was measured, out come rich tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sdwan.lab.result import Result
from sdwan.lab.targets import METRICS

EVENTS_SHOWN = 20


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
    several = len(result.rounds) > 1
    headings = ("median", "least to most") if several else ("", "")
    figures = table(f"Scenario {result.scenario}", *headings)
    for name, value in result.figures.items():
        metric = METRICS[name]
        seen = [found[name] for found in result.rounds if name in found]
        spread = f"{min(seen):.4g} to {max(seen):.4g}" if several and seen else ""
        figures.add_row(metric.text, figure(value, metric.unit, 1 if metric.unit else 0), spread)
    figures.add_row("shares of the links", " : ".join(f"{share:.0f} %" for share in result.shares), "")
    parts: list[RenderableType] = [figures]
    if result.events:
        parts.append(Text("\n".join(f"  {event}" for event in result.events[:EVENTS_SHOWN]), "dim"))
    if result.verdicts:
        checks = table("expected", "", "measured", "")
        for verdict in result.verdicts:
            checks.add_row(METRICS[verdict.metric].text, verdict.target, verdict.measured, mark(verdict.met))
        parts.append(checks)
    if result.doubt:
        parts.append(Text(result.doubt, "bold yellow"))
    return Group(*parts)


def summary_view(results: Sequence[Result]) -> Table:
    """Lay out several scenarios: a line for each expectation, or one where nothing is expected."""
    made = table("Scenarios", "", "wanted", "measured", "")
    for result in results:
        name = Text.assemble(result.scenario, (" ?", "bold yellow") if result.doubt else "")
        for verdict in result.verdicts:
            text = METRICS[verdict.metric].text
            made.add_row(name, text, verdict.target, verdict.measured, mark(verdict.met))
            name = Text("")
        if not result.verdicts:
            made.add_row(name, "nothing is expected", "", "", "")
    return made


def missed_view(results: Sequence[Result]) -> RenderableType:
    """Say loudly what was missed, or that nothing was."""
    missed = [(result, verdict) for result in results for verdict in result.verdicts if not verdict.met]
    total = sum(len(result.verdicts) for result in results)
    if not missed:
        return Text(f"all {total} expectations met", "bold green")
    names = ", ".join(f"{result.scenario} ({METRICS[v.metric].text})" for result, v in missed)
    return Text(f"MISSED {len(missed)} of {total}: {names}", "bold red")
