"""The `sdwan` command: keys, the edge, its policy, the lab.

Only names and one line of each command stand here; the commands live in modules of their own and are
imported when called.
"""

from __future__ import annotations

import json
import platform
import sys

import click

from sdwan import __version__
from sdwan.cli.entry import EXIT_CODES_HELP, LazyGroup, run

COMMANDS = {
    "keygen": ("sdwan.cli.keys:keygen", "Make a private key."),
    "pubkey": ("sdwan.cli.keys:pubkey", "Print the public key of a private key."),
    "genpsk": ("sdwan.cli.keys:genpsk", "Make a key two sites share."),
    "edge": ("sdwan.cli.edge:edge", "Run a site, look at it, check its configuration."),
    "policy": ("sdwan.cli.policy:policy", "Check classes and rules, ask which class a packet gets."),
    "lab": ("sdwan.cli.lab:lab", "Build networks to try it in, and run scenarios."),
    "version": ("sdwan.cli.main:version", "Print versions."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog=EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def sdwan(debug: bool) -> None:
    """One encrypted tunnel over several poor links, bonded packet by packet."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print the versions of this program, of Python and of the kernel."""
    facts = {"sdwan": __version__, "python": platform.python_version(), "kernel": platform.release()}
    click.echo(
        json.dumps(facts) if as_json else "  ".join(f"{name} {value}" for name, value in facts.items())
    )


def main() -> None:
    """Run the `sdwan` command and leave the process."""
    sys.exit(run(sdwan, "sdwan"))


if __name__ == "__main__":
    main()
