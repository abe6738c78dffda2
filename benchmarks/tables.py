"""The figures as tables for a terminal. Pure: in come results and verdicts, out come rich tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from benchmarks.targets import Verdict


def lay_out(results: dict[str, Any], verdicts: list[Verdict]) -> Iterable[RenderableType]:
    """Yield a table for each part that was measured, and the verdicts last."""
    yield _machine(results["machine"])
    if "unshaped" in results:
        yield _unshaped(results["unshaped"])
    if "bonded" in results:
        yield _bonded(results["bonded"])
    if "gap" in results:
        yield _pairs("One of two links blackholed (50 Mbit/s, 10 ms each)", results["gap"])
    if "many_peers" in results:
        yield _pairs("Hub with 1 and with 100 peers", results["many_peers"])
    if "programs" in results:
        yield _pairs("BPF programs, ns per run", results["programs"])
    if "scenarios" in results:
        yield _scenarios(results["scenarios"])
    yield _verdicts(verdicts)


def _scenarios(rows: list[dict[str, Any]]) -> Table:
    made = _table("Scenarios", "", "wanted", "measured", "")
    for row in rows:
        shown = "not measured" if row["value"] is None else f"{row['value']:.4g} {row['unit']}".strip()
        mark = "[green]met[/]" if row["met"] else "[red]not met[/]"
        made.add_row(row["name"], row["metric"].replace("_", " "), row["target"], shown, mark)
    return made


def _table(title: str, *figures: str) -> Table:
    """Make a table; the title heads the first column, the others hold figures."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(title, header_style="bold", no_wrap=True)
    for heading in figures:
        made.add_column(heading, justify="right", header_style="dim", no_wrap=True)
    return made


def _machine(facts: dict[str, Any]) -> RenderableType:
    changed = f" with {facts['changed_files']} changed file(s)" if facts["changed_files"] else ""
    return (
        f"{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['system']}, "
        f"Python {facts['python']}; commit {facts['commit']}{changed}; load before {facts['load_before']:.2f}"
    )


def _unshaped(found: dict[str, dict[str, float]]) -> Table:
    made = _table(
        "One link, no limits",
        *("TCP 1", "TCP 4", "CPU s/Gbit", "UDP 200 B", "ping", "ours / it"),
    )
    ours_bps = found["ours"]["tcp1_bps"]
    for name, row in found.items():
        made.add_row(
            name,
            f"{row['tcp1_bps'] / 1e9:.2f} Gbit/s",
            f"{row['tcp4_bps'] / 1e9:.2f} Gbit/s",
            f"{row['tcp1_cpu_s_per_gbit']:.2f}" if name != "bare" else "",
            f"{row['udp_pps'] / 1e3:.0f} k/s",
            f"{row['ping_ms']:.3f} ms",
            f"{ours_bps / row['tcp1_bps']:.2f} x",
        )
    return made


def _bonded(rows: list[dict[str, Any]]) -> Table:
    made = _table(
        "Two links (Mbit/s), one TCP stream",
        *("goodput", "of the ceiling", "of the sum", "TUN MTU", "retransmits"),
    )
    for row in rows:
        made.add_row(
            row["name"],
            f"{row['goodput_bps'] / 1e6:.1f} Mbit/s",
            f"{row['of_ceiling']:.1%}",
            f"{row['of_sum']:.1%}",
            f"{row['tun_mtu_bytes']:.0f}",
            f"{row['retransmits']:.0f}",
        )
    return made


def _pairs(title: str, values: dict[str, Any]) -> Table:
    made = _table(title, "")
    for name, value in values.items():
        made.add_row(name.replace("_", " "), _readable(name, value))
    return made


def _readable(name: str, value: Any) -> str:
    """Write a figure by the unit its name ends in."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if "_bps" in name:
        return f"{value / 1e9:.2f} Gbit/s"
    if "_pps" in name:
        return f"{value / 1e3:.1f} k/s"
    if name.endswith("_cost"):
        return f"{value:.1%}"
    return f"{value:.1f}"


def _verdicts(verdicts: list[Verdict]) -> Table:
    made = _table("Targets", "wanted", "measured", "")
    for verdict in verdicts:
        shown = f"{verdict.measured:.3f} {verdict.unit}".strip()
        made.add_row(
            verdict.name, verdict.wanted, shown, "[green]met[/]" if verdict.met else "[red]not met[/]"
        )
    return made
