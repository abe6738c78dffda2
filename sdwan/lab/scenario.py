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
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sdwan.config.values import parse_duration, parse_rate
from sdwan.errors import LabError
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.topology import Cable, Plan
from sdwan.lab.values import impairment_values, parse_share

# Implementation constants --------------------------------------------------------------------------

READY = Path(__file__).parent / "scenarios"
FILE_BYTES_MAX = 1 << 20
DEFAULT_SITES = ("edge", "hub")

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


class LoadsPart(Part):
    """What runs from the first site to the last while steps happen."""

    probe: bool = True
    """A datagram every 5 ms: tells the longest gap."""
    udp: RateBps | None = None
    """Datagrams of 1200 bytes at this rate."""
    tcp: int = Field(default=0, ge=0, le=64)
    """Streams, CUBIC."""


class StepPart(Part):
    """One thing that happens: exactly one of ``set``, ``carrier``, ``address`` and ``edge``."""

    at: DurationNs
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


class ExpectPart(Part):
    """What must come of it; what is not named is only reported."""

    longest_gap: DurationNs | None = None
    probes_lost: int | None = Field(default=None, ge=0)
    """At most so many probes lost."""
    udp_lost: SharePpm | None = None
    """At most this share of the UDP load lost."""
    goodput: RateBps | None = None
    """TCP, or UDP if there is no TCP: at least this much."""
    delay_p99: DurationNs | None = None
    """99 of 100 probes arrive within this time."""
    used: SharePpm | None = None
    """Every link carries at least this share of the tunnel's bytes."""


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
    duration: DurationNs = Field(ge=10**9, le=600 * 10**9)
    steps: tuple[StepPart, ...] = ()
    expect: ExpectPart = ExpectPart()
    seed: int = 1

    def model_post_init(self, _: Any) -> None:
        """Check what spans several keys, so that a mistake is found before anything is built."""
        self.plan  # noqa: B018 - parses every impairment
        for number, step in enumerate(self.steps):
            if step.link >= len(self.links) or step.at >= self.duration:
                raise ValueError(f"steps.{number}: there is no link {step.link}, or it is over by then")
            if step.site not in self.sites:
                raise ValueError(f"steps.{number}.site: {step.site} is none of {', '.join(self.sites)}")
            if step.set is not None:
                impairment_values(step.set, f"steps.{number}.set")

    @cached_property
    def plan(self) -> Plan:
        """The network it plays in."""
        cables = [link.cable(f"links.{number}", self.seed + number) for number, link in enumerate(self.links)]
        return Plan(self.sites, tuple(cables))


def ready() -> dict[str, Path]:
    """Return the ready scenarios by name."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


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
