"""A scenario over time as a small PNG: rates, delays, buffers, states of the paths.

In comes a ``Result`` with its trail; out goes one file. Drawn by matplotlib without a display; where that is
not installed, nothing is drawn and the reason is said (it is an extra: nobody needs it to run a tunnel).
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.result import Result, Trail
from sdwan.lab.scenario import Scenario

# Implementation constants --------------------------------------------------------------------------

SIZE_INCHES = (10.0, 7.2)
DPI = 100
TITLE_CHARACTERS = 125
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
STATE_COLOURS = {"up": "#b7e1b0", "degraded": "#ffd37a", "probing": "#b3cde3", "down": "#f4a6a0"}
DELAY_POINTS_MAX = 4_000
EVENTS_MAX = 40
CURVE_STEP_NS = 100_000_000
RATE_ROOM = 1.3
"""The rates' axis ends this far above the sum: what a buffer lets go at once may stand out."""


def draw(scenario: Scenario, result: Result, file: Path) -> None:
    """Draw the last round of a scenario into a PNG file.

    Raises:
        LabError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise LabError(
            "no picture: matplotlib is not installed; `pip install sdwan-bond[pictures]`"
        ) from None
    trail = result.trail
    if trail is None or len(trail.series.moments_ns) < 2:
        raise LabError(f"no picture: nothing was sampled while {scenario.name} ran")
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(4, 3, 2, 0.3 + 0.25 * len(trail.links)))
    _rates(axes[0], scenario, trail)
    _delays(axes[1], trail)
    _buffers(axes[2], trail)
    _states(axes[3], trail)
    for axis in axes:
        _mark(axis, scenario, trail)
    axes[0].set_title(_title(scenario, result), fontsize=9, loc="left")
    axes[-1].set_xlabel("seconds since the loads began", fontsize=8)
    axes[-1].set_xlim(min(0.0, _seconds(trail)[0]), scenario.total_ns / 1e9 + 0.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _rates(axis: Any, scenario: Scenario, trail: Trail) -> None:
    """Draw what came out of each link and of the tunnel, and what the links together could carry."""
    series, seconds = trail.series, _seconds(trail)[1:]
    for number, link in enumerate(trail.links):
        rates = series.rates_mbps(series.column(series.ours, number))
        axis.plot(
            seconds, rates, color=COLOURS[number % len(COLOURS)], linewidth=0.8, label=f"{link}, arrived"
        )
    axis.plot(
        seconds, series.rates_mbps(series.delivered), color="black", linewidth=1.2, label="tunnel, inner"
    )
    if scenario.loads.rival is not None:
        both = zip(series.arrived, series.ours, strict=True)
        foreign = [sum(everybody) - sum(own) for everybody, own in both]
        axis.plot(seconds, series.rates_mbps(foreign), color="red", linewidth=0.8, label="rival, arrived")
    ceiling_mbps: float | None = None
    timelines = [scenario.timeline(link) for link in range(len(scenario.links))]
    if len(scenario.sites) == 2 and not any(timeline.unlimited for timeline in timelines):
        moments = range(0, scenario.total_ns, CURVE_STEP_NS)
        total = [sum(timeline.rate_bps(at) for timeline in timelines) / 1e6 for at in moments]
        axis.step([at / 1e9 for at in moments], total, where="post", color="grey", linestyle="--",
                  linewidth=0.9, label="sum of the rates")  # fmt: skip
        ceiling_mbps = RATE_ROOM * max(*total, 1.0)
    _dress(axis, "Mbit/s", top=ceiling_mbps)


def _delays(axis: Any, trail: Trail) -> None:
    """Draw the one-way delay of the stream and the round trip of the ping."""
    every = max(1, len(trail.delays) // DELAY_POINTS_MAX)
    points = [((sent - trail.begin_ns) / 1e9, delay) for sent, delay in trail.delays[::every]]
    if points:
        axis.plot(*zip(*points, strict=True), ".", markersize=1.5, color="#1f77b4", label="stream, one way")
    pings = [((ping.moment_ns - trail.begin_ns) / 1e9, ping.rtt_ms) for ping in trail.pings]
    if pings:
        axis.plot(*zip(*pings, strict=True), ".", markersize=1.5, color="#d95f02", label="ping, round trip")
    _dress(axis, "delay, ms")


def _buffers(axis: Any, trail: Trail) -> None:
    """Draw how long the oldest frame in each link's buffer had waited."""
    seconds = _seconds(trail)
    for number, link in enumerate(trail.links):
        waits = trail.series.column(trail.series.queue_ms, number)
        axis.plot(seconds, waits, color=COLOURS[number % len(COLOURS)], linewidth=0.8, label=link)
    _dress(axis, "buffer, ms")


def _states(axis: Any, trail: Trail) -> None:
    """Draw the state of each path as a bar: up unless the edge said otherwise."""
    end = _seconds(trail)[-1]
    for row, link in enumerate(trail.links):
        changes = [(0.0, "up"), *((at, state) for at, name, state in trail.states if name == link)]
        ends = [*(at for at, _ in changes[1:]), end]
        for (begin, state), until in zip(changes, ends, strict=True):
            colour = STATE_COLOURS.get(state, "#dddddd")
            axis.barh(row, max(until - begin, 0.0), left=begin, height=0.8, color=colour)
    axis.set_yticks(range(len(trail.links)), trail.links, fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_ylabel("state", fontsize=8)
    axis.invert_yaxis()


def _mark(axis: Any, scenario: Scenario, trail: Trail) -> None:
    """Draw a line for each thing that happened, and shade the warm-up."""
    for at, _ in trail.events[:EVENTS_MAX]:
        axis.axvline(at, color="red", linewidth=0.6, alpha=0.5)
    if scenario.warm_up:
        axis.axvspan(0, scenario.warm_up / 1e9, color="#eeeeee", zorder=0)


def _dress(axis: Any, label: str, top: float | None = None) -> None:
    axis.set_ylabel(label, fontsize=8)
    axis.set_ylim(bottom=0, top=top)
    axis.tick_params(labelsize=7)
    axis.grid(True, linewidth=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=4, frameon=False)


def _title(scenario: Scenario, result: Result) -> str:
    lines = wrap(f"{scenario.name}: {scenario.description}", TITLE_CHARACTERS)
    verdicts = [f"{v.metric} {v.measured} ({v.target}{'' if v.met else ', MISSED'})" for v in result.verdicts]
    lines += [line for text in ("; ".join(verdicts), result.doubt) for line in wrap(text, TITLE_CHARACTERS)]
    return "\n".join(lines)


def _seconds(trail: Trail) -> list[float]:
    return [(moment - trail.begin_ns) / 1e9 for moment in trail.series.moments_ns]
