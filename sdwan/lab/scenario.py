"""The shape of a scenario file: links, loads, what happens when, and what must come of it.

Strict, frozen models, as a site's configuration is: an unknown key is refused with its place. The ready
scenarios lie beside this file in scenarios/; any other file of the same shape works as well::

    description: One of two links goes dark under load and comes back.
    links:
      - {rate: 50mbit, delay: 10ms}
      - {rate: 50mbit, delay: 10ms, backward: {rate: 10mbit}}
    loads: {udp: 20mbit}
    duration: 8s
    steps:
      - {at: 2s, link: 0, set: {blackhole: true}}
      - {at: 5s, link: 0, set: {blackhole: false}}
    expect: {longest_gap: 150ms, probes_lost: 30}

Those of ``scenarios/measured`` are the situations the project promises figures for (docs/performance.md).
Times of steps count from the moment the loads begin, warm-up included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sdwan.config.values import parse_duration, parse_rate
from sdwan.errors import LabError
from sdwan.lab.ceiling import Change, Timeline, counted
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.targets import Bound, parse_expectations
from sdwan.lab.topology import Cable, Plan
from sdwan.lab.values import impairment_values, parse_share

# Implementation constants --------------------------------------------------------------------------

READY = Path(__file__).parent / "scenarios"
MEASURED = READY / "measured"
FILE_BYTES_MAX = 1 << 20
DEFAULT_SITES = ("edge", "hub")
STEPS_MAX = 10_000
SECOND_NS = 10**9
OVERHEAD_NS = 6 * SECOND_NS
"""What building a lab, starting two edges and ending them takes beside the loads (measured: 5 to 7 s)."""

DurationNs = Annotated[int, BeforeValidator(parse_duration)]
RateBps = Annotated[int, BeforeValidator(parse_rate)]
SharePpm = Annotated[int, BeforeValidator(parse_share)]
Written = dict[str, Any]
"""Impairments as written; ``values.impairment_values`` reads them."""


class Part(BaseModel):
    """What all parts share."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=False)


class LinkPart(Part):
    """One link; keys beside those named here are impairments of both directions."""

    model_config = ConfigDict(frozen=True, extra="allow")

    sites: tuple[str, str] = DEFAULT_SITES
    kind: Literal["auto", "bare", "tbf", "netem", "emulated"] = "auto"
    forward: Written = {}
    """Impairments from the first site to the second, over those of both directions."""
    backward: Written = {}

    def cable(self, where: str, seed: int) -> Cable:
        """Return the link as a cable of a plan."""
        both = impairment_values(self.model_extra or {}, where)
        ways = [
            Impairment.from_dict({**both, **impairment_values(own, f"{where}.{name}")})
            for name, own in (("forward", self.forward), ("backward", self.backward))
        ]
        return Cable(*self.sites, LinkSpec(self.kind, ways[0], ways[1], seed=seed))


class StreamPart(Part):
    """Datagrams at even intervals from a process of our own: the longest gap, each one's delay and fate."""

    interval: DurationNs = 5_000_000
    """Of each flow."""
    size: int = Field(default=160, ge=16, le=1400)
    """Payload, bytes. The default is a 20 ms frame of G.711, what a voice call sends."""
    flows: int = Field(default=1, ge=1, le=100)
    dscp: int = Field(default=0, ge=0, le=63)


class PingPart(Part):
    """A ping from the first site to the last."""

    interval: DurationNs = 20_000_000
    dscp: int = Field(default=0, ge=0, le=63)


class LoadsPart(Part):
    """What runs from the first site to the last while steps happen."""

    probe: bool = True
    """Send a stream: by default a datagram every 5 ms."""
    stream: StreamPart = StreamPart()
    udp: RateBps | None = None
    """Datagrams at this rate."""
    udp_size: int = Field(default=1200, ge=16, le=1400)
    tcp: int = Field(default=0, ge=0, le=64)
    """Streams, CUBIC."""
    ping: PingPart | None = None
    rival: int | None = Field(default=None, ge=0)
    """One CUBIC stream outside the tunnel over the link of this number."""
    churn: int = Field(default=0, ge=0, le=1000)
    """So many short TCP flows at a time, coming and going."""


class StepPart(Part):
    """One thing that happens: exactly one of ``set``, ``carrier``, ``address`` and ``edge``."""

    at: DurationNs
    every: DurationNs | None = Field(default=None, ge=10**8)
    """Again and again, so long after each other."""
    link: int = Field(0, ge=0)
    site: str = DEFAULT_SITES[0]
    """Whose end of the link, or whose edge."""
    set: Written | None = None
    direction: Literal["forward", "backward", "both"] = "both"
    carrier: bool | None = None
    """Take the site's interface down or up."""
    address: str | None = None
    """Give the site's interface this address/length instead of its own: roaming."""
    edge: Literal["restart", "kill", "kill_data_plane", "reload"] | None = None
    """What happens to the site's edge."""

    def model_post_init(self, _: Any) -> None:
        """Insist on exactly one deed."""
        deeds = [self.set, self.carrier, self.address, self.edge]
        if sum(deed is not None for deed in deeds) != 1:
            raise ValueError("a step does exactly one of: set, carrier, address, edge")


class GracePart(Part):
    """How long after a step of a rate the goodput does not count yet."""

    down: DurationNs = 0
    up: DurationNs = 0


class Scenario(Part):
    """A whole scenario."""

    name: str = ""
    description: str = ""
    sites: tuple[str, ...] = DEFAULT_SITES
    hub: str = DEFAULT_SITES[1]
    links: tuple[LinkPart, ...] = Field(min_length=1, max_length=32)
    rates_known: bool = True
    """Write the links' rates into the sites' configurations."""
    settings: dict[str, Any] = {}
    """Further sections for every site's configuration."""
    loads: LoadsPart = LoadsPart()
    reverse: bool = False
    """Loads run from the last site to the first."""
    idle: DurationNs = 0
    """Ping alone so long before the loads begin."""
    warm_up: DurationNs = 0
    """Loads run, figures do not count yet."""
    duration: DurationNs = Field(ge=SECOND_NS, le=7200 * SECOND_NS)
    rounds: int = Field(default=1, ge=1, le=9)
    """Of the measured ones: how often, for the median."""
    steps: tuple[StepPart, ...] = ()
    grace: GracePart = GracePart()
    expect: Annotated[tuple[Bound, ...], BeforeValidator(parse_expectations)] = ()
    """What must come of it; what is not named is only reported."""
    seed: int = 1

    def model_post_init(self, _: Any) -> None:
        """Check what spans several keys, so that a mistake is found before anything is built."""
        self.plan  # noqa: B018 - parses every impairment
        if self.loads.rival is not None and self.loads.rival >= len(self.links):
            raise ValueError(f"loads.rival: there is no link {self.loads.rival}")
        for number, step in enumerate(self.steps):
            if step.link >= len(self.links) or step.at >= self.total_ns:
                raise ValueError(f"steps.{number}: there is no link {step.link}, or it is over by then")
            if step.site not in self.sites:
                raise ValueError(f"steps.{number}.site: {step.site} is none of {', '.join(self.sites)}")
            if step.set is not None:
                impairment_values(step.set, f"steps.{number}.set")
        if sum(1 for _ in self.happenings()) > STEPS_MAX:
            raise ValueError(f"steps: more than {STEPS_MAX} things would happen")

    @cached_property
    def plan(self) -> Plan:
        """The network it plays in."""
        cables = [link.cable(f"links.{number}", self.seed + number) for number, link in enumerate(self.links)]
        return Plan(self.sites, tuple(cables))

    @property
    def total_ns(self) -> int:
        """How long the loads run."""
        return self.warm_up + self.duration

    @property
    def ends(self) -> tuple[str, str]:
        """The site that sends and the site that receives."""
        near, far = self.sites[0], self.hub
        return (far, near) if self.reverse else (near, far)

    def planned_ns(self, rounds: int | None = None) -> int:
        """Return about how long it takes."""
        return OVERHEAD_NS + (rounds or self.rounds) * (self.idle + self.total_ns + 2 * SECOND_NS)

    def happenings(self) -> Iterator[tuple[int, StepPart]]:
        """Yield what happens when, in order, repetitions included; bounded."""
        found: list[tuple[int, StepPart]] = []
        for step in self.steps:
            every_ns = step.every or self.total_ns
            moments = range(step.at, self.total_ns, every_ns)
            found += [(moment, step) for moment in moments[: STEPS_MAX + 1]]
        return iter(sorted(found, key=lambda happening: happening[0]))

    def timeline(self, link: int) -> Timeline:
        """Return the rate of a link in the direction of the loads, over the time they run."""
        spec = self.plan.cables[link].spec
        forwards = self.ends[0] == self.plan.cables[link].first
        now = first = spec.forward if forwards else spec.backward
        changes, up = [], True
        for at_ns, step in self.happenings():
            if step.link != link or (step.set is None and step.carrier is None):
                continue
            if step.carrier is not None:
                up = step.carrier
            elif step.set is not None and step.direction in ("both", "forward" if forwards else "backward"):
                now = replace(now, **impairment_values(step.set, "set"))
            changes.append(Change(at_ns, now if up else None))
        return Timeline(first, changes)

    def counted(self) -> list[tuple[int, int]]:
        """Return the intervals in which the goodput counts."""
        turns = [turn for link in range(len(self.links)) for turn in self.timeline(link).turns()]
        return counted(self.warm_up, self.total_ns, turns, self.grace.down, self.grace.up)


def ready() -> dict[str, Path]:
    """Return the ready scenarios by name, the measured ones included."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))} | measured()


def measured() -> dict[str, Path]:
    """Return the situations the project promises figures for, by name."""
    return {path.stem: path for path in sorted(MEASURED.glob("*.yaml"))}


def load(name: str) -> Scenario:
    """Load a ready scenario by name, or any file by its path.

    Raises:
        LabError: there is none, or something in it is wrong; with its place.
    """
    path = ready().get(name, Path(name))
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise LabError(f"{path} is larger than {FILE_BYTES_MAX} bytes; that is no scenario")
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise LabError(
            f"no scenario {name} ({error.strerror}); ready are: {', '.join(ready())}; or name a file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise LabError(f"{path} is no scenario; see `sdwan lab list` for examples")
    return parse({"name": path.stem, **data}, str(path))


def parse(data: dict[str, Any], where: str) -> Scenario:
    """Build a scenario from plain data.

    Raises:
        LabError: something is wrong; with its place.
    """
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "scenario"
        raise LabError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    except LabError as error:
        raise LabError(f"{where}: {error}") from None
