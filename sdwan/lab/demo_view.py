"""How the demo looks: live on a terminal, line by line without one, and its report at the end.

Knows nothing of how figures come about: it is told phases, shown the paths of ``edge status --json``, and
given the result. Used by sdwan.lab.demo only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.text import Text

from sdwan.lab.impairment import Impairment
from sdwan.lab.report import figure, mark, percent, table
from sdwan.model import PATHS_PER_PEER

# Implementation constants --------------------------------------------------------------------------

PLAIN_WIDTH = 110
PLAIN_INTERVAL_S = 2.0
"""Between two lines when nobody watches a terminal."""
BAR_WIDTH = 20
STYLES = {"up": "green", "degraded": "yellow", "probing": "cyan", "down": "red"}


@dataclass
class DemoResult:
    """What build/demo.json holds."""

    single_link_mbps: list[float] = field(default_factory=list)
    """TCP over each link alone, without the tunnel."""
    bonded_mbps: float = 0.0
    """TCP through the tunnel, four streams."""
    sum_of_links_mbps: float = 0.0
    efficiency: float = 0.0
    """Bonded over sum of links: tunnel overhead and all."""
    failover_gap_ms: float = 0.0
    packets_lost: int = 0
    """Probes lost to the cut, of 200 a second."""
    checksum_ok: bool = False
    shares: list[float] = field(default_factory=list)
    """Of the bonded run, by link, read from the BPF counters."""
    steady_gap_ms: float = 0.0
    """Longest gap before the cut, for comparison."""
    file_bytes: int = 0
    file_mbps: float = 0.0
    """The copy, cut included."""
    duration_s: float = 0.0


class DemoView:
    """A live display; a context manager, since a terminal must be given back."""

    def __init__(self, links: Sequence[Impairment]) -> None:
        self._links = links
        self._console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._shown_at = 0.0
        self._phase = ""

    def __enter__(self) -> DemoView:
        self._console.print(_picture(self._links))
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def phase(self, text: str) -> None:
        """Say what happens now."""
        self._phase = text
        self._shown_at = 0.0
        clock = f"{time.monotonic() - self._began:5.1f} s"
        self._console.print(Text.assemble((clock, "dim"), "  ", text))
        if self._live:
            self._live.update(Spinner("dots", text))

    def show(self, paths: Sequence[dict[str, Any]], share: float | None) -> None:
        """Show the paths as they are, and how much of the file has arrived."""
        if self._live:
            parts: list[RenderableType] = [Spinner("dots", self._phase), _paths_table(paths)]
            if share is not None:
                parts.append(ProgressBar(total=1.0, completed=share, width=60))
            self._live.update(Group(*parts))
        elif time.monotonic() - self._shown_at > PLAIN_INTERVAL_S:
            self._shown_at = time.monotonic()
            arrived = "" if share is None else f"  file {share:.0%}"
            self._console.print("         " + "   ".join(map(_path_line, paths)) + arrived)

    def report(self, result: DemoResult) -> None:
        """Print what came of it."""
        self._stop()
        made = table("\nWhat came of it", "")
        for number, mbps in enumerate(result.single_link_mbps):
            made.add_row(f"link {number} alone, no tunnel", figure(mbps, "Mbit/s"))
        made.add_row("their sum", figure(result.sum_of_links_mbps, "Mbit/s"))
        made.add_row("the bond, four TCP streams", figure(result.bonded_mbps, "Mbit/s"))
        made.add_row("efficiency, encryption and headers included", f"{result.efficiency:.1%}")
        shares = " : ".join(f"{share:.0%}" for share in result.shares)
        made.add_row("shares of the links, from the BPF counters", shares)
        made.add_row("longest gap of a 5 ms stream before the cut", figure(result.steady_gap_ms, "ms"))
        made.add_row("... and when the link went dark", figure(result.failover_gap_ms, "ms"))
        made.add_row("probes lost to the cut", str(result.packets_lost))
        megabytes = result.file_bytes // 1_000_000
        made.add_row(f"file of {megabytes} MB, the cut included", figure(result.file_mbps, "Mbit/s"))
        made.add_row("its checksum at the far end", mark(result.checksum_ok))
        self._console.print(made)

    def maps(self, pin_root: Path) -> None:
        """Show how to look at the maps, and what one sees: what the hub's kernel noted about link 1."""
        row = PATHS_PER_PEER + 1  # peer 1, path 1
        key = [f"{byte}" for byte in row.to_bytes(4, sys.byteorder)]
        command = ["bpftool", "map", "lookup", "pinned", str(pin_root / "maps" / "rx_state"), "key", *key]
        self._console.print(
            "\nThe kernel's maps are readable with named fields; the hub about link 1 (row 9):"
        )
        self._console.print(f"  [bold]{' '.join(command)}[/]", soft_wrap=True)
        try:
            seen = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
            text = seen.stdout or seen.stderr
        except (OSError, subprocess.TimeoutExpired):
            text = "(bpftool is not installed)"
        self._console.print(Text(text.rstrip(), "dim"))
        self._console.print(
            "Others beside it: cfg paths weights tx_stats rx_stats tx_state drops link_stats."
        )
        self._console.print("`sdwan lab up` leaves a lab standing to look at.")

    def written(self, output: Path) -> None:
        """Say where the figures are."""
        self._console.print(f"\nwritten: {output}")

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def _picture(links: Sequence[Impairment]) -> RenderableType:
    lines = []
    for number, link in enumerate(links):
        rate, delay = f"{link.rate_bps / 1e6:g} Mbit/s", f"{link.delay_ns / 1e6:g} ms"
        loss = f", {percent(link.loss_ppm, 3)} loss" if link.loss_ppm else ""
        middle = f" link {number}: {rate}, {delay}{loss} "
        first, last = ("edge ══", "══ hub") if number == 0 else ("     ╚═", "═╝   ")
        lines.append(f"  {first}{middle:═^50}{last}")
    return Text("\n".join(lines), "bold")


def _paths_table(paths: Sequence[dict[str, Any]]) -> RenderableType:
    made = table("link", "state", "share", "", "out", "rtt", "loss")
    for path in paths:
        share_ppm = path.get("share_ppm") or 0
        filled = round(share_ppm / 1e6 * BAR_WIDTH)
        made.add_row(
            str(path.get("link", "")),
            _state(path),
            percent(share_ppm, 0),
            Text("█" * filled + "·" * (BAR_WIDTH - filled), "cyan"),
            _mbps(path),
            _rtt(path),
            percent(path.get("loss_out_ppm"), 2),
        )
    return made


def _path_line(path: dict[str, Any]) -> str:
    """One path in one line: ``wan0 up 67% 112.0 Mbit/s 21.0 ms loss 0.00 %``."""
    share = percent(path.get("share_ppm") or 0, 0)
    loss = percent(path.get("loss_out_ppm"), 2)
    return f"{path.get('link')} {path.get('state')} {share} {_mbps(path)} {_rtt(path)} loss {loss}"


def _state(path: dict[str, Any]) -> Text:
    state = str(path.get("state", ""))
    return Text(state, STYLES.get(state, ""))


def _mbps(path: dict[str, Any]) -> str:
    return figure((path.get("sent_bps") or 0) / 1e6, "Mbit/s")


def _rtt(path: dict[str, Any]) -> str:
    rtt_ns = path.get("rtt_ns")
    return figure(None if rtt_ns is None else rtt_ns / 1e6, "ms")
