"""Several scenarios one after the other, each in a lab of its own; results into files as they come.

In come scenarios and a ``Console``; out come results, ``build/scenarios.json`` (a row per expectation:
``{name, metric, target, value, unit, met}``) and for each scenario ``build/scenarios/NAME.png`` and
``NAME.json`` (figures of all rounds, the last one's curves). One that breaks is reported as broken (its
expectations as not measured) and the others still run. Called by `sdwan lab run`, `sdwan lab scenarios` and
`make benchmark`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sdwan.errors import LabError
from sdwan.lab import report
from sdwan.lab.home import ending_cleanly
from sdwan.lab.picture import draw
from sdwan.lab.result import Result
from sdwan.lab.runner import play
from sdwan.lab.scenario import Scenario
from sdwan.lab.targets import judge
from sdwan.lab.topology import build

# Implementation constants --------------------------------------------------------------------------

OUTPUT = Path("build/scenarios.json")
LONG = frozenset({"soak"})
"""Of the measured ones, played only when named: half an hour."""
QUICK = ("unlike_delay_10_30", "loss_2", "blackhole_udp", "ping_under_load")
TRAILS = "scenarios"
"""Folder beside the output file for pictures and figures."""


@dataclass(frozen=True)
class Wishes:
    """How to play."""

    rounds: int | None = None
    """Instead of each scenario's own number."""
    outside: Mapping[str, str] = field(default_factory=dict)
    """Sites that live in namespaces which are there already."""
    output: Path | None = None
    """Where rows go; None = nothing is written."""
    careful: bool = True
    """Go on after a scenario that breaks."""


def play_all(scenarios: Sequence[Scenario], console: Console, wishes: Wishes) -> list[Result]:
    """Play them in order, show each result, write files, and return the results.

    Raises:
        LabError: one broke, and ``wishes`` are not careful.
    """
    results: list[Result] = []
    total_s = sum(scenario.planned_ns(wishes.rounds) for scenario in scenarios) / 1e9
    with ending_cleanly(), _progress(console) as bar:
        task = bar.add_task("", total=total_s)
        for number, scenario in enumerate(scenarios, start=1):
            title = f"[bold]{scenario.name}[/] ({number} of {len(scenarios)})"
            console.print(f"{title}: {scenario.description}")

            def say(text: str, title: str = title) -> None:
                bar.update(task, description=f"{title}: {text}")
                if not console.is_terminal:
                    console.print(f"  {text}", style="dim")

            results.append(_play_one(scenario, wishes, say, console))
            console.print(report.scenario_view(results[-1]))
            bar.advance(task, scenario.planned_ns(wishes.rounds) / 1e9)
            if wishes.output is not None:
                write_rows(results, wishes.output)
    return results


def write_rows(results: Sequence[Result], output: Path) -> None:
    """Write a row for each expectation of each scenario.

    Raises:
        LabError: the place cannot be written.
    """
    rows = [row for result in results for row in result.rows()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(rows, indent=1) + "\n")
    except OSError as error:
        raise LabError(f"{output}: {error.strerror}") from error


def _play_one(scenario: Scenario, wishes: Wishes, say: Callable[[str], None], console: Console) -> Result:
    try:
        with build(f"run{os.getpid()}", replace(scenario.plan, outside=dict(wishes.outside))) as lab:
            result = play(scenario, lab, say, rounds=wishes.rounds)
    except LabError as error:
        if not wishes.careful:
            raise
        return Result(
            scenario.name, ok=False, verdicts=judge({}, scenario.expect), events=[f"broke: {error}"]
        )
    if wishes.output is not None:
        _keep(scenario, result, wishes.output.parent / TRAILS, console)
    return result


def _keep(scenario: Scenario, result: Result, folder: Path, console: Console) -> None:
    """Write figures and picture of one scenario."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plain = {**result.as_plain(), "curves": result.trail.as_plain() if result.trail else {}}
        (folder / f"{scenario.name}.json").write_text(json.dumps(plain) + "\n")
        draw(scenario, result, folder / f"{scenario.name}.png")
    except (OSError, LabError) as error:
        console.print(f"  {error}", style="yellow")


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True)
