"""`sdwan edge`: run a site, look at it, check its configuration, have it reload, drain a link.

`run` hands over to ``sdwan.edge.control``; all other commands only read files or ask the sockets of a running
edge (sdwan.cli.running), so they work beside it and import nothing heavy.
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
FOLLOW_INTERVAL_S = 0.25
EVENTS_SHOWN = 50
"""As many as fit a large terminal."""

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

    from sdwan.cli.edge_view import status_view
    from sdwan.cli.output import console

    screen = console()
    if not watch:
        screen.print(status_view(ask_status(socket_path)[0], screen.width))
        return
    with Live(
        status_view(ask_status(socket_path)[0], screen.width), console=screen, auto_refresh=False
    ) as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            live.update(status_view(ask_status(socket_path)[0], screen.width), refresh=True)


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
        errors += _policy_errors(config)
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


def _policy_errors(config: SiteConfig) -> Iterator[ConfigError]:
    """Make what the data plane would be sent."""
    from sdwan.edge.policy import classifier_of

    try:
        classifier_of(config).to_json()
    except ConfigError as error:
        yield error


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


@edge.command(short_help="Watch the running edge, live.")
@config_option
@json_option
@click.option("--once", is_flag=True, help="Print one view and end.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.25, 10.0), default=0.5, show_default=True,
    help="Seconds between two views.",
)  # fmt: skip
def top(config_path: Path, as_json: bool, once: bool, interval_s: float) -> None:
    """Watch links, classes, recovery and events of the running edge; q quits, p pauses.

    Without a terminal, one view is printed; --json prints the data of one view.
    """
    from sdwan.cli import running
    from sdwan.cli.output import console
    from sdwan.cli.screen import show
    from sdwan.cli.top import PIPE_LINES, History, top_view
    from sdwan.config.load import identify

    socket_path = identify(config_path).command_socket

    def ask() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return running.snapshot(socket_path), running.events(socket_path, limit=EVENTS_SHOWN)[0]

    screen = console()
    if as_json:
        status, events = ask()
        click.echo(json.dumps({"snapshot": status, "events": events}, indent=2))
    elif screen.is_terminal and not once:
        show(ask, screen, interval_s)
    else:
        status, events = ask()
        screen.print(top_view(status, events, History(), width=screen.width, height=PIPE_LINES))


@edge.command("events", short_help="Tell the last decisions and their reasons.")
@config_option
@json_option
@click.option("--follow", is_flag=True, help="Go on telling what happens.")
@click.option(
    "-n", "--lines", "limit", type=click.IntRange(0, 1000), default=50, show_default=True,
    help="How many of the past ones.",
)  # fmt: skip
def tell_events(config_path: Path, as_json: bool, follow: bool, limit: int) -> None:
    """Tell the last decisions of the running edge and their reasons, oldest first."""
    from sdwan.cli import running
    from sdwan.config.load import identify

    socket_path = identify(config_path).command_socket
    found, newest = running.events(socket_path, limit=limit)
    _print_events(found, as_json)
    while follow:
        time.sleep(FOLLOW_INTERVAL_S)
        found, now_newest = running.events(socket_path, after=newest)
        if now_newest < newest:  # the edge was started again and counts anew
            found, now_newest = running.events(socket_path)
        newest = now_newest
        _print_events(found, as_json)


def _print_events(events: list[dict[str, Any]], as_json: bool) -> None:
    from sdwan.cli.output import console
    from sdwan.cli.top import clock, event_text

    if as_json:
        for event in events:
            click.echo(json.dumps({"time": clock(event.get("wall_ns")), **event}))
        return
    screen = console()
    for event in events:
        screen.print(f"{clock(event.get('wall_ns'))} ", event_text(event), sep="", soft_wrap=True)


@edge.command(short_help="Let a link carry no new data, or let it carry data again.")
@click.argument("link")
@config_option
@click.option("--undo", is_flag=True, help="Let the link carry data again.")
@click.option("--wait", is_flag=True, help="End when what is under way has arrived.")
@click.option("--force", is_flag=True, help="Even if no other link is in use.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1.0, 600.0), default=60.0, show_default=True,
    help="Seconds --wait waits.",
)  # fmt: skip
def drain(link: str, config_path: Path, undo: bool, wait: bool, force: bool, timeout_s: float) -> None:
    """Let LINK carry no new data in either direction, without losing what is under way.

    The link stays up, known and measured. It is drained until --undo or until the edge is started again; a
    reload of the configuration changes nothing.
    """
    from sdwan.cli import running
    from sdwan.config.load import identify

    socket_path = identify(config_path).command_socket
    if undo:
        running.command(socket_path, "undrain", link=link)
        click.echo(f"{link}: carries data again")
        return
    running.command(socket_path, "drain", link=link, force=force)
    if wait:
        running.wait_until_quiet(socket_path, link, timeout_s)
        click.echo(f"{link}: drained, nothing is under way on it")
        return
    click.echo(f"{link}: no new data; see `sdwan edge status` for what is still under way")
