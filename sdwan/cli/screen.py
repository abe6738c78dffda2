"""The live terminal behind `sdwan edge top`: asks, draws, listens to keys.

Draws on the terminal's second screen, a whole view at a time, so nothing flickers and the shell's own text
is back afterwards. A resized window is met at the next drawing. `q` or Ctrl-C ends it, `p` holds the view.
When the edge stops answering, that is said below the last view, and it is asked again.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live

from sdwan.cli.top import History, top_view
from sdwan.errors import SdwanError

# Implementation constants --------------------------------------------------------------------------

HELP = "q quit   p pause"
PAUSED = "paused: p goes on, q quits"

Ask = Callable[[], tuple[dict[str, Any], list[dict[str, Any]]]]
"""Returns the status and the newest events; raises SdwanError when the edge does not answer."""
WaitKey = Callable[[float], str]
"""Waits for a key, at most so many seconds; "" = none came."""


def show(ask: Ask, screen: Console, interval_s: float) -> None:
    """Show the edge until somebody quits.

    Raises:
        SdwanError: it did not answer the first time.
    """
    history = History()
    status, events = ask()
    history.note(status)

    def view(note: str) -> Any:
        width, height = screen.size
        return top_view(status, events, history, width=width, height=height, note=note)

    with keys() as wait_key, Live(view(HELP), console=screen, screen=True, auto_refresh=False) as live:
        is_paused = False
        while (key := wait_key(interval_s)) != "q":
            is_paused ^= key == "p"
            note = PAUSED
            if not is_paused:
                note = HELP
                try:
                    status, events = ask()
                    history.note(status)
                except SdwanError as error:
                    note = f"{error}; asking again   {HELP}"
            live.update(view(note), refresh=True)


@contextlib.contextmanager
def keys() -> Iterator[WaitKey]:
    """Let single keys be read from the terminal, unechoed, and give it back as it was."""
    if not sys.stdin.isatty():
        yield _wait_without_keys
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield lambda timeout_s: _wait(descriptor, timeout_s)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait(descriptor: int, timeout_s: float) -> str:
    ready, _, _ = select.select([descriptor], [], [], timeout_s)
    if not ready:
        return ""
    return os.read(descriptor, 64).decode(errors="replace")[:1] or "q"  # the terminal is gone


def _wait_without_keys(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""
