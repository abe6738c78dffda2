"""`sdwan lab run` and `sdwan lab scenarios`: play scenarios, show what came of them, write it down.

Everything is done by sdwan.lab.suite; here stand the commands, which sdwan.cli.lab adds to its group. `run`
judges (exit code 1 if an expectation was missed); `scenarios` measures (0, however loudly it says what was
missed, unless --strict).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdwan.cli.entry import EXIT_ERROR, EXIT_OK
from sdwan.errors import LabError

if TYPE_CHECKING:
    from sdwan.lab.result import Result
    from sdwan.lab.scenario import Scenario
    from sdwan.lab.suite import Wishes

WIDTH_WITHOUT_TERMINAL = 120
DEFAULT_OUTPUT = Path("build/scenarios.json")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
rounds_option = click.option(
    "--rounds", type=click.IntRange(1, 9), help="Rounds whose median counts, instead of the scenario's own."
)
output_option = click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Where rows go; pictures beside it."
)


@click.command("run", short_help="Play scenarios and judge what came of them.")
@click.argument("names", nargs=-1, metavar="SCENARIO...")
@click.option("--all", "everything", is_flag=True, help="All ready scenarios but the measured ones.")
@rounds_option
@json_option
@output_option
@click.option(
    "--site", "outside", multiple=True, metavar="SITE=NAMESPACE",
    help="Use an existing namespace for a site; an empty name is the machine's own. Repeatable.",
)  # fmt: skip
def run_scenarios(
    names: tuple[str, ...], everything: bool, rounds: int | None, as_json: bool, output: Path | None,
    outside: tuple[str, ...],
) -> int:  # fmt: skip
    """Play scenarios (names, or files of your own), each in a lab of its own, and judge what came of them.

    The exit code is 1 if an expectation was missed.
    """
    from sdwan.lab.scenario import load, measured, ready
    from sdwan.lab.suite import Wishes

    chosen = [load(name) for name in ([n for n in ready() if n not in measured()] if everything else names)]
    if not chosen:
        raise LabError("name a scenario, or use --all; `sdwan lab list` shows the ready ones")
    wishes = Wishes(rounds, dict(pair(text) for text in outside), output, careful=len(chosen) > 1)
    results = _play(chosen, wishes, as_json)
    return EXIT_OK if all(result.ok for result in results) else EXIT_ERROR


@click.command("scenarios", short_help="Measure what the project promises figures for.")
@click.argument("names", nargs=-1, metavar="[SCENARIO...]")
@click.option("--quick", is_flag=True, help="Four of them, one round each: shows that it works.")
@rounds_option
@json_option
@click.option("--strict", is_flag=True, help="Exit code 1 if an expectation was missed.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_OUTPUT,
              show_default=True, help="Where rows go; pictures beside it.")  # fmt: skip
def measure(
    names: tuple[str, ...], quick: bool, rounds: int | None, as_json: bool, strict: bool, output: Path
) -> int:
    """Play the measured scenarios (all but the half hour of `soak`, or those named) and write the figures.

    Rows go to build/scenarios.json, a picture and all figures of each to build/scenarios/. The exit code is 0
    even when an expectation is missed: a figure is information. --strict makes it 1.
    """
    from sdwan.lab.scenario import load, measured
    from sdwan.lab.suite import LONG, QUICK, Wishes

    names = names or (QUICK if quick else tuple(name for name in measured() if name not in LONG))
    wishes = Wishes(rounds or (1 if quick else None), {}, output)
    results = _play([load(name) for name in names], wishes, as_json)
    if strict and not all(result.ok for result in results):
        return EXIT_ERROR
    return EXIT_OK


def _play(chosen: list[Scenario], wishes: Wishes, as_json: bool) -> list[Result]:
    from rich.console import Console

    from sdwan.lab import report
    from sdwan.lab.suite import play_all

    need_root()
    terminal = sys.stderr.isatty() if as_json else sys.stdout.isatty()
    console = Console(stderr=as_json, highlight=False, width=None if terminal else WIDTH_WITHOUT_TERMINAL)
    results = play_all(chosen, console, wishes)
    if as_json:
        click.echo(json.dumps([result.as_plain() for result in results], indent=2))
    if len(results) > 1:
        console.print(report.summary_view(results))
    console.print(report.missed_view(results))
    if wishes.output is not None:
        console.print(f"written: {wishes.output}", style="dim")
    return results


def need_root() -> None:
    """Refuse to go on without root."""
    if os.geteuid() != 0:
        raise LabError("labs are made of network namespaces, which need root: run with sudo")


def pair(text: str) -> tuple[str, str]:
    """Split NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise LabError(f"{text!r} is no NAME=VALUE")
    return name, value
