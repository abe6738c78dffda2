"""`sdwan edge`: run a site, look at it, check its configuration, have it reload.

`run` hands over to ``sdwan.edge.control``; all other commands only read files or ask the status socket, so
they work beside a running edge and import nothing heavy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdwan.cli.entry import EXIT_CODES_HELP, EXIT_ERROR, EXIT_OK
from sdwan.errors import ConfigError, KeyFileError

if TYPE_CHECKING:
    from sdwan.config.schema import SiteConfig

DEFAULT_CONFIG = Path("/etc/sdwan/site.yaml")
WATCH_INTERVAL_S = 1.0

config_option = click.option(
    "-c", "--config", "config_path", type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG, show_default=True,
    envvar="SDWAN_CONFIG", show_envvar=True, help="Configuration of the site.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(epilog=EXIT_CODES_HELP)
def edge() -> None:
    """Run a site, look at it, check its configuration."""


@edge.command(short_help="Run the edge in the foreground.")
@config_option
def run(config_path: Path) -> int:
    """Run the edge in the foreground until SIGTERM; SIGHUP reloads the configuration."""
    from sdwan.edge.control import run as run_control

    return run_control(config_path)


@edge.command()
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Show it again every second until interrupted.")
def status(config_path: Path, as_json: bool, watch: bool) -> None:
    """Show paths, links and peers of the running edge."""
    from sdwan.cli.running import ask_status
    from sdwan.config.load import identify

    socket_path = identify(config_path).status_socket
    if as_json:
        _print_json(socket_path, watch)
        return
    from rich.live import Live

    from sdwan.cli.output import console, status_view

    screen = console()
    if not watch:
        screen.print(status_view(ask_status(socket_path)[0]))
        return
    with Live(status_view(ask_status(socket_path)[0]), console=screen, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            live.update(status_view(ask_status(socket_path)[0]), refresh=True)


def _print_json(socket_path: Path, watch: bool) -> None:
    from sdwan.cli.running import ask_status

    if not watch:
        click.echo(json.dumps(ask_status(socket_path)[0], indent=2))
        return
    while True:  # one object a line
        click.echo(json.dumps(ask_status(socket_path)[0]))
        time.sleep(WATCH_INTERVAL_S)


@edge.command(short_help="Check a configuration and its key files.")
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> int:
    """Check a configuration and its key files; nothing is started or changed."""
    found = _examine(config_path)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return EXIT_OK if found["ok"] else EXIT_ERROR
    for kind in ("errors", "warnings"):
        for item in found[kind]:
            right = f"; {item['right']}" if item["right"] else ""
            click.echo(f"{kind[:-1]}: {item['where']}: {item['why']}{right}", err=True)
    if not found["ok"]:
        return EXIT_ERROR
    click.echo(
        f"{config_path}: site {found['site']}, {found['links']} link(s), {found['peers']} peer(s), "
        f"{found['paths']} path(s) to endpoints: fine"
    )
    return EXIT_OK


def _examine(config_path: Path) -> dict[str, Any]:
    """Say all there is to say about a configuration, JSON-ready."""
    from sdwan.config.load import examine
    from sdwan.config.paths import paths_of

    examined = examine(config_path)
    errors = list(examined.errors)
    facts: dict[str, Any] = {}
    if examined.config is not None:
        config = examined.config
        errors += _key_file_errors(config)
        facts = {
            "site": config.site,
            "links": len(config.links),
            "peers": len(config.peers),
            "paths": len(paths_of(config)),
        }
    return {
        "ok": not errors,
        **facts,
        "errors": [_plain(error) for error in errors],
        "warnings": [_plain(warning) for warning in examined.warnings],
    }


def _key_file_errors(config: SiteConfig) -> Iterator[ConfigError]:
    """Read every key file as the edge would, and compare the site's own key with those of its peers."""
    from sdwan.core.noise import public_key
    from sdwan.io.keyfile import read_key

    own = None
    try:
        own = public_key(read_key(config.private_key))
    except KeyFileError as error:
        yield ConfigError("private_key", str(error))
    for number, peer in enumerate(config.peers):
        if peer.public_key == own:
            right = "write the peer's own, from `sdwan pubkey` over there"
            yield ConfigError(f"peers[{number}].public_key", "is this site's own key", right)
        if peer.preshared_key is not None:
            try:
                read_key(peer.preshared_key)
            except KeyFileError as error:
                yield ConfigError(f"peers[{number}].preshared_key", str(error))


def _plain(error: ConfigError) -> dict[str, str]:
    return {"where": error.where, "why": error.why, "right": error.right}


@edge.command(short_help="Have the running edge read its configuration again.")
@config_option
def reload(config_path: Path) -> None:
    """Have the running edge read its configuration again; a wrong one is refused, and the old one stays."""
    from sdwan.cli import running
    from sdwan.config.load import load

    config = load(config_path)  # tell what is wrong here, where somebody reads it
    running.reload(config.status_socket)
    click.echo(f"site {config.site}: configuration applied")
