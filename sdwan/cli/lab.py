"""`sdwan lab`: build networks to try the product in, trouble them, play scenarios, run the demo.

Everything is done by sdwan.lab; here stand only the commands. What builds a lab for the length of a command
removes it again, also on Ctrl-C; `up` leaves it standing until `down`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from sdwan.cli.entry import EXIT_ERROR, EXIT_OK
from sdwan.cli.scenarios import measure, need_root, pair, run_scenarios
from sdwan.errors import LabError

DEFAULT_NAME = "lab"
DEFAULT_LINKS = ("60mbit,10ms", "30mbit,25ms")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
site_option = click.option(
    "--site", "outside", multiple=True, metavar="SITE=NAMESPACE",
    help="Use an existing namespace for a site; an empty name is the machine's own. Repeatable.",
)  # fmt: skip


@click.group()
def lab() -> None:
    """Build networks to try it in, and run scenarios."""


# Labs that stay ------------------------------------------------------------------------------------


@lab.command(short_help="Build a lab, start the product in it, and leave both standing.")
@click.argument("name", default=DEFAULT_NAME)
@click.option(
    "--link", "links", multiple=True, default=DEFAULT_LINKS, show_default=True, metavar="RATE[,DELAY[,LOSS]]",
    help="A link between edge and hub, such as 60mbit,10ms,0.1%. Repeatable.",
)  # fmt: skip
@click.option("--scenario", metavar="NAME", help="Take sites and links from a scenario instead.")
@click.option("--bare", is_flag=True, help="Links only: do not start the product.")
@site_option
def up(name: str, links: tuple[str, ...], scenario: str | None, bare: bool, outside: tuple[str, ...]) -> None:
    """Build a lab, start the product in it, and leave both standing until `sdwan lab down`."""
    from sdwan.lab.home import ending_cleanly
    from sdwan.lab.scenario import load, parse
    from sdwan.lab.site import Overlay
    from sdwan.lab.topology import build

    need_root()
    played = load(scenario) if scenario else parse(_links_as_scenario(links), "--link")
    with ending_cleanly(), build(name, _with_outside(played.plan, outside)) as standing:
        if not bare:
            overlay = Overlay(standing, hub=played.hub, rates_known=played.rates_known)
            overlay.start()
        standing.keep()
    click.echo(f"lab {name} stands: sites {', '.join(played.sites)}")
    click.echo(f"  sdwan lab shell {played.sites[0]} --lab {name}     a shell in a site")
    click.echo(f"  sdwan lab link set 0 --lab {name} --loss 1%     trouble a link")
    click.echo(f"  sdwan lab down {name}")
    if not bare:
        for edge in overlay.edges.values():
            click.echo(f"  {edge.plan.name}: {edge.address}, sdwan edge status -c {edge.plan.config_file}")


@lab.command()
@click.argument("name", default=DEFAULT_NAME)
def down(name: str) -> None:
    """End a standing lab and remove all of it."""
    from sdwan.lab.home import Home, homes

    need_root()
    if name not in {home.name for home in homes()}:
        raise LabError(f"no lab {name} stands; `sdwan lab list` shows those that do")
    Home(name).remove()
    click.echo(f"lab {name} is gone")


@lab.command()
@click.option("--all", "everything", is_flag=True, help="Also labs that stand.")
def clean(everything: bool) -> None:
    """Remove what dead labs left behind: namespaces, processes, pins, files."""
    from sdwan.lab import home

    need_root()
    removed = home.sweep()
    if everything:
        for standing in home.homes():
            standing.remove()
            removed.append(standing.name)
    click.echo(f"removed: {', '.join(removed)}" if removed else "nothing to remove")


@lab.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List standing labs and ready scenarios."""
    from sdwan.lab.home import homes
    from sdwan.lab.scenario import load, ready

    scenarios = {name: load(name).description for name in ready()}
    standing = [home.name for home in homes()]
    if as_json:
        click.echo(json.dumps({"labs": standing, "scenarios": scenarios}, indent=2))
        return
    click.echo(f"labs: {', '.join(standing) or 'none'}\nscenarios:")
    width = max(map(len, scenarios))
    for name, description in scenarios.items():
        click.echo(f"  {name:<{width}}  {description}")


@lab.command()
@click.argument("site")
@click.option("--lab", "name", default=DEFAULT_NAME, show_default=True, help="Which lab.")
@click.argument("command", nargs=-1)
def shell(site: str, name: str, command: tuple[str, ...]) -> None:
    """Open a shell in a site of a standing lab, or run COMMAND there."""
    from sdwan.lab.topology import reopen

    need_root()
    argv = command or (os.environ.get("SHELL", "/bin/sh"),)
    entered = reopen(name).namespace(site).command(argv)
    os.execvp(entered[0], entered)


# Links ---------------------------------------------------------------------------------------------


@lab.group()
def link() -> None:
    """Trouble a link of a standing lab, or shape any interface."""


_IMPAIRMENTS = (
    ("rate", "20mbit, or unlimited"), ("buffer", "Drop-tail buffer, such as 50ms"), ("delay", "such as 10ms"),
    ("jitter", "such as 5ms"), ("loss", "such as 0.1%"), ("burst-enter", "Gilbert-Elliott: good to bad"),
    ("burst-leave", "... and back"), ("duplicate", "Copies"), ("reorder", "Share held back"),
    ("reorder-by", "... by this long"), ("mtu", "Swallow longer packets (0 = none)"),
    ("trace", "File of a rate trace (mahimahi)"),
)  # fmt: skip


def impairment_options(command: Any) -> Any:
    """Add an option for each impairment."""
    for name, text in reversed(_IMPAIRMENTS):
        command = click.option(f"--{name}", help=text)(command)
    return click.option("--blackhole/--no-blackhole", default=None, help="Swallow everything.")(command)


@link.command("set")
@click.argument("number", type=int)
@click.option("--lab", "name", default=DEFAULT_NAME, show_default=True, help="Which lab.")
@click.option(
    "--direction", type=click.Choice(["forward", "backward", "both"]), default="both", show_default=True
)
@impairment_options
def set_link(number: int, name: str, direction: str, **written: Any) -> None:
    """Change what link NUMBER of a standing lab does to frames, at once."""
    from sdwan.lab.topology import reopen
    from sdwan.lab.values import impairment_values

    need_root()
    links = reopen(name).links
    if not 0 <= number < len(links):
        raise LabError(f"lab {name} has no link {number}; there are 0 to {len(links) - 1}")
    links[number].change(impairment_values(_given(written), "link"), direction)


@link.command()
@click.argument("number", type=int)
@click.option("--lab", "name", default=DEFAULT_NAME, show_default=True, help="Which lab.")
def show(number: int, name: str) -> None:
    """Print what link NUMBER does and what it has counted, as JSON (emulated links)."""
    from sdwan.lab.link import EmulatedLink
    from sdwan.lab.topology import reopen

    need_root()
    links = reopen(name).links
    chosen = links[number] if 0 <= number < len(links) else None
    if not isinstance(chosen, EmulatedLink):
        raise LabError(f"lab {name} has no emulated link {number}")
    click.echo(json.dumps(chosen.status(), indent=2))


@link.command()
@click.argument("interface")
@click.option("--namespace", default="", help="Where the interface is; empty = here.")
@click.option("--clear", is_flag=True, help="Take the shaping away again.")
@impairment_options
def shape(interface: str, namespace: str, clear: bool, **written: Any) -> None:
    """Shape what leaves INTERFACE, any interface, by the kernel: TBF, and netem if it has that."""
    from sdwan.lab.namespace import Namespace
    from sdwan.lab.shaping import shape_interface, unshape_interface
    from sdwan.lab.values import impairment_values

    need_root()
    if clear:
        unshape_interface(Namespace(namespace), interface)
    else:
        shape_interface(Namespace(namespace), interface, impairment_values(_given(written), "link"))


# Scenarios, demo, configuration --------------------------------------------------------------------


lab.add_command(run_scenarios)
lab.add_command(measure)


@lab.command(short_help="Show two sites, two links, a file and a cut cable.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/demo.json"), show_default=True)
@click.option("--size", "size_mb", type=click.IntRange(10, 10_000), default=300, show_default=True,
              help="Megabytes of the file.")  # fmt: skip
def demo(output: Path, size_mb: int) -> int:
    """Bond two unlike links, move a file, cut a link on the way; report and write build/demo.json."""
    from sdwan.lab.demo import run_demo
    from sdwan.lab.home import ending_cleanly

    need_root()
    with ending_cleanly():
        return EXIT_OK if run_demo(output, size_mb * 1_000_000) else EXIT_ERROR


@lab.command("config", short_help="Make keys and configurations for real machines.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--hub", "hub_address", required=True, multiple=True, metavar="INTERFACE=ADDRESS",
              help="An interface of the hub and the address edges reach it under. Repeatable.")  # fmt: skip
@click.option("--edge", "edges", required=True, multiple=True, metavar="NAME=INTERFACE[+INTERFACE...]",
              help="An edge and its interfaces. Repeatable.")  # fmt: skip
def make_config(directory: Path, hub_address: tuple[str, ...], edges: tuple[str, ...]) -> None:
    """Make keys and a configuration for a hub and its edges, ready to be copied to real machines."""
    from sdwan.lab.configs import HUB, plan_machines, write_sites

    plans = plan_machines(directory, [pair(text) for text in hub_address], dict(pair(text) for text in edges))
    write_sites(plans, hub=HUB)
    for plan in plans:
        click.echo(f"{plan.config_file}: {plan.name}, inner address {plan.address}")


def _links_as_scenario(links: tuple[str, ...]) -> dict[str, Any]:
    described = [dict(zip(("rate", "delay", "loss"), text.split(","), strict=False)) for text in links]
    return {"links": described, "duration": "1s"}


def _with_outside(plan: Any, outside: tuple[str, ...]) -> Any:
    from dataclasses import replace

    return replace(plan, outside=dict(pair(text) for text in outside))


def _given(written: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in written.items() if value is not None}
