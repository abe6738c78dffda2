"""What capacity discovery does on simulated links: the table and the pictures of docs/control.md.

    python -m benchmarks.control_pictures [--into docs/img]

Virtual time and fixed seeds: the same numbers on every machine, in about half a minute. Links, sources and
rivals are those of the unit tests (tests/unit/bond_world.py). Drawing needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from tests.unit.bond_sources import Constant, Cubic
from tests.unit.bond_world import BondWorld, Link, Rate, cellular

COLOURS = {
    "startup": "#9ecae1",
    "track": "#ffffff",
    "test": "#fdd0a2",
    "shallow": "#dadaeb",
    "compete": "#fcbba1",
}
DOTS_PER_INCH = 60


@dataclass(frozen=True, slots=True)
class Case:
    """A link that is used up, and from when on it is looked at."""

    name: str
    link: Callable[[], Link]
    seconds: float = 8.0
    since: float = 3.0


CASES = (
    Case("0.5 Mbit/s", lambda: Link(0.5), 12),
    Case("2 Mbit/s", lambda: Link(2)),
    Case("50 Mbit/s", lambda: Link(50)),
    Case("300 Mbit/s", lambda: Link(300), 4, 2),
    Case("50, buffer 20 ms", lambda: Link(50, buffer=0.020)),
    Case("50, 2 % loss", lambda: Link(50, loss=0.02)),
    Case("50, 10 % loss", lambda: Link(50, loss=0.10)),
    Case("50, 2 % loss in runs of 20", lambda: Link(50, gilbert=(0.001, 0.05))),
    Case("50, 4 % loss in runs of 4", lambda: Link(50, gilbert=(0.01, 0.25))),
    Case("50, buffer of 10 datagrams", lambda: Link(50, buffer_bytes=15_000)),
    Case("50, policer", lambda: Link(50, buffer_bytes=15_000, policer=True)),
    Case("50, policer, 2 % loss", lambda: Link(50, buffer_bytes=15_000, policer=True, loss=0.02)),
    Case("50, jitter of 3 ms", lambda: Link(50, jitter=0.003)),
    Case("50, receiver naps up to 5 ms", lambda: Link(50, stalls=0.005)),
    Case("cellular, 1 to 20, fades", lambda: Link(cellular(35), delay=0.025, buffer_bytes=300_000), 30),
)


def table_of_links() -> Table:
    """Run every case; return what came of it."""
    table = Table(
        "link (Mbit/s)", "used", "queue p50 ms", "p95 ms", "settled s", "dropped %", title="One link"
    )
    for case in CASES:
        link = case.link()
        world = BondWorld(link).saturate().run(case.seconds)
        share = 0.95 * world.used(0, case.since, case.seconds)
        table.add_row(
            case.name,
            f"{world.used(0, case.since, case.seconds):.3f}",
            f"{world.queue_ms(0, case.since, case.seconds, percentile=50):.1f}",
            f"{world.queue_ms(0, case.since, case.seconds):.1f}",
            f"{world.settled(0, 0, case.seconds, share=min(share, 0.95)):.2f}",
            f"{100 * link.dropped / world.paths[0].sent:.1f}",
        )
    return table


def table_of_steps() -> Table:
    """50 -> 5 -> 50 Mbit/s every five seconds."""
    table = Table("round trip ms", "start s", "down s", "up s", "longest queue ms", title="Steps 50, 5, 50")
    for delay in (0.010, 0.030):
        world = BondWorld(Link(_steps(), delay=delay)).saturate().run(15)
        times = [f"{world.settled(0, since, since + 5):.2f}" for since in (0, 5, 10)]
        table.add_row(f"{2000 * delay:.0f}", *times, f"{world.queue_ms(0, 5, 10, percentile=100):.0f}")
    return table


def table_of_rivals() -> Table:
    """A CUBIC flow on the same 50 Mbit/s for 60 s; the bond's other link has 20."""
    table = Table("buffer ms", "ours Mbit/s", "rival", "other link", title="A rival TCP for 60 s")
    for buffer in (0.050, 0.100, 0.200, 0.300):
        world, rival = _rivalry(buffer)
        world.run(65)
        table.add_row(
            f"{1000 * buffer:.0f}",
            f"{world.delivered(0, 5, 65):.1f}",
            f"{rival.mbit(5, 65):.1f}",
            f"{world.delivered(1, 5, 65):.1f}",
        )
    return table


def pictures() -> Iterator[tuple[str, BondWorld, str]]:
    """Yield a file's name, a world that has run, and a title."""
    yield (
        "control_steps",
        BondWorld(Link(_steps(), delay=0.030)).saturate().run(15),
        "50 → 5 → 50 Mbit/s, rtt 60 ms",
    )
    world, _ = _rivalry(0.100, end=35)
    yield "control_rival", world.run(45), "A CUBIC flow from second 5 to 35, buffer 100 ms"
    world = BondWorld(Link(cellular(35), delay=0.025, buffer_bytes=300_000), Link(20, delay=0.015)).saturate(
        0, 20
    )
    Constant(world, 3, begin=20, end=30)
    yield "control_cellular", world.run(30), "A cellular link; 3 Mbit/s in all from second 20 on"


def draw(world: BondWorld, title: str, file: Path) -> None:
    """Draw the first path's capacity, estimate, arrivals and queue over time."""
    seen = world.paths[0].moments
    figure, (rates, queue) = plt.subplots(2, 1, sharex=True, figsize=(9, 5), height_ratios=(2, 1))
    times = [moment.at for moment in seen]
    rates.plot(times, [moment.allowed for moment in seen], color="#bbbbbb", linewidth=3, label="link")
    rates.plot(times, [moment.capacity for moment in seen], color="#d62728", linewidth=1, label="estimate")
    arrived = [
        (after.delivered_bytes - before.delivered_bytes) * 8e-6 / (after.at - before.at)
        for before, after in zip(seen, seen[10:], strict=False)
    ]
    rates.plot(times[10:], arrived, color="#1f77b4", linewidth=1, label="arrived")
    rates.set(ylabel="Mbit/s", title=title, ylim=(0, 1.3 * max(moment.allowed for moment in seen)))
    rates.legend(loc="upper right", ncols=3, frameon=False)
    queue.plot(times, [1000 * moment.queue for moment in seen], color="#2ca02c", linewidth=1)
    queue.set(xlabel="s", ylabel="queue, ms", yscale="symlog")
    for axes in (rates, queue):
        _shade(axes, world)
    figure.tight_layout()
    figure.savefig(file, dpi=DOTS_PER_INCH)
    plt.close(figure)


def _shade(axes: Axes, world: BondWorld) -> None:
    seen = world.paths[0].moments
    begin = seen[0]
    for moment in [*seen[1:], seen[-1]]:
        if moment.state != begin.state or moment is seen[-1]:
            axes.axvspan(begin.at, moment.at, color=COLOURS[begin.state], linewidth=0)
            begin = moment


def _steps() -> Rate:
    return Rate((0, 50), (5, 5), (10, 50))


def _rivalry(buffer: float, *, end: float = 65) -> tuple[BondWorld, Cubic]:
    shared = Link(50, delay=0.015, buffer=buffer)
    world = BondWorld(shared, Link(20, delay=0.015)).saturate()
    return world, Cubic(world, shared, way_back=0.015, begin=5, end=end)


@click.command()
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=Path("docs/img"))
def main(into: Path) -> None:
    """Print the tables and draw the pictures."""
    console = Console()
    for table in (table_of_links(), table_of_steps(), table_of_rivals()):
        console.print(table)
    into.mkdir(parents=True, exist_ok=True)
    for name, world, title in pictures():
        draw(world, title, into / f"{name}.png")
        console.print(f"{into / name}.png: {(into / f'{name}.png').stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
