"""`make benchmark`: run everything in one go, print tables, write build/benchmark.json.

    python -m benchmarks.benchmark [--quick] [--part PART ...] [--rounds N] [--output FILE]

Figures are medians over rounds; within a round all contenders take their turn, so that a slow minute of the
machine hits all of them. Needs root. What falls short is printed as such, and the exit code is 0 all the
same: a figure is information, not an error.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, measures, programs, tables
from benchmarks.contenders import Bare, Contender, Ours, standing
from benchmarks.openvpn import OpenVpn
from benchmarks.targets import judge
from benchmarks.wireguard_go import WireGuardGo
from sdwan.errors import SdwanError
from sdwan.lab.home import ending_cleanly
from sdwan.lab.scenario import load, measured
from sdwan.lab.suite import LONG, QUICK, Wishes, play_all, write_rows

CONTENDERS: dict[str, type[Contender]] = {kind.name: kind for kind in (Bare, Ours, OpenVpn, WireGuardGo)}
BONDS_MBIT = ((100, 100), (100, 50), (50, 10))
PARTS = ("unshaped", "bonded", "gap", "peers", "programs", "scenarios")
OUTPUT = machine.ROOT / "build" / "benchmark.json"


@dataclass(frozen=True)
class Effort:
    """How long and how often to measure."""

    rounds: int
    tcp_s: float
    udp_s: float
    bond_s: float
    gaps: int
    quick: bool = False

    @classmethod
    def choose(cls, quick: bool, rounds: int | None) -> Effort:
        """Return the full effort, or one that only shows that everything works."""
        if quick:
            return cls(rounds or 1, tcp_s=2, udp_s=2, bond_s=6, gaps=1, quick=True)
        return cls(rounds or 3, tcp_s=5, udp_s=4, bond_s=20, gaps=5)


Step = Callable[[str], None]
"""Tell the progress display what is measured now."""


def run_unshaped(effort: Effort, step: Step) -> dict[str, dict[str, float]]:
    """Measure every contender over one bare link, in interleaved rounds."""
    samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in CONTENDERS}
    with ExitStack() as stack:
        stood: dict[str, Contender] = {}
        for name, kind in CONTENDERS.items():
            step(f"{name}: start")
            stood[name] = stack.enter_context(standing(kind, f"bench{len(stood)}"))
        for _ in range(effort.rounds):
            for name, contender in stood.items():
                step(f"{name}: ping")
                samples[name]["ping_ms"].append(measures.ping_ms(contender))
            for streams in (1, 4):
                for name, contender in stood.items():
                    step(f"{name}: TCP, {streams} stream(s)")
                    result = measures.tcp(contender, streams, effort.tcp_s)
                    samples[name][f"tcp{streams}_bps"].append(result["goodput_bps"])
                    samples[name][f"tcp{streams}_cpu_s_per_gbit"].append(result["cpu_s_per_gbit"])
            for name, contender in stood.items():
                step(f"{name}: UDP, {measures.UDP_BYTES} bytes")
                samples[name]["udp_pps"].append(measures.udp(contender, effort.udp_s))
        ours = stood["ours"]
        assert isinstance(ours, Ours)
        memory = measures.memory_bytes(ours)
    found = {name: _medians(values) for name, values in samples.items()}
    found["ours"] |= {f"{key}_bytes": float(value) for key, value in memory.items()}
    return found


def run_bonded(effort: Effort, step: Step) -> list[dict[str, Any]]:
    """Measure one TCP stream over each bond, in interleaved rounds."""
    samples: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        stood = []
        for number, rates_mbit in enumerate(BONDS_MBIT):
            name = " + ".join(map(str, rates_mbit))
            step(f"bond of {name}: start")
            rates_bps = tuple(rate * measures.MBIT for rate in rates_mbit)
            plan = measures.bond_plan(rates_bps)
            ours = stack.enter_context(standing(Ours, f"bond{number}", plan))
            assert isinstance(ours, Ours)
            stood.append((name, rates_bps, ours))
            samples[name] = defaultdict(list)
        for _ in range(effort.rounds):
            for name, rates_bps, ours in stood:
                step(f"bond of {name} Mbit/s, one stream, {effort.bond_s:g} s")
                for key, value in measures.bonded(ours, rates_bps, effort.bond_s).items():
                    samples[name][key].append(value)
    return [{"name": name, **_medians(values)} for name, values in samples.items()]


def run_gap(effort: Effort, step: Step) -> dict[str, Any]:
    """Blackhole one of two links several times."""
    samples: dict[str, list[float]] = defaultdict(list)
    step("gap: start")
    with standing(Ours, "gap", measures.gap_plan()) as ours:
        assert isinstance(ours, Ours)
        for number in range(effort.gaps):
            step(f"gap: cut {number + 1} of {effort.gaps}")
            for key, value in measures.blackhole_gap(ours, number % 2).items():
                samples[key].append(value)
    return {**_medians(samples), "all_gaps_ms": [round(value, 1) for value in samples["gap_ms"]]}


def run_peers(effort: Effort, step: Step) -> dict[str, float]:
    """Compare a hub that knows one peer with one that knows a hundred."""
    samples: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        hubs = {}
        for peers in (1, measures.MANY_PEERS):
            step(f"hub with {peers} peers: start")
            hubs[peers] = stack.enter_context(measures.hub_of(f"peers{peers}", peers))
        for _ in range(effort.rounds):
            for peers, ours in hubs.items():
                step(f"hub with {peers} peers: TCP, UDP")
                samples[f"tcp1_bps_{peers}"].append(measures.tcp(ours, 1, effort.tcp_s)["goodput_bps"])
                samples[f"udp_pps_{peers}"].append(measures.udp(ours, effort.udp_s))
    found = _medians(samples)
    many = measures.MANY_PEERS
    return {
        **found,
        "tcp1_cost": 1 - found[f"tcp1_bps_{many}"] / found["tcp1_bps_1"],
        "udp_cost": 1 - found[f"udp_pps_{many}"] / found["udp_pps_1"],
    }


def run_programs(_: Effort, step: Step) -> dict[str, float]:
    """Time each BPF program by test run."""
    step("BPF programs: compile, test run")
    return programs.costs_ns()


def run_scenarios(effort: Effort, step: Step) -> list[dict[str, Any]]:
    """Play the measured scenarios of the lab, as `make scenarios` does; quick: four, one round each."""
    chosen = [load(name) for name in (QUICK if effort.quick else measured()) if name not in LONG]
    wishes = Wishes(rounds=effort.rounds if effort.quick else None, output=OUTPUT.parent / "scenarios.json")
    results = []
    for number, scenario in enumerate(chosen, start=1):
        step(f"scenario {scenario.name} ({number} of {len(chosen)})")
        results += play_all([scenario], Console(file=io.StringIO()), wishes)
    write_rows(results, OUTPUT.parent / "scenarios.json")
    return [row for result in results for row in result.rows()]


RUNNERS: dict[str, tuple[str, Callable[[Effort, Step], Any]]] = {
    "unshaped": ("unshaped", run_unshaped),
    "bonded": ("bonded", run_bonded),
    "gap": ("gap", run_gap),
    "peers": ("many_peers", run_peers),
    "programs": ("programs", run_programs),
    "scenarios": ("scenarios", run_scenarios),
}


def _medians(samples: dict[str, list[float]]) -> dict[str, float]:
    return {key: statistics.median(values) for key, values in samples.items()}


@contextmanager
def progress(console: Console, parts: tuple[str, ...]) -> Iterator[tuple[Progress, Any]]:
    """Show what is measured now; without a terminal, a line per step."""
    columns = (TextColumn("[bold]{task.fields[part]}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as bar:
        yield bar, bar.add_task("", total=len(parts), part="")


@click.command()
@click.option("--quick", is_flag=True, help="One short round: shows that it works, proves no figure.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part (repeatable).")
@click.option("--rounds", type=click.IntRange(1, 99), help="Rounds whose median counts.")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(quick: bool, parts: tuple[str, ...], rounds: int | None, output: Path) -> None:
    """Measure this tunnel against bare links and rivals."""
    effort = Effort.choose(quick, rounds)
    console = Console(width=None if sys.stdout.isatty() else 120)
    results: dict[str, Any] = {"machine": machine.describe(), "effort": asdict(effort)}
    chosen = tuple(part for part in PARTS if not parts or part in parts)
    with ending_cleanly(), progress(console, chosen) as (bar, task):
        for part in chosen:
            key, runner = RUNNERS[part]
            bar.update(task, part=part)

            def step(text: str) -> None:
                bar.update(task, description=text)
                if not console.is_terminal:
                    console.print(text, style="dim")

            results[key] = runner(effort, step)
            bar.advance(task)
    verdicts = judge(results)
    results["targets"] = [asdict(verdict) for verdict in verdicts]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2) + "\n")
    for view in tables.lay_out(results, verdicts):
        console.print(view, "")
    console.print(f"written: {output}")


if __name__ == "__main__":
    try:
        main()
    except SdwanError as error:
        sys.exit(f"benchmark: {error}")
